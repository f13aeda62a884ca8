//! A small model learns to copy strings, in half precision as well as in single.

mod layer_support;

use candle_core::{DType, Device, Result, Tensor, D};
use candle_nn::loss::cross_entropy;
use candle_nn::{embedding, linear, AdamW, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use layer_support::{rng, variables};
use quick_ssm::{QuickSsm, QuickSsmConfig};
use rand::{rngs::StdRng, Rng};

const LETTERS: u32 = 5;
const LEN: usize = 3;
const BATCH: usize = 32;
const HIDDEN: usize = 24;
const STEPS: usize = 300;
const AVERAGED: usize = 20;
const RATE: f64 = 8e-3;

/// Strings, a start symbol and the strings without their last letters; and the strings.
fn batch(rng: &mut StdRng) -> Result<(Tensor, Tensor)> {
    let strings: Vec<[u32; LEN]> = (0..BATCH).map(|_| std::array::from_fn(|_| rng.random_range(0..LETTERS))).collect();
    let inputs: Vec<u32> = strings.iter().flat_map(|s| [&s[..], &[LETTERS], &s[..LEN - 1]].concat()).collect();
    let tokens = Tensor::from_vec(inputs, (BATCH, 2 * LEN), &Device::Cpu)?;
    Ok((tokens, Tensor::from_vec(strings.concat(), BATCH * LEN, &Device::Cpu)?))
}

/// Overwrites the initial values, as candle's generator on the CPU takes no seed. Decays are near one, as the states are to
/// last.
fn initialise(varmap: &VarMap, rng: &mut StdRng) -> Result<Vec<candle_core::Var>> {
    let variables = variables(varmap);
    for (name, var) in &variables {
        let (low, high) = match var.dims() {
            _ if name.ends_with("A_proj.bias") => (0., 6.),
            _ if name.starts_with("embed") => (-1.7, 1.7),
            &[_, inputs] => (-1. / (inputs as f32).sqrt(), 1. / (inputs as f32).sqrt()),
            _ if name.ends_with("bias") => (-0.1, 0.1),
            _ => continue,
        };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(low..high)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(variables.into_values().collect())
}

/// The mean loss of the last steps, and the share of letters of new strings that are copied.
fn train(compute_dtype: Option<DType>, checkpoint: bool) -> Result<(f32, f32)> {
    let mut rng = rng(1);
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let cfg = QuickSsmConfig { state_size_mult: 3., compute_dtype, checkpoint, ..QuickSsmConfig::new(HIDDEN) };
    let embed = embedding(LETTERS as usize + 1, HIDDEN, vb.pp("embed"))?;
    let layers = [QuickSsm::new(&cfg, vb.pp("first"))?, QuickSsm::new(&cfg, vb.pp("second"))?];
    let head = linear(HIDDEN, LETTERS as usize, vb.pp("head"))?;
    let options = ParamsAdamW { lr: RATE, beta2: 0.98, weight_decay: 0., ..Default::default() };
    let mut optimizer = AdamW::new(initialise(&varmap, &mut rng)?, options)?;

    let logits = |tokens: &Tensor| {
        let mut xs = embed.forward(tokens)?;
        for layer in &layers {
            xs = layer.forward(&xs)?;
        }
        head.forward(&xs.narrow(1, LEN, LEN)?.contiguous()?)?.flatten_to(1)
    };
    let mut last = 0.;
    for step in 0..STEPS {
        let (tokens, letters) = batch(&mut rng)?;
        let loss = cross_entropy(&logits(&tokens)?, &letters)?;
        if step >= STEPS - AVERAGED {
            last += loss.to_scalar::<f32>()? / AVERAGED as f32;
        }
        optimizer.set_learning_rate(RATE * (1. - step as f64 / STEPS as f64));
        optimizer.backward_step(&loss)?;
    }
    let (tokens, letters) = batch(&mut rng)?;
    let right = logits(&tokens)?.argmax(D::Minus1)?.eq(&letters)?.to_dtype(DType::F32)?.mean_all()?;
    Ok((last, right.to_scalar()?))
}

#[test]
fn half_precision_learns_what_single_does() -> Result<()> {
    let (expected, right) = train(None, true)?;
    assert!(right > 0.98 && expected < 0.05, "f32: loss {expected}, copies {right}");
    for (dtype, checkpoint) in [(DType::BF16, true), (DType::F16, false)] {
        let (loss, right) = train(Some(dtype), checkpoint)?;
        assert!(right > 0.98 && loss < 0.05, "{dtype:?}: loss {loss}, f32 {expected}; copies {right}");
    }
    Ok(())
}
