//! Writing on from a prompt, character by character.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use candle_core::{DType, Device, Tensor, D};
use candle_nn::ops::softmax;
use clap::Args;
use rand::{rngs::StdRng, Rng, SeedableRng};

use crate::common::model::{Mixer, SequenceModel};
use crate::text::Vocabulary;

/// How the next character is chosen.
#[derive(Debug, Clone, Args)]
pub struct Sampling {
    /// What the scores are divided by: less makes likely characters likelier, 0 takes the likeliest.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Choose among the likeliest characters that together are this likely (nucleus sampling, Holtzman et al. 2020).
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f64,
}

impl Sampling {
    /// A token, chosen by its score in `logits`, `[1, tokens]`.
    pub fn choose(&self, logits: &Tensor, rng: &mut StdRng) -> Result<u32> {
        if self.temperature == 0. {
            return Ok(logits.argmax(D::Minus1)?.squeeze(0)?.to_scalar()?);
        }
        let likelihoods = softmax(&(logits.to_dtype(DType::F64)? / self.temperature)?, D::Minus1)?;
        let mut likeliest: Vec<_> = likelihoods.squeeze(0)?.to_vec1::<f64>()?.into_iter().zip(0..).collect();
        likeliest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut sum = 0.;
        let enough = likeliest.iter().position(|(likelihood, _)| {
            sum += likelihood;
            sum >= self.top_p
        });
        likeliest.truncate(enough.map_or(likeliest.len(), |last| last + 1));
        let mut at = rng.random_range(0.0..sum);
        for &(likelihood, token) in &likeliest {
            if at < likelihood {
                return Ok(token);
            }
            at -= likelihood;
        }
        // as far as rounding lets it come
        Ok(likeliest[likeliest.len() - 1].1)
    }
}

/// How long it took to read the prompt, and to write.
pub struct Times {
    pub prompt: Duration,
    pub tokens: Duration,
}

/// Writes `count` characters after `prompt`: the prompt in one parallel pass, then step by step.
pub fn generate<M: Mixer>(
    model: &SequenceModel<M>,
    vocabulary: &Vocabulary,
    prompt: &str,
    count: usize,
    (sampling, seed): (&Sampling, u64),
    device: &Device,
    mut write: impl FnMut(char),
) -> Result<Times> {
    ensure!(!prompt.is_empty(), "the prompt: expected at least one character");
    ensure!(sampling.temperature >= 0., "the temperature: expected 0 or more, got {}", sampling.temperature);
    ensure!(sampling.top_p > 0., "top-p: expected more than 0, got {}", sampling.top_p);
    let mut rng = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let tokens = vocabulary.encode(prompt)?;
    let last = tokens.len() - 1;
    let mut states = model.zero_state(1)?;
    let logits = model.continue_from(&mut states, &Tensor::new(tokens, device)?.unsqueeze(0)?)?;
    let mut logits = logits.narrow(1, last, 1)?.squeeze(1)?;
    let prompt = start.elapsed();
    for _ in 0..count {
        let token = sampling.choose(&logits, &mut rng)?;
        write(vocabulary.decode(token)?);
        logits = model.step(&mut states, &Tensor::new(&[token], device)?)?;
    }
    Ok(Times { prompt, tokens: start.elapsed() - prompt })
}
