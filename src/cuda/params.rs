//! What the kernels in `cuda/` are told: the mirror of `params.cuh`, and the rules of their entry points.
//!
//! Addresses are plain numbers, 0 for null. Nothing here touches a device: the emulation of the kernels on the CPU uses
//! the same structs.

use candle_core::{bail, DType, Result};

use super::tile::{Tile, Width};

/// Which way a kernel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `y`, the last and the saved states.
    Forward,
    /// The gradients.
    Backward,
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
    const fn kept(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Gated => 5,
        }
    }

    /// The tensors that the forward pass reads.
    const fn inputs(self) -> u32 {
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

    const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F64 => 8,
        }
    }

    /// Of the accumulation dtype.
    const fn acc_bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            _ => 4,
        }
    }

    const fn name(self) -> &'static str {
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
    /// That of `grad_y`; the others have the dtype of the kernel.
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
    fn aligned(&self, vector: u32, bytes: u64) -> bool {
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
    fn new(by: u32) -> Self {
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
    fn new(chunks: u32, channel_tiles: u32) -> Self {
        let shift = if channel_tiles < 8 { [0, 3, 6] } else { [0, 2, 4] };
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
    fn rows(&self, chunks: u32) -> u32 {
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

    /// `[D]`, of the gated form; null: zeros.
    pub a_bias: u64,
    /// `[N, D]`; null: zeros.
    pub initial_state: u64,
    /// `[N, D]`; null: zeros.
    pub grad_last_state: u64,
    /// Of packed sequences: `N + 1` of i64.
    pub offsets: u64,

    /// `[B, L, D]` of `y_dtype`.
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
const _: () = assert!(size_of::<Params>() == 400);
const _: () = assert!(std::mem::offset_of!(Params, length) == 312);
const _: () = assert!(std::mem::offset_of!(Params, look_back) == 376);

/// Bytes before the first packet of a workspace.
const WORKSPACE_HEADER: u64 = 128;

impl Params {
    /// The number of tiles, each of which one block computes.
    pub fn tiles(&self) -> u32 {
        self.batch * self.channel_tiles * self.chunks
    }
}

/// What a device has for a launch.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub processors: u32,
    /// The most shared memory of a block.
    pub shared_bytes: u32,
}

/// The kernels of one form, direction, dtype and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    form: Form,
    direction: Direction,
    dtype: Code,
    width: Width,
    tile: Tile,
    /// Steps between saved states.
    saved_len: u32,
}

impl Kernel {
    /// The kernels that read tensors of `dtype`, of so many sequences and channels.
    pub fn new(form: Form, direction: Direction, dtype: DType, batch: usize, channels: usize) -> Result<Self> {
        let code = Code::of(dtype)?;
        let width = |direction| Width::of(form, direction, code, batch, channels);
        let saved_len = Tile::of(form, Direction::Backward, code, width(Direction::Backward)).len();
        Ok(Self { saved_len, ..Self::of_width(form, direction, dtype, width(direction))? })
    }

    /// Those for tensors of one width.
    pub fn of_width(form: Form, direction: Direction, dtype: DType, width: Width) -> Result<Self> {
        let dtype = Code::of(dtype)?;
        let saved_len = Tile::of(form, Direction::Backward, dtype, width).len();
        Ok(Self { form, direction, dtype, width, tile: Tile::of(form, direction, dtype, width), saved_len })
    }

    /// The one of larger tiles that gives the same bits for tensors that are read by vectors, if there is one.
    pub fn larger(self) -> Option<Self> {
        let tile = Tile::large(self.form, self.direction, self.dtype).filter(|_| self.width == Width::Wide)?;
        Some(Self { width: Width::Large, tile, ..self })
    }

    /// The kernels compiled with another tile, where those of the backward pass have `saved_len` steps.
    #[cfg(feature = "simt")]
    pub fn with_tile(self, tile: Tile, saved_len: u32) -> Self {
        Self { tile, saved_len, ..self }
    }

    #[cfg(test)]
    pub fn width(self) -> Width {
        self.width
    }

    /// The name of form and direction in `tuning.cuh`.
    #[cfg(test)]
    pub fn scan(self) -> String {
        format!("{}{:?}", if self.form == Form::Gated { "Gated" } else { "" }, self.direction)
    }

    /// How they cut tensors.
    pub const fn tile(self) -> Tile {
        self.tile
    }

    /// The name of the file in `cuda/` that holds them.
    pub fn name(self) -> String {
        let form = if self.form == Form::Gated { "gated_" } else { "" };
        let direction = if self.direction == Direction::Forward { "forward" } else { "backward" };
        format!("{form}{direction}_{}", self.dtype.name())
    }

    /// Bytes of shared memory that a block needs: one or two tiles of every input, what it keeps of a tile, and what segments
    /// and tiles tell one another.
    pub fn shared_bytes(self, params: &Params) -> u32 {
        let Tile { segments, stages, .. } = self.tile;
        let (len, channels) = (self.tile.len(), self.tile.channels());
        let acc = self.dtype.acc_bytes() as u32;
        let backward = u32::from(self.direction == Direction::Backward);
        let inputs = self.form.inputs() + backward;
        let stages = stages * inputs * len * channels * self.dtype.bytes() as u32;
        let kept = backward * self.form.kept() * len * channels * acc;
        // of every segment, and what enters the tile; on the way back there are two of both
        let carries = (1 + backward) * acc * channels * (2 * segments + 1);
        // ticket and tag; the first and last step of each packed sequence
        let marks = 8 * if params.offsets == 0 { 1 } else { len };
        (stages.next_multiple_of(16) + kept.next_multiple_of(16) + carries + 8 + marks).next_multiple_of(16)
    }

    /// The sizes of `[B, L, D]` tensors, none of which is 0, and what follows from them; every tensor is null.
    pub fn params(self, [batch, len, channels]: [usize; 3]) -> Result<Params> {
        let tile = self.tile();
        // tickets, which count tiles and blocks, have 32 bits
        let small = |name: &str, size: u64| match u32::try_from(size) {
            Ok(size) if (1..=i32::MAX as u32).contains(&size) => Ok(size),
            _ => bail!("scan: expected {name} of 1 to 2^31 - 1, got {size} from [{batch}, {len}, {channels}]"),
        };
        let batch = small("a batch", batch as u64)?;
        let channels = small("channels", channels as u64)?;
        let chunks = small("chunks of time", (len as u64).div_ceil(tile.len().into()))?;
        let channel_tiles = channels.div_ceil(tile.channels());
        let columns = small("tiles", u64::from(batch) * u64::from(channel_tiles))?;
        small("tiles", u64::from(columns) * u64::from(chunks))?;
        Ok(self.cut_channels(Params {
            grad_y: Operand { dtype: self.dtype as u32, ..Operand::default() },
            length: len as i64,
            gradient_stride: channels.into(),
            batch,
            channels,
            sequences: batch,
            y_dtype: self.dtype as u32,
            saved_shift: self.saved_len.trailing_zeros(),
            chunks,
            look_back: LookBackPlan::new(chunks, channel_tiles),
            ..Params::default()
        }))
    }

    /// Cuts the channels for these kernels, and leaves how carries are combined.
    pub(super) fn cut_channels(self, params: Params) -> Params {
        let channel_tiles = params.channels.div_ceil(self.tile.channels());
        Params {
            channel_tiles,
            by_columns: Divisor::new(params.batch * channel_tiles),
            by_channel_tiles: Divisor::new(channel_tiles),
            ..params
        }
    }

    /// The kernel that computes these arguments fastest, with its parameters: this one, or the larger one where a device
    /// has the room for it.
    pub fn or_larger(self, larger: Option<Self>, params: Params, device: Room) -> (Self, Params) {
        let fits = |large: &Self| {
            let tiles = large.cut_channels(params).tiles();
            // a device that large tiles do not keep busy is faster with small ones
            tiles / 4 >= device.processors
                && large.shared_bytes(&params) <= device.shared_bytes
                && params.offsets == 0
                && large.vectorised(&params)
        };
        match larger.filter(fits) {
            Some(large) => (large, large.cut_channels(params)),
            None => (self, params),
        }
    }

    /// Saved states per batch element of `len` steps: one before each tile of the backward pass.
    pub fn saved_rows(self, len: usize) -> usize {
        len.div_ceil(self.saved_len as usize)
    }

    /// Bytes of the workspace of a launch: two words with a tag each per column of a row, and twice that for f64.
    pub fn workspace_bytes(self, params: &Params) -> u64 {
        let columns = u64::from(params.batch) * u64::from(params.channel_tiles) * u64::from(self.tile().channels());
        WORKSPACE_HEADER + u64::from(params.look_back.rows(params.chunks)) * columns * 4 * self.dtype.acc_bytes()
    }

    /// What the names of their entry points begin with.
    pub fn entries(self) -> String {
        let width = match self.width {
            Width::Wide => "",
            Width::Narrow => "_narrow",
            Width::Large => "_large",
        };
        format!("quick_ssm_{}{width}", self.name())
    }

    /// The entry point for these arguments; all give the same bits.
    pub fn entry(self, params: &Params) -> String {
        let access = if self.vectorised(params) { "vector" } else { "element" };
        let packed = if params.offsets != 0 { "_packed" } else { "" };
        format!("{}_{access}{packed}", self.entries())
    }

    /// Elements that `_vector` kernels copy at once: 16 bytes, or all of a smaller tile's row.
    pub fn access(self) -> u32 {
        self.tile().channels().min(16 / self.dtype.bytes() as u32)
    }

    /// Whether every row of every tensor can be accessed by vectors.
    fn vectorised(self, p: &Params) -> bool {
        let (access, bytes) = (self.access(), self.dtype.bytes());
        // a grad_y of another dtype is read by elements
        let grad_y = (p.grad_y.dtype == self.dtype as u32).then_some(&p.grad_y);
        let written = [p.y, p.last_state, p.saved_states, p.dx, p.da, p.db, p.dc, p.dcb, p.dh0];
        p.channels.is_multiple_of(access)
            && [&p.x, &p.a, &p.b, &p.c, &p.cb].into_iter().chain(grad_y).all(|t| t.aligned(access, bytes))
            && written.iter().all(|address| address.is_multiple_of(u64::from(access) * bytes))
    }
}

#[cfg(test)]
mod tests;
