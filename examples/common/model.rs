//! A sequence model: an embedding, blocks of a layer that mixes time steps and a gated MLP, and a linear head.

use candle_core::{Result, Tensor, D};
use candle_nn::{embedding, linear, linear_no_bias, rms_norm, Embedding, Linear, Module, RmsNorm, VarBuilder, RNN};
use quick_ssm::{QuickSsm, QuickSsmConfig, QuickSsmState};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The symbols that are read, and those that are scored.
    pub symbols: usize,
    pub outputs: usize,
    pub layers: usize,
    /// Channels between the layers.
    pub hidden: usize,
    /// Channels of a layer's state for each of those.
    pub state_size_mult: f64,
    /// Channels inside a block's MLP for each of those; without, a block has none.
    pub mlp_mult: Option<f64>,
}

/// A residual layer that lets information pass from one time step to later ones.
pub trait Mixer: Sized {
    /// What it carries from one step to the next.
    type State: Clone;

    fn new(cfg: &ModelConfig, vb: VarBuilder) -> Result<Self>;

    /// The state before the first of `batch` sequences' time steps.
    fn zero_state(&self, batch: usize) -> Result<Self::State>;

    /// The output for `[B, L, H]` from the first step on.
    fn forward(&self, xs: &Tensor) -> Result<Tensor>;

    /// The output for `[B, L, H]` after `state`, and the state after that.
    fn forward_with_state(&self, xs: &Tensor, state: &Self::State) -> Result<(Tensor, Self::State)>;

    /// The same for one time step, `[B, H]`.
    fn step(&self, xs: &Tensor, state: &Self::State) -> Result<(Tensor, Self::State)>;
}

impl Mixer for QuickSsm {
    type State = QuickSsmState;

    fn new(cfg: &ModelConfig, vb: VarBuilder) -> Result<Self> {
        // the models are small: memory for a faster backward pass
        let (state_size_mult, checkpoint) = (cfg.state_size_mult, false);
        QuickSsm::new(&QuickSsmConfig { state_size_mult, checkpoint, ..QuickSsmConfig::new(cfg.hidden) }, vb)
    }

    fn zero_state(&self, batch: usize) -> Result<QuickSsmState> {
        RNN::zero_state(self, batch)
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Module::forward(self, xs)
    }

    fn forward_with_state(&self, xs: &Tensor, state: &QuickSsmState) -> Result<(Tensor, QuickSsmState)> {
        self.forward_with_state(xs, state)
    }

    fn step(&self, xs: &Tensor, state: &QuickSsmState) -> Result<(Tensor, QuickSsmState)> {
        let state = RNN::step(self, xs, state)?;
        Ok((state.y().clone(), state))
    }
}

/// `x + down(silu(gate) * up)` of the norm of `x`, in every time step for itself.
struct GatedMlp {
    norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

impl GatedMlp {
    fn new(hidden: usize, mult: f64, vb: VarBuilder) -> Result<Self> {
        let inner = (hidden as f64 * mult) as usize;
        Ok(Self {
            norm: rms_norm(hidden, 1e-5, vb.pp("norm"))?,
            gate_up: linear_no_bias(hidden, 2 * inner, vb.pp("gate_up"))?,
            down: linear_no_bias(inner, hidden, vb.pp("down"))?,
        })
    }
}

impl Module for GatedMlp {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        // the fused norm has no gradient
        let both = self.gate_up.forward(&self.norm.forward_diff(xs)?)?.chunk(2, D::Minus1)?;
        self.down.forward(&(both[0].silu()? * &both[1])?)? + xs
    }
}

struct Block<M> {
    mixer: M,
    mlp: Option<GatedMlp>,
}

pub struct SequenceModel<M = QuickSsm> {
    embedding: Embedding,
    blocks: Vec<Block<M>>,
    norm: RmsNorm,
    head: Linear,
}

impl<M: Mixer> SequenceModel<M> {
    pub fn new(cfg: &ModelConfig, vb: VarBuilder) -> Result<Self> {
        let block = |vb: VarBuilder| {
            let mlp = cfg.mlp_mult.map(|mult| GatedMlp::new(cfg.hidden, mult, vb.pp("mlp"))).transpose()?;
            Ok(Block { mixer: M::new(cfg, vb.pp("mixer"))?, mlp })
        };
        Ok(Self {
            embedding: embedding(cfg.symbols, cfg.hidden, vb.pp("embed"))?,
            blocks: (0..cfg.layers).map(|n| block(vb.pp("blocks").pp(n))).collect::<Result<_>>()?,
            norm: rms_norm(cfg.hidden, 1e-5, vb.pp("norm"))?,
            head: linear(cfg.hidden, cfg.outputs, vb.pp("head"))?,
        })
    }

    /// The scores of the last `steps` time steps, `[B, steps, outputs]`, for `tokens`, `[B, L]`.
    pub fn last_logits(&self, tokens: &Tensor, steps: usize) -> Result<Tensor> {
        let xs = self.blocks(tokens, |_, mixer, xs| mixer.forward(xs))?;
        let from = xs.dim(1)? - steps;
        self.score(&xs.narrow(1, from, steps)?.contiguous()?)
    }

    /// The states of all blocks before the first of `batch` sequences' time steps.
    pub fn zero_state(&self, batch: usize) -> Result<Vec<M::State>> {
        self.blocks.iter().map(|block| block.mixer.zero_state(batch)).collect()
    }

    /// The scores of all time steps, `[B, L, outputs]`, for `tokens`, `[B, L]`, that come after `states`; these then are those
    /// after the last step.
    pub fn continue_from(&self, states: &mut [M::State], tokens: &Tensor) -> Result<Tensor> {
        let xs = self.blocks(tokens, |n, mixer, xs| {
            let (ys, state) = mixer.forward_with_state(xs, &states[n])?;
            states[n] = state;
            Ok(ys)
        })?;
        self.score(&xs)
    }

    /// The same for one time step: the scores, `[B, outputs]`, for `tokens`, `[B]`.
    pub fn step(&self, states: &mut [M::State], tokens: &Tensor) -> Result<Tensor> {
        let xs = self.blocks(tokens, |n, mixer, xs| {
            let (ys, state) = mixer.step(xs, &states[n])?;
            states[n] = state;
            Ok(ys)
        })?;
        self.score(&xs)
    }

    /// What the blocks make of `tokens`, with `mix` for the mixer of each.
    fn blocks(&self, tokens: &Tensor, mut mix: impl FnMut(usize, &M, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let mut xs = self.embedding.forward(tokens)?;
        for (n, Block { mixer, mlp }) in self.blocks.iter().enumerate() {
            xs = mix(n, mixer, &xs)?;
            if let Some(mlp) = mlp {
                xs = mlp.forward(&xs)?;
            }
        }
        Ok(xs)
    }

    fn score(&self, xs: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.norm.forward_diff(xs)?)
    }
}
