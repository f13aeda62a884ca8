//! The layer against the same formulae from candle's operations, in f64: values, states and gradients, on every device.

mod common;
mod layer_support;

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use common::{devices, in_reach};
use layer_support::{assert_close, composed, frozen, layer, layer_on, random, rng};
use quick_ssm::{QuickSsm, QuickSsmConfig, QuickSsmState};

const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

/// What rounding to `dtype` may do, relative to the largest value: the products sum up to some dozen rounded numbers.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        DType::F32 => 1e-5,
        DType::F16 => 1e-2,
        _ => 8e-2,
    }
}

fn wide(var: &Var) -> Result<Var> {
    Var::from_tensor(&var.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
}

/// The variables with the same values in f64, on the CPU.
fn in_f64(variables: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Var>> {
    let wide = |(name, var): (&String, &Var)| Ok((name.clone(), wide(var)?));
    variables.iter().map(wide).collect()
}

/// The loss that gives outputs and last state these gradients.
fn loss(ys: &Tensor, h: &Tensor, weights: &(Tensor, Tensor)) -> Result<Tensor> {
    let part =
        |t: &Tensor, w: &Tensor| (t * w.to_device(t.device())?.to_dtype(t.dtype())?)?.sum_all()?.to_dtype(DType::F64);
    part(ys, &weights.0)? + part(h, &weights.1)?
}

/// A layer with variables and an input of `dtype` on every device, against the formulae in f64 with the same numbers.
#[track_caller]
fn check(what: &str, cfg: &QuickSsmConfig, dtype: DType, dims: (usize, usize), swapped: bool) -> Result<()> {
    for device in devices() {
        if in_reach((dims.0, dims.1, cfg.state_size())) {
            check_on(device, what, cfg, dtype, dims, swapped)?;
        }
    }
    Ok(())
}

#[track_caller]
fn check_on(
    device: &Device,
    what: &str,
    cfg: &QuickSsmConfig,
    dtype: DType,
    (batch, len): (usize, usize),
    swapped: bool,
) -> Result<()> {
    let (hidden, state) = (cfg.hidden_size, cfg.state_size());
    let compute = cfg.compute_dtype.unwrap_or(dtype);
    let tolerance = tolerance(compute).max(tolerance(dtype));
    let what = format!("{what} on {} {dtype:?} {cfg:?}", common::executor::place(device));
    let (layer, variables) = layer_on(device, cfg, dtype, 1)?;
    let mut rng = rng(2);
    let mut random = |shape: &[usize]| random(&mut rng, shape)?.to_dtype(dtype)?.to_device(device);
    let xs = match swapped {
        false => random(&[batch, len, hidden])?,
        true => random(&[len, batch, hidden])?,
    };
    let (xs, h0) = (Var::from_tensor(&xs)?, Var::from_tensor(&random(&[batch, state])?)?);
    let weights = (random(&[batch, len, hidden])?, random(&[batch, state])?);
    let input = |xs: &Var| if swapped { xs.transpose(0, 1) } else { Ok(xs.as_tensor().clone()) };

    let start = QuickSsmState::new(Tensor::zeros((batch, hidden), dtype, device)?, h0.as_tensor().clone())?;
    let (ys, end) = layer.forward_with_state(&input(&xs)?, &start)?;
    assert_eq!(ys.dtype(), dtype);
    let grads = loss(&ys, end.h(), &weights)?.backward()?;

    let wide_variables = in_f64(&variables)?;
    let (wide_xs, wide_h0) = (wide(&xs)?, wide(&h0)?);
    let exact = QuickSsmConfig { compute_dtype: None, ..cfg.clone() };
    let (expected, last) = composed::forward(&exact, &wide_variables, &input(&wide_xs)?, Some(&wide_h0))?;
    assert_close(&format!("{what}: y"), &ys, &expected, tolerance);
    assert_close(&format!("{what}: last state"), end.h(), &last, tolerance);
    let expected = loss(&expected, &last, &weights)?.backward()?;
    let leaves = variables.iter().map(|(name, var)| (name.as_str(), var, &wide_variables[name]));
    for (name, var, wide) in leaves.chain([("xs", &xs, &wide_xs), ("h0", &h0, &wide_h0)]) {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{what}: no gradient of {name}"));
        assert_eq!(grad.dtype(), dtype, "{what}: {name}");
        assert_close(&format!("{what}: gradient of {name}"), grad, expected.get(wide).unwrap(), tolerance);
    }
    Ok(())
}

#[test]
fn every_option_in_every_dtype() -> Result<()> {
    for dtype in DTYPES {
        for compute_dtype in [None, Some(DType::F32), Some(DType::F64), Some(DType::BF16), Some(DType::F16)] {
            for options in 0..8 {
                let [checkpoint, use_norm, use_residual] = [1, 2, 4].map(|bit| options & bit > 0);
                let options = QuickSsmConfig { checkpoint, use_norm, use_residual, ..QuickSsmConfig::new(20) };
                let cfg = QuickSsmConfig { state_size_mult: 1.75, compute_dtype, eps: 1e-3, ..options };
                check("options", &cfg, dtype, (2, 13), false)?;
            }
        }
    }
    Ok(())
}

/// Pre-activations of 36 and 72 MB, which are computed in parts of the batch; in f32 the last part is smaller.
#[test]
fn batches_in_parts() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        for (checkpoint, swapped) in [(true, false), (false, false), (true, true)] {
            let cfg = QuickSsmConfig { state_size_mult: 64., checkpoint, ..QuickSsmConfig::new(16) };
            check("parts", &cfg, dtype, (5, 350), swapped)?;
        }
    }
    Ok(())
}

/// One channel more and less than what a vector holds, and several blocks of rows.
#[test]
fn widths_and_lengths_around_boundaries() -> Result<()> {
    for dtype in DTYPES {
        for hidden in [1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 65] {
            let cfg = QuickSsmConfig { state_size_mult: 1.25, ..QuickSsmConfig::new(hidden) };
            check("widths", &cfg, dtype, (2, 5), false)?;
        }
    }
    for (hidden, batch, len) in [(64, 1, 511), (64, 1, 512), (64, 1, 513), (64, 3, 700), (200, 2, 260)] {
        for checkpoint in [true, false] {
            let cfg = QuickSsmConfig { state_size_mult: 0.5, checkpoint, ..QuickSsmConfig::new(hidden) };
            check("lengths", &cfg, DType::F64, (batch, len), false)?;
        }
    }
    Ok(())
}

/// A sequence the time of which is cut into tiles that run in parallel.
#[test]
fn a_long_narrow_sequence() -> Result<()> {
    for checkpoint in [true, false] {
        for dtype in [DType::F32, DType::F64] {
            let cfg = QuickSsmConfig { state_size_mult: 16., checkpoint, ..QuickSsmConfig::new(8) };
            check("long", &cfg, dtype, (1, 8_300), false)?;
        }
    }
    Ok(())
}

#[test]
fn an_input_with_swapped_batch_and_time() -> Result<()> {
    for checkpoint in [true, false] {
        for dtype in [DType::F32, DType::F64] {
            check("swapped", &QuickSsmConfig { checkpoint, ..QuickSsmConfig::new(20) }, dtype, (3, 9), true)?;
        }
    }
    Ok(())
}

/// Any one parameter alone, the input alone and the first state alone: its gradient is the same, and no other is computed.
#[test]
fn frozen_parameters_change_no_other_gradient() -> Result<()> {
    for (checkpoint, use_norm) in [(true, true), (false, true), (true, false), (false, false)] {
        let cfg = QuickSsmConfig { state_size_mult: 1.5, checkpoint, use_norm, ..QuickSsmConfig::new(12) };
        let (whole, variables) = layer(&cfg, DType::F64, 3)?;
        let mut rng = rng(4);
        let mut random = |shape: &[usize]| random(&mut rng, shape)?.to_dtype(DType::F64);
        let (xs, h0) = (Var::from_tensor(&random(&[2, 9, 12])?)?, Var::from_tensor(&random(&[2, 18])?)?);
        let weights = (random(&[2, 9, 12])?, random(&[2, 18])?);
        let y0 = Tensor::zeros((2, 12), DType::F64, &Device::Cpu)?;
        let grads = |layer: &QuickSsm, xs: &Tensor, h0: &Tensor| {
            let (ys, end) = layer.forward_with_state(xs, &QuickSsmState::new(y0.clone(), h0.clone())?)?;
            loss(&ys, end.h(), &weights)?.backward()
        };
        let all = grads(&whole, &xs, &h0)?;
        let leaves: Vec<(&str, &Var)> =
            variables.iter().map(|(name, var)| (name.as_str(), var)).chain([("xs", &xs), ("h0", &h0)]).collect();
        for mask in (0..leaves.len()).map(|n| 1 << n).chain([0b1010101, 0b0110, 0]) {
            let tracked =
                |name: &str| leaves.iter().enumerate().any(|(n, (leaf, _))| *leaf == name && mask & 1 << n > 0);
            let of = |name: &str, var: &Var| match tracked(name) {
                true => var.as_tensor().clone(),
                false => var.as_detached_tensor(),
            };
            let tensors: HashMap<_, _> = variables.iter().map(|(name, var)| (name.clone(), of(name, var))).collect();
            let layer = QuickSsm::new(&cfg, VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu))?;
            let some = grads(&layer, &of("xs", &xs), &of("h0", &h0))?;
            for (name, var) in &leaves {
                match (tracked(name), some.get(var)) {
                    (true, Some(grad)) => assert_close(name, grad, all.get(var).unwrap(), 1e-13),
                    (false, None) => {}
                    (tracked, grad) => panic!("{name}: tracked {tracked}, gradient {grad:?}"),
                }
            }
        }
    }
    Ok(())
}

/// A layer of tensors has its weights fused once; it gives what one of variables gives, and is saved as it was.
#[test]
fn a_layer_for_inference_is_the_same_layer() -> Result<()> {
    let folder = tempfile::TempDir::new().unwrap();
    for dtype in DTYPES {
        for compute_dtype in [None, Some(DType::BF16), Some(DType::F32)] {
            let cfg = QuickSsmConfig { state_size_mult: 1.5, compute_dtype, ..QuickSsmConfig::new(16) };
            let (trained, variables) = layer(&cfg, dtype, 5)?;
            let (first, second) = (folder.path().join("first"), folder.path().join("second"));
            trained.save(&first)?;
            let loaded = QuickSsm::load(&first, &cfg, dtype, &Device::Cpu)?;
            loaded.save(&second)?;
            assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
            let built = frozen(&cfg, &variables)?;
            for input in DTYPES {
                let xs = random(&mut rng(6), (2, 7, 16))?.to_dtype(input)?;
                let expected = candle_nn::Module::forward(&trained, &xs)?;
                for layer in [&loaded, &built, &loaded.clone()] {
                    for _ in 0..2 {
                        let ys = candle_nn::Module::forward(layer, &xs)?;
                        assert!(!ys.track_op());
                        let tolerance = tolerance(compute_dtype.unwrap_or(input)).max(tolerance(input));
                        assert_close(&format!("{dtype:?} {input:?}"), &ys, &expected, tolerance);
                    }
                }
            }
        }
    }
    Ok(())
}
