//! The gradients against central differences of the values, for every option.
//!
//! The loss is a fixed random projection of the outputs. It is linear in every single element of every argument, so a
//! central difference has no truncation error whatever its step, and a step of 1 loses no digits.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{devices, in_reach, random, values};
use quick_ssm::Scan;

const DIMS: (usize, usize, usize) = (2, 23, 5);
const NAMES: [&str; 5] = ["x", "a", "b", "c", "h0"];

/// Which outputs the loss is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    Y,
    Last,
    YAndLast,
    States,
}

fn projection(t: &Tensor, seed: u64) -> Result<Tensor> {
    let weights = random(seed, t.dims(), -1., 1., t.dtype(), t.device())?;
    (t * weights)?.to_dtype(DType::F64)?.sum_all()
}

/// The loss at `args`: `x, a, b, c` and, where there is one, `h0`.
fn loss(scan: &Scan, kind: Loss, args: &[Tensor]) -> Result<Tensor> {
    let scan = match args.get(4) {
        Some(h0) => scan.clone().initial_state(h0),
        None => scan.clone(),
    };
    let [x, a, b, c, ..] = args else { panic!("four arguments at least") };
    if kind == Loss::States {
        return projection(&scan.states(x, a, b)?, 90);
    }
    let (y, last) = scan.apply_with_state(x, a, b, c)?;
    match kind {
        Loss::Y => projection(&scan.apply(x, a, b, c)?, 91),
        Loss::Last => projection(&last, 92),
        _ => projection(&y, 91)? + projection(&last, 92)?,
    }
}

/// The indices of the largest, the quartiles and the smallest of the gradients.
fn probes(grads: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..grads.len()).collect();
    order.sort_by(|&i, &j| grads[i].abs().total_cmp(&grads[j].abs()));
    let last = order.len() - 1;
    [0, last / 4, last / 2, 3 * last / 4, last.saturating_sub(1), last].map(|i| order[i]).to_vec()
}

fn check(scan: &Scan, kind: Loss, args: &[Tensor], relative: f64) -> Result<()> {
    let vars = args.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(scan, kind, &tracked)?.backward()?;
    for (n, (arg, var)) in args.iter().zip(&vars).enumerate() {
        if NAMES[n] == "c" && matches!(kind, Loss::States | Loss::Last) {
            // no output depends on it
            assert!(grads.get(var).map_or(Ok(0.), |g| values(g).map(|v| v.iter().map(|g| g.abs()).sum()))? == 0.);
            continue;
        }
        let grad = values(grads.get(var).unwrap_or_else(|| panic!("no gradient of {}", NAMES[n])))?;
        let largest = grad.iter().fold(0f64, |m, g| m.max(g.abs()));
        assert!(largest > 1e-3, "{}: gradients this small say nothing", NAMES[n]);
        for index in probes(&grad) {
            let at = |step: f64| -> Result<f64> {
                let mut moved = values(arg)?;
                moved[index] += step;
                let mut args = args.to_vec();
                args[n] = Tensor::from_vec(moved, arg.shape(), &Device::Cpu)?.to_device(arg.device())?;
                loss(scan, kind, &args)?.to_scalar::<f64>()
            };
            let difference = (at(1.)? - at(-1.)?) / 2.;
            let error = (difference - grad[index]).abs() / largest;
            let at = format!("d{}[{index}] of {kind:?} with {scan:?}", NAMES[n]);
            assert!(error <= relative, "{at}: {} by backward, {difference} by differences", grad[index]);
        }
    }
    Ok(())
}

/// `x, a, b, c` and `h0` in f64.
fn arguments(states: usize, (b, l, d): (usize, usize, usize), device: &Device) -> Result<Vec<Tensor>> {
    let t = |seed| random(seed, &[b, l, d], -1.5, 1.5, DType::F64, device);
    // a state that lasts, so that h0 has a part in the last one
    let a = random(2, &[b, l, d], 0.8, 1.05, DType::F64, device)?;
    Ok(vec![t(1)?, a, t(3)?, t(4)?, random(5, &[states, d], -1.5, 1.5, DType::F64, device)?])
}

fn check_all(scan: &Scan, args: &[Tensor]) -> Result<()> {
    for kind in [Loss::Y, Loss::Last, Loss::YAndLast, Loss::States] {
        // 1e-11: a difference of two losses, each a sum of hundreds of terms in f64
        check(scan, kind, args, 1e-11)?;
    }
    Ok(())
}

#[test]
fn every_option() -> Result<()> {
    for device in devices() {
        let args = arguments(2, DIMS, device)?;
        for args in [&args[..4], &args[..]] {
            for reverse in [false, true] {
                let scan = Scan::new().reverse(reverse);
                check_all(&scan, args)?;
                check_all(&scan.chunk_len(4), args)?;
            }
        }
    }
    Ok(())
}

#[test]
fn packed_sequences() -> Result<()> {
    for device in devices() {
        let offsets = [0, 0, 1, 12, 12, 33, 40, 40];
        let args = arguments(offsets.len() - 1, (1, 40, 3), device)?;
        for args in [&args[..4], &args[..]] {
            for reverse in [false, true] {
                check_all(&Scan::new().reverse(reverse).cu_seqlens(&offsets), args)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_single_step() -> Result<()> {
    for device in devices() {
        // the state before the only step is h0, and without it there is no gradient of a
        check_all(&Scan::new(), &arguments(3, (3, 1, 4), device)?)?;
    }
    Ok(())
}

#[test]
fn narrow_and_long() -> Result<()> {
    for device in devices() {
        // from a million elements on, time may be tiled
        for (len, reverse) in [(40_000, true), (1_050_000, false)] {
            if !in_reach((1, len, 1)) {
                continue;
            }
            let mut args = arguments(1, (1, len, 1), device)?;
            args[1] = random(2, &[1, len, 1], 0.9999, 1., DType::F64, device)?;
            check(&Scan::new().reverse(reverse), Loss::YAndLast, &args, 1e-9)?;
        }
    }
    Ok(())
}

#[test]
fn output_dtype() -> Result<()> {
    for device in devices() {
        let args = arguments(2, DIMS, device)?;
        // each y is rounded to f32 before it is projected, in f32 again
        check(&Scan::new().out_dtype(DType::F32), Loss::YAndLast, &args, 1e-5)?;
        check(&Scan::new().out_dtype(DType::F32), Loss::States, &args, 1e-5)?;
        check(&Scan::new().out_dtype(DType::F64), Loss::YAndLast, &args, 1e-11)?;
    }
    Ok(())
}

/// Without autograd: the gradients of `y` alone, with every option.
#[test]
fn gradients_without_autograd() -> Result<()> {
    for device in devices() {
        let packed = Scan::new().cu_seqlens(&[0, 9, 9, 23]);
        let (one, many) = (arguments(3, (1, 23, 5), device)?, arguments(2, DIMS, device)?);
        let scans = [(Scan::new(), &many), (Scan::new().reverse(true), &many), (packed.clone(), &one)];
        for (scan, args) in scans.into_iter().chain([(packed.reverse(true), &one)]) {
            for h0 in [None, args.get(4)] {
                let scan = match h0 {
                    Some(h0) => scan.clone().initial_state(h0),
                    None => scan.clone(),
                };
                let dims = args[0].dims();
                let grad_y = random(91, dims, -1., 1., DType::F64, device)?;
                let grads = scan.gradients(&args[0], &args[1], &args[2], &args[3], &grad_y)?;
                for (n, grad) in grads.iter().enumerate() {
                    let grad = values(grad)?;
                    for index in probes(&grad) {
                        let at = |step: f64| -> Result<f64> {
                            let mut moved = values(&args[n])?;
                            moved[index] += step;
                            let mut args = args[..4].to_vec();
                            args[n] = Tensor::from_vec(moved, dims, &Device::Cpu)?.to_device(device)?;
                            loss(&scan, Loss::Y, &args)?.to_scalar::<f64>()
                        };
                        let difference = (at(1.)? - at(-1.)?) / 2.;
                        let error = (difference - grad[index]).abs();
                        assert!(error < 1e-10, "d{}[{index}]: {} not {difference}", NAMES[n], grad[index]);
                    }
                }
            }
        }
    }
    Ok(())
}
