//! What each option promises.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::judge::{accumulation_dtype, Tolerance};
use common::truth::Numbers;
use common::{
    assert_same_bits, bits, devices, executors, in_reach, random, random_inputs, tensor, values, Gate, Output, Spec,
    DTYPES,
};
use quick_ssm::Scan;

const DIMS: (usize, usize, usize) = (2, 45, 7);

fn check(spec: Spec) -> Result<()> {
    let case = spec.draw()?;
    executors().iter().try_for_each(|executor| executor.check(&case))
}

#[test]
fn h0_in_the_dtype_of_x_or_of_the_state() -> Result<()> {
    for dtype in DTYPES {
        for h0 in [dtype, accumulation_dtype(dtype)] {
            for output in [Output::Y, Output::YAndLast, Output::States] {
                // the executor checks that the gradient is of the dtype of h0
                check(Spec { h0: Some(h0), output, ..Spec::new(DIMS, dtype) })?;
            }
        }
    }
    Ok(())
}

#[test]
fn any_output_dtype() -> Result<()> {
    for (dtype, out) in DTYPES.into_iter().flat_map(|dtype| DTYPES.map(|out| (dtype, out))) {
        for output in [Output::Y, Output::YAndLast, Output::States] {
            for dims in [DIMS, (2, 3, 0)] {
                check(Spec { out_dtype: Some(out), output, ..Spec::new(dims, dtype) })?;
            }
        }
    }
    Ok(())
}

/// The gradient of y arrives in `out_dtype` and is not rounded to the dtype of x before it is used.
#[test]
fn a_wide_gradient_is_not_rounded() -> Result<()> {
    for device in devices() {
        let one = Tensor::ones((1, 2, 1), DType::BF16, device)?;
        let a = tensor(&[0., 1.], &[1, 2, 1], DType::BF16, device)?;
        // 1 + 2^-12 and -1 cancel to 2^-12, which bf16 has, while it has no 1 + 2^-12
        let grad_y = tensor(&[1. + f64::powi(2., -12), -1.], &[1, 2, 1], DType::F32, device)?;
        let [dx, ..] = Scan::new().out_dtype(DType::F32).gradients(&one, &a, &one, &one, &grad_y)?;
        assert_eq!(values(&dx)?[0], f64::powi(2., -12));
    }
    Ok(())
}

#[test]
fn the_chunk_length_never_changes_y() -> Result<()> {
    for device in devices() {
        for dims in [DIMS, (1, 300, 33), (1, 20, 1_030), (1, 8_193, 128)] {
            if !in_reach(dims) {
                continue;
            }
            for dtype in [DType::F32, DType::BF16] {
                let inputs = random_inputs(1, dims, dtype, device)?;
                let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
                let [x, a, b, c] = &vars[..] else { panic!("four variables") };
                let (y, last) = Scan::new().apply_with_state(x, a, b, c)?;
                for steps in [1, 3, 7, 16, 100, dims.1, dims.1 + 1, usize::MAX] {
                    let scan = Scan::new().chunk_len(steps);
                    let (got, got_last) = scan.apply_with_state(x, a, b, c)?;
                    assert_same_bits(&format!("y of {dims:?} in chunks of {steps}"), &got, &y)?;
                    assert_same_bits(&format!("last of {dims:?} in chunks of {steps}"), &got_last, &last)?;
                    if dims.1 < 1_000 {
                        let untracked = scan.apply(&x.detach(), &a.detach(), &b.detach(), &c.detach())?;
                        assert_same_bits("without a graph", &untracked, &y)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_with_any_chunk_length() -> Result<()> {
    for dims in [DIMS, (1, 300, 33), (2, 50, 1_030), (1, 8_193, 128)] {
        let some = [1, 100, usize::MAX].into_iter();
        let more = [2, 3, 16, 64, dims.1 - 1, dims.1, dims.1 + 1].into_iter().filter(|_| dims.1 < 1_000);
        for steps in some.chain(more) {
            let spec = Spec {
                chunk_len: Some(steps),
                gate: Gate::Lasting,
                output: Output::YAndLast,
                ..Spec::new(dims, DType::F32)
            };
            check(Spec { h0: Some(DType::F32), reverse: steps % 2 == 0, ..spec.clone() })?;
            if dims == DIMS {
                check(Spec { output: Output::States, ..spec.clone() })?;
                check(Spec { dims: (1, 45, 7), offsets: Some(vec![0, 3, 3, 40, 45]), ..spec })?;
            }
        }
    }
    Ok(())
}

#[test]
fn reverse_is_the_scan_of_the_reversed_time() -> Result<()> {
    for device in devices() {
        for dims in [DIMS, (1, 1_050_000, 1)] {
            if !in_reach(dims) {
                continue;
            }
            let [x, a, b, c] = random_inputs(2, dims, DType::F32, device)?;
            let times: Vec<u32> = (0..dims.1 as u32).rev().collect();
            let times = Tensor::new(times, device)?;
            let flip = |t: &Tensor| t.index_select(&times, 1);
            let (y, last) = Scan::new().reverse(true).apply_with_state(&x, &a, &b, &c)?;
            let (want, want_last) = Scan::new().apply_with_state(&flip(&x)?, &flip(&a)?, &flip(&b)?, &flip(&c)?)?;
            let numbers = |t: &Tensor| values(t).map(|v| v.iter().map(|v| v.abs() + 1.).collect::<Vec<_>>());
            let tolerance = Tolerance::new(DType::F32, DType::F32, false);
            tolerance.check("y", &values(&y)?, &values(&flip(&want)?)?, &numbers(&y)?);
            tolerance.check("last", &values(&last)?, &values(&want_last)?, &numbers(&last)?);
            // the state after t = 0
            let h = Scan::new().reverse(true).states(&x, &a, &b)?.narrow(1, 0, 1)?.squeeze(1)?;
            assert_same_bits("the last state", &last, &h.contiguous()?)?;
        }
    }
    Ok(())
}

/// Cut in two anywhere, the state handed over: the same values and gradients, in both directions.
#[test]
fn cut_in_two_anywhere() -> Result<()> {
    for device in devices() {
        let cuts = [
            ((2, 12, 3), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..]),
            ((1, 260, 17), &[1, 16, 17, 128, 255]),
            ((1, 1_100, 200), &[1, 256, 1_025]),
            ((1, 1_050_000, 1), &[1, 600_001]),
        ];
        for ((dims, cuts), reverse) in cuts.into_iter().flat_map(|c| [(c, false), (c, true)]) {
            if !in_reach(dims) {
                continue;
            }
            let case = Spec {
                reverse,
                output: Output::YAndLast,
                h0: Some(DType::F32),
                gate: Gate::Lasting,
                ..Spec::new(dims, DType::F32)
            }
            .draw()?;
            let numbers: Numbers = case.numbers();
            let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
            let (batch, len, channels) = dims;
            let var = |v: &[f64], dims: &[usize]| Var::from_tensor(&tensor(v, dims, DType::F32, device)?);
            let rows = [batch, len, channels];
            let h0 = var(&numbers.h0, &[batch, channels])?;
            let vars = [
                var(&numbers.x, &rows)?,
                var(&numbers.a, &rows)?,
                var(&numbers.b, &rows)?,
                var(&numbers.c, &rows)?,
                h0,
            ];
            for &cut in cuts {
                let run = |from: usize, to: usize, h0: &Tensor| {
                    let part = |n: usize| vars[n].narrow(1, from, to - from);
                    Scan::new().reverse(reverse).initial_state(h0).apply_with_state(
                        &part(0)?,
                        &part(1)?,
                        &part(2)?,
                        &part(3)?,
                    )
                };
                let (y, last) = if reverse {
                    let (late, state) = run(cut, len, &vars[4])?;
                    let (early, last) = run(0, cut, &state)?;
                    (Tensor::cat(&[early, late], 1)?, last)
                } else {
                    let (early, state) = run(0, cut, &vars[4])?;
                    let (late, last) = run(cut, len, &state)?;
                    (Tensor::cat(&[early, late], 1)?, last)
                };
                let grad_y = tensor(&numbers.grad_y, &rows, DType::F32, device)?;
                let grad_last = tensor(&numbers.grad_last, &[batch, channels], DType::F32, device)?;
                let grads = ((&y * grad_y)?.sum_all()? + (&last * grad_last)?.sum_all()?)?.backward()?;
                let mut results = vec![("y", y), ("last", last)];
                for (name, var) in ["dx", "da", "db", "dc", "dh0"].into_iter().zip(&vars) {
                    results.push((name, grads.get(var).expect("a gradient").clone()));
                }
                for (name, got) in results {
                    let what = format!("{name} of {dims:?} cut at {cut}, reverse: {reverse}");
                    case.tolerance(name).check(&what, &values(&got)?, &truth[name], &magnitudes[name]);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn step_by_step() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            let case = Spec { output: Output::YAndLast, ..Spec::new(DIMS, dtype) }.draw()?;
            let args = case.inputs().into_iter().map(|arg| arg.base(device)).collect::<Result<Vec<_>>>()?;
            let mut state = Tensor::zeros((DIMS.0, DIMS.2), accumulation_dtype(dtype), device)?;
            let mut ys = vec![];
            for t in 0..DIMS.1 {
                let at = |n: usize| args[n].narrow(1, t, 1);
                let scan = Scan::new().initial_state(&state);
                let (y, last) = scan.apply_with_state(&at(0)?, &at(1)?, &at(2)?, &at(3)?)?;
                ys.push(y);
                state = last;
            }
            let numbers = case.numbers();
            let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
            for (name, got) in [("y", Tensor::cat(&ys, 1)?), ("last", state)] {
                let what = format!("{name} step by step in {dtype:?}");
                case.tolerance(name).check(&what, &values(&got)?, &truth[name], &magnitudes[name]);
            }
        }
    }
    Ok(())
}

/// Nothing at all to compute, in every dimension, dtype and direction.
#[test]
fn sizes_of_zero() -> Result<()> {
    for dims in [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 3), (2, 0, 0), (0, 5, 0), (0, 0, 0)] {
        for dtype in DTYPES {
            for output in [Output::Y, Output::YAndLast, Output::States] {
                for h0 in [None, Some(dtype)] {
                    // the executors compare the last state with h0, and the gradient of h0 with that of the last state
                    check(Spec { output, h0, reverse: h0.is_some(), ..Spec::new(dims, dtype) })?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn without_steps_the_state_is_unchanged() -> Result<()> {
    for device in devices() {
        let x = Tensor::zeros((3, 0, 4), DType::BF16, device)?;
        let h0 = random(1, &[3, 4], -1., 1., DType::F32, device)?;
        let (y, last) = Scan::new().initial_state(&h0).apply_with_state(&x, &x, &x, &x)?;
        assert_eq!((y.dims(), y.dtype()), ([3, 0, 4].as_slice(), DType::BF16));
        assert_same_bits("the state", &last, &h0)?;
        let (_, last) = Scan::new().apply_with_state(&x, &x, &x, &x)?;
        assert_same_bits("zeros", &last, &h0.zeros_like()?)?;
    }
    Ok(())
}

#[test]
fn packed_sequences_are_what_separate_calls_give() -> Result<()> {
    let every_step: Vec<_> = (0..=40).collect();
    for (offsets, channels) in
        [(&[0, 40][..], 5), (&[0, 0, 40, 40], 5), (&[0, 0, 0, 1, 2, 17, 17, 40], 5), (&every_step, 33)]
    {
        for dtype in DTYPES {
            for reverse in [false, true] {
                for output in [Output::Y, Output::YAndLast, Output::States] {
                    let offsets = Some(offsets.to_vec());
                    let spec = Spec { offsets, reverse, output, ..Spec::new((1, 40, channels), dtype) };
                    check(spec.clone())?;
                    check(Spec { h0: Some(dtype), ..spec })?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn packed_sequences_of_nothing() -> Result<()> {
    for device in devices() {
        let x = Var::zeros((1, 0, 4), DType::F32, device)?;
        let h0 = Var::from_tensor(&random(1, &[3, 4], -1., 1., DType::F32, device)?)?;
        let scan = Scan::new().cu_seqlens(&[0, 0, 0, 0]);
        let (y, last) = scan.clone().initial_state(&h0).apply_with_state(&x, &x, &x, &x)?;
        assert_eq!(y.dims(), [1, 0, 4]);
        assert_same_bits("h0", &last, &h0)?;
        let grads = last.sqr()?.sum_all()?.backward()?;
        assert_same_bits("2 h0", grads.get(&h0).expect("a gradient"), &h0.affine(2., 0.)?)?;
        assert_same_bits("zeros", &scan.apply_with_state(&x, &x, &x, &x)?.1, &h0.zeros_like()?)?;
        // no sequence at all
        let (y, last) = Scan::new().cu_seqlens(&[0]).apply_with_state(&x, &x, &x, &x)?;
        assert_eq!((y.dims(), last.dims()), ([1, 0, 4].as_slice(), [0, 4].as_slice()));
    }
    Ok(())
}

#[test]
fn arguments_are_not_changed() -> Result<()> {
    for device in devices() {
        for (dims, dtype) in [(DIMS, DType::F32), (DIMS, DType::BF16), ((1, 70_000, 3), DType::F32)] {
            if !in_reach(dims) {
                continue;
            }
            let inputs = random_inputs(4, dims, dtype, device)?;
            let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let h0 = Var::from_tensor(&random(5, &[dims.0, dims.2], -1., 1., dtype, device)?)?;
            let grad_y = random(6, &[dims.0, dims.1, dims.2], -1., 1., dtype, device)?;
            let all = || {
                vars.iter().chain([&h0]).map(|v| v.as_tensor()).chain([&grad_y]).map(bits).collect::<Result<Vec<_>>>()
            };
            let before = all()?;
            let [x, a, b, c] = &vars[..] else { panic!("four variables") };
            for reverse in [false, true] {
                let scan = Scan::new().reverse(reverse).initial_state(&h0);
                let (y, last) = scan.apply_with_state(x, a, b, c)?;
                let (y_before, last_before) = (bits(&y)?, bits(&last)?);
                (y.sum_all()?.to_dtype(DType::F32)? + last.sum_all()?)?.backward()?;
                scan.states(x, a, b)?.sum_all()?.backward()?;
                scan.gradients(x, a, b, c, &grad_y)?;
                assert!(bits(&y)? == y_before && bits(&last)? == last_before, "an output has changed");
            }
            assert!(all()? == before, "an argument has changed");
        }
    }
    Ok(())
}

/// A builder: its options are values, and one scan serves many calls.
#[test]
fn a_scan_can_be_used_again() -> Result<()> {
    let [x, a, b, c] = random_inputs(7, DIMS, DType::F32, &Device::Cpu)?;
    let scan = Scan::new().reverse(true).chunk_len(8);
    let first = scan.apply(&x, &a, &b, &c)?;
    assert_same_bits("again", &scan.apply(&x, &a, &b, &c)?, &first)?;
    assert_same_bits("a clone", &scan.clone().apply(&x, &a, &b, &c)?, &first)?;
    assert!(format!("{scan:?}").contains("reverse: true"));
    let plain = Scan::default().apply(&x, &a, &b, &c)?;
    assert_same_bits("taken back", &scan.reverse(false).apply(&x, &a, &b, &c)?, &plain)?;
    assert_same_bits("the function", &quick_ssm::scan(&x, &a, &b, &c)?, &plain)
}
