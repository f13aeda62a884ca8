//! The same bits from run to run, in any batch, and with any number of threads.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{
    assert_all_same_bits, assert_same_bits, assert_same_with_any_threads, devices, dtypes, in_reach, random,
    random_inputs,
};
use quick_ssm::Scan;

/// `L, D`: every way in which a kernel can cut a sequence; from a million elements on, it may cut time.
const SEQUENCES: [(usize, usize); 10] = [
    (5, 3),
    (300, 17),
    (64, 257),
    (33, 1_025),
    (20, 2_049),
    (150, 264),
    (70_000, 3),
    (1_025, 200),
    (1_050_000, 1),
    (8_193, 129),
];

/// `y`, the last state, and the gradients of `x, a, b, c, h0`.
fn everything(scan: &Scan, inputs: &[Tensor; 4], h0: &Tensor) -> Result<Vec<Tensor>> {
    let vars = inputs.iter().chain([h0]).map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let scan = scan.clone().initial_state(&vars[4]);
    let (y, last) = scan.apply_with_state(&vars[0], &vars[1], &vars[2], &vars[3])?;
    let sum = |t: &Tensor| t.sum_all()?.to_dtype(DType::F64);
    let grads = (sum(&y.sqr()?)? + sum(&last)?)?.backward()?;
    let mut all = vec![y, last];
    all.extend(vars.iter().map(|var| grads.get(var).cloned().expect("a gradient")));
    Ok(all)
}

const NAMES: [&str; 7] = ["y", "last", "dx", "da", "db", "dc", "dh0"];

fn assert_same(what: &str, got: &[Tensor], want: &[Tensor]) -> Result<()> {
    assert_all_same_bits(what, &NAMES, got, want)
}

fn problem(
    batch: usize,
    (len, channels): (usize, usize),
    dtype: DType,
    device: &Device,
) -> Result<([Tensor; 4], Tensor)> {
    let inputs = random_inputs(3, (batch, len, channels), dtype, device)?;
    Ok((inputs, random(9, &[batch, channels], -1., 1., dtype, device)?))
}

#[test]
fn from_run_to_run() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES {
            if !in_reach((2, sequence.0, sequence.1)) {
                continue;
            }
            for &dtype in dtypes(sequence) {
                let (inputs, h0) = problem(2, sequence, dtype, device)?;
                let first = everything(&Scan::new(), &inputs, &h0)?;
                for _ in 0..3 {
                    let again = everything(&Scan::new(), &inputs, &h0)?;
                    assert_same(&format!("{sequence:?} {dtype:?}"), &again, &first)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn with_any_number_of_threads() -> Result<()> {
    for sequence in SEQUENCES {
        for &dtype in dtypes(sequence) {
            for reverse in [false, true] {
                let (inputs, h0) = problem(2, sequence, dtype, &Device::Cpu)?;
                let scan = Scan::new().reverse(reverse);
                let what = format!("{sequence:?} {dtype:?}");
                assert_same_with_any_threads(&what, &NAMES, || everything(&scan, &inputs, &h0))?;
            }
        }
    }
    Ok(())
}

#[test]
fn alone_or_in_a_batch() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES {
            if !in_reach((2, sequence.0, sequence.1)) {
                continue;
            }
            for &dtype in dtypes(sequence) {
                for batch in if sequence.0 * sequence.1 < 40_000 { vec![2, 3, 17] } else { vec![2] } {
                    same_alone(batch, sequence, dtype, device)?;
                }
            }
        }
    }
    Ok(())
}

/// A batch that fills a GPU is computed in larger tiles than one sequence.
#[test]
fn alone_or_in_a_batch_that_fills_the_device() -> Result<()> {
    for device in devices().filter(|device| device.is_cuda()) {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            same_alone(32, (257, 1032), dtype, device)?;
        }
    }
    Ok(())
}

/// Asserts that some sequences of a batch are, bit for bit, what they are alone.
fn same_alone(batch: usize, sequence: (usize, usize), dtype: DType, device: &Device) -> Result<()> {
    let (inputs, h0) = problem(batch, sequence, dtype, device)?;
    let together = everything(&Scan::new(), &inputs, &h0)?;
    for n in [0, batch / 2, batch - 1] {
        let one = |t: &Tensor| t.narrow(0, n, 1)?.copy();
        let [x, a, b, c] = &inputs;
        let alone = everything(&Scan::new(), &[one(x)?, one(a)?, one(b)?, one(c)?], &one(&h0)?)?;
        let want = together.iter().map(|t| t.narrow(0, n, 1)).collect::<Result<Vec<_>>>()?;
        assert_same(&format!("{n} of {batch}, {sequence:?} {dtype:?}"), &alone, &want)?;
    }
    Ok(())
}

/// A sequence is the same wherever it lies in the batch: its neighbours have no part in it.
#[test]
fn at_any_place_in_the_batch() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES {
            if !in_reach((2, sequence.0, sequence.1)) {
                continue;
            }
            let (inputs, h0) = problem(4, sequence, DType::F32, device)?;
            let together = everything(&Scan::new(), &inputs, &h0)?;
            let order = Tensor::new(&[2u32, 0, 3, 1], device)?;
            let shuffle = |t: &Tensor| t.index_select(&order, 0);
            let [x, a, b, c] = &inputs;
            let inputs = [shuffle(x)?, shuffle(a)?, shuffle(b)?, shuffle(c)?];
            let shuffled = everything(&Scan::new(), &inputs, &shuffle(&h0)?)?;
            let want = together.iter().map(shuffle).collect::<Result<Vec<_>>>()?;
            assert_same(&format!("{sequence:?}"), &shuffled, &want)?;
        }
    }
    Ok(())
}

/// A layout is only a way to read the same numbers.
#[test]
fn in_any_layout() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES {
            if !in_reach((2, sequence.0, sequence.1)) {
                continue;
            }
            let (inputs, h0) = problem(3, sequence, DType::F32, device)?;
            let want = everything(&Scan::new(), &inputs, &h0)?;
            let [x, a, b, c] = &inputs;
            let time_major = |t: &Tensor| t.transpose(0, 1)?.contiguous()?.transpose(0, 1);
            let wider = |t: &Tensor| Tensor::cat(&[t, t], 2)?.narrow(2, 0, t.dim(2)?);
            let channel_major = |t: &Tensor| t.transpose(1, 2)?.contiguous()?.transpose(1, 2);
            let scan = Scan::new().initial_state(&h0);
            let (y, last) = scan.apply_with_state(&time_major(x)?, &wider(a)?, &channel_major(b)?, &time_major(c)?)?;
            assert_same_bits(&format!("y of {sequence:?}"), &y, &want[0])?;
            assert_same_bits(&format!("last of {sequence:?}"), &last, &want[1])?;
        }
    }
    Ok(())
}
