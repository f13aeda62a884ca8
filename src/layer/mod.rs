//! The `QuickSsm` layer.

mod compute;
mod config;
mod file;
mod node;
mod params;
mod parts;
mod pass;
mod rnn;
mod rows;
mod state;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::{bail, DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder};

pub use config::QuickSsmConfig;
pub use state::QuickSsmState;

use crate::backend::cast;
use crate::problem::{accumulation_dtype, check_device, check_float, LayerInput};
use compute::Compute;
use node::Parts;
use params::Params;
use weights::{Dtypes, Frozen, Weights};

/// A gated recurrent layer around the scan, from `[B, L, H]` to `[B, L, H]` (batch, time, channel).
///
/// With the state size `S` of the configuration and `n` the input after the norm,
///
/// ```text
/// n = x * w / sqrt(mean(x^2) + eps)
/// a = sigmoid(A n + bias)   d = sigmoid(D n)   u = B n   c = silu(Ca n) * (Cb n)
/// h_t = a_t h_{t-1} + d_t u_t                  y = out_proj(c * h) + x
/// ```
///
/// The parameters are those of the Torch layer's state dict, so that its checkpoints load as they are:
/// `pre_norm.weight` `[H]` (with `use_norm`), `A_proj.weight` `[S, H]`, `A_proj.bias` `[S]`, `B_proj.weight`,
/// `C_proj_a.weight`, `C_proj_b.weight`, `D_proj.weight` `[S, H]`, `out_proj.weight` `[H, S]`, `out_proj.bias` `[H]`.
///
/// It is a [`Module`], which starts from a state of zeros, and an [`RNN`](candle_nn::RNN), which goes step by step.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap, RNN};
/// use quick_ssm::{QuickSsm, QuickSsmConfig};
///
/// # fn main() -> Result<()> {
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let cfg = QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(16) };
/// let layer = QuickSsm::new(&cfg, vb.pp("ssm"))?;
///
/// let xs = Tensor::randn(0f32, 1., (2, 10, 16), &Device::Cpu)?;
/// let ys = layer.forward(&xs)?;
/// assert_eq!(ys.dims(), xs.dims());
///
/// // the layer's variables have a gradient, and the layer uses their values as they are at each forward pass
/// let grads = ys.sqr()?.mean_all()?.backward()?;
/// assert!(varmap.all_vars().iter().all(|var| grads.get(var).is_some()));
///
/// // the same in two parts, or step by step
/// let (_, state) = layer.forward_with_state(&xs.narrow(1, 0, 9)?, &layer.zero_state(2)?)?;
/// let state = layer.step(&xs.narrow(1, 9, 1)?.squeeze(1)?, &state)?;
/// let difference = (state.y() - ys.narrow(1, 9, 1)?.squeeze(1)?)?.abs()?.max_all()?;
/// assert!(difference.to_scalar::<f32>()? < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QuickSsm {
    cfg: QuickSsmConfig,
    params: Params,
    /// Where no parameter is tracked.
    frozen: Option<Frozen>,
}

impl QuickSsm {
    /// A layer with the parameters of `vb`, or with new ones as Torch's `nn.Linear` initialises them, where `vb` is of
    /// a `VarMap` that does not have them.
    ///
    /// A layer on variables uses their values as they are at each forward pass. Of tensors that are not tracked, as those
    /// of a file, it is one for inference: it puts copies of their weights together, once for each dtype they are used in.
    ///
    /// # Errors
    /// A configuration that cannot be, a parameter that is missing or of another shape, or a dtype that is not
    /// floating point.
    pub fn new(cfg: &QuickSsmConfig, vb: VarBuilder) -> Result<Self> {
        cfg.check()?;
        check_float("vb", vb.dtype())?;
        let params = Params::build(cfg, |name, shape, init| vb.get_with_hints(shape, name, init))?;
        for (name, t) in params.named() {
            // a VarMap hands out the variable it has, whatever the dtype of the builder
            check_float(vb.pp(name).prefix().as_str(), t.dtype())?;
        }
        Self::of(cfg, params)
    }

    /// A layer for inference, with the parameters of a safetensors file, cast to `dtype`.
    ///
    /// The file has to have exactly the layer's parameters. For one of a whole model, or to train on, build the layer
    /// with [`new`](Self::new).
    ///
    /// # Errors
    /// A file that is absent, truncated or in another format, a tensor that is missing, unknown, of another shape or
    /// not of floating point, and a value that is not finite or not in the range of `dtype`; the message has the
    /// tensor's name.
    pub fn load(path: impl AsRef<Path>, cfg: &QuickSsmConfig, dtype: DType, device: &Device) -> Result<Self> {
        cfg.check()?;
        Self::of(cfg, file::load(path.as_ref(), cfg, dtype, device)?)
    }

    fn of(cfg: &QuickSsmConfig, params: Params) -> Result<Self> {
        let tracked = params.named().iter().any(|(_, t)| t.track_op());
        let (frozen, params) = match tracked {
            true => (None, params),
            false => Frozen::new(params).map(|(frozen, params)| (Some(frozen), params))?,
        };
        Ok(Self { cfg: cfg.clone(), params, frozen })
    }

    /// Writes the parameters to a safetensors file, in their dtype.
    ///
    /// They are written beside it first: the file at `path` is the old one or the complete new one at any time.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::save(path.as_ref(), &self.params)
    }

    /// The layer's configuration.
    pub fn config(&self) -> &QuickSsmConfig {
        &self.cfg
    }

    /// Continues from `state`: the output for `xs`, `[B, L, H]`, and the state after its last step.
    ///
    /// A state in another floating dtype is cast to the accumulation dtype. The gradient flows to it, from both
    /// results.
    ///
    /// # Errors
    /// Where `xs` or the state has another rank, shape, dtype or device than the layer's.
    pub fn forward_with_state(&self, xs: &Tensor, state: &QuickSsmState) -> Result<(Tensor, QuickSsmState)> {
        let (batch, len) = self.input().check_sequence("xs", xs)?;
        self.check_state("state", state, batch, xs)?;
        let (ys, h) = self.run(xs, Some(state.h()), true)?;
        let state = match (len.checked_sub(1), h) {
            (Some(last), Some(h)) => QuickSsmState::new(ys.narrow(1, last, 1)?.squeeze(1)?, h)?,
            _ => state.clone(),
        };
        Ok((ys, state))
    }

    fn compute(&self) -> Compute<'_> {
        Compute { cfg: &self.cfg, params: &self.params }
    }

    /// The output and, if `with_state`, the last state, for arguments that have been checked.
    fn run(&self, xs: &Tensor, h0: Option<&Tensor>, with_state: bool) -> Result<(Tensor, Option<Tensor>)> {
        let dtype = self.cfg.compute_dtype.unwrap_or(xs.dtype());
        let acc = accumulation_dtype(dtype);
        if xs.elem_count() == 0 {
            let state = || Tensor::zeros((xs.dim(0)?, self.cfg.state_size()), acc, xs.device());
            let last = with_state.then(|| h0.map_or_else(state, |h0| cast(h0, acc))).transpose()?;
            return Ok((xs.zeros_like()?, last));
        }
        let dtypes = Dtypes::new(dtype, xs.dtype());
        let weights = match &self.frozen {
            Some(frozen) => frozen.get(&self.params, dtypes)?,
            None => Arc::new(Weights::new(&self.params, dtypes)?),
        };
        let frozen = self.frozen.is_some();
        node::forward(Parts { cfg: &self.cfg, params: &self.params, weights, frozen }, xs, h0, with_state)
    }

    fn input(&self) -> LayerInput<'_> {
        LayerInput { channels: self.cfg.hidden_size, whose: "hidden size", param: &self.params.out }
    }

    fn check_state(&self, name: &str, state: &QuickSsmState, batch: usize, xs: &Tensor) -> Result<()> {
        for (part, t, channels) in [("y", state.y(), self.cfg.hidden_size), ("h", state.h(), self.cfg.state_size())] {
            if t.dims() != [batch, channels] {
                bail!("{name}: expected {part} of shape {:?}, got {:?}", [batch, channels], t.dims())
            }
        }
        check_device(name, state.h(), "the layer", xs)
    }
}

impl Module for QuickSsm {
    /// The output for `xs`, `[B, L, H]`, from a state of zeros.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.input().check_sequence("xs", xs)?;
        Ok(self.run(xs, None, false)?.0)
    }
}
