//! The kernels in `cuda/`: which there are, and the rules of their entry points.
//!
//! Nothing here touches a device: the emulation of the kernels on the CPU goes by the same rules.

use candle_core::{bail, DType, Result};

use super::params::{Code, Direction, Divisor, Form, LookBackPlan, Operand, Params};
use super::tile::{Tile, Width};

/// Bytes before the first packet of a workspace.
const WORKSPACE_HEADER: u64 = 128;

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
        // a sum has no other
        let width = if direction == Direction::Sum { Width::Wide } else { width };
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
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
            Direction::Sum => "sum",
        };
        format!("{form}{direction}_{}", self.dtype.name())
    }

    /// Bytes of shared memory that a block needs: one or two tiles of every input, what it keeps of a tile, the bias that it has
    /// fetched, and what segments and tiles tell one another.
    pub fn shared_bytes(self, params: &Params) -> u32 {
        let Tile { segments, stages, .. } = self.tile;
        let (len, channels) = (self.tile.len(), self.tile.channels());
        let acc = self.dtype.acc_bytes() as u32;
        if self.direction == Direction::Sum {
            return acc * channels * segments;
        }
        let backward = u32::from(self.direction == Direction::Backward);
        let inputs = self.form.inputs() + backward;
        let stages = stages * inputs * len * channels * self.dtype.bytes() as u32;
        let kept = backward * self.form.kept() * len * channels * acc;
        let bias = u32::from(self.form == Form::Gated && self.direction == Direction::Forward) * channels * acc;
        // a carry of every segment, and a state and a carry for what enters the tile; on the way back two of every segment,
        // and the state before the tile
        let carries = acc * channels * ((1 + backward) * 2 * segments + 3 + backward);
        // ticket and tag; the first and last step of each packed sequence
        let marks = 8 * if params.offsets == 0 { 1 } else { len };
        (stages.next_multiple_of(16) + kept.next_multiple_of(16) + bias + carries + 8 + marks).next_multiple_of(16)
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
        let channel_tiles = self.channel_tiles(channels);
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

    fn channel_tiles(self, channels: u32) -> u32 {
        channels.div_ceil(self.tile.channels())
    }

    /// Cuts the channels for these kernels, and leaves how carries are combined.
    pub(super) fn cut_channels(self, params: Params) -> Params {
        let channel_tiles = self.channel_tiles(params.channels);
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
        if self.direction == Direction::Sum {
            return 0;
        }
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
        if self.direction == Direction::Sum {
            return self.entries();
        }
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
