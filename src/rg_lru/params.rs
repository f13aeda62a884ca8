//! The parameters of the RG-LRU: their names, shapes and initial values.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::RgLruConfig;
use crate::problem::check_float;

/// The tensors a layer learns, named and shaped as in the checkpoints of RecurrentGemma.
#[derive(Debug, Clone)]
pub(super) struct Params {
    /// `[W]`, Lambda.
    pub recurrent_param: Tensor,
    pub input_gate: Gate,
    pub recurrent_gate: Gate,
}

/// A linear map of blocks on the diagonal, before its sigmoid.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    /// `[N, W / N, W / N]`, from row to column.
    pub weight: Tensor,
    /// `[N, W / N]`.
    pub bias: Tensor,
}

impl Params {
    pub fn new(cfg: &RgLruConfig, vb: &VarBuilder) -> Result<Self> {
        let (heads, block) = (cfg.num_heads, cfg.block_width());
        let get = |name: &str, shape: &[usize], init: Init| -> Result<Tensor> {
            let t = vb.get_with_hints(shape, name, init)?;
            // a VarMap hands out the variable it has, whatever the dtype of the builder
            check_float(vb.pp(name).prefix().as_str(), t.dtype())?;
            Ok(t)
        };
        let gate = |name: &str| -> Result<Gate> {
            let normal = Init::Randn { mean: 0., stdev: (1. / block as f64).sqrt() };
            Ok(Gate {
                weight: get(&format!("{name}_weight"), &[heads, block, block], normal)?,
                bias: get(&format!("{name}_bias"), &[heads, block], Init::Const(0.))?,
            })
        };
        // the decay under an open gate, exp(-8 softplus(Lambda)), is then between 0.999 and 0.9, as in the paper
        let lambda = |decay: f64| (-decay.ln() / 8.).exp_m1().ln();
        let decays = Init::Uniform { lo: lambda(0.999), up: lambda(0.9) };
        Ok(Self {
            recurrent_param: get("recurrent_param", &[cfg.lru_width], decays)?,
            input_gate: gate("input_gate")?,
            recurrent_gate: gate("recurrent_gate")?,
        })
    }
}
