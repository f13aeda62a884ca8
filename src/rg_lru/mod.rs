//! The RG-LRU of Griffin and RecurrentGemma on the scan.

mod compute;
mod config;
mod params;
mod rnn;
mod state;

use candle_core::{bail, DType, Result, Tensor};
use candle_nn::{Module, VarBuilder};

pub use config::RgLruConfig;
pub use state::RgLruState;

use crate::backend::cast;
use crate::problem::{check_device, check_float, check_offsets, expect_shape, LayerInput};
use crate::Scan;
use compute::{packed_resets, Arguments};
use params::Params;

/// The real-gated linear recurrent unit, from `[B, L, W]` to `[B, L, W]` (batch, time, channel).
///
/// It is the recurrence of Griffin and Hawk (De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention
/// for Efficient Language Models", section 2.4) and of RecurrentGemma, with gates of block-diagonal weights `U` and `V`:
///
/// ```text
/// i = sigmoid(U x + u)   r = sigmoid(V x + v)   a = exp(-8 softplus(Lambda) r)
/// h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t               y = h
/// ```
///
/// At the first step of a sequence, a *reset*, it is `h_t = i_t x_t`: the state is multiplied by 0, and the input by 1.
///
/// The parameters are those of RecurrentGemma's `rg_lru`, so that its checkpoints load as they are: `recurrent_param` `[W]`
/// (Lambda), `input_gate_weight` `[N, W / N, W / N]`, `input_gate_bias` `[N, W / N]`, and the same of `recurrent_gate`.
///
/// The products of the gates have the dtype of the input, all else is in the accumulation dtype, f64 for f64 and f32 for
/// every other, and the output is rounded to the input's dtype once. It is made of candle's operations and of one scan, and
/// gradients flow to all parameters, the input and the state, also where `a` is 0 or 1.
///
/// It is a [`Module`], which starts a sequence, and an [`RNN`](candle_nn::RNN), which goes step by step.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap, RNN};
/// use quick_ssm::{RgLru, RgLruConfig};
///
/// # fn main() -> Result<()> {
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let layer = RgLru::new(&RgLruConfig::new(16, 4), vb.pp("rg_lru"))?;
///
/// let xs = Tensor::randn(0f32, 1., (2, 10, 16), &Device::Cpu)?;
/// let ys = layer.forward(&xs)?;
/// let grads = ys.sqr()?.mean_all()?.backward()?;
/// assert!(varmap.all_vars().iter().all(|var| grads.get(var).is_some()));
///
/// // the same in two parts, or step by step
/// let (_, state) = layer.forward_with_state(&xs.narrow(1, 0, 9)?, &layer.zero_state(2)?)?;
/// let state = layer.step(&xs.narrow(1, 9, 1)?.squeeze(1)?, &state)?;
/// let difference = (state.h() - ys.narrow(1, 9, 1)?.squeeze(1)?)?.abs()?.max_all()?;
/// assert!(difference.to_scalar::<f32>()? < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RgLru {
    cfg: RgLruConfig,
    params: Params,
}

impl RgLru {
    /// A layer with the parameters of `vb`, or with new ones, where `vb` is of a `VarMap` that does not have them.
    ///
    /// New gates have normal weights of variance `N / W` and biases of zero. A new Lambda is uniform, between the values that
    /// give a decay of 0.999 and of 0.9 under an open gate.
    ///
    /// # Errors
    /// A configuration that cannot be, a parameter that is missing or of another shape, or a dtype that is not
    /// floating point.
    pub fn new(cfg: &RgLruConfig, vb: VarBuilder) -> Result<Self> {
        cfg.check()?;
        check_float("vb", vb.dtype())?;
        Ok(Self { cfg: cfg.clone(), params: Params::new(cfg, &vb)? })
    }

    /// The layer's configuration.
    pub fn config(&self) -> &RgLruConfig {
        &self.cfg
    }

    /// Continues from `state`: the output for `xs`, `[B, L, W]`, and the state after its last step.
    ///
    /// The first step is a reset where the state is a [`zero_state`](candle_nn::RNN::zero_state). One in another floating
    /// dtype is cast to the accumulation dtype. The gradient flows to it, from both results.
    ///
    /// # Errors
    /// Where `xs` or the state has another rank, shape, dtype or device than the layer's.
    pub fn forward_with_state(&self, xs: &Tensor, state: &RgLruState) -> Result<(Tensor, RgLruState)> {
        let (batch, _) = self.input().check_sequence("xs", xs)?;
        self.check_state("state", state, batch, xs)?;
        self.continued(xs, Scan::new(), &state.start().reshape((batch, 1, 1))?, state)
    }

    /// The same with a reset wherever `positions`, `[B, L]` in u8, u32 or i64, is 0, and nowhere else.
    ///
    /// So sequences are packed into the rows of a batch, as in RecurrentGemma's training.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Result, Tensor};
    /// # use candle_nn::{Module, VarBuilder, VarMap, RNN};
    /// # use quick_ssm::{RgLru, RgLruConfig};
    /// # fn main() -> Result<()> {
    /// # let varmap = VarMap::new();
    /// # let layer = RgLru::new(&RgLruConfig::new(4, 2), VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
    /// let xs = Tensor::randn(0f32, 1., (1, 5, 4), &Device::Cpu)?;
    /// let positions = Tensor::new(&[[0u32, 1, 2, 0, 1]], &Device::Cpu)?;
    /// let (ys, _) = layer.forward_at(&xs, &positions, &layer.zero_state(1)?)?;
    /// let second = layer.forward(&xs.narrow(1, 3, 2)?)?;
    /// assert!((ys.narrow(1, 3, 2)? - second)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`forward_with_state`](Self::forward_with_state), and for positions of another shape, dtype or device.
    pub fn forward_at(&self, xs: &Tensor, positions: &Tensor, state: &RgLruState) -> Result<(Tensor, RgLruState)> {
        let (batch, len) = self.input().check_sequence("xs", xs)?;
        self.check_state("state", state, batch, xs)?;
        expect_shape("positions", positions, &[batch, len], "[B, L]")?;
        if !matches!(positions.dtype(), DType::U8 | DType::U32 | DType::I64) {
            bail!("positions: expected dtype u8, u32 or i64, got {:?}", positions.dtype())
        }
        check_device("positions", positions, "xs", xs)?;
        self.continued(xs, Scan::new(), &positions.eq(0u32)?.unsqueeze(2)?, state)
    }

    /// The same for sequences packed one after another: `xs` is `[1, T, W]`, sequence `n` its steps
    /// `cu_seqlens[n] .. cu_seqlens[n + 1]`, and the state has a row for each of them.
    ///
    /// The offsets are `0 = o_0 <= .. <= o_N = T`. An empty sequence hands on its state.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Result, Tensor};
    /// # use candle_nn::{Module, VarBuilder, VarMap, RNN};
    /// # use quick_ssm::{RgLru, RgLruConfig};
    /// # fn main() -> Result<()> {
    /// # let varmap = VarMap::new();
    /// # let layer = RgLru::new(&RgLruConfig::new(4, 2), VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
    /// let xs = Tensor::randn(0f32, 1., (1, 5, 4), &Device::Cpu)?;
    /// let (ys, state) = layer.forward_packed(&xs, &[0, 3, 5], &layer.zero_state(2)?)?;
    /// assert_eq!((ys.dims3()?, state.h().dims2()?), ((1, 5, 4), (2, 4)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`forward_with_state`](Self::forward_with_state), and for offsets that decrease or do not end at `T`.
    pub fn forward_packed(
        &self,
        xs: &Tensor,
        cu_seqlens: &[usize],
        state: &RgLruState,
    ) -> Result<(Tensor, RgLruState)> {
        let (batch, len) = self.input().check_sequence("xs", xs)?;
        check_offsets(cu_seqlens, "xs", xs, (batch, len))?;
        self.check_state("state", state, cu_seqlens.len() - 1, xs)?;
        if len == 0 {
            return Ok((xs.zeros_like()?, state.clone()));
        }
        let resets = packed_resets(state.start(), cu_seqlens, len)?;
        let (ys, after) = self.continued(xs, Scan::new().cu_seqlens(cu_seqlens), &resets, state)?;
        let empty: Vec<u8> = cu_seqlens.windows(2).map(|pair| (pair[0] == pair[1]).into()).collect();
        let start = (Tensor::new(empty, xs.device())? * state.start())?;
        Ok((ys, RgLruState::with_start(after.h().clone(), start)))
    }

    /// The output and the last state, for arguments that have been checked.
    fn continued(&self, xs: &Tensor, scan: Scan, resets: &Tensor, state: &RgLruState) -> Result<(Tensor, RgLruState)> {
        if xs.elem_count() == 0 {
            return Ok((xs.zeros_like()?, state.clone()));
        }
        let Arguments { x, a, b } = self.params.arguments(xs, resets, true)?;
        let scan = scan.initial_state(&cast(state.h(), x.dtype())?).out_dtype(xs.dtype());
        let readout = Tensor::ones((1, 1, 1), x.dtype(), x.device())?.broadcast_as(x.shape())?;
        let (ys, h) = scan.apply_with_state(&x, &a, &b, &readout)?;
        Ok((ys, RgLruState::new(h)?))
    }

    /// The states after all steps that follow `state`, for arguments that have been checked.
    fn dense(&self, xs: &Tensor, state: &RgLruState, out: DType) -> Result<Tensor> {
        if xs.elem_count() == 0 {
            return Tensor::zeros(xs.shape(), out, xs.device());
        }
        let resets = state.start().reshape((xs.dim(0)?, 1, 1))?;
        let Arguments { x, a, b } = self.params.arguments(xs, &resets, true)?;
        Scan::new().initial_state(&cast(state.h(), x.dtype())?).out_dtype(out).states(&x, &a, &b)
    }

    fn input(&self) -> LayerInput<'_> {
        LayerInput { channels: self.cfg.lru_width, whose: "lru_width", param: &self.params.recurrent_param }
    }

    fn check_state(&self, name: &str, state: &RgLruState, sequences: usize, xs: &Tensor) -> Result<()> {
        expect_shape(name, state.h(), &[sequences, self.cfg.lru_width], "a row for each sequence")?;
        check_device(name, state.h(), "the layer", xs)
    }
}

impl Module for RgLru {
    /// The output for `xs`, `[B, L, W]`, the first step of which starts a sequence.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, _) = self.input().check_sequence("xs", xs)?;
        if xs.elem_count() == 0 {
            return xs.zeros_like();
        }
        let resets = Tensor::ones((batch, 1, 1), DType::U8, xs.device())?;
        let Arguments { x, a, b } = self.params.arguments(xs, &resets, false)?;
        Scan::new().out_dtype(xs.dtype()).states(&x, &a, &b)
    }
}
