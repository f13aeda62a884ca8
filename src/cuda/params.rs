//! What the kernels in `cuda/` are told: the mirror of `params.cuh`.
//!
//! Addresses are plain numbers, 0 for null. Nothing here touches a device: the emulation of the kernels on the CPU uses
//! the same structs.

use candle_core::{bail, DType, Result};

/// Which way a kernel goes through time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `y`, the last and the saved states.
    Forward,
    /// The gradients.
    Backward,
    /// No recurrence: `y` is the sum of `x` over each chunk of time, `[chunks, D]`.
    Sum,
}

/// What the terms of the recurrence are made of, as in `forms.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `x`, `a`, `b`, `c`.
    Plain,
    /// The parts of one tensor of pre-activations.
    Gated,
}

impl Form {
    /// Values that the backward pass keeps of each element.
    pub(super) const fn kept(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Gated => 5,
        }
    }

    /// The tensors that the forward pass reads.
    pub(super) const fn inputs(self) -> u32 {
        match self {
            Self::Plain => 4,
            Self::Gated => 5,
        }
    }
}

/// The dtypes as the kernels number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    F64 = 3,
}

impl Code {
    pub fn of(dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32),
            DType::F16 => Ok(Self::F16),
            DType::BF16 => Ok(Self::BF16),
            DType::F64 => Ok(Self::F64),
            _ => bail!("scan: expected dtype f16, bf16, f32 or f64, got {dtype:?}"),
        }
    }

    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F64 => 8,
        }
    }

    /// Of the accumulation dtype.
    pub const fn acc_bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            _ => 4,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F64 => "f64",
        }
    }
}

/// A dtype as the kernels number it.
pub fn dtype_code(dtype: DType) -> Result<u32> {
    Ok(Code::of(dtype)? as u32)
}

/// A tensor that is read: element `(i, t, d)` lies at `data + i * batch_stride + t * time_stride + d * channel_stride`, where
/// `t` counts in the order in which time runs.
///
/// Strides count elements; one of 0 repeats.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operand {
    pub data: u64,
    pub batch_stride: i64,
    pub time_stride: i64,
    pub channel_stride: u32,
    /// That of `grad_y` and `a_bias`; the others have the dtype of the kernel.
    pub dtype: u32,
}

impl Operand {
    /// A `[B, L, D]` tensor whose first element lies at `data`.
    ///
    /// A dimension of one element has no stride to speak of: it gets one that suits every kernel.
    pub fn new(data: u64, dims: [usize; 3], strides: [usize; 3], dtype: DType) -> Result<Self> {
        let stride = |dim: usize| -> Result<i64> {
            match i64::try_from(strides[dim]) {
                _ if dims[dim] <= 1 => Ok(0),
                Ok(stride) => Ok(stride),
                Err(_) => bail!("scan: expected strides below 2^63, got {strides:?}"),
            }
        };
        let channel_stride = match strides[2] {
            _ if dims[2] <= 1 => 1,
            0 => 0,
            1 => 1,
            other => bail!("scan: expected a channel stride of 0 or 1, got {other}"),
        };
        let (batch_stride, time_stride) = (stride(0)?, stride(1)?);
        Ok(Self { data, batch_stride, time_stride, channel_stride, dtype: dtype_code(dtype)? })
    }

    /// The operand of `len` steps for a scan in which time runs from its last one to its first.
    pub fn reversed(self, len: usize, dtype: DType) -> Self {
        if self.data == 0 {
            return self;
        }
        let last = (len as i64 - 1) * self.time_stride * dtype.size_in_bytes() as i64;
        Self { data: self.data.wrapping_add_signed(last), time_stride: -self.time_stride, ..self }
    }

    /// The operand `elements` further on, of the same strides.
    pub fn offset(self, elements: u64, dtype: DType) -> Self {
        let data = if self.data == 0 { 0 } else { self.data + elements * dtype.size_in_bytes() as u64 };
        Self { data, ..self }
    }

    /// Whether `vector` elements of `bytes` each can be read at once, wherever a row starts.
    pub(super) fn aligned(&self, vector: u32, bytes: u64) -> bool {
        let rows = [self.batch_stride, self.time_stride];
        self.data == 0
            || self.channel_stride == 1
                && self.data.is_multiple_of(u64::from(vector) * bytes)
                && rows.iter().all(|stride| stride % i64::from(vector) == 0)
    }
}

/// Division of numbers below 2^31 by one that is known beforehand, by a product, as in `params.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Divisor {
    /// 0: the divisor is 1.
    pub magic: u32,
    pub shift: u32,
}

impl Divisor {
    /// Of a number from 1 to 2^31 - 1.
    pub(super) fn new(by: u32) -> Self {
        if by <= 1 {
            return Self::default();
        }
        let shift = (by - 1).ilog2();
        Self { magic: ((1_u64 << (32 + shift)) / u64::from(by) + 1) as u32, shift }
    }
}

/// The tree of carries over the chunks of time: tiles, groups of them, and groups of groups, after which states are published.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookBackPlan {
    /// A row for each `2^shift` chunks.
    pub shift: [u32; 3],
    /// The first row.
    pub begin: [u32; 3],
}

impl LookBackPlan {
    /// The plan for a number of chunks, of at most `i32::MAX`.
    ///
    /// It decides in which order carries are combined, so it follows from the length and the channels alone.
    pub(super) fn new(chunks: u32, channel_tiles: u32) -> Self {
        let shift = match channel_tiles {
            ..8 => [0, 4, 6],
            8..16 => [0, 2, 4],
            16.. => [0, 1, 3],
        };
        let rows = shift.map(|shift| Self::rows_of(chunks, shift));
        Self { shift, begin: [0, rows[0], rows[0] + rows[1]] }
    }

    /// Rows of a level; a single chunk has nothing to tell.
    fn rows_of(chunks: u32, shift: u32) -> u32 {
        if chunks > 1 {
            chunks >> shift
        } else {
            0
        }
    }

    /// All rows.
    pub(super) fn rows(&self, chunks: u32) -> u32 {
        self.begin[2] + Self::rows_of(chunks, self.shift[2])
    }
}

/// All arguments of a launch.
///
/// Tensors that are written are contiguous but for the rows of gradients, and null where they are not wanted. `N` is the
/// batch, or the number of packed sequences. States are in the accumulation dtype. In the gated form `x`, `a`, `b` and `c`
/// are the parts `u`, `a`, `d` and `ca`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Params {
    pub x: Operand,
    pub a: Operand,
    pub b: Operand,
    /// Null: ones.
    pub c: Operand,
    /// Of the gated form.
    pub cb: Operand,
    /// Null: zeros, of the dtype that is given nevertheless.
    pub grad_y: Operand,
    /// Of one step, in the gated form; null: zeros.
    pub a_bias: Operand,

    /// `[N, D]`; null: zeros.
    pub initial_state: u64,
    /// `[N, D]`; null: zeros.
    pub grad_last_state: u64,
    /// Of packed sequences: `N + 1` of i64.
    pub offsets: u64,

    /// `[B, L, D]` of `y_dtype`; of a sum `[chunks, D]`.
    pub y: u64,
    /// `[N, D]`.
    pub last_state: u64,
    /// `[B, saved_rows, D]`, in the order in which time runs.
    pub saved_states: u64,
    pub dx: u64,
    pub da: u64,
    pub db: u64,
    pub dc: u64,
    pub dcb: u64,
    /// `[B, chunks, D]`.
    pub d_bias: u64,
    pub dh0: u64,

    /// Of `Kernel::workspace_bytes`, at a multiple of 16, zeroed when it was allocated.
    pub workspace: u64,

    pub length: i64,
    /// Elements between the rows of `dx`, `da`, `db`, `dc` and `dcb`.
    pub gradient_stride: i64,
    pub batch: u32,
    pub channels: u32,
    pub sequences: u32,
    pub y_dtype: u32,
    pub reverse: u32,
    pub saved_shift: u32,
    pub chunks: u32,
    pub channel_tiles: u32,
    /// By `batch * channel_tiles`.
    pub by_columns: Divisor,
    pub by_channel_tiles: Divisor,
    pub look_back: LookBackPlan,
}

const _: () = assert!(size_of::<Operand>() == 32);
const _: () = assert!(size_of::<LookBackPlan>() == 24);
const _: () = assert!(size_of::<Params>() == 424);
const _: () = assert!(std::mem::offset_of!(Params, length) == 336);
const _: () = assert!(std::mem::offset_of!(Params, look_back) == 400);

impl Params {
    /// The number of tiles, each of which one block computes.
    pub fn tiles(&self) -> u32 {
        self.batch * self.channel_tiles * self.chunks
    }
}

#[cfg(test)]
mod tests;
