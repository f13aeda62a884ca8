//! `RgLru` in the place of the recurrence of candle-transformers' RecurrentGemma: the same logits and gradients.

mod layer_support;
mod recurrent_gemma;

use candle_core::{Device, Result, Tensor};
use layer_support::{assert_close, rng};
use rand::Rng;
use recurrent_gemma::{builder, config, variables, Model, Rebuilt};

fn tokens(seed: u64, (batch, len): (usize, usize)) -> Result<Tensor> {
    let mut rng = rng(seed);
    let tokens: Vec<u32> = (0..batch * len).map(|_| rng.random_range(0..32)).collect();
    Tensor::from_vec(tokens, (batch, len), &Device::Cpu)
}

/// Prompts of every length, each followed by single steps.
#[test]
fn logits_agree() -> Result<()> {
    for (layers, hidden, width, heads) in [(1, 8, 8, 1), (3, 12, 20, 4)] {
        let cfg = config(layers, hidden, width, heads);
        let variables = variables(&cfg, 1)?;
        let tokens = tokens(2, (3, 24))?;
        let ours = Rebuilt::new(&cfg, builder(&variables, false))?.forward(&tokens)?;
        for prompt in 1..=20 {
            let mut model = Model::new(&cfg, builder(&variables, false))?;
            let logits = model.forward(&tokens.narrow(1, 0, prompt)?, 0)?;
            assert_close(&format!("a prompt of {prompt}"), &ours.narrow(1, prompt - 1, 1)?, &logits, 2e-5);
        }
        let mut model = Model::new(&cfg, builder(&variables, false))?;
        model.forward(&tokens.narrow(1, 0, 5)?, 0)?;
        for pos in 5..24 {
            let logits = model.forward(&tokens.narrow(1, pos, 1)?, pos)?;
            assert_close(&format!("step {pos}"), &ours.narrow(1, pos, 1)?, &logits, 2e-5);
        }
    }
    Ok(())
}

#[test]
fn gradients_agree() -> Result<()> {
    let cfg = config(2, 8, 12, 3);
    let variables = variables(&cfg, 3)?;
    let tokens = tokens(4, (2, 15))?;
    let ours = Rebuilt::new(&cfg, builder(&variables, true))?.forward_last(&tokens)?.sqr()?.sum_all()?.backward()?;
    let theirs = Model::new(&cfg, builder(&variables, true))?.forward(&tokens, 0)?.sqr()?.sum_all()?.backward()?;
    for (name, var) in &variables {
        let gradient = |grads: &candle_core::backprop::GradStore| grads.get(var).expect("a gradient").clone();
        assert_close(name, &gradient(&ours), &gradient(&theirs), 2e-4);
    }
    Ok(())
}
