//! Random problems: any shape, dtype, layout and options at once, against the truth and against `reference::scan`.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::judge::{accumulation_dtype, Tolerance};
use common::{devices, executors, values, Gate, Output, Spec, View, DTYPES};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};

/// The same problems in every run.
fn config(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(7), failure_persistence: None, max_shrink_iters: 200, ..Config::default() }
}

/// Sizes around the boundaries, of at most some ten thousand elements.
fn dims() -> impl Strategy<Value = (usize, usize, usize)> {
    let near = |sizes: &'static [usize]| {
        (select(sizes), 0..3usize).prop_map(|(size, offset)| (size + offset).saturating_sub(1))
    };
    let batch = prop_oneof![4 => 1..4usize, 1 => select(&[5usize, 8, 17][..]), 1 => Just(0usize)];
    let short = (batch.clone(), near(&[1, 2, 4, 8, 16, 32, 64]), near(&[1, 2, 8, 16, 32, 64, 128]));
    let wide = (1..3usize, 0..6usize, near(&[256, 512, 1024, 2048]));
    let long = (1..3usize, near(&[256, 1024, 4096]), 1..5usize);
    prop_oneof![4 => short, 1 => wide, 1 => long]
}

fn view() -> impl Strategy<Value = View> {
    select(&View::ALL[..])
}

/// Cuts of `len`, with empty sequences.
fn offsets(len: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..=len, 0..6).prop_map(move |mut cuts| {
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let packed = prop::bool::weighted(0.3);
    let sizes = (dims(), packed).prop_flat_map(|((batch, len, channels), packed)| {
        let batch = if packed { 1 } else { batch };
        let offsets = if packed { offsets(len).prop_map(Some).boxed() } else { Just(None).boxed() };
        (Just((batch, len, channels)), offsets)
    });
    let dtype = (select(&DTYPES[..]), prop::bool::ANY, prop::option::weighted(0.3, select(&DTYPES[..])));
    let output = select(&[Output::Y, Output::YAndLast, Output::States][..]);
    let options = (output, prop::bool::ANY, prop::option::of(1..70usize), prop::bool::ANY);
    let views = ([view(), view(), view(), view(), view()], view());
    (sizes, dtype, options, select(&Gate::ALL[..]), views, any::<u64>()).prop_map(
        |((dims, offsets), (dtype, wide, out_dtype), (output, reverse, chunk_len, h0), gate, views, seed)| {
            let h0 = h0.then_some(if wide { accumulation_dtype(dtype) } else { dtype });
            let (views, h0_view) = views;
            Spec { dims, dtype, gate, seed, output, h0, reverse, offsets, chunk_len, out_dtype, views, h0_view }
        },
    )
}

fn check(spec: Spec) -> Result<()> {
    let case = spec.draw()?;
    executors().iter().try_for_each(|executor| executor.check(&case))
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn any_problem(spec in spec()) {
        check(spec).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

/// Every layout of every argument, which chance might leave out.
#[test]
fn every_layout_of_every_argument() -> Result<()> {
    for (n, view) in (0..6).flat_map(|n| View::ALL.map(|view| (n, view))) {
        for dtype in [DType::F32, DType::BF16] {
            let mut spec = Spec { output: Output::YAndLast, h0: Some(dtype), seed: n, ..Spec::new((3, 19, 37), dtype) };
            match spec.views.get_mut(n as usize) {
                Some(argument) => *argument = view,
                None => spec.h0_view = view,
            }
            check(Spec { output: Output::Y, ..spec.clone() })?;
            check(Spec { reverse: true, ..spec })?;
        }
    }
    Ok(())
}

/// All arguments in one layout: what a kernel written for it sees.
#[test]
fn every_layout_of_all_arguments() -> Result<()> {
    for view in View::ALL {
        for dtype in DTYPES {
            for dims in [(2, 33, 17), (1, 5, 1), (1, 3000, 2)] {
                check(Spec { views: [view; 5], ..Spec::new(dims, dtype) })?;
            }
        }
    }
    Ok(())
}

/// `scan` and `reference::scan` on the same variables: values and gradients.
fn against_the_reference(dims: (usize, usize, usize), dtype: DType, seed: u64, device: &Device) -> Result<()> {
    let case = Spec { seed, ..Spec::new(dims, dtype) }.draw()?;
    let vars = case.inputs().into_iter().map(|arg| Var::from_tensor(&arg.base(device)?)).collect::<Result<Vec<_>>>()?;
    let [x, a, b, c] = &vars[..] else { panic!("four arguments") };
    let grad_y = case.grad_y.base(device)?;
    let run = |scan: fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>| -> Result<Vec<Vec<f64>>> {
        let y = scan(x, a, b, c)?;
        let grads = (&y * &grad_y)?.sum_all()?.backward()?;
        let mut all = vec![values(&y)?];
        for var in &vars {
            all.push(values(grads.get(var).expect("a gradient"))?);
        }
        Ok(all)
    };
    let (got, want) = (run(quick_ssm::scan)?, run(quick_ssm::reference::scan)?);
    let magnitudes = case.numbers().magnitudes();
    for (n, name) in ["y", "dx", "da", "db", "dc"].into_iter().enumerate() {
        // both sides round
        let one = case.tolerance(name);
        let two = Tolerance { relative: 2. * one.relative, rounding: 2. * one.rounding, absolute: 2. * one.absolute };
        two.check(&format!("{name} of {dims:?} {dtype:?}"), &got[n], &want[n], &magnitudes[name]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(60))]

    // candle adds up the gradients of the reference in its dtype: in half precision that is no measure
    #[test]
    fn agreement_with_the_reference(
        (batch, len, channels) in (1..4usize, 1..70usize, 1..40usize),
        dtype in select(&[DType::F32, DType::F64][..]),
        seed in any::<u64>(),
    ) {
        for device in devices() {
            against_the_reference((batch, len, channels), dtype, seed / 8, device)
                .map_err(|e| TestCaseError::fail(e.to_string()))?;
        }
    }
}
