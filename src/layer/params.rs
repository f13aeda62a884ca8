//! The layer's parameters: their names, shapes and initial values.

use candle_core::{Result, Tensor};
use candle_nn::Init;

use super::QuickSsmConfig;
use crate::gated::PARTS;

/// The tensors a layer learns, or something about each of them.
#[derive(Debug, Clone)]
pub(super) struct Params<T = Tensor> {
    /// `[H]`, with `use_norm`.
    pub pre_norm: Option<T>,
    /// `[S, H]`, the decay of the state.
    pub a: T,
    /// `[S]`.
    pub a_bias: T,
    /// `[S, H]`, the input of the state.
    pub b: T,
    /// `[S, H]`, the gate of the readout.
    pub c_a: T,
    /// `[S, H]`, the values of the readout.
    pub c_b: T,
    /// `[S, H]`, the gate of the input.
    pub d: T,
    /// `[H, S]`.
    pub out: T,
    /// `[H]`.
    pub out_bias: T,
}

const PRE_NORM: &str = "pre_norm.weight";

impl Params {
    /// Takes each parameter from `get`, which is told its name, its shape and how it is initialised.
    pub fn build(
        cfg: &QuickSsmConfig,
        mut get: impl FnMut(&'static str, &[usize], Init) -> Result<Tensor>,
    ) -> Result<Self> {
        let (h, s) = (cfg.hidden_size, cfg.state_size());
        // what torch.nn.Linear makes of kaiming_uniform(a = sqrt(5)), for weights and biases
        let uniform = |inputs: usize| {
            let bound = 1. / (inputs as f64).sqrt();
            Init::Uniform { lo: -bound, up: bound }
        };
        Ok(Self {
            pre_norm: cfg.use_norm.then(|| get(PRE_NORM, &[h], Init::Const(1.))).transpose()?,
            a: get("A_proj.weight", &[s, h], uniform(h))?,
            a_bias: get("A_proj.bias", &[s], uniform(h))?,
            b: get("B_proj.weight", &[s, h], uniform(h))?,
            c_a: get("C_proj_a.weight", &[s, h], uniform(h))?,
            c_b: get("C_proj_b.weight", &[s, h], uniform(h))?,
            d: get("D_proj.weight", &[s, h], uniform(h))?,
            out: get("out_proj.weight", &[h, s], uniform(s))?,
            out_bias: get("out_proj.bias", &[h], uniform(s))?,
        })
    }
}

impl<T> Params<T> {
    /// What `f` makes of each of them, which gets them in the order of [`named`](Self::named).
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Params<U> {
        Params {
            pre_norm: self.pre_norm.as_ref().map(&mut f),
            a: f(&self.a),
            a_bias: f(&self.a_bias),
            b: f(&self.b),
            c_a: f(&self.c_a),
            c_b: f(&self.c_b),
            d: f(&self.d),
            out: f(&self.out),
            out_bias: f(&self.out_bias),
        }
    }

    /// Every one with its parameter's name, in the order in which [`build`](Params::build) asks for them.
    pub fn named(&self) -> Vec<(&'static str, &T)> {
        let Self { pre_norm, a, a_bias, b, c_a, c_b, d, out, out_bias } = self;
        let mut named: Vec<_> = pre_norm.iter().map(|t| (PRE_NORM, t)).collect();
        named.extend([
            ("A_proj.weight", a),
            ("A_proj.bias", a_bias),
            ("B_proj.weight", b),
            ("C_proj_a.weight", c_a),
            ("C_proj_b.weight", c_b),
            ("D_proj.weight", d),
            ("out_proj.weight", out),
            ("out_proj.bias", out_bias),
        ]);
        named
    }
    /// Those of the projection, in the order of its parts.
    pub fn projections(&self) -> [&T; PARTS] {
        [&self.a, &self.d, &self.b, &self.c_a, &self.c_b]
    }
}
