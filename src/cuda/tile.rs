//! How the kernels in `cuda/` cut tensors: the mirror of `tile.cuh` and `tuning.cuh`.

use super::params::{Code, Direction, Form};

/// The tensors that a kernel is made for, as in `tile.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Wide,
    /// Of so few channels that most tiles in flight follow one another in time.
    Narrow,
    /// Wide ones, on cards whose blocks may have the shared memory.
    Large,
}

impl Width {
    /// The most channels of a narrow tensor.
    pub const NARROW: usize = 512;
    /// The most channels, of all sequences together, for which the tiles of narrow tensors are faster.
    const NARROW_TOGETHER: usize = 4096;

    /// That of a tensor, for one kind of kernels.
    ///
    /// It follows from the channels alone, for results depend on the tiles, and a sequence has the same in every batch. Only
    /// where the tiles of both widths give the same bits does the batch count as well.
    pub(super) fn of(form: Form, direction: Direction, dtype: Code, batch: usize, channels: usize) -> Self {
        let alike = Tile::wide(form, direction, dtype).cuts_as(Tile::narrow(form, direction, dtype));
        let narrow =
            if alike { batch.saturating_mul(channels) <= Self::NARROW_TOGETHER } else { channels <= Self::NARROW };
        if narrow {
            Self::Narrow
        } else {
            Self::Wide
        }
    }
}

/// How a block comes by its tiles and their inputs, as `feed.cuh` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    Ahead,
    /// Without tickets, so that all blocks of a launch have to run at the same time.
    InTurn,
    Behind,
}

/// How a kernel cuts a tensor, in the numbers of `tuning.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Channels per thread.
    pub vector: u32,
    /// Time steps per thread.
    pub steps: u32,
    /// Threads side by side along the channels.
    pub lanes: u32,
    /// Rows of threads along time.
    pub segments: u32,
    /// Tiles of its inputs that a block has in shared memory.
    pub stages: u32,
    pub feeding: Feeding,
}

impl Tile {
    /// The tile of each kernel.
    pub(super) const fn of(form: Form, direction: Direction, dtype: Code, width: Width) -> Self {
        match width {
            Width::Wide => Self::wide(form, direction, dtype),
            Width::Narrow => Self::narrow(form, direction, dtype),
            Width::Large => match Self::large(form, direction, dtype) {
                Some(tile) => tile,
                None => Self::wide(form, direction, dtype),
            },
        }
    }

    const fn wide(form: Form, direction: Direction, dtype: Code) -> Self {
        let (vector, steps, lanes, segments, stages) = match (form, direction, dtype) {
            (_, Direction::Sum, Code::F16 | Code::BF16) => (2, 16, 16, 64, 1),
            (_, Direction::Sum, _) => (1, 16, 16, 64, 1),
            (Form::Plain, Direction::Forward, Code::F32) => (4, 8, 8, 16, 1),
            (Form::Plain, Direction::Forward, Code::F16 | Code::BF16) => (4, 8, 16, 16, 1),
            (Form::Plain, Direction::Forward, Code::F64) => (2, 8, 8, 16, 1),
            (Form::Plain, Direction::Backward, Code::F32) => (2, 4, 32, 8, 2),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (2, 8, 32, 8, 2),
            (Form::Gated, Direction::Forward, Code::F32) => (4, 4, 8, 16, 2),
            (Form::Gated, Direction::Forward, Code::F16 | Code::BF16) => (4, 4, 16, 16, 2),
            (Form::Gated, Direction::Backward, Code::F32 | Code::F16 | Code::BF16) => (4, 4, 16, 8, 1),
            (Form::Gated, Direction::Backward, Code::F64) => (1, 2, 32, 8, 2),
            (_, _, Code::F64) => (1, 4, 32, 8, 2),
        };
        Self { vector, steps, lanes, segments, stages, feeding: Feeding::Ahead }
    }

    const fn narrow(form: Form, direction: Direction, dtype: Code) -> Self {
        let (vector, steps, lanes, segments) = match (form, direction, dtype) {
            (_, Direction::Sum, _) => return Self::wide(form, direction, dtype),
            (Form::Plain, Direction::Forward, Code::F32) => (4, 8, 8, 16),
            (Form::Plain, Direction::Forward, Code::F16) => (4, 8, 16, 16),
            (_, Direction::Forward, Code::F16 | Code::BF16) => (8, 8, 8, 16),
            (Form::Plain, Direction::Forward, Code::F64) => (2, 8, 8, 16),
            (_, Direction::Backward, Code::F32) => (4, 4, 8, 16),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (4, 8, 16, 8),
            (_, Direction::Backward, Code::F64) => (1, 4, 16, 16),
            (Form::Gated, Direction::Forward, Code::F32) => (4, 4, 8, 32),
            (Form::Gated, Direction::Forward, Code::F64) => (1, 8, 16, 16),
            (Form::Gated, Direction::Backward, Code::F16 | Code::BF16) => (4, 4, 8, 16),
        };
        let feeding = match (form, direction, dtype) {
            (Form::Plain, Direction::Forward, _) => Feeding::InTurn,
            (Form::Plain, Direction::Backward, Code::F32) => Feeding::InTurn,
            _ => Feeding::Behind,
        };
        Self { vector, steps, lanes, segments, stages: 1, feeding }
    }

    /// The one with more channels of the kernels that have one; it cuts time as that of a wide tensor does.
    pub(super) const fn large(form: Form, direction: Direction, dtype: Code) -> Option<Self> {
        let (vector, steps, lanes, segments, stages) = match (form, direction, dtype) {
            (Form::Plain, Direction::Forward, Code::F32) => (4, 8, 16, 16, 1),
            (Form::Plain, Direction::Forward, Code::F16 | Code::BF16) => (4, 8, 32, 16, 1),
            (Form::Plain, Direction::Forward, Code::F64) => (2, 8, 16, 16, 1),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (2, 8, 64, 8, 2),
            _ => return None,
        };
        Some(Self { vector, steps, lanes, segments, stages, feeding: Feeding::Ahead })
    }

    /// Whether both have the same segments of time and as many channels, and so the same roundings.
    fn cuts_as(self, other: Self) -> bool {
        let cut = |tile: Self| (tile.steps, tile.segments, tile.channels());
        cut(self) == cut(other)
    }

    /// Channels of a tile.
    pub const fn channels(self) -> u32 {
        self.lanes * self.vector
    }

    /// Time steps of a tile.
    pub const fn len(self) -> u32 {
        self.segments * self.steps
    }

    /// Threads of a block, which computes one tile at a time.
    pub const fn threads(self) -> u32 {
        self.lanes * self.segments
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::cuda::kernel::Kernel;
    use crate::cuda::params::Params;

    const FORMS: [Form; 2] = [Form::Plain, Form::Gated];
    const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];
    const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
    /// Theirs in `tuning.cuh`.
    const NAMES: [&str; 4] = ["Float", "Half", "BFloat", "Double"];

    /// What stands in `tuning.cuh` after a dtype, a width and a scan.
    fn tuning(of: &str) -> Vec<&'static str> {
        let text = include_str!("../../cuda/tuning.cuh");
        let start = format!("QUICK_SSM_TILE({of}, ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        line.trim_end_matches(')').split(", ").collect()
    }

    /// Every kernel with a tile of its own, and the name of its type in `tuning.cuh`.
    fn kernels() -> Vec<(Kernel, &'static str)> {
        let mut all = Vec::new();
        for (form, direction) in FORMS.into_iter().flat_map(|form| DIRECTIONS.map(|direction| (form, direction))) {
            for (dtype, name) in DTYPES.into_iter().zip(NAMES) {
                let [wide, narrow] =
                    [Width::Wide, Width::Narrow].map(|width| Kernel::of_width(form, direction, dtype, width).unwrap());
                all.extend([(wide, name), (narrow, name)]);
                all.extend(wide.larger().map(|large| (large, name)));
            }
        }
        let sum = |dtype| Kernel::of_width(Form::Plain, Direction::Sum, dtype, Width::Wide).unwrap();
        all.extend(DTYPES.into_iter().map(sum).zip(NAMES));
        all
    }

    #[test]
    fn tiles_are_those_of_the_kernels() {
        for (kernel, name) in kernels() {
            let Tile { vector, steps, lanes, segments, stages, feeding } = kernel.tile();
            let tuning = tuning(&format!("{name}, k{:?}, k{}", kernel.width(), kernel.scan()));
            let numbers = [vector, steps, lanes, segments].map(|number| number.to_string());
            assert_eq!(tuning[..4], numbers, "{kernel:?}");
            assert_eq!(tuning[6..], [stages.to_string(), format!("k{feeding:?}")], "{kernel:?}");
            assert!((32..=1024).contains(&kernel.tile().threads()));
            assert!(kernel.tile().len().is_power_of_two());
            // what a block may have: of the smaller cards, or of those that have the most
            let packed = Params { offsets: 1, ..Params::default() };
            let room = if kernel.width() == Width::Large { 227 } else { 99 };
            assert!(kernel.shared_bytes(&packed) <= room << 10, "{kernel:?}");
        }
        let lines = include_str!("../../cuda/tuning.cuh").lines().filter(|line| line.starts_with("QUICK_SSM_TILE("));
        assert_eq!(lines.count(), kernels().len());
    }

    #[test]
    fn large_tiles_change_no_bit() {
        for (kernel, _) in kernels() {
            let Some(large) = kernel.larger() else { continue };
            let (tile, larger) = (kernel.tile(), large.tile());
            assert_eq!((tile.steps, tile.segments), (larger.steps, larger.segments), "{kernel:?}");
            for [batch, len, channels] in [[1, 1, 1], [3, 5_000, 1_000], [2, 64, 4_096], [5, 129, 65_536]] {
                let params = kernel.params([batch, len, channels]).unwrap();
                let recut = large.cut_channels(params);
                let alike = Params {
                    channel_tiles: params.channel_tiles,
                    by_columns: params.by_columns,
                    by_channel_tiles: params.by_channel_tiles,
                    ..recut
                };
                assert_eq!(alike, params);
                let expected = large.params([batch, len, channels]).unwrap();
                assert_eq!(Params { look_back: expected.look_back, ..recut }, expected);
            }
        }
    }

    #[test]
    fn the_batch_counts_only_where_it_changes_no_bit() {
        let width = |form, direction, dtype, batch, channels| Width::of(form, direction, dtype, batch, channels);
        for form in FORMS {
            for direction in DIRECTIONS {
                for dtype in [Code::F32, Code::F16, Code::BF16, Code::F64] {
                    for channels in [1, 64, Width::NARROW, Width::NARROW + 1, Width::NARROW_TOGETHER + 1] {
                        let alone = Tile::of(form, direction, dtype, width(form, direction, dtype, 1, channels));
                        for batch in [2, 7, 8, 64, 5_000, usize::MAX] {
                            let tile = Tile::of(form, direction, dtype, width(form, direction, dtype, batch, channels));
                            assert!(tile.cuts_as(alone), "{form:?} {direction:?} {dtype:?} {batch} {channels}");
                        }
                    }
                }
            }
        }
        let backward = |batch, channels| width(Form::Plain, Direction::Backward, Code::F32, batch, channels);
        assert_eq!([backward(64, 512), backward(1, 513)], [Width::Narrow, Width::Wide]);
        let forward = |batch, channels| width(Form::Plain, Direction::Forward, Code::BF16, batch, channels);
        assert_eq!([forward(8, 512), forward(9, 512)], [Width::Narrow, Width::Wide]);
        assert_eq!([forward(1, 2048), forward(3, 2048)], [Width::Narrow, Width::Wide]);
    }
}
