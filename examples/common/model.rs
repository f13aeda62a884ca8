//! A sequence model of an embedding, [`QuickSsm`] layers and a linear head.

use candle_core::{Result, Tensor};
use candle_nn::{embedding, linear, Embedding, Linear, Module, VarBuilder};
use quick_ssm::{QuickSsm, QuickSsmConfig};

pub struct SequenceModel {
    embedding: Embedding,
    layers: Vec<QuickSsm>,
    head: Linear,
}

impl SequenceModel {
    pub fn new(symbols: usize, outputs: usize, layers: usize, cfg: &QuickSsmConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            embedding: embedding(symbols, cfg.hidden_size, vb.pp("embed"))?,
            layers: (0..layers).map(|n| QuickSsm::new(cfg, vb.pp("layers").pp(n))).collect::<Result<_>>()?,
            head: linear(cfg.hidden_size, outputs, vb.pp("head"))?,
        })
    }

    /// The scores of the last `steps` time steps, `[B, steps, outputs]`, for `tokens`, `[B, L]`.
    pub fn last_logits(&self, tokens: &Tensor, steps: usize) -> Result<Tensor> {
        let mut xs = self.embedding.forward(tokens)?;
        for layer in &self.layers {
            xs = layer.forward(&xs)?;
        }
        let from = xs.dim(1)? - steps;
        self.head.forward(&xs.narrow(1, from, steps)?.contiguous()?)
    }
}
