//! The layer against values and gradients computed by Torch in f64.

mod layer_support;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder};
use layer_support::{assert_close, fixture};
use quick_ssm::{QuickSsm, QuickSsmConfig};

fn check(name: &str, cfg: &QuickSsmConfig, dtype: DType) -> Result<()> {
    let fixture = fixture(name)?;
    let mut params = HashMap::new();
    for (key, t) in &fixture {
        if let Some(name) = key.strip_prefix("param.") {
            params.insert(name.to_string(), Var::from_tensor(&t.to_dtype(dtype)?)?);
        }
    }
    let tensors = params.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let layer = QuickSsm::new(cfg, VarBuilder::from_tensors(tensors, dtype, &Device::Cpu))?;
    let x = Var::from_tensor(&fixture["x"].to_dtype(dtype)?)?;
    let y = layer.forward(&x)?;
    assert_eq!(y.dtype(), dtype);
    assert_close(&format!("{name} y"), &y, &fixture["y"], 3e-6);

    let grads = (y * fixture["dy"].to_dtype(dtype)?)?.sum_all()?.backward()?;
    let expected = fixture.iter().filter_map(|(key, t)| Some((key.strip_prefix("grad.")?, t)));
    let mut compared = 0;
    for (key, expected) in expected {
        let var: &Tensor = params.get(key).unwrap_or(&x);
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name}: no gradient of {key}"));
        assert_eq!(grad.dtype(), dtype);
        assert_close(&format!("{name} gradient of {key}"), grad, expected, 1e-5);
        compared += 1;
    }
    assert_eq!(compared, params.len() + 1);
    Ok(())
}

fn check_all(name: &str, cfg: QuickSsmConfig) -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        for checkpoint in [true, false] {
            check(name, &QuickSsmConfig { checkpoint, ..cfg.clone() }, dtype)?;
        }
    }
    Ok(())
}

#[test]
fn default_options() -> Result<()> {
    check_all("layer_default", QuickSsmConfig { state_size_mult: 2., ..QuickSsmConfig::new(16) })
}

#[test]
fn a_fractional_state_size() -> Result<()> {
    check_all("layer_fractional", QuickSsmConfig { state_size_mult: 1.5, ..QuickSsmConfig::new(12) })
}

#[test]
fn neither_norm_nor_residual() -> Result<()> {
    let options = QuickSsmConfig { use_norm: false, use_residual: false, ..QuickSsmConfig::new(8) };
    check_all("layer_plain", QuickSsmConfig { state_size_mult: 4., ..options })
}

#[test]
fn no_norm() -> Result<()> {
    check_all("layer_nonorm", QuickSsmConfig { use_norm: false, ..QuickSsmConfig::new(24) })
}
