//! What a layer carries from one step to the next.

use candle_core::{bail, Result, Tensor};

use crate::problem::{check_float, check_indices};

/// The state of a [`QuickSsm`](crate::QuickSsm) layer after a step: the output there, and the recurrence's state.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use quick_ssm::QuickSsmState;
///
/// # fn main() -> Result<()> {
/// let (y, h) = (Tensor::rand(0f32, 1., (3, 4), &Device::Cpu)?, Tensor::rand(0f32, 1., (3, 8), &Device::Cpu)?);
/// let state = QuickSsmState::new(y, h)?;
/// // the third sequence twice, the first once
/// let beams = state.index_select(&Tensor::new(&[2u32, 2, 0], &Device::Cpu)?)?;
/// assert_eq!(beams.h().dims(), [3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QuickSsmState {
    y: Tensor,
    h: Tensor,
}

impl QuickSsmState {
    /// A state of `y`, `[B, H]`, and `h`, `[B, S]`.
    ///
    /// # Errors
    /// Where they are not matrices of floating-point numbers on one device with the same number of rows.
    pub fn new(y: Tensor, h: Tensor) -> Result<Self> {
        for (name, t, shape) in [("y", &y, "[B, H]"), ("h", &h, "[B, S]")] {
            if t.rank() != 2 {
                bail!("{name}: expected shape {shape}, got rank {} {:?}", t.rank(), t.dims())
            }
            check_float(name, t.dtype())?;
        }
        if y.dims()[0] != h.dims()[0] {
            bail!("h: expected a batch of {}, that of y, got {}", y.dims()[0], h.dims()[0])
        }
        if !y.device().same_device(h.device()) {
            bail!("h: expected device {:?}, that of y, got {:?}", y.device().location(), h.device().location())
        }
        Ok(Self { y, h })
    }

    /// The layer's last output, `[B, H]`.
    pub fn y(&self) -> &Tensor {
        &self.y
    }

    /// The recurrence's state, `[B, S]`; from a layer it is in the accumulation dtype.
    pub fn h(&self) -> &Tensor {
        &self.h
    }

    /// The same values without their history, for truncated backpropagation through time.
    pub fn detach(&self) -> Self {
        Self { y: self.y.detach(), h: self.h.detach() }
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
        Ok(Self { y: select(&self.y)?, h: select(&self.h)? })
    }
}
