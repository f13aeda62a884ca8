//! RecurrentGemma of recurrent layers around `RgLru`, next to candle-transformers' own.
#![allow(dead_code)] // the test and the benchmark use a part each

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor, Var, D};
use candle_nn::{Activation, Conv1d, Conv1dConfig, Linear, Module, VarBuilder, VarMap};
pub use candle_transformers::models::recurrent_gemma::{Config, Model, TemporalBlockType};
use quick_ssm::{RgLru, RgLruConfig};
use rand::{rngs::StdRng, Rng, SeedableRng};

/// The sizes of a model of `layers` recurrent layers.
pub fn config(layers: usize, hidden_size: usize, lru_width: usize, heads: usize) -> Config {
    Config {
        num_hidden_layers: layers,
        vocab_size: 32,
        hidden_size,
        intermediate_size: 2 * hidden_size,
        num_attention_heads: heads,
        num_key_value_heads: 1,
        head_dim: 4,
        lru_width: Some(lru_width),
        attention_window_size: 16,
        conv1d_width: 4,
        logits_soft_cap: 30.,
        hidden_activation: Activation::GeluPytorchTanh,
        partial_rotary_factor: 0.5,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.,
        block_types: vec![TemporalBlockType::Recurrent],
        attention_bias: false,
        max_seq_len: 16,
    }
}

/// Random variables for candle-transformers' model, by name.
pub fn variables(cfg: &Config, seed: u64) -> Result<BTreeMap<String, Var>> {
    let varmap = VarMap::new();
    Model::new(cfg, VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
    let variables: BTreeMap<_, _> = varmap.data().lock().unwrap().clone().into_iter().collect();
    let mut rng = StdRng::seed_from_u64(seed);
    for (name, var) in &variables {
        let (low, high) = match name {
            name if name.ends_with("recurrent_param") => (-6f32, 1.),
            name if name.ends_with("gate_weight") => (-2., 2.),
            name if name.ends_with("bias") => (-0.5, 0.5),
            _ => (-0.4, 0.4),
        };
        let values = (0..var.elem_count()).map(|_| rng.random_range(low..high)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(variables)
}

/// A builder on the variables, or on their values alone.
pub fn builder(variables: &BTreeMap<String, Var>, tracked: bool) -> VarBuilder<'static> {
    let tensor = |var: &Var| if tracked { var.as_tensor().clone() } else { var.as_detached_tensor() };
    let tensors: HashMap<_, _> = variables.iter().map(|(name, var)| (name.clone(), tensor(var))).collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let rms = (xs.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        xs.broadcast_div(&rms)?.broadcast_mul(&(&self.weight + 1.)?)
    }
}

struct Layer {
    temporal_norm: RmsNorm,
    y: Linear,
    x: Linear,
    conv: Conv1d,
    rg_lru: RgLru,
    out: Linear,
    channel_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Layer {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (hidden, inner) = (cfg.hidden_size, cfg.intermediate_size / 2);
        let width = cfg.lru_width.unwrap_or(hidden);
        let (block, mlp) = (vb.pp("temporal_block"), vb.pp("mlp_block"));
        let conv = Conv1dConfig { groups: width, padding: cfg.conv1d_width - 1, ..Default::default() };
        Ok(Self {
            temporal_norm: norm(cfg, vb.pp("temporal_pre_norm"))?,
            y: candle_nn::linear(hidden, width, block.pp("linear_y"))?,
            x: candle_nn::linear(hidden, width, block.pp("linear_x"))?,
            conv: candle_nn::conv1d(width, width, cfg.conv1d_width, conv, block.pp("conv_1d"))?,
            rg_lru: RgLru::new(&RgLruConfig::new(width, cfg.num_attention_heads), block.pp("rg_lru"))?,
            out: candle_nn::linear(width, hidden, block.pp("linear_out"))?,
            channel_norm: norm(cfg, vb.pp("channel_pre_norm"))?,
            gate: candle_nn::linear(hidden, inner, mlp.pp("gate_proj"))?,
            up: candle_nn::linear(hidden, inner, mlp.pp("up_proj"))?,
            down: candle_nn::linear(inner, hidden, mlp.pp("down_proj"))?,
            activation: cfg.hidden_activation,
        })
    }
}

impl Module for Layer {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let n = xs.apply(&self.temporal_norm)?;
        let y = n.apply(&self.y)?.apply(&self.activation)?;
        let x = n.apply(&self.x)?.transpose(1, 2)?.apply(&self.conv)?.narrow(2, 0, xs.dim(1)?)?.transpose(1, 2)?;
        let xs = ((x.apply(&self.rg_lru)? * y)?.apply(&self.out)? + xs)?;
        let n = xs.apply(&self.channel_norm)?;
        (n.apply(&self.gate)?.apply(&self.activation)? * n.apply(&self.up)?)?.apply(&self.down)? + xs
    }
}

fn norm(cfg: &Config, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm { weight: vb.get(cfg.hidden_size, "weight")?, eps: cfg.rms_norm_eps })
}

/// The model around `RgLru`.
pub struct Rebuilt {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    cap: f64,
}

impl Rebuilt {
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            embedding: vb.get((cfg.vocab_size, cfg.hidden_size), "embed_tokens.weight")?,
            layers: (0..cfg.num_hidden_layers)
                .map(|n| Layer::new(cfg, vb.pp("layers").pp(n)))
                .collect::<Result<_>>()?,
            norm: norm(cfg, vb.pp("final_norm"))?,
            cap: cfg.logits_soft_cap,
        })
    }

    /// The logits of every step of `tokens`, `[B, L]`; candle-transformers' model has those of the last alone.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.logits(&self.hidden(tokens)?)
    }

    /// The logits after the last step.
    pub fn forward_last(&self, tokens: &Tensor) -> Result<Tensor> {
        self.logits(&self.hidden(tokens)?.narrow(1, tokens.dim(1)? - 1, 1)?)
    }

    fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let embedding = candle_nn::Embedding::new(self.embedding.clone(), self.embedding.dim(1)?);
        let xs = (tokens.apply(&embedding)? * (self.embedding.dim(1)? as f64).sqrt())?;
        self.layers.iter().try_fold(xs, |xs, layer| layer.forward(&xs))
    }

    fn logits(&self, xs: &Tensor) -> Result<Tensor> {
        let logits = xs.apply(&self.norm)?.apply(&Linear::new(self.embedding.clone(), None))?;
        (logits / self.cap)?.tanh()? * self.cap
    }
}
