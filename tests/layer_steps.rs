//! The layer step by step, in one pass and in parts: the same outputs, states and gradients.

mod layer_support;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, RNN};
use layer_support::{assert_close, assert_error, frozen, layer, random, rng};
use quick_ssm::{QuickSsmConfig, QuickSsmState};

const HIDDEN: usize = 12;

fn config(checkpoint: bool) -> QuickSsmConfig {
    QuickSsmConfig { state_size_mult: 1.5, checkpoint, ..QuickSsmConfig::new(HIDDEN) }
}

fn step_of(xs: &Tensor, step: usize) -> Result<Tensor> {
    xs.narrow(1, step, 1)?.squeeze(1)
}

#[test]
fn steps_parts_and_one_pass_agree() -> Result<()> {
    let (trained, variables) = layer(&config(true), DType::F32, 1)?;
    let (keeping, _) = layer(&config(false), DType::F32, 1)?;
    for layer in [trained, keeping, frozen(&config(true), &variables)?] {
        let (batch, len) = (3, 23);
        let xs = random(&mut rng(2), (batch, len, HIDDEN))?;
        let ys = layer.forward(&xs)?;
        let (from_zero, last) = layer.forward_with_state(&xs, &layer.zero_state(batch)?)?;
        assert_close("from a state of zeros", &from_zero, &ys, 1e-5);
        assert_close("last output", last.y(), &step_of(&ys, len - 1)?, 1e-5);

        let mut state = layer.zero_state(batch)?;
        let mut states = vec![];
        for step in 0..len {
            state = layer.step(&step_of(&xs, step)?, &state)?;
            states.push(state.clone());
        }
        assert_close("step by step", &layer.states_to_tensor(&states)?, &ys, 1e-5);
        assert_close("state step by step", state.h(), last.h(), 1e-5);

        for cut in 0..=len {
            let (first, state) = layer.forward_with_state(&xs.narrow(1, 0, cut)?, &layer.zero_state(batch)?)?;
            let (second, end) = layer.forward_with_state(&xs.narrow(1, cut, len - cut)?, &state)?;
            assert_close(&format!("cut at {cut}"), &Tensor::cat(&[first, second], 1)?, &ys, 1e-5);
            assert_close(&format!("state cut at {cut}"), end.h(), last.h(), 1e-5);
            assert_close(&format!("last output cut at {cut}"), end.y(), last.y(), 1e-5);
        }
    }
    Ok(())
}

#[test]
fn seq_gives_the_state_after_every_step() -> Result<()> {
    let (layer, _) = layer(&config(true), DType::F32, 3)?;
    let (batch, len) = (2, 9);
    let mut rng = rng(4);
    let xs = random(&mut rng, (batch, len, HIDDEN))?;
    let start = layer.step(&random(&mut rng, (batch, HIDDEN))?, &layer.zero_state(batch)?)?;
    for (states, mut state) in
        [(layer.seq(&xs)?, layer.zero_state(batch)?), (layer.seq_init(&xs, &start)?, start.clone())]
    {
        assert_eq!(states.len(), len);
        for (step, got) in states.iter().enumerate() {
            state = layer.step(&step_of(&xs, step)?, &state)?;
            assert_close("y", got.y(), state.y(), 1e-5);
            assert_close("h", got.h(), state.h(), 1e-5);
        }
    }
    assert_close("seq", &layer.states_to_tensor(&layer.seq(&xs)?)?, &layer.forward(&xs)?, 1e-5);
    Ok(())
}

/// The gradients of a loss on outputs and last state, with respect to parameters, input and first state.
#[test]
fn gradients_are_the_same_on_every_way() -> Result<()> {
    let (batch, len, cut) = (2, 11, 4);
    let mut all: Vec<Vec<Tensor>> = vec![];
    for checkpoint in [true, false] {
        let (layer, variables) = layer(&config(checkpoint), DType::F64, 5)?;
        let mut rng = rng(6);
        let mut random = |shape: &[usize]| random(&mut rng, shape)?.to_dtype(DType::F64);
        let xs = Var::from_tensor(&random(&[batch, len, HIDDEN])?)?;
        let h0 = Var::from_tensor(&random(&[batch, 18])?)?;
        let (y_weight, h_weight) = (random(&[batch, len, HIDDEN])?, random(&[batch, 18])?);
        let zero = layer.zero_state(batch)?;
        let start = QuickSsmState::new(zero.y().clone(), h0.as_tensor().clone())?;

        let (ys, end) = layer.forward_with_state(&xs, &start)?;
        let once = (ys, end.h().clone());

        let (first, state) = layer.forward_with_state(&xs.narrow(1, 0, cut)?, &start)?;
        let (second, end) = layer.forward_with_state(&xs.narrow(1, cut, len - cut)?, &state)?;
        let parts = (Tensor::cat(&[first, second], 1)?, end.h().clone());

        let states = layer.seq_init(&xs, &start)?;
        let seq = (layer.states_to_tensor(&states)?, states[len - 1].h().clone());

        let mut state = start;
        let mut ys = vec![];
        for step in 0..len {
            state = layer.step(&step_of(&xs, step)?, &state)?;
            ys.push(state.y().clone());
        }
        let steps = (Tensor::stack(&ys, 1)?, state.h().clone());

        for (ys, h) in [once, parts, seq, steps] {
            let loss = ((ys * &y_weight)?.sum_all()? + (h * &h_weight)?.sum_all()?)?;
            let grads = loss.backward()?;
            let leaves = variables.values().map(Var::as_tensor).chain([xs.as_tensor(), h0.as_tensor()]);
            all.push(leaves.map(|t| grads.get(t).expect("a gradient of every leaf").clone()).collect());
        }
    }
    for other in &all[1..] {
        for (got, expected) in other.iter().zip(&all[0]) {
            assert_close("gradient", got, expected, 1e-12);
        }
    }
    Ok(())
}

/// A loss on one of the two outputs alone.
#[test]
fn each_output_alone_has_gradients() -> Result<()> {
    for checkpoint in [true, false] {
        let (layer, variables) = layer(&config(checkpoint), DType::F32, 7)?;
        let xs = Var::from_tensor(&random(&mut rng(8), (2, 5, HIDDEN))?)?;
        let (ys, end) = layer.forward_with_state(&xs, &layer.zero_state(2)?)?;
        let grads = ys.sum_all()?.backward()?;
        assert!(variables.values().all(|var| grads.get(var).is_some()));
        let grads = end.h().sum_all()?.backward()?;
        assert!(grads.get(&variables["A_proj.weight"]).is_some() && grads.get(&xs).is_some());
        let readout = grads.get(&variables["out_proj.weight"]);
        assert!(readout.is_none_or(|g| g.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() == 0.));
    }
    Ok(())
}

#[test]
fn detach_ends_the_history() -> Result<()> {
    let (layer, variables) = layer(&config(true), DType::F32, 9)?;
    let xs = random(&mut rng(10), (2, 5, HIDDEN))?;
    let (_, state) = layer.forward_with_state(&xs, &layer.zero_state(2)?)?;
    assert!(state.y().track_op() && state.h().track_op());
    let detached = state.detach();
    assert!(!detached.y().track_op() && !detached.h().track_op());
    assert_close("h", detached.h(), state.h(), 0.);
    let grads = (detached.y().sum_all()? + detached.h().sum_all()?)?.backward()?;
    assert!(variables.values().all(|var| grads.get(var).is_none()));
    Ok(())
}

#[test]
fn index_select_takes_sequences() -> Result<()> {
    let mut rng = rng(11);
    let state = QuickSsmState::new(random(&mut rng, (3, 2))?, random(&mut rng, (3, 4))?)?;
    let taken = state.index_select(&Tensor::new(&[2u32, 0, 2, 1], &Device::Cpu)?)?;
    for (row, from) in [2, 0, 2, 1].into_iter().enumerate() {
        assert_close("y", &taken.y().get(row)?, &state.y().get(from)?, 0.);
        assert_close("h", &taken.h().get(row)?, &state.h().get(from)?, 0.);
    }
    assert_eq!(state.index_select(&Tensor::new(&[] as &[u32], &Device::Cpu)?)?.h().dims(), [0, 4]);
    assert!(state.index_select(&Tensor::new(&[3u32], &Device::Cpu)?).is_err());
    let one = Tensor::new(&[0f32], &Device::Cpu)?;
    assert_error(state.index_select(&one), &["batch", "F32"]);
    assert_error(state.index_select(&Tensor::new(0u32, &Device::Cpu)?), &["batch", "rank 0"]);
    Ok(())
}

#[test]
fn nothing_in_nothing_out() -> Result<()> {
    for checkpoint in [true, false] {
        let (layer, variables) = layer(&config(checkpoint), DType::F32, 12)?;
        for (batch, len) in [(2, 0), (0, 5), (0, 0)] {
            let xs = Var::from_tensor(&Tensor::zeros((batch, len, HIDDEN), DType::F32, &Device::Cpu)?)?;
            let ys = layer.forward(&xs)?;
            assert_eq!(ys.dims(), [batch, len, HIDDEN]);
            let grads = ys.sum_all()?.backward()?;
            // candle ends the graph at an empty product, so there need not be one
            for (var, grad) in variables.values().filter_map(|var| Some((var, grads.get(var)?))) {
                assert_close("gradient", grad, &var.zeros_like()?, 0.);
            }
            let mut rng = rng(13);
            let state = QuickSsmState::new(random(&mut rng, (batch, HIDDEN))?, random(&mut rng, (batch, 18))?)?;
            let (ys, after) = layer.forward_with_state(&xs, &state)?;
            assert_eq!(ys.dims(), [batch, len, HIDDEN]);
            assert_close("y", after.y(), state.y(), 0.);
            assert_close("h", after.h(), state.h(), 0.);
            assert_eq!(layer.seq_init(&xs, &state)?.len(), len);
        }
        assert_eq!(
            layer.step(&Tensor::zeros((0, HIDDEN), DType::F32, &Device::Cpu)?, &layer.zero_state(0)?)?.y().dims(),
            [0, HIDDEN]
        );
        assert_error(layer.states_to_tensor(&[]), &["states"]);
    }
    Ok(())
}

#[test]
fn zero_state_has_the_layers_sizes_and_dtypes() -> Result<()> {
    for (dtype, compute_dtype, state) in [
        (DType::F32, None, DType::F32),
        (DType::F64, None, DType::F64),
        (DType::BF16, None, DType::F32),
        (DType::F32, Some(DType::F16), DType::F32),
        (DType::F32, Some(DType::F64), DType::F64),
    ] {
        let (layer, _) = layer(&QuickSsmConfig { compute_dtype, ..config(true) }, dtype, 14)?;
        let zero = layer.zero_state(4)?;
        assert_eq!((zero.y().dims2()?, zero.y().dtype()), ((4, HIDDEN), dtype));
        assert_eq!((zero.h().dims2()?, zero.h().dtype()), ((4, 18), state));
        let (_, after) = layer.forward_with_state(&Tensor::ones((4, 2, HIDDEN), dtype, &Device::Cpu)?, &zero)?;
        assert_eq!(after.h().dtype(), state);
    }
    Ok(())
}

#[test]
fn one_sequence_does_not_depend_on_the_batch() -> Result<()> {
    let (layer, _) = layer(&config(true), DType::F32, 15)?;
    let xs = random(&mut rng(16), (5, 30, HIDDEN))?;
    let ys = layer.forward(&xs)?;
    for n in 0..5 {
        let alone = layer.forward(&xs.narrow(0, n, 1)?)?;
        assert_close("alone", &alone, &ys.narrow(0, n, 1)?, 1e-5);
    }
    Ok(())
}
