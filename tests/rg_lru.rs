//! The RG-LRU against plain loops in f64, step by step, at resets, at the ends of its gates, and with wrong arguments.

mod common;
mod layer_support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap, RNN};
use common::{devices, DTYPES};
use layer_support::{assert_close, assert_error, random, rng, values, variables};
use quick_ssm::{RgLru, RgLruConfig, RgLruState};

const CPU: Device = Device::Cpu;

/// `W` and `N`.
const SIZES: (usize, usize) = (6, 2);

/// A layer and its variables, the values of which depend on the seed alone.
fn layer(device: &Device, dtype: DType, seed: u64) -> Result<(RgLru, BTreeMap<String, Var>)> {
    let varmap = VarMap::new();
    let layer =
        RgLru::new(&RgLruConfig::new(SIZES.0, SIZES.1), VarBuilder::from_varmap(&varmap, dtype, device).pp("lru"))?;
    let (variables, mut rng) = (variables(&varmap), rng(seed));
    for (name, var) in &variables {
        let values = random(&mut rng, var.shape())?;
        let values = if name == "lru.recurrent_param" { ((values * 3.)? - 3.)? } else { values };
        var.set(&values.to_dtype(dtype)?.to_device(device)?)?;
    }
    Ok((layer, variables))
}

fn input(seed: u64, (batch, len): (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    random(&mut rng(seed), (batch, len, SIZES.0))?.to_dtype(dtype)?.to_device(device)
}

/// The definition, in numbers.
#[derive(Clone)]
struct Truth {
    /// By name, without the prefix; `xs` and `h0` among them.
    numbers: BTreeMap<String, Vec<f64>>,
    dims: (usize, usize),
    resets: Vec<bool>,
}

impl Truth {
    fn new(variables: &BTreeMap<String, Var>, xs: &Tensor, h0: &Tensor, resets: Vec<bool>) -> Result<Self> {
        let named = variables.iter().map(|(name, var)| (name["lru.".len()..].to_string(), var.as_tensor().clone()));
        let all = named.chain([("xs".to_string(), xs.clone()), ("h0".to_string(), h0.clone())]);
        let numbers = all.map(|(name, t)| Ok((name, values(&t)?))).collect::<Result<_>>()?;
        Ok(Self { numbers, dims: (xs.dim(0)?, xs.dim(1)?), resets })
    }

    fn outputs(&self) -> Vec<f64> {
        let ((batch, len), (width, heads)) = (self.dims, SIZES);
        let (n, block) = (&self.numbers, width / heads);
        let sigmoid = |v: f64| 1. / (1. + (-v).exp());
        let mut ys = vec![0.; batch * len * width];
        for row in 0..batch {
            let mut h: Vec<f64> = n["h0"][row * width..][..width].to_vec();
            for t in 0..len {
                let at = row * len + t;
                let x = &n["xs"][at * width..][..width];
                for j in 0..width {
                    let gate = |name: &str| {
                        let head = j / block;
                        let weight = &n[&format!("{name}_weight")];
                        let sum: f64 = (0..block)
                            .map(|k| x[head * block + k] * weight[(head * block + k) * block + j % block])
                            .sum();
                        sigmoid(sum + n[&format!("{name}_bias")][j])
                    };
                    let lambda = n["recurrent_param"][j];
                    let softplus = lambda.max(0.) + (-lambda.abs()).exp().ln_1p();
                    let log_a = -8. * softplus * gate("recurrent_gate");
                    let x = gate("input_gate") * x[j];
                    h[j] = match self.resets[at] {
                        true => x,
                        false => log_a.exp() * h[j] + (-(2. * log_a).exp_m1()).sqrt() * x,
                    };
                    ys[at * width + j] = h[j];
                }
            }
        }
        ys
    }

    fn tensor(&self) -> Result<Tensor> {
        Tensor::from_vec(self.outputs(), (self.dims.0, self.dims.1, SIZES.0), &CPU)
    }

    /// The gradient of `sum(weights * y)` with respect to the numbers of a name, by central differences.
    fn gradient(&self, name: &str, weights: &[f64]) -> Vec<f64> {
        let loss = |i: usize, step: f64| -> f64 {
            let mut other = self.clone();
            other.numbers.get_mut(name).unwrap()[i] += step;
            other.outputs().iter().zip(weights).map(|(y, w)| y * w).sum()
        };
        let step = 1e-5;
        (0..self.numbers[name].len()).map(|i| (loss(i, step) - loss(i, -step)) / (2. * step)).collect()
    }
}

/// Resets of sequences that start with the first step.
fn first_steps((batch, len): (usize, usize)) -> Vec<bool> {
    (0..batch * len).map(|i| i % len == 0).collect()
}

/// How far values may be: some tens of roundings of f32, or a few of a half type, in which the products are rounded too.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        DType::F32 => 3e-6,
        _ => 8. * common::judge::roundoff(dtype),
    }
}

fn host(t: &Tensor) -> Result<Tensor> {
    t.to_device(&CPU)
}

#[test]
fn values_are_those_of_the_definition() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for dims in [(1, 1), (2, 2), (3, 70)] {
                let (layer, variables) = layer(device, dtype, 1)?;
                let xs = input(2, dims, dtype, device)?;
                let h0 = random(&mut rng(3), (dims.0, SIZES.0))?;
                let ys = layer.forward(&xs)?;
                assert_eq!((ys.dims(), ys.dtype()), (xs.dims(), dtype));
                let truth = Truth::new(&variables, &xs, &h0, first_steps(dims))?;
                assert_close(&format!("{dtype:?} {dims:?}"), &host(&ys)?, &truth.tensor()?, tolerance(dtype));

                let state = RgLruState::new(h0.to_device(device)?)?;
                let (ys, _) = layer.forward_with_state(&xs, &state)?;
                let truth = Truth { resets: vec![false; dims.0 * dims.1], ..truth };
                assert_close("after a state", &host(&ys)?, &truth.tensor()?, tolerance(dtype));
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_the_definition() -> Result<()> {
    let dims = (2, 7);
    let positions = [0u32, 1, 2, 0, 0, 1, 2, 5, 6, 7, 8, 0, 1, 2];
    for device in devices() {
        let (layer, variables) = layer(device, DType::F64, 4)?;
        let xs = Var::from_tensor(&input(5, dims, DType::F64, device)?)?;
        let h0 = Var::from_tensor(&random(&mut rng(6), (dims.0, SIZES.0))?.to_dtype(DType::F64)?.to_device(device)?)?;
        let weights = input(7, dims, DType::F64, device)?;
        let at = Tensor::from_slice(&positions, dims, device)?;
        let (ys, _) = layer.forward_at(&xs, &at, &RgLruState::new(h0.as_tensor().clone())?)?;
        let truth = Truth::new(&variables, &xs, &h0, positions.iter().map(|&p| p == 0).collect())?;
        assert_close("values", &host(&ys)?, &truth.tensor()?, 1e-13);
        let grads = (ys * &weights)?.sum_all()?.backward()?;
        let named = variables.iter().map(|(name, var)| (&name["lru.".len()..], var)).chain([("xs", &xs), ("h0", &h0)]);
        for (name, var) in named {
            let expected = Tensor::from_vec(truth.gradient(name, &values(&weights)?), var.shape(), &CPU)?;
            let got = host(grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient")))?;
            assert_close(name, &got, &expected, 1e-8);
        }
    }
    Ok(())
}

/// In half precision the gradients stay near those in f64.
#[test]
fn every_dtype_has_all_gradients() -> Result<()> {
    let dims = (2, 9);
    for device in devices() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let gradients = |dtype: DType, compute: DType| -> Result<Vec<Tensor>> {
                let (layer, variables) = layer(device, dtype, 8)?;
                let xs = Var::from_tensor(&input(9, dims, compute, device)?)?;
                let grads = (layer.forward(&xs)?.to_dtype(DType::F32)?.sqr()?.sum_all())?.backward()?;
                variables.values().chain([&xs]).map(|var| host(grads.get(var).expect("a gradient"))).collect()
            };
            let expected = gradients(DType::F64, DType::F64)?;
            // variables in f32 with inputs in a half type as well as all in one
            for stored in [dtype, DType::F32] {
                for (got, want) in gradients(stored, dtype)?.iter().zip(&expected) {
                    let tolerance = if dtype == DType::F32 { 1e-5 } else { 16. * common::judge::roundoff(dtype) };
                    assert_close(&format!("{dtype:?}, variables in {stored:?}"), got, want, tolerance);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn steps_parts_and_one_pass_agree() -> Result<()> {
    let (batch, len) = (3, 23);
    for device in devices() {
        for dtype in [DType::F32, DType::F64] {
            let (layer, _) = layer(device, dtype, 10)?;
            let xs = input(11, (batch, len), dtype, device)?;
            let ys = layer.forward(&xs)?;
            let zero = layer.zero_state(batch)?;
            let (mut state, mut states) = (zero.clone(), vec![]);
            for t in 0..len {
                state = layer.step(&xs.narrow(1, t, 1)?.squeeze(1)?, &state)?;
                states.push(state.clone());
            }
            assert_close("step by step", &layer.states_to_tensor(&states)?, &ys, 1e-5);
            assert_close("seq", &layer.states_to_tensor(&layer.seq(&xs)?)?, &ys, 1e-5);
            for cut in 0..=len {
                let (first, state) = layer.forward_with_state(&xs.narrow(1, 0, cut)?, &zero)?;
                let (second, last) = layer.forward_with_state(&xs.narrow(1, cut, len - cut)?, &state)?;
                assert_close(&format!("cut at {cut}"), &Tensor::cat(&[first, second], 1)?, &ys, 1e-5);
                assert_close(&format!("state cut at {cut}"), last.h(), states[len - 1].h(), 1e-5);
            }
        }
    }
    Ok(())
}

#[test]
fn packed_sequences_are_sequences() -> Result<()> {
    let offsets = [0, 4, 4, 5, 12];
    for device in devices() {
        let (layer, _) = layer(device, DType::F32, 12)?;
        let xs = input(13, (1, 12), DType::F32, device)?;
        let zero = layer.zero_state(4)?;
        let (ys, state) = layer.forward_packed(&xs, &offsets, &zero)?;
        // the second part of each, where the empty one begins
        let more = [0, 2, 5, 5, 12];
        let (next, last) = layer.forward_packed(&xs, &more, &state)?;
        for n in 0..4 {
            let part = |t: &Tensor, offsets: &[usize]| t.narrow(1, offsets[n], offsets[n + 1] - offsets[n]);
            let (first, middle) = layer.forward_with_state(&part(&xs, &offsets)?, &layer.zero_state(1)?)?;
            let (second, end) = layer.forward_with_state(&part(&xs, &more)?, &middle)?;
            for (got, want) in [(part(&ys, &offsets)?, first), (part(&next, &more)?, second)] {
                if want.elem_count() > 0 {
                    assert_close(&format!("sequence {n}"), &got, &want, 1e-5);
                }
            }
            assert_close(&format!("state {n}"), &last.h().narrow(0, n, 1)?, end.h(), 1e-5);
        }
        let positions = Tensor::new(&[[0u32, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5, 6]], device)?;
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let (at, _) = layer.forward_at(&xs, &positions.to_dtype(dtype)?, &layer.zero_state(1)?)?;
            assert_close("by positions", &at, &ys, 1e-5);
        }
    }
    Ok(())
}

/// Lambda and gates far out: `a` is exactly 1 or exactly 0, and no gradient is lost or not finite.
#[test]
fn gates_at_their_limits_have_finite_gradients() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (lambda, bias) in
                [(-1e4, 0.), (100., 0.), (0., -1e4), (100., 1e4), (-1e4, -1e4), (-40., 0.), (-90., 0.)]
            {
                let (layer, variables) = layer(device, dtype, 14)?;
                variables["lru.recurrent_param"].set(&Tensor::full(lambda, SIZES.0, device)?.to_dtype(dtype)?)?;
                let shape = variables["lru.recurrent_gate_bias"].shape();
                variables["lru.recurrent_gate_bias"].set(&Tensor::full(bias, shape, device)?.to_dtype(dtype)?)?;
                let xs = Var::from_tensor(&input(15, (2, 5), dtype, device)?)?;
                let ys = layer.forward(&xs)?;
                let truth =
                    Truth::new(&variables, &xs, &Tensor::zeros((2, SIZES.0), DType::F64, &CPU)?, first_steps((2, 5)))?;
                let what = format!("{dtype:?}, Lambda {lambda}, bias {bias}");
                assert_close(&what, &host(&ys)?, &truth.tensor()?, tolerance(dtype));
                let grads = ys.sum_all()?.backward()?;
                for (name, var) in variables.iter().chain([(&"xs".to_string(), &xs)]) {
                    let got = values(&host(grads.get(var).expect("a gradient"))?)?;
                    assert!(got.iter().all(|g| g.is_finite()), "{what}: {name} {got:?}");
                }
            }
        }
    }
    Ok(())
}

/// A decay within 1e-9 of 1, where `1 - a^2` of rounded numbers and the plain `log(1 + exp(Lambda))` would be zero.
#[test]
fn a_long_memory_keeps_its_input_and_gradient() -> Result<()> {
    for device in devices() {
        let (layer, variables) = layer(device, DType::F32, 16)?;
        variables["lru.recurrent_param"].set(&Tensor::full(-22f32, SIZES.0, device)?)?;
        let xs = input(17, (1, 4), DType::F32, device)?;
        let h0 = Tensor::zeros((1, SIZES.0), DType::F32, device)?;
        let (ys, _) = layer.forward_with_state(&xs, &RgLruState::new(h0.clone())?)?;
        let truth = Truth::new(&variables, &xs, &h0, vec![false; 4])?;
        assert_close("values", &host(&ys)?, &truth.tensor()?, 3e-6);
        let grads = ys.sum_all()?.backward()?;
        for (name, var) in &variables {
            let truth = truth.gradient(&name["lru.".len()..], &[1.; 4 * SIZES.0]);
            let expected = Tensor::from_vec(truth, var.shape(), &CPU)?;
            assert_close(name, &host(grads.get(var).expect("a gradient"))?, &expected, 1e-5);
        }
    }
    Ok(())
}

#[test]
fn nothing_in_nothing_out() -> Result<()> {
    let (layer, _) = layer(&CPU, DType::F32, 18)?;
    for (batch, len) in [(2, 0), (0, 5), (0, 0)] {
        let xs = Tensor::zeros((batch, len, SIZES.0), DType::F32, &CPU)?;
        assert_eq!(layer.forward(&xs)?.dims(), xs.dims());
        let state = RgLruState::new(random(&mut rng(19), (batch, SIZES.0))?)?;
        let (ys, after) = layer.forward_with_state(&xs, &state)?;
        assert_eq!(ys.dims(), xs.dims());
        assert_close("h", after.h(), state.h(), 0.);
        let positions = Tensor::zeros((batch, len), DType::U32, &CPU)?;
        assert_eq!(layer.forward_at(&xs, &positions, &state)?.0.dims(), xs.dims());
        assert_eq!(layer.seq_init(&xs, &state)?.len(), len);
    }
    let xs = Tensor::zeros((1, 0, SIZES.0), DType::F32, &CPU)?;
    assert_eq!(layer.forward_packed(&xs, &[0, 0, 0], &layer.zero_state(2)?)?.1.h().dims(), [2, SIZES.0]);
    assert_eq!(layer.step(&Tensor::zeros((0, SIZES.0), DType::F32, &CPU)?, &layer.zero_state(0)?)?.h().dims(), [0, 6]);
    Ok(())
}

#[test]
fn the_state_goes_with_its_sequence() -> Result<()> {
    let (layer, variables) = layer(&CPU, DType::F32, 20)?;
    let xs = input(21, (3, 4), DType::F32, &CPU)?;
    let (_, state) = layer.forward_with_state(&xs, &layer.zero_state(3)?)?;
    let order = Tensor::new(&[2u32, 0, 2], &CPU)?;
    let beams = layer.forward_with_state(&xs, &state.index_select(&order)?)?.0;
    let second = layer.forward_with_state(&xs.narrow(0, 1, 1)?, &state.index_select(&Tensor::new(&[0u32], &CPU)?)?)?.0;
    assert_close("the second", &beams.narrow(0, 1, 1)?, &second, 1e-5);
    assert!(state.h().track_op() && !state.detach().h().track_op());
    let grads = state.detach().h().sum_all()?.backward()?;
    assert!(variables.values().all(|var| grads.get(var).is_none()));
    Ok(())
}

#[test]
fn configurations_that_cannot_be_are_errors() -> Result<()> {
    let reject = |width, heads, parts: &[&str]| {
        assert_error(RgLru::new(&RgLruConfig::new(width, heads), VarBuilder::zeros(DType::F32, &CPU)), parts);
    };
    reject(0, 1, &["lru_width", "at least 1"]);
    reject(6, 0, &["num_heads", "divisor", "0"]);
    reject(6, 4, &["num_heads", "divisor of the lru_width 6", "4"]);
    reject(usize::MAX, 1, &["lru_width", "memory"]);
    let parse = serde_json::from_str::<RgLruConfig>;
    assert_eq!(parse(r#"{"lru_width": 6, "num_heads": 2}"#).unwrap(), RgLruConfig::new(6, 2));
    assert_error(parse(r#"{"lru_width": 6}"#), &["num_heads"]);
    assert_error(parse(r#"{"lru_width": 6, "num_heads": 2, "width": 1}"#), &["width"]);
    assert_error(RgLru::new(&RgLruConfig::new(6, 2), VarBuilder::zeros(DType::U32, &CPU)), &["vb", "U32"]);
    let empty = VarBuilder::from_tensors(Default::default(), DType::F32, &CPU);
    assert_error(RgLru::new(&RgLruConfig::new(6, 2), empty.pp("lru")), &["lru.recurrent_param"]);
    Ok(())
}

#[test]
fn arguments_that_do_not_fit_are_errors() -> Result<()> {
    let (layer, _) = layer(&CPU, DType::F32, 22)?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &CPU);
    let (xs, state) = (zeros(&[2, 3, 6])?, layer.zero_state(2)?);
    for shape in [&[][..], &[6], &[2, 6], &[1, 2, 3, 6]] {
        assert_error(layer.forward(&zeros(shape)?), &["xs", "[B, L, 6]", &format!("rank {}", shape.len())]);
    }
    assert_error(layer.forward(&zeros(&[2, 3, 5])?), &["xs", "6 channels", "[2, 3, 5]"]);
    assert_error(layer.forward(&xs.to_dtype(DType::U32)?), &["xs", "U32"]);
    assert_error(layer.step(&xs, &state), &["input", "[B, 6]", "rank 3"]);
    assert_error(layer.step(&zeros(&[2, 5])?, &state), &["input", "6 channels"]);
    assert_error(layer.seq_init(&zeros(&[2, 3, 5])?, &state), &["input", "6 channels"]);
    assert_error(layer.states_to_tensor(&[]), &["states", "none"]);
    let other = layer.zero_state(3)?;
    assert_error(layer.forward_with_state(&xs, &other), &["state", "[2, 6]", "[3, 6]"]);
    assert_error(layer.seq_init(&xs, &other), &["init_state", "[2, 6]", "[3, 6]"]);
    assert_error(layer.step(&zeros(&[2, 6])?, &other), &["state", "[2, 6]", "[3, 6]"]);
    let positions = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &CPU);
    assert_error(layer.forward_at(&xs, &positions(&[3], DType::U32)?, &state), &["positions", "[2, 3]", "[3]"]);
    assert_error(layer.forward_at(&xs, &positions(&[2, 3], DType::F32)?, &state), &["positions", "F32"]);
    assert_error(layer.forward_packed(&xs, &[0, 3], &state), &["xs", "[1, T"]);
    let one = zeros(&[1, 3, 6])?;
    assert_error(layer.forward_packed(&one, &[0, 2], &state), &["cu_seqlens", "3", "2"]);
    assert_error(layer.forward_packed(&one, &[0, 2, 1, 3], &state), &["cu_seqlens", "decrease"]);
    assert_error(layer.forward_packed(&one, &[0, 2, 3], &other), &["state", "[2, 6]", "[3, 6]"]);
    assert_error(RgLruState::new(zeros(&[2])?), &["h", "[B, W]", "rank 1"]);
    assert_error(RgLruState::new(zeros(&[2, 6])?.to_dtype(DType::I64)?), &["h", "I64"]);
    assert_error(state.index_select(&Tensor::new(&[0f32], &CPU)?), &["batch", "F32"]);
    Ok(())
}

#[test]
fn sizes_that_cannot_be_are_errors() -> Result<()> {
    let (layer, _) = layer(&CPU, DType::F32, 1)?;
    assert_error(layer.zero_state(usize::MAX), &["batch_dim", "addressed"]);
    assert_error(layer.zero_state(1 << 50), &["memory"]);
    let (width, one) = (SIZES.0, Tensor::ones((1, 1, SIZES.0), DType::F32, &CPU)?);
    assert_error(layer.forward(&one.broadcast_as((usize::MAX, 1, width))?), &["xs", "addressed"]);
    assert_error(layer.forward(&one.broadcast_as((1 << 50, 1, width))?), &["memory"]);
    assert_error(layer.forward(&one.broadcast_as((1, 1 << 50, width))?), &["memory"]);
    assert_error(layer.seq(&one.broadcast_as((1, usize::MAX, width))?), &["input", "addressed"]);
    Ok(())
}
