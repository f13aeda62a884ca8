//! The recurrent block of Griffin and Hawk around the RG-LRU.

use candle_core::{Result, Tensor, D};
use candle_nn::{linear, rms_norm, Init, Linear, Module, RmsNorm, VarBuilder, RNN};
use quick_ssm::{RgLru, RgLruConfig, RgLruState};

use super::model::{Mixer, ModelConfig};

/// The temporal filter's size, that of the paper.
const FILTER: usize = 4;
/// The most blocks that the weights of the RG-LRU's gates have.
const MOST_HEADS: usize = 8;

/// `x + output(gelu(gate) * rg_lru(conv(input)))` of the norm of `x` (De et al. 2024, "Griffin: Mixing Gated Linear
/// Recurrences with Local Attention for Efficient Language Models", section 2.3).
pub struct Griffin {
    norm: RmsNorm,
    /// To the channels of the gate, and to as many of the recurrence.
    gate_input: Linear,
    conv: CausalConv,
    rg_lru: RgLru,
    output: Linear,
}

/// What a block carries from one step to the next.
#[derive(Clone)]
pub struct GriffinState {
    /// `[B, FILTER - 1, W]`, what the convolution has read last.
    recent: Tensor,
    rg_lru: RgLruState,
}

impl Griffin {
    /// The output for `xs`, `[B, L, H]`, after the steps of `recent`; what then is recent; and what `recur` has besides its
    /// output for the `[B, L, W]` that it is given.
    fn run<S>(
        &self,
        xs: &Tensor,
        recent: &Tensor,
        recur: impl FnOnce(&Tensor) -> Result<(Tensor, S)>,
    ) -> Result<(Tensor, Tensor, S)> {
        // the fused norm has no gradient
        let both = self.gate_input.forward(&self.norm.forward_diff(xs)?)?.chunk(2, D::Minus1)?;
        let (convolved, recent) = self.conv.forward(&both[1], recent)?;
        let (ys, state) = recur(&convolved)?;
        Ok(((self.output.forward(&(both[0].gelu()? * ys)?)? + xs)?, recent, state))
    }

    /// What is recent before the first step.
    fn nothing_recent(&self, batch: usize) -> Result<Tensor> {
        let bias = &self.conv.bias;
        Tensor::zeros((batch, FILTER - 1, bias.elem_count()), bias.dtype(), bias.device())
    }
}

impl Mixer for Griffin {
    type State = GriffinState;

    fn new(cfg: &ModelConfig, vb: VarBuilder) -> Result<Self> {
        let width = (cfg.hidden as f64 * cfg.state_size_mult) as usize;
        let heads = (1..=MOST_HEADS).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1);
        Ok(Self {
            norm: rms_norm(cfg.hidden, 1e-5, vb.pp("norm"))?,
            gate_input: linear(cfg.hidden, 2 * width, vb.pp("gate_input"))?,
            conv: CausalConv::new(width, vb.pp("conv"))?,
            rg_lru: RgLru::new(&RgLruConfig::new(width, heads), vb.pp("rg_lru"))?,
            output: linear(width, cfg.hidden, vb.pp("output"))?,
        })
    }

    fn zero_state(&self, batch: usize) -> Result<GriffinState> {
        Ok(GriffinState { recent: self.nothing_recent(batch)?, rg_lru: self.rg_lru.zero_state(batch)? })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let recent = self.nothing_recent(xs.dim(0)?)?;
        Ok(self.run(xs, &recent, |xs| Ok((self.rg_lru.forward(xs)?, ())))?.0)
    }

    fn forward_with_state(&self, xs: &Tensor, state: &GriffinState) -> Result<(Tensor, GriffinState)> {
        let recur = |xs: &Tensor| self.rg_lru.forward_with_state(xs, &state.rg_lru);
        let (ys, recent, rg_lru) = self.run(xs, &state.recent, recur)?;
        Ok((ys, GriffinState { recent, rg_lru }))
    }

    fn step(&self, xs: &Tensor, state: &GriffinState) -> Result<(Tensor, GriffinState)> {
        let recur = |xs: &Tensor| {
            let state = self.rg_lru.step(&xs.squeeze(1)?, &state.rg_lru)?;
            Ok((state.h().unsqueeze(1)?, state))
        };
        let (ys, recent, rg_lru) = self.run(&xs.unsqueeze(1)?, &state.recent, recur)?;
        Ok((ys.squeeze(1)?, GriffinState { recent, rg_lru }))
    }
}

/// A sum over the last steps of each channel for itself.
struct CausalConv {
    /// `[W, FILTER]`, the current step last.
    weight: Tensor,
    bias: Tensor,
}

impl CausalConv {
    fn new(width: usize, vb: VarBuilder) -> Result<Self> {
        let bound = 1. / (FILTER as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let get = |name: &str, shape: &[usize]| vb.get_with_hints(shape, name, init);
        Ok(Self { weight: get("weight", &[width, FILTER])?, bias: get("bias", &[width])? })
    }

    /// The sums for `xs`, `[B, L, W]`, after the steps of `recent`, and what is recent then.
    fn forward(&self, xs: &Tensor, recent: &Tensor) -> Result<(Tensor, Tensor)> {
        let len = xs.dim(1)?;
        let all = Tensor::cat(&[recent, xs], 1)?;
        let mut sum = self.bias.broadcast_as(xs.shape())?;
        for back in 0..FILTER {
            let weight = self.weight.narrow(1, back, 1)?.squeeze(1)?;
            sum = (sum + all.narrow(1, back, len)?.broadcast_mul(&weight)?)?;
        }
        Ok((sum, all.narrow(1, len, FILTER - 1)?.contiguous()?))
    }
}
