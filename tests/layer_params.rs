//! The layer's parameters: their names, shapes, initial values and gradients, and the dtypes they are used in.

mod layer_support;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap};
use layer_support::{assert_close, assert_error, error, layer, random, rng, values, variables};
use quick_ssm::{QuickSsm, QuickSsmConfig};

const CPU: Device = Device::Cpu;

fn new(cfg: &QuickSsmConfig) -> Result<(QuickSsm, VarMap)> {
    let varmap = VarMap::new();
    let layer = QuickSsm::new(cfg, VarBuilder::from_varmap(&varmap, DType::F32, &CPU))?;
    Ok((layer, varmap))
}

#[test]
fn a_new_layer_creates_exactly_its_parameters() -> Result<()> {
    let (h, s) = (12, 18);
    let cfg = QuickSsmConfig { state_size_mult: 1.5, ..QuickSsmConfig::new(h) };
    let (_, varmap) = new(&cfg)?;
    let expected: [(&str, &[usize]); 9] = [
        ("A_proj.bias", &[s]),
        ("A_proj.weight", &[s, h]),
        ("B_proj.weight", &[s, h]),
        ("C_proj_a.weight", &[s, h]),
        ("C_proj_b.weight", &[s, h]),
        ("D_proj.weight", &[s, h]),
        ("out_proj.bias", &[h]),
        ("out_proj.weight", &[h, s]),
        ("pre_norm.weight", &[h]),
    ];
    let created = variables(&varmap);
    assert_eq!(created.iter().map(|(n, v)| (n.as_str(), v.dims())).collect::<Vec<_>>(), expected);
    let (_, without_norm) = new(&QuickSsmConfig { use_norm: false, ..cfg })?;
    let created = variables(&without_norm);
    assert_eq!(created.keys().collect::<Vec<_>>(), expected[..8].iter().map(|(n, _)| n).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn initial_values_are_those_of_torch() -> Result<()> {
    let (h, s) = (64, 256);
    let (_, varmap) = new(&QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(h) })?;
    for (name, var) in variables(&varmap) {
        let values = values(&var)?;
        if name == "pre_norm.weight" {
            assert!(values.iter().all(|&v| v == 1.));
            continue;
        }
        let bound = 1. / (if name.starts_with("out_proj") { s } else { h } as f64).sqrt();
        let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
        assert!(largest <= bound * 1.0001 && largest > 0.9 * bound, "{name}: {largest}, bound {bound}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.3 * bound, "{name}: mean {mean}");
    }
    Ok(())
}

#[test]
fn every_parameter_and_the_input_get_a_gradient() -> Result<()> {
    for options in 0..8 {
        let [checkpoint, use_norm, use_residual] = [options & 1 > 0, options & 2 > 0, options & 4 > 0];
        let cfg = QuickSsmConfig { checkpoint, use_norm, use_residual, ..QuickSsmConfig::new(8) };
        let (layer, variables) = layer(&cfg, DType::F32, 1)?;
        let xs = Var::from_tensor(&random(&mut rng(2), (2, 6, 8))?)?;
        let grads = layer.forward(&xs)?.sqr()?.sum_all()?.backward()?;
        for (name, t) in variables.iter().map(|(n, v)| (n.as_str(), v)).chain([("xs", &xs)]) {
            let grad = grads.get(t).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert!(values(grad)?.iter().any(|&g| g != 0.), "the gradient of {name} is zero");
        }
    }
    Ok(())
}

/// Every value and gradient is the same bits with and without `checkpoint`.
#[test]
fn checkpoint_changes_no_result() -> Result<()> {
    let small = (QuickSsmConfig::new(8), (2, 40));
    // its pre-activations, 36 MB in f32, are computed in parts
    let large = (QuickSsmConfig { state_size_mult: 64., ..QuickSsmConfig::new(16) }, (5, 350));
    let dtypes = [DType::F32, DType::BF16, DType::F16, DType::F64];
    for ((cfg, (batch, len)), dtype) in dtypes.map(|dtype| (&small, dtype)).into_iter().chain([(&large, DType::F32)]) {
        let results = [true, false].map(|checkpoint| -> Result<Vec<Vec<f64>>> {
            let cfg = QuickSsmConfig { checkpoint, compute_dtype: Some(dtype), ..cfg.clone() };
            let (layer, variables) = layer(&cfg, DType::F32, 3)?;
            let xs = Var::from_tensor(&random(&mut rng(4), (*batch, *len, cfg.hidden_size))?)?;
            let ys = layer.forward(&xs)?;
            let grads = ys.sqr()?.sum_all()?.backward()?;
            let again = ys.sqr()?.sum_all()?.backward()?;
            let mut results = vec![values(&ys)?];
            for t in variables.values().chain([&xs]) {
                results.push(values(grads.get(t).unwrap())?);
                assert_close("twice", again.get(t).unwrap(), grads.get(t).unwrap(), 0.);
            }
            Ok(results)
        });
        let [with, without] = results;
        assert_eq!(with?, without?, "{dtype:?}");
    }
    Ok(())
}

/// A layer of a model has an input that is neither a variable nor untracked.
#[test]
fn gradients_flow_through_a_stack_of_layers() -> Result<()> {
    let mut all: Vec<Vec<Tensor>> = vec![];
    for checkpoint in [true, false] {
        let cfg = QuickSsmConfig { checkpoint, ..QuickSsmConfig::new(6) };
        let ((first, mut variables), (second, more)) = (layer(&cfg, DType::F64, 5)?, layer(&cfg, DType::F64, 6)?);
        variables.extend(more.into_iter().map(|(name, var)| (format!("second.{name}"), var)));
        let xs = random(&mut rng(7), (3, 7, 6))?.to_dtype(DType::F64)?;
        let grads = second.forward(&first.forward(&xs)?)?.sqr()?.sum_all()?.backward()?;
        assert_eq!(variables.len(), 18);
        all.push(variables.values().map(|var| grads.get(var).unwrap().clone()).collect());
    }
    for (with, without) in all[0].iter().zip(&all[1]) {
        assert_close("gradient", with, without, 1e-14);
    }
    Ok(())
}

#[test]
fn one_variable_may_serve_as_two_parameters() -> Result<()> {
    let mut results = vec![];
    for checkpoint in [true, false] {
        let cfg = QuickSsmConfig { checkpoint, ..QuickSsmConfig::new(6) };
        let (_, variables) = layer(&cfg, DType::F64, 8)?;
        let mut tensors: HashMap<_, _> = variables.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let shared = tensors["A_proj.weight"].clone();
        tensors.insert("D_proj.weight".into(), shared.clone());
        let tied = QuickSsm::new(&cfg, VarBuilder::from_tensors(tensors, DType::F64, &CPU))?;
        let xs = random(&mut rng(9), (2, 5, 6))?.to_dtype(DType::F64)?;
        let grads = tied.forward(&xs)?.sqr()?.sum_all()?.backward()?;
        results.push(grads.get(&shared).unwrap().clone());
    }
    assert_close("gradient", &results[0], &results[1], 1e-14);
    Ok(())
}

#[test]
fn the_variables_current_values_are_used() -> Result<()> {
    for checkpoint in [true, false] {
        let cfg = QuickSsmConfig { checkpoint, compute_dtype: Some(DType::F64), ..QuickSsmConfig::new(6) };
        let ((used, variables), (expected, other)) = (layer(&cfg, DType::F32, 10)?, layer(&cfg, DType::F32, 11)?);
        let xs = random(&mut rng(12), (2, 5, 6))?;
        assert!(error(&used.forward(&xs)?, &expected.forward(&xs)?)? > 1e-3);
        for (name, var) in &variables {
            var.set(&other[name])?;
        }
        assert_close("after the change", &used.forward(&xs)?, &expected.forward(&xs)?, 0.);
    }
    Ok(())
}

#[test]
fn compute_dtypes_are_near_f32_and_leave_other_dtypes_alone() -> Result<()> {
    let reference = |compute_dtype| -> Result<_> {
        let cfg = QuickSsmConfig { state_size_mult: 2., compute_dtype, ..QuickSsmConfig::new(16) };
        let (layer, variables) = layer(&cfg, DType::F32, 13)?;
        let xs = Var::from_tensor(&random(&mut rng(14), (2, 50, 16))?)?;
        let ys = layer.forward(&xs)?;
        assert_eq!(ys.dtype(), DType::F32);
        let grads = ys.sqr()?.sum_all()?.backward()?;
        let mut results = vec![ys];
        for t in variables.values().chain([&xs]) {
            let grad = grads.get(t).unwrap();
            assert_eq!(grad.dtype(), DType::F32);
            results.push(grad.clone());
        }
        Ok(results)
    };
    let expected = reference(None)?;
    for (dtype, least, most) in
        [(DType::BF16, 1e-4, 3e-2), (DType::F16, 1e-6, 5e-3), (DType::F64, 0., 1e-5), (DType::F32, 0., 0.)]
    {
        let got = reference(Some(dtype))?;
        for (got, expected) in got.iter().zip(&expected) {
            assert_close(&format!("{dtype:?}"), got, expected, most);
        }
        assert!(error(&got[0], &expected[0])? >= least, "{dtype:?} has no part in the computation");
    }
    Ok(())
}

#[test]
fn the_input_decides_the_compute_dtype() -> Result<()> {
    let (layer, variables) = layer(&QuickSsmConfig::new(8), DType::F32, 15)?;
    let xs = random(&mut rng(16), (2, 20, 8))?;
    let expected = layer.forward(&xs)?;
    for (dtype, tolerance) in [(DType::BF16, 3e-2), (DType::F16, 5e-3), (DType::F64, 1e-5)] {
        let ys = layer.forward(&xs.to_dtype(dtype)?)?;
        assert_eq!(ys.dtype(), dtype);
        assert_close("ys", &ys, &expected, tolerance);
        let grads = ys.to_dtype(DType::F32)?.sum_all()?.backward()?;
        assert!(variables.values().all(|var| grads.get(var).unwrap().dtype() == DType::F32));
    }
    Ok(())
}

#[test]
fn errors_of_a_builder_name_the_tensor_in_full() -> Result<()> {
    let cfg = QuickSsmConfig::new(4);
    let (_, variables) = layer(&cfg, DType::F32, 17)?;
    let tensors: HashMap<_, _> =
        variables.iter().map(|(name, var)| (format!("model.ssm.{name}"), var.as_tensor().clone())).collect();
    let build = |tensors: &HashMap<String, Tensor>| {
        let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &CPU);
        QuickSsm::new(&cfg, vb.pp("model").pp("ssm"))
    };
    build(&tensors)?;
    let mut missing = tensors.clone();
    missing.remove("model.ssm.B_proj.weight");
    assert_error(build(&missing), &["model.ssm.B_proj.weight"]);
    let mut wrong = tensors.clone();
    wrong.insert("model.ssm.out_proj.bias".into(), Tensor::zeros(5, DType::F32, &CPU)?);
    assert_error(build(&wrong), &["model.ssm.out_proj.bias", "[4]", "[5]"]);
    let integers = VarBuilder::from_tensors(tensors, DType::U32, &CPU);
    assert_error(QuickSsm::new(&cfg, integers.pp("model").pp("ssm")), &["vb", "U32"]);

    let varmap = VarMap::new();
    let whole = Var::zeros(4, DType::U32, &CPU)?;
    varmap.data().lock().unwrap().insert("ssm.out_proj.bias".into(), whole);
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &CPU);
    assert_error(QuickSsm::new(&cfg, vb.pp("ssm")), &["ssm.out_proj.bias", "U32"]);
    Ok(())
}
