//! How the kernels in `cuda/` cut tensors: the mirror of `tile.cuh` and `tuning.cuh`.

use super::params::{Code, Direction, Form};

/// The tensors that a kernel is made for, as in `tuning.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Wide,
    /// Of so few channels that most tiles in flight follow one another in time.
    Narrow,
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
        }
    }

    const fn wide(form: Form, direction: Direction, dtype: Code) -> Self {
        let (vector, steps, lanes, segments, stages) = match (form, direction, dtype) {
            (Form::Plain, Direction::Forward, Code::F32) => (4, 8, 8, 16, 1),
            (Form::Plain, Direction::Forward, Code::F16 | Code::BF16) => (4, 8, 16, 16, 1),
            (Form::Plain, Direction::Forward, Code::F64) => (2, 8, 8, 16, 1),
            (Form::Plain, Direction::Backward, Code::F32) => (2, 4, 32, 8, 2),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (4, 4, 16, 16, 2),
            (Form::Gated, Direction::Forward, Code::F32) => (4, 4, 8, 16, 2),
            (Form::Gated, Direction::Forward, Code::F16 | Code::BF16) => (4, 4, 16, 16, 2),
            (Form::Gated, Direction::Backward, Code::F32) => (2, 4, 16, 8, 2),
            (Form::Gated, Direction::Backward, Code::F16 | Code::BF16) => (4, 4, 16, 8, 1),
            (Form::Gated, Direction::Backward, Code::F64) => (1, 2, 32, 8, 2),
            (_, _, Code::F64) => (1, 4, 32, 8, 2),
        };
        Self { vector, steps, lanes, segments, stages, feeding: Feeding::Ahead }
    }

    const fn narrow(form: Form, direction: Direction, dtype: Code) -> Self {
        let (vector, steps, lanes, segments) = match (form, direction, dtype) {
            (Form::Plain, Direction::Forward, Code::F32) => (4, 8, 8, 16),
            (Form::Plain, Direction::Forward, Code::F16) => (4, 8, 16, 16),
            (_, Direction::Forward, Code::F16 | Code::BF16) => (8, 8, 8, 16),
            (Form::Plain, Direction::Forward, Code::F64) => (2, 8, 8, 16),
            (_, Direction::Backward, Code::F32) => (4, 4, 8, 16),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (8, 4, 8, 16),
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
    use crate::cuda::params::{Kernel, Params};

    const FORMS: [Form; 2] = [Form::Plain, Form::Gated];
    const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];
    const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

    /// What stands in `tuning.cuh` after a dtype, a width and a scan.
    fn tuning(of: &str) -> Vec<&'static str> {
        let text = include_str!("../../cuda/tuning.cuh");
        let start = format!("QUICK_SSM_TILE({of}, ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        line.trim_end_matches(')').split(", ").collect()
    }

    #[test]
    fn tiles_are_those_of_the_kernels() {
        for (form, width) in FORMS.into_iter().flat_map(|form| [(form, Width::Wide), (form, Width::Narrow)]) {
            for direction in DIRECTIONS {
                for (dtype, name) in DTYPES.into_iter().zip(["Float", "Half", "BFloat", "Double"]) {
                    let kernel = Kernel::of_width(form, direction, dtype, width).unwrap();
                    let Tile { vector, steps, lanes, segments, stages, feeding } = kernel.tile();
                    let gated = if form == Form::Gated { "Gated" } else { "" };
                    let tuning = tuning(&format!("{name}, k{width:?}, k{gated}{direction:?}"));
                    let numbers = [vector, steps, lanes, segments].map(|number| number.to_string());
                    assert_eq!(tuning[..4], numbers, "{kernel:?}");
                    assert_eq!(tuning[6..], [stages.to_string(), format!("k{feeding:?}")], "{kernel:?}");
                    assert!((32..=1024).contains(&kernel.tile().threads()));
                    assert!(kernel.tile().len().is_power_of_two());
                    // what a block of the smaller cards may have
                    let packed = Params { offsets: 1, ..Params::default() };
                    assert!(kernel.shared_bytes(&packed) <= 99 << 10, "{kernel:?}");
                }
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
