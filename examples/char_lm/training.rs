//! A training that can be stopped at any time and goes on as if it never had been.

use std::collections::HashMap;
use std::f64::consts::LN_2;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::VarBuilder;
use clap::{Args, ValueEnum};
use rand::{rngs::StdRng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::common::checkpoint;
use crate::common::model::{Mixer, ModelConfig, SequenceModel};
use crate::common::train::{self, scalar, Trainer};
use crate::text::{Text, Vocabulary};

/// The layer that lets information pass from one time step to later ones.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MixerKind {
    /// The layer of this crate.
    QuickSsm,
    /// The recurrent block of Griffin and Hawk, around the RG-LRU.
    RgLru,
}

/// What decides the result of a training, besides the text.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct Options {
    /// Batches to train on.
    #[arg(long, default_value_t = 300)]
    pub steps: usize,
    /// Characters in a window.
    #[arg(long, default_value_t = 256)]
    pub seq_len: usize,
    /// Windows in a batch.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Blocks of a layer and an MLP.
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// The layer of a block.
    #[arg(long, value_enum, default_value_t = MixerKind::QuickSsm)]
    pub mixer: MixerKind,
    /// Channels between the blocks.
    #[arg(long, default_value_t = 128)]
    pub hidden: usize,
    /// Channels of a layer's state for each of those.
    #[arg(long, default_value_t = 2.)]
    pub state_size_mult: f64,
    /// Channels inside an MLP for each of those.
    #[arg(long, default_value_t = 2.)]
    pub mlp_mult: f64,
    /// The highest learning rate.
    #[arg(long, default_value_t = 4e-3)]
    pub lr: f64,
    /// The share of a weight that a step at a learning rate of 1 would take away.
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    /// Steps from one look at the held-out part to the next, each with a sample and a save.
    #[arg(long, default_value_t = 25)]
    pub every: usize,
    /// The seed of the initial values and the windows.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What a checkpoint tells of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub options: Options,
    pub vocabulary: Vocabulary,
    fingerprint: u64,
    /// The loss of each step so far, in nats per character.
    pub losses: Vec<f64>,
    /// Bits per character of the held-out part, with the steps before.
    pub held_out: Vec<(usize, f64)>,
}

impl Description {
    fn model(&self) -> ModelConfig {
        let Options { layers, hidden, state_size_mult, mlp_mult, .. } = self.options;
        let symbols = self.vocabulary.len();
        ModelConfig { symbols, outputs: symbols, layers, hidden, state_size_mult, mlp_mult: Some(mlp_mult) }
    }

    /// The fewest bits per character of the held-out part, and the steps before.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.held_out.iter().copied().min_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}

pub struct Training<M> {
    description: Description,
    text: Text,
    model: SequenceModel<M>,
    trainer: Trainer,
    /// The values of the variables that did best on the held-out part.
    best: HashMap<String, Tensor>,
    device: Device,
}

/// What the names of the best values begin with in a checkpoint; the others are those of the trainer.
const BEST: &str = "best.";

impl<M: Mixer> Training<M> {
    pub fn new(options: Options, text: Text, device: &Device) -> Result<Self> {
        let (vocabulary, fingerprint) = (text.vocabulary.clone(), text.fingerprint());
        let Options { steps, seq_len, batch_size, every, .. } = options;
        ensure!(steps.min(seq_len).min(batch_size).min(every) > 0, "steps, lengths and sizes: expected at least 1");
        Self::at_start(Description { options, vocabulary, fingerprint, losses: vec![], held_out: vec![] }, text, device)
    }

    fn at_start(description: Description, text: Text, device: &Device) -> Result<Self> {
        let Options { lr, weight_decay, steps, seed, .. } = description.options;
        let options = train::Options { rate: lr, weight_decay, steps, slowest: train::LASTING };
        let (model, trainer) = train::start(&description.model(), options, &mut StdRng::seed_from_u64(seed), device)?;
        let best = trainer.values()?;
        Ok(Self { description, text, model, trainer, best, device: device.clone() })
    }

    /// The training that [`save`](Self::save) has written to `path`, of the same text.
    pub fn resume(path: &Path, text: Text, device: &Device) -> Result<Self> {
        let (description, mut tensors) = checkpoint::load::<Description>(path, device)?;
        let same = description.fingerprint == text.fingerprint();
        ensure!(same, "{}: its training was of another text", path.display());
        let steps = description.losses.len();
        let mut training = Self::at_start(description, text, device)?;
        for (name, value) in &mut training.best {
            let name = format!("{BEST}{name}");
            *value = tensors.remove(&name).with_context(|| format!("{}: {name}: missing", path.display()))?;
        }
        training.trainer.restore(steps, &tensors)?;
        Ok(training)
    }

    /// Writes everything that [`resume`](Self::resume) and [`load`] need.
    pub fn save(&self, path: &Path) -> Result<()> {
        let best = self.best.iter().map(|(name, value)| (format!("{BEST}{name}"), value.clone()));
        checkpoint::save(path, &self.description, self.trainer.tensors()?.into_iter().chain(best).collect())
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    pub fn text(&self) -> &Text {
        &self.text
    }

    pub fn parameters(&self) -> usize {
        self.best.values().map(Tensor::elem_count).sum()
    }

    /// The steps that have been made.
    pub fn steps(&self) -> usize {
        self.trainer.steps()
    }

    /// One step, and its loss in nats per character.
    pub fn step(&mut self) -> Result<f64> {
        let Options { seq_len, batch_size, seed, .. } = self.description.options;
        // a generator for each step leaves none to be saved
        let mut rng = StdRng::seed_from_u64(seed ^ ((self.steps() as u64 + 1) << 32));
        let windows = self.text.batch(&mut rng, batch_size, seq_len + 1, &self.device)?;
        let logits = self.model.last_logits(&windows.narrow(1, 0, seq_len)?.contiguous()?, seq_len)?;
        let loss = cross_entropy(&logits.flatten_to(1)?, &windows.narrow(1, 1, seq_len)?.flatten_all()?)?;
        self.trainer.step(&loss)?;
        let loss = scalar(&loss)?;
        self.description.losses.push(loss);
        Ok(loss)
    }

    /// The bits per character of the held-out part, at which the model is kept if there have never been fewer.
    pub fn evaluate(&mut self) -> Result<f64> {
        let values = self.trainer.values()?;
        let model = frozen::<M>(&self.description, values.clone(), &self.device)?;
        let bits = bits_per_character(&model, self.text.held_out(), &self.device)?;
        ensure!(bits.is_finite(), "step {}: the loss is not finite; a lower learning rate may help", self.steps());
        if self.description.best().is_none_or(|(_, fewest)| bits < fewest) {
            self.best = values;
        }
        self.description.held_out.push((self.steps(), bits));
        Ok(bits)
    }

    /// The model that has done best on the held-out part so far.
    pub fn best_model(&self) -> Result<SequenceModel<M>> {
        frozen(&self.description, self.best.clone(), &self.device)
    }
}

/// The best model of a training that was saved, and what its checkpoint tells of it.
pub fn load<M: Mixer>(path: &Path, device: &Device) -> Result<(SequenceModel<M>, Description)> {
    let (description, tensors) = checkpoint::load::<Description>(path, device)?;
    let best = tensors.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(BEST)?.to_string(), value)));
    Ok((frozen(&description, best.collect(), device)?, description))
}

/// A model with these values, which builds no graph.
fn frozen<M: Mixer>(
    description: &Description,
    values: HashMap<String, Tensor>,
    device: &Device,
) -> Result<SequenceModel<M>> {
    Ok(SequenceModel::new(&description.model(), VarBuilder::from_tensors(values, DType::F32, device))?)
}

/// Of predicting each of `tokens` but the first from all before.
fn bits_per_character<M: Mixer>(model: &SequenceModel<M>, tokens: &[u32], device: &Device) -> Result<f64> {
    /// So many at once, with the states carried from one part to the next.
    const PART: usize = 2048;
    let mut states = model.zero_state(1)?;
    let mut nats = 0.;
    for (inputs, targets) in tokens[..tokens.len() - 1].chunks(PART).zip(tokens[1..].chunks(PART)) {
        let logits = model.continue_from(&mut states, &Tensor::new(inputs, device)?.unsqueeze(0)?)?;
        let loss = cross_entropy(&logits.squeeze(0)?, &Tensor::new(targets, device)?)?;
        nats += scalar(&loss)? * targets.len() as f64;
    }
    Ok(nats / (tokens.len() - 1) as f64 / LN_2)
}
