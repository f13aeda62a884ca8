//! What only the emulation of the CUDA kernels can show: that the order in which threads run has no influence, and that
//! a barrier too few would be noticed.
//!
//! That the kernels compute the right thing is tested with everything else: the other tests take the emulation for one
//! more device.

mod common;

use std::ffi::CStr;
use std::panic::{catch_unwind, AssertUnwindSafe};

use candle_core::{DType, Device, Result, Tensor, Var};
use common::executor::{outputs, EMULATED};
use common::{assert_same_bits, Autograd, Case, Executor, Gate, GatedSpec, Output, Spec, View, DTYPES};
use quick_ssm::simt::{emulate, self_test, Emulation, Schedule, Tiles};

/// `y`, the last state where there is one, and all gradients.
fn everything(case: &Case) -> Result<Vec<Tensor>> {
    let device = Device::Cpu;
    let args: Vec<_> = case.inputs().into_iter().chain(&case.h0).collect();
    let vars = args.iter().map(|arg| Var::from_tensor(&arg.base(&device)?)).collect::<Result<Vec<_>>>()?;
    let mut inputs = args.iter().zip(&vars).map(|(arg, var)| arg.of(var)).collect::<Result<Vec<_>>>()?;
    let h0 = case.h0.as_ref().map(|_| inputs.pop().expect("h0 is the last argument").squeeze(0)).transpose()?;
    let (y, last) = outputs(case, &inputs, h0.as_ref())?;
    let sum = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all();
    let loss = match &last {
        Some(last) => (sum(&y)? + sum(last)?)?,
        None => sum(&y)?,
    };
    let grads = loss.backward()?;
    let gradient = |var: &Var| grads.get(var).cloned().expect("a gradient");
    Ok([y].into_iter().chain(last).chain(vars.iter().map(gradient)).collect())
}

/// Problems with many tiles in every direction, whatever the tile.
fn problems(tiles: Tiles) -> Vec<Spec> {
    // a tree of carries has a state at 8 to 64 tiles: tiny ones reach it, real ones complete groups
    let dims = match tiles {
        Tiles::Tiny => [(1, 2_100, 3), (2, 300, 34), (1, 533, 16)],
        Tiles::Real => [(2, 1_300, 3), (1, 300, 130), (1, 700, 64)],
    };
    let mut all = Vec::new();
    for (n, dtype) in DTYPES.into_iter().enumerate() {
        for (dims, reverse) in dims.into_iter().zip([false, true, false]) {
            let (h0, output, seed) = (Some(dtype), Output::YAndLast, n as u64);
            let plain = Spec { gate: Gate::Stable, reverse, h0, output, seed, ..Spec::new(dims, dtype) };
            if dims.0 == 1 {
                let offsets = Some(vec![0, 0, 1, 2, 9, 40, 41, 300, 300, dims.1]);
                all.push(Spec { offsets, ..plain.clone() });
            } else {
                let mut views = [View::Contiguous; 5];
                (views[1], views[2]) = (View::BatchBroadcast, View::TimeMajorSlice);
                all.push(Spec { views, ..plain.clone() });
            }
            all.push(plain);
        }
    }
    all
}

#[test]
fn the_order_of_threads_has_no_influence() -> Result<()> {
    for tiles in EMULATED {
        for spec in problems(tiles) {
            let case = spec.clone().draw()?;
            let run = |schedule: Schedule| {
                let _emulating = emulate(Emulation { schedule: Some(schedule), ..Emulation::new(tiles) });
                everything(&case)
            };
            let alone = Schedule { seed: 0, grid: 1, resident: 1, by_elements: false };
            let want = run(alone)?;
            let others = [
                Schedule { seed: 1, grid: 8, resident: 8, ..alone },
                Schedule { seed: 2, grid: 64, resident: 3, ..alone },
                Schedule { seed: 3, grid: 5, resident: 5, by_elements: true },
            ];
            for schedule in others {
                for (got, want) in run(schedule)?.iter().zip(&want) {
                    assert_same_bits(&format!("{tiles:?} {schedule:?} {spec:?}"), got, want)?;
                }
            }
        }
    }
    Ok(())
}

/// Every barrier of the kernels, by the name that it has there.
const BARRIERS: [&CStr; 12] = [
    c"ticket drawn",
    c"tile loaded",
    c"tile read",
    c"segments scanned",
    c"segments combined",
    c"entering state written",
    c"entering gradient written",
    c"bias gradients written",
    c"sums written",
    c"sums read",
    c"boundary search",
    c"marks written",
];

#[test]
fn every_barrier_is_on_the_list() {
    let mut found = Vec::new();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/cuda")).expect("the kernels") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        for call in ["QUICK_SSM_BARRIER(\"", "QUICK_SSM_BARRIER_COUNT(\""] {
            let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_string));
        }
    }
    found.sort();
    found.dedup();
    let mut listed = BARRIERS.map(|name| name.to_str().expect("text").to_string());
    listed.sort();
    assert_eq!(found, listed);
}

/// The test of the test: without one of its barriers a kernel is noticed, by a wrong result or by the emulation.
#[test]
fn a_missing_barrier_is_noticed() {
    for barrier in BARRIERS {
        let of_bias = [c"bias gradients written", c"sums written", c"sums read"].contains(&barrier);
        let packed = barrier == c"boundary search" || barrier == c"marks written";
        let noticed = (1..=40).any(|seed| {
            // only kernels for narrow tensors wait before they load
            let channels = if barrier == c"tile read" { 5 } else { 34 };
            let mut spec = Spec { gate: Gate::Stable, seed, ..Spec::new((2, 300, channels), DType::F32) };
            if packed {
                let step = 1 + seed as usize % 9;
                let offsets = (0..300).step_by(step).chain([300]).collect();
                spec = Spec { offsets: Some(offsets), h0: Some(DType::F32), dims: (1, 300, 8), ..spec };
            }
            let schedule = Some(Schedule { seed, grid: 6, resident: 6, by_elements: false });
            let _emulating =
                emulate(Emulation { schedule, skipped_barrier: Some(barrier), ..Emulation::new(Tiles::Tiny) });
            let checked = catch_unwind(AssertUnwindSafe(|| match of_bias {
                true => GatedSpec { seed, ..GatedSpec::new(spec.dims, spec.dtype) }.draw()?.check(&Device::Cpu),
                false => Autograd(Device::Cpu).check(&spec.draw()?),
            }));
            !matches!(checked, Ok(Ok(())))
        });
        assert!(noticed, "nothing depends on the barrier {barrier:?}");
    }
}

/// Less than 16 bytes apart, beyond the ends of tensors, and under look-back trees of other shapes.
#[test]
fn the_test_in_cpp() {
    assert!(self_test(2), "it has printed why");
}
