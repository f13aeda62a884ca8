//! Layers and inputs from a seed, and how results are compared.
#![allow(dead_code)] // every test file uses a part

pub mod composed;

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use quick_ssm::{QuickSsm, QuickSsmConfig};
use rand::{rngs::StdRng, Rng, SeedableRng};

/// Uniform values in (-1, 1).
pub fn random(rng: &mut StdRng, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let values = (0..shape.elem_count()).map(|_| rng.random_range(-1f32..1.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The variables by name, in the order of the names.
pub fn variables(varmap: &VarMap) -> BTreeMap<String, Var> {
    varmap.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
}

/// A layer of variables of `dtype`, the values of which depend on the seed alone.
pub fn layer(cfg: &QuickSsmConfig, dtype: DType, seed: u64) -> Result<(QuickSsm, BTreeMap<String, Var>)> {
    layer_on(&Device::Cpu, cfg, dtype, seed)
}

/// The same on another device.
pub fn layer_on(
    device: &Device,
    cfg: &QuickSsmConfig,
    dtype: DType,
    seed: u64,
) -> Result<(QuickSsm, BTreeMap<String, Var>)> {
    let varmap = VarMap::new();
    let layer = QuickSsm::new(cfg, VarBuilder::from_varmap(&varmap, dtype, device))?;
    let (variables, mut rng) = (variables(&varmap), rng(seed));
    for (name, var) in &variables {
        let values = random(&mut rng, var.shape())?;
        let values = if name == "pre_norm.weight" { (values + 1.)? } else { (values * 0.5)? };
        var.set(&values.to_dtype(dtype)?.to_device(device)?)?;
    }
    Ok((layer, variables))
}

/// A layer for inference with the current values of variables.
pub fn frozen(cfg: &QuickSsmConfig, variables: &BTreeMap<String, Var>) -> Result<QuickSsm> {
    let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    of_tensors(cfg, tensors)
}

/// A layer of variables that are there.
pub fn layer_of(cfg: &QuickSsmConfig, variables: &BTreeMap<String, Var>) -> Result<QuickSsm> {
    of_tensors(cfg, variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect())
}

fn of_tensors(cfg: &QuickSsmConfig, tensors: HashMap<String, Tensor>) -> Result<QuickSsm> {
    let weight = &tensors["out_proj.weight"];
    let (dtype, device) = (weight.dtype(), weight.device().clone());
    QuickSsm::new(cfg, VarBuilder::from_tensors(tensors, dtype, &device))
}

pub fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest difference, relative to the largest expected value.
pub fn error(got: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got)?, values(expected)?);
    let scale = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0., |m: f64, d| {
        assert!(!d.is_nan());
        m.max(d)
    });
    Ok(worst / scale.max(f64::MIN_POSITIVE))
}

#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = error(got, expected).unwrap();
    assert!(error <= tolerance, "{what}: relative error {error:e}, more than {tolerance:e}");
}

/// The message of a result that has to be an error, which has to contain all of `parts`.
#[track_caller]
pub fn assert_error<T, E: std::fmt::Display>(result: std::result::Result<T, E>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("expected an error with {parts:?}"),
        Err(e) => e.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in the message {message:?}");
    }
}

pub fn fixture(name: &str) -> Result<HashMap<String, Tensor>> {
    let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu)
}
