//! The layer's parameters in files: what is written is read, and what is wrong is named.

mod layer_support;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Module;
use layer_support::{assert_close, assert_error, layer, random, rng};
use quick_ssm::{QuickSsm, QuickSsmConfig};
use tempfile::TempDir;

const CPU: Device = Device::Cpu;

fn config() -> QuickSsmConfig {
    QuickSsmConfig { state_size_mult: 1.5, ..QuickSsmConfig::new(4) }
}

/// The path of a saved layer, and its tensors.
fn saved(folder: &TempDir) -> Result<(PathBuf, HashMap<String, Tensor>)> {
    let path = folder.path().join("layer.safetensors");
    let (layer, _) = layer(&config(), DType::F32, 1)?;
    layer.save(&path)?;
    Ok((path.clone(), candle_core::safetensors::load(&path, &CPU)?))
}

/// What loading says of a file that a change makes wrong.
#[track_caller]
fn assert_rejected(change: impl FnOnce(&mut HashMap<String, Tensor>), parts: &[&str]) {
    let folder = TempDir::new().unwrap();
    let (path, mut tensors) = saved(&folder).unwrap();
    QuickSsm::load(&path, &config(), DType::F32, &CPU).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let mut parts = parts.to_vec();
    parts.push("layer.safetensors");
    assert_error(QuickSsm::load(&path, &config(), DType::F32, &CPU), &parts);
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &CPU).unwrap()
}

#[test]
fn a_saved_layer_loads_as_it_was() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let xs = random(&mut rng(2), (2, 9, 4))?;
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for use_norm in [true, false] {
            let cfg = QuickSsmConfig { use_norm, ..config() };
            let (layer, variables) = layer(&cfg, dtype, 3)?;
            // over the file of the round before
            let path = folder.path().join("layer.safetensors");
            layer.save(&path)?;
            let stored: BTreeMap<_, _> = candle_core::safetensors::load(&path, &CPU)?.into_iter().collect();
            assert_eq!(stored.keys().collect::<Vec<_>>(), variables.keys().collect::<Vec<_>>());
            for (name, t) in &stored {
                assert_eq!(t.dtype(), dtype);
                assert_close(name, t, &variables[name], 0.);
            }
            let loaded = QuickSsm::load(&path, &cfg, dtype, &CPU)?;
            assert_eq!(loaded.config(), &cfg);
            // its weights are laid out otherwise, so that products may round otherwise
            assert_close("ys", &loaded.forward(&xs)?, &layer.forward(&xs)?, 1e-5);
            assert!(!loaded.forward(&xs)?.track_op());
            QuickSsm::load(&path, &cfg, DType::F64, &CPU)?;
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["layer.safetensors"]);
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_leaves_nothing() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (layer, _) = layer(&config(), DType::F32, 1)?;
    assert_error(layer.save(folder.path().join("absent").join("layer.safetensors")), &["absent", "cannot be written"]);
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    assert_error(layer.save(&taken), &["taken", "cannot be written"]);
    assert_error(layer.save("/"), &["path"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    Ok(())
}

#[test]
fn an_absent_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("none.safetensors");
    assert_error(QuickSsm::load(path, &config(), DType::F32, &CPU), &["none.safetensors", "cannot be read"]);
}

#[test]
fn a_truncated_file_at_any_length() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(&folder)?;
    let bytes = fs::read(&path).unwrap();
    for len in (0..bytes.len()).step_by(7).chain([1, 8, bytes.len() - 1]) {
        fs::write(&path, &bytes[..len]).unwrap();
        let result = QuickSsm::load(&path, &config(), DType::F32, &CPU);
        assert_error(result, &["layer.safetensors", "not a complete safetensors file"]);
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    assert!(QuickSsm::load(&path, &config(), DType::F32, &CPU).is_err());
    Ok(())
}

/// Whatever byte is changed, the result is a layer or an error.
#[test]
fn damaged_headers_do_not_panic() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(&folder)?;
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..header {
        for change in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            fs::write(&path, damaged).unwrap();
            let _ = QuickSsm::load(&path, &config(), DType::F32, &CPU);
        }
    }
    Ok(())
}

#[test]
fn a_missing_tensor() {
    assert_rejected(
        |tensors| {
            tensors.remove("D_proj.weight");
        },
        &["D_proj.weight", "missing", "[6, 4]"],
    );
}

#[test]
fn an_unknown_tensor() {
    assert_rejected(
        |tensors| {
            tensors.insert("E_proj.weight".into(), tensor(&[1.]));
        },
        &["E_proj.weight", "unknown"],
    );
}

#[test]
fn a_norm_where_there_is_none() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(&folder)?;
    let cfg = QuickSsmConfig { use_norm: false, ..config() };
    assert_error(QuickSsm::load(path, &cfg, DType::F32, &CPU), &["pre_norm.weight", "unknown"]);
    Ok(())
}

#[test]
fn a_wrong_shape() {
    assert_rejected(
        |tensors| {
            tensors.insert("out_proj.bias".into(), tensor(&[1., 2.]));
        },
        &["out_proj.bias", "[4]", "[2]"],
    );
}

#[test]
fn a_dtype_that_is_not_floating_point() {
    assert_rejected(
        |tensors| {
            tensors.insert("out_proj.bias".into(), tensor(&[1.; 4]).to_dtype(DType::I64).unwrap());
        },
        &["out_proj.bias", "I64"],
    );
}

#[test]
fn a_value_that_is_not_finite() {
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        assert_rejected(
            |tensors| {
                tensors.insert("out_proj.bias".into(), tensor(&[1., 2., value, 3.]));
            },
            &["out_proj.bias", "finite", name, "index 2"],
        );
    }
}

#[test]
fn a_value_out_of_the_range_of_the_dtype() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, mut tensors) = saved(&folder)?;
    tensors.insert("out_proj.bias".into(), tensor(&[1., 1e6, 2., 3.]));
    candle_core::safetensors::save(&tensors, &path)?;
    QuickSsm::load(&path, &config(), DType::F32, &CPU)?;
    assert_error(QuickSsm::load(&path, &config(), DType::F16, &CPU), &["out_proj.bias", "index 1", "F16"]);
    Ok(())
}

#[test]
fn a_dtype_to_load_as_that_is_not_floating_point() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(&folder)?;
    assert_error(QuickSsm::load(path, &config(), DType::U8, &CPU), &["dtype", "U8"]);
    Ok(())
}
