//! What is to be computed: the arguments of a scan, checked.

use std::sync::Arc;

use candle_core::{bail, DType, Device, Result, Tensor};

use crate::backend::check_memory;
use crate::gated::PARTS;

/// The dtype that carries the state: f64 for f64, f32 for everything else.
pub(crate) fn accumulation_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Checks that the named arguments have one rank-3 shape, one floating dtype and one device; returns `(B, L, D)`.
pub(crate) fn check_inputs(args: &[(&str, &Tensor)]) -> Result<(usize, usize, usize)> {
    let [(first, x), rest @ ..] = args else { bail!("a scan needs arguments") };
    let &[batch, len, channels] = x.dims() else {
        bail!("{first}: expected shape [B, L, D] (batch, time, channel), got rank {} {:?}", x.rank(), x.dims())
    };
    check_float(first, x.dtype())?;
    check_addressable(first, x.dims())?;
    for &(name, t) in rest {
        expect_shape(name, t, x.dims(), &format!("that of {first}"))?;
        if t.dtype() != x.dtype() {
            bail!("{name}: expected dtype {:?}, that of {first}, got {:?}", x.dtype(), t.dtype())
        }
        check_device(name, t, first, x)?;
    }
    Ok((batch, len, channels))
}

/// Checks pre-activations `p`, `[B, L, 5S]`, and a bias, `[S]`; returns `(B, L, S)`.
pub(crate) fn check_gated(p: &Tensor, a_bias: Option<&Tensor>) -> Result<(usize, usize, usize)> {
    let &[batch, len, columns] = p.dims() else {
        bail!(
            "p: expected shape [B, L, 5S] (batch, time, five parts of S channels), got rank {} {:?}",
            p.rank(),
            p.dims()
        )
    };
    check_float("p", p.dtype())?;
    check_addressable("p", p.dims())?;
    if !columns.is_multiple_of(PARTS) {
        bail!("p: expected shape [B, L, 5S], whose columns are five parts of S channels, got {:?}", p.dims())
    }
    let channels = columns / PARTS;
    if let Some(bias) = a_bias {
        expect_shape("a_bias", bias, &[channels], "[S] for p of [B, L, 5S]")?;
        let (dtype, acc, got) = (p.dtype(), accumulation_dtype(p.dtype()), bias.dtype());
        if got != dtype && got != acc {
            bail!("a_bias: expected dtype {dtype:?}, that of p, or {acc:?}, that of the state, got {got:?}")
        }
        check_device("a_bias", bias, "p", p)?;
    }
    Ok((batch, len, channels))
}

/// Checks that a dtype is one of those the state can be computed from.
pub(crate) fn check_float(name: &str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => Ok(()),
        _ => bail!("{name}: expected dtype f16, bf16, f32 or f64, got {dtype:?}"),
    }
}

/// Checks that as many elements can be addressed. A broadcast tensor can have more of them than there is room for.
///
/// An empty tensor may have any sizes of which candle computes the strides and the product without an overflow.
pub(crate) fn check_addressable(name: &str, dims: &[usize]) -> Result<()> {
    let times = |elements: usize, size: &usize| elements.checked_mul(*size);
    let (elements, strides) = (dims.iter().try_fold(1, times), dims.iter().rev().try_fold(1, times));
    match elements.and_then(|elements| elements.checked_mul(size_of::<f64>())) {
        Some(bytes) if bytes <= isize::MAX as usize && strides.is_some() => Ok(()),
        _ => bail!("{name}: expected a shape whose elements can be addressed, got {dims:?}"),
    }
}

/// Checks that an argument is on the device of `x`, which the message calls `first`.
pub(crate) fn check_device(name: &str, t: &Tensor, first: &str, x: &Tensor) -> Result<()> {
    let (expected, got) = (x.device(), t.device());
    if !got.same_device(expected) {
        bail!("{name}: expected device {:?}, that of {first}, got {:?}", expected.location(), got.location())
    }
    Ok(())
}

/// Checks a shape, of which the message says `whose` it is.
pub(crate) fn expect_shape(name: &str, t: &Tensor, expected: &[usize], whose: &str) -> Result<()> {
    if t.dims() != expected {
        bail!("{name}: expected shape {expected:?}, {whose}, got {:?}", t.dims())
    }
    Ok(())
}

/// What a layer expects of its input.
pub(crate) struct LayerInput<'a> {
    pub channels: usize,
    /// What the layer's configuration calls them.
    pub whose: &'static str,
    /// One of the layer's parameters.
    pub param: &'a Tensor,
}

impl LayerInput<'_> {
    /// Checks an argument `[B, L, channels]` and returns `(B, L)`.
    pub fn check_sequence(&self, name: &str, xs: &Tensor) -> Result<(usize, usize)> {
        let &[batch, len, channels] = xs.dims() else {
            bail!("{name}: expected shape [B, L, {}], got rank {} {:?}", self.channels, xs.rank(), xs.dims())
        };
        self.check(name, xs, channels)?;
        Ok((batch, len))
    }

    /// Checks one step of it, `[B, channels]`, and returns `B`.
    pub fn check_step(&self, name: &str, xs: &Tensor) -> Result<usize> {
        let &[batch, channels] = xs.dims() else {
            bail!("{name}: expected shape [B, {}], got rank {} {:?}", self.channels, xs.rank(), xs.dims())
        };
        self.check(name, xs, channels)?;
        Ok(batch)
    }

    fn check(&self, name: &str, xs: &Tensor, channels: usize) -> Result<()> {
        if channels != self.channels {
            bail!("{name}: expected {} channels, the {}, got {:?}", self.channels, self.whose, xs.dims())
        }
        check_float(name, xs.dtype())?;
        check_addressable(name, xs.dims())?;
        if !xs.is_contiguous() {
            // a broadcast tensor can have more elements than there is room for in a copy
            check_memory(xs.elem_count(), xs.dtype(), xs.device())?;
        }
        check_device(name, xs, "the layer", self.param)
    }
}

/// Checks indices of the rows of `t`: a vector of integers on its device.
pub(crate) fn check_indices(name: &str, indices: &Tensor, t: &Tensor) -> Result<()> {
    if indices.rank() != 1 {
        bail!("{name}: expected a vector of indices, got rank {} {:?}", indices.rank(), indices.dims())
    }
    if !indices.dtype().is_int() {
        bail!("{name}: expected dtype u8, u32 or i64, got {:?}", indices.dtype())
    }
    check_device(name, indices, "the state", t)
}

/// The sequences of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Sequences {
    /// `B` sequences of `L` steps.
    Dense,
    /// Offsets `0 = o_0 <= .. <= o_N = T`: sequence `n` is `x[0, o_n .. o_{n+1}]`.
    Packed(Arc<[usize]>),
}

/// A scan's sizes, dtypes and options.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// `B`, 1 for packed sequences.
    pub batch: usize,
    /// `L`, or the total `T` of packed sequences.
    pub len: usize,
    /// `D`.
    pub channels: usize,
    /// Of `x`, `a`, `b`, `c` and their gradients.
    pub dtype: DType,
    /// Of the states.
    pub acc: DType,
    /// Of `y` and its gradient.
    pub out: DType,
    pub device: Device,
    pub reverse: bool,
    pub sequences: Sequences,
    /// Time steps between saved states, where the caller wants a say.
    pub chunk_len: Option<usize>,
    /// Who computes in the place of the CPU.
    #[cfg(feature = "simt")]
    pub emulation: Option<crate::simt::Emulation>,
}

impl Problem {
    /// The number of sequences, each of which has a first and a last state.
    pub fn num_sequences(&self) -> usize {
        match &self.sequences {
            Sequences::Dense => self.batch,
            Sequences::Packed(offsets) => offsets.len() - 1,
        }
    }

    /// Whether no sequence has a step: all states are the initial ones then.
    pub fn is_empty(&self) -> bool {
        self.batch == 0 || self.len == 0 || self.channels == 0
    }

    /// The shape of `x`.
    pub fn dims(&self) -> (usize, usize, usize) {
        (self.batch, self.len, self.channels)
    }

    /// The shape of the states before the first or after the last step.
    pub fn state_dims(&self) -> (usize, usize) {
        (self.num_sequences(), self.channels)
    }

    /// Checks a state argument, of x's dtype or the accumulation dtype.
    pub fn check_state(&self, name: &str, h: &Tensor, first: &str, x: &Tensor) -> Result<()> {
        let (n, d) = self.state_dims();
        let whose = match self.sequences {
            Sequences::Dense => "[B, D]",
            Sequences::Packed(_) => "[N, D] with one state per packed sequence",
        };
        expect_shape(name, h, &[n, d], whose)?;
        if h.dtype() != self.dtype && h.dtype() != self.acc {
            let (acc, got) = (self.acc, h.dtype());
            bail!(
                "{name}: expected dtype {:?}, that of {first}, or {acc:?}, that of the state, got {got:?}",
                self.dtype
            )
        }
        check_device(name, h, first, x)
    }

    /// Checks a gradient of `y`.
    pub fn check_grad_y(&self, grad_y: &Tensor, x: &Tensor) -> Result<()> {
        expect_shape("grad_y", grad_y, x.dims(), "that of x")?;
        if grad_y.dtype() != self.out {
            bail!("grad_y: expected dtype {:?}, that of y, got {:?}", self.out, grad_y.dtype())
        }
        check_device("grad_y", grad_y, "x", x)
    }
}

/// Checks the offsets of packed sequences against the shape of the argument they divide.
pub(crate) fn check_offsets(offsets: &[usize], name: &str, t: &Tensor, (batch, len): (usize, usize)) -> Result<()> {
    if batch != 1 {
        bail!("{name}: expected shape [1, T, ..] with cu_seqlens, got {:?}", t.dims())
    }
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        bail!("cu_seqlens: expected offsets 0 = o_0 <= .. <= o_N = {len}, got none")
    };
    if first != 0 {
        bail!("cu_seqlens: expected the first offset to be 0, got {first}")
    }
    if last != len {
        bail!("cu_seqlens: expected the last offset to be {len}, the length of {name}, got {last}")
    }
    for (n, pair) in offsets.windows(2).enumerate() {
        if pair[0] > pair[1] {
            bail!(
                "cu_seqlens: expected offsets that do not decrease, got {} after {} at index {}",
                pair[1],
                pair[0],
                n + 1
            )
        }
    }
    Ok(())
}
