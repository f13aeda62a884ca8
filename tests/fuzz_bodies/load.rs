//! `QuickSsm::load`: of any file, an error or the parameters that are in it.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use candle_core::{DType, Device, Result, Tensor};
use quick_ssm::{QuickSsm, QuickSsmConfig};

use super::{fixture, Bytes};
use crate::common::judge::roundoff;
use crate::common::DTYPES;

/// The shape and the elements of a tensor.
type Plain = (Vec<usize>, Vec<f64>);

/// The bytes are the sizes `H` and `S`, whether there is a norm, the dtype to load, and the file.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let cfg = config(1 + bytes.below(32), 1 + bytes.below(64), bytes.flag());
    let dtype = bytes.pick(&DTYPES);
    let file = bytes.rest();

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("layer.safetensors");
    fs::write(&path, file).expect("the file is written");
    let Ok(layer) = QuickSsm::load(&path, &cfg, dtype, &Device::Cpu) else { return };

    let there = tensors(file).expect("what was loaded can be read");
    layer.save(&path).expect("the layer is saved");
    let got = tensors(&fs::read(&path).expect("the saved file")).expect("the saved file can be read");
    let shapes = shapes(&cfg);
    for all in [&there, &got] {
        let found: Vec<_> = all.iter().map(|(name, (shape, _))| (name.as_str(), shape.clone())).collect();
        assert_eq!(found, shapes);
    }
    // of values in half precision the smallest differences count: those of subnormal numbers of f16
    let smallest = if dtype == DType::F16 { f64::powi(2., -24) } else { f64::from(f32::from_bits(1)) };
    for ((name, (_, got)), (_, stored)) in got.iter().zip(there.values()) {
        for (i, (got, stored)) in got.iter().zip(stored).enumerate() {
            assert!(stored.is_finite(), "{name}: {stored} at {i} was accepted");
            let allowed = 2. * roundoff(dtype) * stored.abs() + smallest;
            assert!((got - stored).abs() <= allowed, "{name}: {got} at {i}, not {stored}");
        }
    }
}

fn config(hidden: usize, state: usize, use_norm: bool) -> QuickSsmConfig {
    // a little more than the quotient, which may be rounded down
    let state_size_mult = (state as f64 + 0.5) / hidden as f64;
    let cfg = QuickSsmConfig { state_size_mult, use_norm, ..QuickSsmConfig::new(hidden) };
    assert_eq!(cfg.state_size(), state);
    cfg
}

/// The names and shapes of a layer's parameters, sorted.
fn shapes(cfg: &QuickSsmConfig) -> Vec<(&'static str, Vec<usize>)> {
    let (h, s) = (cfg.hidden_size, cfg.state_size());
    let mut shapes = vec![
        ("A_proj.bias", vec![s]),
        ("A_proj.weight", vec![s, h]),
        ("B_proj.weight", vec![s, h]),
        ("C_proj_a.weight", vec![s, h]),
        ("C_proj_b.weight", vec![s, h]),
        ("D_proj.weight", vec![s, h]),
        ("out_proj.bias", vec![h]),
        ("out_proj.weight", vec![h, s]),
    ];
    shapes.extend(cfg.use_norm.then(|| ("pre_norm.weight", vec![h])));
    shapes
}

/// The tensors of a safetensors file, by name, as its format is described: the length of the header, the header, which is
/// a JSON object, and the elements.
fn tensors(file: &[u8]) -> Option<BTreeMap<String, Plain>> {
    let (len, rest) = file.split_at_checked(8)?;
    let len = usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()?;
    let (header, data) = rest.split_at_checked(len)?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let tensor = |entry: &serde_json::Value| -> Option<Plain> {
        let number = |v: &serde_json::Value| usize::try_from(v.as_u64()?).ok();
        let shape = entry["shape"].as_array()?.iter().map(number).collect::<Option<Vec<_>>>()?;
        let bytes = data.get(number(&entry["data_offsets"][0])?..number(&entry["data_offsets"][1])?)?;
        let values: Vec<f64> = match entry["dtype"].as_str()? {
            "F64" => elements(bytes, f64::from_le_bytes),
            "F32" => elements(bytes, |b| f32::from_le_bytes(b).into()),
            "F16" => elements(bytes, |b| half::f16::from_le_bytes(b).into()),
            "BF16" => elements(bytes, |b| half::bf16::from_le_bytes(b).into()),
            _ => return None,
        };
        Some((shape, values))
    };
    let all = header.iter().filter(|(name, _)| *name != "__metadata__");
    all.map(|(name, entry)| Some((name.clone(), tensor(entry)?))).collect()
}

fn elements<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|b| value(b.try_into().expect("N bytes"))).collect()
}

/// Files of the parameters of every layer in the fixtures, whole and cut down to few channels, in every dtype; and the
/// fixtures themselves, which have other tensors.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (name, hidden, state, use_norm) in [
        ("layer_default", 16, 32, true),
        ("layer_fractional", 12, 18, true),
        ("layer_plain", 8, 32, false),
        ("layer_nonorm", 24, 24, false),
    ] {
        let file = fixture(name);
        let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu).expect("a fixture of tensors");
        let start = |h: usize, s: usize, dtype: usize| vec![h as u8 - 1, s as u8 - 1, use_norm.into(), dtype as u8];
        seeds.push([start(hidden, state, 0), file].concat());
        for (h, s) in [(hidden, state), (2, 3)] {
            for (n, dtype) in DTYPES.into_iter().enumerate() {
                seeds.push([start(h, s, n), layer_file(&tensors, &config(h, s, use_norm), dtype)].concat());
            }
        }
    }
    seeds
}

/// A file of a layer's parameters: of those among `tensors`, as many channels.
fn layer_file(tensors: &HashMap<String, Tensor>, cfg: &QuickSsmConfig, dtype: DType) -> Vec<u8> {
    let param = |(name, shape): (&str, Vec<usize>)| -> Result<(String, Tensor)> {
        let whole = tensors[&format!("param.{name}")].clone();
        let t = shape.iter().enumerate().try_fold(whole, |t, (dim, size)| t.narrow(dim, 0, *size))?;
        Ok((name.to_string(), t.to_dtype(dtype)?.contiguous()?))
    };
    let params = shapes(cfg).into_iter().map(param).collect::<Result<HashMap<_, _>>>().expect("the parameters");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("seed");
    candle_core::safetensors::save(&params, &path).expect("the seed is written");
    fs::read(path).expect("the seed")
}
