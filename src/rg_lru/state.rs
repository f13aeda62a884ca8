//! What the RG-LRU carries from one step to the next.

use candle_core::{bail, DType, Result, Tensor};

use crate::problem::{check_float, check_indices};

/// The state of an [`RgLru`](crate::RgLru) layer after a step, and which sequences are still before their first.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use quick_ssm::RgLruState;
///
/// # fn main() -> Result<()> {
/// let state = RgLruState::new(Tensor::rand(0f32, 1., (3, 8), &Device::Cpu)?)?;
/// // the third sequence twice, the first once
/// let beams = state.index_select(&Tensor::new(&[2u32, 2, 0], &Device::Cpu)?)?;
/// assert_eq!(beams.h().dims(), [3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RgLruState {
    h: Tensor,
    /// `[B]` in u8: 1 before the first step of a sequence, whose input is not scaled.
    start: Tensor,
}

impl RgLruState {
    /// The state `h`, `[B, W]`, in the middle of a sequence; [`zero_state`](candle_nn::RNN::zero_state) is that
    /// before the first step.
    ///
    /// # Errors
    /// Where it is not a matrix of floating-point numbers.
    pub fn new(h: Tensor) -> Result<Self> {
        if h.rank() != 2 {
            bail!("h: expected shape [B, W], got rank {} {:?}", h.rank(), h.dims())
        }
        check_float("h", h.dtype())?;
        let start = Tensor::zeros(h.dims()[0], DType::U8, h.device())?;
        Ok(Self { h, start })
    }

    pub(super) fn with_start(h: Tensor, start: Tensor) -> Self {
        Self { h, start }
    }

    /// The state, `[B, W]`, which is the layer's last output; from a layer it is in the accumulation dtype.
    pub fn h(&self) -> &Tensor {
        &self.h
    }

    pub(super) fn start(&self) -> &Tensor {
        &self.start
    }

    /// The same values without their history, for truncated backpropagation through time.
    pub fn detach(&self) -> Self {
        Self { h: self.h.detach(), start: self.start.clone() }
    }

    /// The states of the sequences that `batch` names, a vector of indices in u8, u32 or i64.
    ///
    /// An index may come more than once, as in a beam search, and not at all, as where a sequence has ended.
    ///
    /// # Errors
    /// Where `batch` is not a vector of integers on the state's device, or an index is out of range.
    pub fn index_select(&self, batch: &Tensor) -> Result<Self> {
        check_indices("batch", batch, &self.h)?;
        let select = |t: &Tensor| t.contiguous()?.index_select(batch, 0);
        Ok(Self { h: select(&self.h)?, start: select(&self.start)? })
    }
}
