//! What the gated scan promises besides its values: the same bits always, a gradient that differences confirm, the
//! result of the layer's formula from candle's own operations, errors that name the argument.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::ops::{sigmoid, silu};
use common::{
    assert_all_same_bits, assert_same_bits, assert_same_with_any_threads, devices, dtypes, fails, in_reach, random,
    values,
};
use quick_ssm::Scan;

/// `L, S`: every way in which a kernel can cut a sequence.
const SEQUENCES: [(usize, usize); 7] =
    [(5, 3), (300, 17), (64, 257), (33, 1_025), (70_000, 3), (1_025, 200), (8_193, 129)];

/// `p` with gates that let a state last, `a_bias` and `h0`.
fn arguments(batch: usize, (len, channels): (usize, usize), dtype: DType, device: &Device) -> Result<[Tensor; 3]> {
    let p = random(1, &[batch, len, 5 * channels], -1.5, 1.5, dtype, device)?;
    let bias = random(2, &[channels], 0., 6., dtype, device)?;
    Ok([p, bias, random(3, &[batch, channels], -1., 1., dtype, device)?])
}

/// `y`, the last state, and the gradients of `p`, `a_bias` and `h0`.
fn everything(scan: &Scan, arguments: &[Tensor; 3]) -> Result<Vec<Tensor>> {
    let vars = arguments.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let (y, last) = scan.clone().initial_state(&vars[2]).apply_gated_with_state(&vars[0], Some(&vars[1]))?;
    // another gradient for every element, the same in any batch
    let weighted = |t: &Tensor, seed: u64| -> Result<Tensor> {
        let dims = &t.dims()[1..];
        let weights = random(seed, dims, -1., 1., t.dtype(), t.device())?;
        t.broadcast_mul(&weights)?.sum_all()?.to_dtype(DType::F64)
    };
    let grads = (weighted(&y, 7)? + weighted(&last, 8)?)?.backward()?;
    let mut all = vec![y, last];
    all.extend(vars.iter().map(|var| grads.get(var).cloned().expect("a gradient")));
    Ok(all)
}

const NAMES: [&str; 5] = ["y", "last", "dp", "da_bias", "dh0"];

/// Of all of these, or of the first ones.
fn assert_same(what: &str, got: &[Tensor], want: &[Tensor]) -> Result<()> {
    assert_all_same_bits(what, &NAMES[..want.len()], got, want)
}

#[test]
fn the_same_bits_from_run_to_run() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES.into_iter().filter(|s| in_reach((2, s.0, 5 * s.1))) {
            for &dtype in dtypes(sequence) {
                let arguments = arguments(2, sequence, dtype, device)?;
                let first = everything(&Scan::new(), &arguments)?;
                for _ in 0..3 {
                    let again = everything(&Scan::new(), &arguments)?;
                    assert_same(&format!("{sequence:?} {dtype:?}"), &again, &first)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_same_bits_with_any_number_of_threads() -> Result<()> {
    for sequence in SEQUENCES {
        for &dtype in dtypes(sequence) {
            let arguments = arguments(3, sequence, dtype, &Device::Cpu)?;
            let what = format!("{sequence:?} {dtype:?}");
            assert_same_with_any_threads(&what, &NAMES, || everything(&Scan::new(), &arguments))?;
        }
    }
    Ok(())
}

/// All but the gradient of the bias, which is a sum over the batch.
#[test]
fn the_same_bits_in_any_batch() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES.into_iter().filter(|s| in_reach((3, s.0, 5 * s.1))) {
            for &dtype in dtypes(sequence) {
                let all = arguments(3, sequence, dtype, device)?;
                let together = everything(&Scan::new(), &all)?;
                for n in 0..3 {
                    let alone = [all[0].narrow(0, n, 1)?, all[1].clone(), all[2].narrow(0, n, 1)?];
                    let alone = everything(&Scan::new(), &alone)?;
                    for (name, i) in [("y", 0), ("last", 1), ("dp", 2), ("dh0", 4)] {
                        let what = format!("{sequence:?} {dtype:?}: {name} of {n}");
                        assert_same_bits(&what, &alone[i], &together[i].narrow(0, n, 1)?)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_chunk_length_never_changes_y() -> Result<()> {
    for device in devices() {
        for sequence in SEQUENCES.into_iter().filter(|s| in_reach((2, s.0, 5 * s.1))) {
            let arguments = arguments(2, sequence, DType::F32, device)?;
            let want = everything(&Scan::new(), &arguments)?;
            for steps in [1, 7, 64, usize::MAX] {
                let got = everything(&Scan::new().chunk_len(steps), &arguments)?;
                assert_same(&format!("{sequence:?} in chunks of {steps}"), &got[..2], &want[..2])?;
            }
        }
    }
    Ok(())
}

/// The loss is smooth in every argument: a central difference with a small step is off by its square.
#[test]
fn differences() -> Result<()> {
    for device in devices() {
        let arguments = arguments(2, (23, 5), DType::F64, device)?;
        for (scan, packed) in [(Scan::new(), false), (Scan::new().reverse(true).cu_seqlens(&[0, 9, 9, 23]), true)] {
            let mut arguments = arguments.clone();
            if packed {
                arguments[0] = arguments[0].narrow(0, 0, 1)?;
                arguments[2] = random(3, &[3, 5], -1., 1., DType::F64, device)?;
            }
            let weights = random(4, &[arguments[0].dim(0)?, 23, 5], -1., 1., DType::F64, device)?;
            let loss = |arguments: &[Tensor]| -> Result<Tensor> {
                let scan = scan.clone().initial_state(&arguments[2]);
                let (y, last) = scan.apply_gated_with_state(&arguments[0], Some(&arguments[1]))?;
                (y * &weights)?.sum_all()? + last.sqr()?.sum_all()?
            };
            let vars = arguments.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let grads = loss(&tracked)?.backward()?;
            for (n, var) in vars.iter().enumerate() {
                let grad = values(grads.get(var).expect("a gradient"))?;
                let largest = grad.iter().fold(0f64, |m, g| m.max(g.abs()));
                for index in (0..grad.len()).step_by(1 + grad.len() / 40) {
                    let at = |step: f64| -> Result<f64> {
                        let mut moved = values(&arguments[n])?;
                        moved[index] += step;
                        let mut arguments = arguments.to_vec();
                        arguments[n] =
                            Tensor::from_vec(moved, arguments[n].shape(), &Device::Cpu)?.to_device(device)?;
                        loss(&arguments)?.to_scalar::<f64>()
                    };
                    let step = 1e-4;
                    let difference = (at(step)? - at(-step)?) / (2. * step);
                    let error = (difference - grad[index]).abs() / largest;
                    assert!(error < 1e-7, "argument {n} at {index}: {} by backward, not {difference}", grad[index]);
                }
            }
        }
    }
    Ok(())
}

/// The layer's formula from candle's operations around the plain scan.
#[test]
fn composed() -> Result<()> {
    for device in devices() {
        for dtype in [DType::F32, DType::F64] {
            let [p, bias, h0] = arguments(2, (130, 40), dtype, device)?;
            let vars = [&p, &bias, &h0].into_iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let fused = Scan::new().initial_state(&vars[2]).apply_gated(&vars[0], Some(&vars[1]))?;
            let part = |n: usize| vars[0].narrow(2, n * 40, 40)?.contiguous();
            let (a, d) = (sigmoid(&part(0)?.broadcast_add(&vars[1])?)?, sigmoid(&part(1)?)?);
            let c = (silu(&part(3)?)? * part(4)?)?;
            let composed = Scan::new().initial_state(&vars[2]).apply(&part(2)?, &a, &d, &c)?;
            let near = |what: &str, got: &Tensor, want: &Tensor| -> Result<()> {
                let (got, want) = (values(got)?, values(want)?);
                let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
                let error = got.iter().zip(&want).fold(0f64, |m, (g, w)| m.max((g - w).abs())) / largest;
                let limit = if dtype == DType::F64 { 1e-13 } else { 1e-5 };
                assert!(error <= limit, "{what} in {dtype:?}: {error:e}");
                Ok(())
            };
            near("y", &fused, &composed)?;
            let (fused, composed) = (fused.sqr()?.sum_all()?.backward()?, composed.sqr()?.sum_all()?.backward()?);
            for (name, var) in ["dp", "da_bias", "dh0"].into_iter().zip(&vars) {
                near(name, fused.get(var).expect("a gradient"), composed.get(var).expect("a gradient"))?;
            }
        }
    }
    Ok(())
}

/// What nobody wants is not computed: an argument that is not tracked has no gradient, and the others are the same.
#[test]
fn gradients_that_are_wanted() -> Result<()> {
    for device in devices() {
        let arguments = arguments(2, (70, 20), DType::F32, device)?;
        let all = everything(&Scan::new(), &arguments)?;
        for wanted in 1..8usize {
            let vars = arguments.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let of = |n: usize| if wanted >> n & 1 == 1 { vars[n].as_tensor().clone() } else { vars[n].detach() };
            let (y, last) = Scan::new().initial_state(&of(2)).apply_gated_with_state(&of(0), Some(&of(1)))?;
            let weighted = |t: &Tensor, seed: u64| -> Result<Tensor> {
                let weights = random(seed, &t.dims()[1..], -1., 1., t.dtype(), t.device())?;
                t.broadcast_mul(&weights)?.sum_all()?.to_dtype(DType::F64)
            };
            let grads = (weighted(&y, 7)? + weighted(&last, 8)?)?.backward()?;
            for (n, (name, var)) in ["dp", "da_bias", "dh0"].into_iter().zip(&vars).enumerate() {
                match grads.get(var) {
                    Some(grad) => assert_same_bits(&format!("{name} of {wanted:03b}"), grad, &all[2 + n])?,
                    None => assert!(wanted >> n & 1 == 0, "no {name} of {wanted:03b}"),
                }
            }
        }
    }
    Ok(())
}

#[test]
fn errors() -> Result<()> {
    let ones = |dims: &[usize], dtype: DType| Tensor::ones(dims, dtype, &Device::Cpu);
    let (p, scan) = (ones(&[2, 3, 10], DType::F32)?, Scan::new());
    for dims in [vec![], vec![10], vec![3, 10], vec![2, 3, 10, 1]] {
        fails(scan.apply_gated(&ones(&dims, DType::F32)?, None), "p", &["[B, L, 5S]", &format!("rank {}", dims.len())]);
    }
    fails(scan.apply_gated(&ones(&[2, 3, 11], DType::F32)?, None), "p", &["[B, L, 5S]", "[2, 3, 11]"]);
    fails(scan.apply_gated(&ones(&[2, 3, 10], DType::I64)?, None), "p", &["f32", "I64"]);
    for dims in [vec![], vec![3], vec![10], vec![1, 2]] {
        fails(scan.apply_gated(&p, Some(&ones(&dims, DType::F32)?)), "a_bias", &["[2]", &format!("{dims:?}")]);
    }
    fails(scan.apply_gated(&p, Some(&ones(&[2], DType::F64)?)), "a_bias", &["F32", "F64"]);
    let h0 = scan.clone().initial_state(&ones(&[2, 3], DType::F32)?);
    fails(h0.apply_gated(&p, None), "h0", &["[2, 2]", "[2, 3]"]);
    fails(scan.clone().chunk_len(0).apply_gated_with_state(&p, None), "chunk_len", &["1", "0"]);
    fails(scan.clone().out_dtype(DType::U8).apply_gated(&p, None), "out_dtype", &["U8"]);
    fails(scan.clone().cu_seqlens(&[0, 3]).apply_gated(&p, None), "p", &["[1, T, ..]", "[2, 3, 10]"]);
    let one = ones(&[1, 3, 10], DType::F32)?;
    fails(scan.cu_seqlens(&[0, 4]).apply_gated(&one, None), "cu_seqlens", &["3", "4"]);
    Ok(())
}
