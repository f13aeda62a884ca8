//! The layer's configuration, and arguments that do not fit it.

mod layer_support;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder, RNN};
use layer_support::{assert_error, layer};
use quick_ssm::{QuickSsm, QuickSsmConfig, QuickSsmState};

const CPU: Device = Device::Cpu;

fn zeros(shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &CPU)
}

#[test]
fn defaults_are_those_of_torch() {
    let cfg = QuickSsmConfig::new(48);
    let expected = QuickSsmConfig {
        hidden_size: 48,
        state_size_mult: 1.,
        eps: 1e-5,
        use_norm: true,
        use_residual: true,
        compute_dtype: None,
        checkpoint: true,
    };
    assert_eq!(cfg, expected);
    assert_eq!(cfg.state_size(), 48);
}

#[test]
fn the_state_size_is_rounded_down() {
    let size = |hidden, mult| QuickSsmConfig { state_size_mult: mult, ..QuickSsmConfig::new(hidden) }.state_size();
    assert_eq!([size(12, 1.5), size(7, 1.5), size(5, 0.5), size(1, 0.9), size(3, f64::NAN)], [18, 10, 2, 0, 0]);
}

#[test]
fn serde_keeps_every_field() {
    for dtype in [None, Some(DType::F16), Some(DType::BF16), Some(DType::F32), Some(DType::F64)] {
        let cfg = QuickSsmConfig {
            hidden_size: 7,
            state_size_mult: 2.5,
            eps: 1e-6,
            use_norm: false,
            use_residual: false,
            compute_dtype: dtype,
            checkpoint: false,
        };
        let json = serde_json::to_string(&cfg).unwrap();
        let name = dtype.map_or("null".into(), |dtype| format!("\"{}\"", dtype.as_str()));
        assert!(json.contains(&format!("\"compute_dtype\":{name}")), "{json}");
        assert_eq!(serde_json::from_str::<QuickSsmConfig>(&json).unwrap(), cfg);
    }
}

#[test]
fn absent_fields_are_the_defaults_and_wrong_ones_errors() {
    let parse = serde_json::from_str::<QuickSsmConfig>;
    assert_eq!(parse(r#"{"hidden_size": 5}"#).unwrap(), QuickSsmConfig::new(5));
    assert_error(parse("{}"), &["hidden_size"]);
    assert_error(parse(r#"{"hidden_size": 5, "dropout": 0.1}"#), &["dropout"]);
    assert_error(parse(r#"{"hidden_size": 5, "compute_dtype": "f12"}"#), &["f12"]);
}

#[test]
fn values_that_cannot_be_are_errors() {
    let reject = |cfg: QuickSsmConfig, parts: &[&str]| {
        assert_error(QuickSsm::new(&cfg, VarBuilder::zeros(DType::F32, &CPU)), parts);
        assert_error(QuickSsm::load("absent", &cfg, DType::F32, &CPU), parts);
    };
    let cfg = QuickSsmConfig::new(4);
    reject(QuickSsmConfig { hidden_size: 0, ..cfg.clone() }, &["hidden_size", "0"]);
    for mult in [0., -1., f64::NAN, f64::INFINITY] {
        reject(QuickSsmConfig { state_size_mult: mult, ..cfg.clone() }, &["state_size_mult", &mult.to_string()]);
    }
    reject(QuickSsmConfig { state_size_mult: 0.2, ..cfg.clone() }, &["state_size_mult", "at least 1 channel"]);
    reject(QuickSsmConfig { state_size_mult: 1e30, ..cfg.clone() }, &["state_size_mult", "too many"]);
    reject(QuickSsmConfig { hidden_size: usize::MAX, ..cfg.clone() }, &["hidden_size", "too many"]);
    for eps in [-1e-5, f64::NAN, f64::INFINITY] {
        reject(QuickSsmConfig { eps, ..cfg.clone() }, &["eps", &eps.to_string()]);
    }
    for dtype in [DType::U8, DType::U32, DType::I64, DType::F8E4M3] {
        let parts = ["compute_dtype", &format!("{dtype:?}")];
        reject(QuickSsmConfig { compute_dtype: Some(dtype), ..cfg.clone() }, &parts);
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() -> Result<()> {
    for checkpoint in [true, false] {
        let cfg = QuickSsmConfig { state_size_mult: 2., checkpoint, ..QuickSsmConfig::new(4) };
        let (layer, _) = layer(&cfg, DType::F32, 1)?;
        let state = layer.zero_state(2)?;
        for shape in [&[][..], &[4], &[2, 4], &[1, 2, 3, 4]] {
            let parts = ["xs", "[B, L, 4]", &format!("rank {}", shape.len())];
            assert_error(layer.forward(&zeros(shape)?), &parts);
            assert_error(layer.forward_with_state(&zeros(shape)?, &state), &parts);
        }
        assert_error(layer.forward(&zeros(&[2, 3, 5])?), &["xs", "4 channels", "[2, 3, 5]"]);
        assert_error(layer.forward(&zeros(&[2, 3, 4])?.to_dtype(DType::U32)?), &["xs", "U32"]);
        assert_error(layer.seq(&zeros(&[2, 4])?), &["rank"]);
        assert_error(layer.seq_init(&zeros(&[2, 3, 5])?, &state), &["input", "4 channels"]);
        assert_error(layer.step(&zeros(&[2, 3, 4])?, &state), &["input", "[B, 4]"]);
        assert_error(layer.step(&zeros(&[2, 5])?, &state), &["input", "4 channels"]);

        let xs = zeros(&[2, 3, 4])?;
        let wrong_batch = layer.zero_state(3)?;
        assert_error(layer.forward_with_state(&xs, &wrong_batch), &["state", "[2, 4]", "[3, 4]"]);
        assert_error(layer.seq_init(&xs, &wrong_batch), &["init_state", "[2, 4]", "[3, 4]"]);
        let wrong_size = QuickSsmState::new(zeros(&[2, 4])?, zeros(&[2, 4])?)?;
        assert_error(layer.forward_with_state(&xs, &wrong_size), &["state", "h", "[2, 8]", "[2, 4]"]);
        assert_error(layer.step(&zeros(&[2, 4])?, &wrong_size), &["state", "h", "[2, 8]", "[2, 4]"]);
    }
    Ok(())
}

#[test]
fn sizes_that_cannot_be_are_errors() -> Result<()> {
    let (layer, _) = layer(&QuickSsmConfig::new(4), DType::F32, 1)?;
    assert_error(layer.zero_state(usize::MAX), &["batch_dim", "addressed"]);
    assert_error(layer.zero_state(1 << 50), &["memory"]);
    let one = Tensor::ones((1, 1, 4), DType::F32, &CPU)?;
    assert_error(layer.forward(&one.broadcast_as((usize::MAX, 1, 4))?), &["xs", "addressed"]);
    assert_error(layer.forward(&one.broadcast_as((1 << 50, 1, 4))?), &["memory"]);
    assert_error(layer.seq(&one.broadcast_as((1, usize::MAX, 4))?), &["input", "addressed"]);
    Ok(())
}

#[test]
fn states_that_cannot_be_are_errors() -> Result<()> {
    assert_error(QuickSsmState::new(zeros(&[4])?, zeros(&[2, 4])?), &["y", "[B, H]", "rank 1"]);
    assert_error(QuickSsmState::new(zeros(&[2, 4])?, zeros(&[2, 3, 4])?), &["h", "[B, S]", "rank 3"]);
    assert_error(QuickSsmState::new(zeros(&[2, 4])?, zeros(&[3, 4])?), &["h", "batch of 2", "got 3"]);
    let integers = zeros(&[2, 4])?.to_dtype(DType::I64)?;
    assert_error(QuickSsmState::new(zeros(&[2, 4])?, integers.clone()), &["h", "I64"]);
    assert_error(QuickSsmState::new(integers, zeros(&[2, 4])?), &["y", "I64"]);
    Ok(())
}
