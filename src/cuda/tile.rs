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

    /// It follows from the channels alone, for results depend on the tiles.
    pub const fn of(channels: usize) -> Self {
        if channels <= Self::NARROW {
            Self::Narrow
        } else {
            Self::Wide
        }
    }
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
            (Form::Plain, Direction::Forward, Code::F32) => (4, 4, 8, 16, 2),
            (Form::Plain, Direction::Backward, Code::F32) => (4, 2, 16, 16, 1),
            (Form::Gated, Direction::Forward, Code::F32) => (4, 4, 8, 16, 1),
            (Form::Gated, Direction::Backward, Code::F32) => (2, 2, 32, 8, 2),
            (Form::Plain, _, Code::F16 | Code::BF16) => (4, 4, 16, 16, 2),
            (Form::Gated, Direction::Forward, Code::F16 | Code::BF16) => (8, 4, 8, 16, 1),
            (Form::Gated, Direction::Backward, Code::F16 | Code::BF16) => (4, 4, 16, 8, 2),
            (Form::Gated, Direction::Backward, Code::F64) => (1, 2, 32, 8, 2),
            (_, _, Code::F64) => (1, 4, 32, 8, 2),
        };
        Self { vector, steps, lanes, segments, stages }
    }

    const fn narrow(form: Form, direction: Direction, dtype: Code) -> Self {
        let (vector, steps, lanes, segments) = match (form, direction, dtype) {
            (_, Direction::Forward, Code::F32) => (4, 4, 8, 32),
            (_, Direction::Backward, Code::F32) => (4, 4, 8, 16),
            (_, Direction::Forward, Code::F16 | Code::BF16) => (8, 8, 8, 16),
            (Form::Plain, Direction::Backward, Code::F16 | Code::BF16) => (8, 4, 8, 16),
            (Form::Gated, Direction::Backward, Code::F16 | Code::BF16) => (4, 4, 16, 16),
            (_, Direction::Forward, Code::F64) => (1, 8, 16, 16),
            (_, Direction::Backward, Code::F64) => (1, 4, 16, 16),
        };
        Self { vector, steps, lanes, segments, stages: 1 }
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

    /// The numbers after `#define QUICK_SSM_<name>` in `tuning.cuh`.
    fn tuning(name: &str) -> Vec<u32> {
        let text = include_str!("../../cuda/tuning.cuh");
        let define = format!("#define QUICK_SSM_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&define)).unwrap();
        line.split(',').map(|number| number.trim().parse().unwrap()).collect()
    }

    #[test]
    fn tiles_are_those_of_the_kernels() {
        for (form, width, prefix) in [Form::Plain, Form::Gated]
            .into_iter()
            .flat_map(|form| [(form, Width::Wide, ""), (form, Width::Narrow, "NARROW_")])
        {
            for direction in [Direction::Forward, Direction::Backward] {
                for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                    let kernel = Kernel::new(form, direction, dtype, width).unwrap();
                    let Tile { vector, steps, lanes, segments, stages } = kernel.tile();
                    let tuning = tuning(&format!("{prefix}{}", kernel.name().to_uppercase()));
                    assert_eq!(tuning[..4], [vector, steps, lanes, segments], "{kernel:?}");
                    assert_eq!(tuning[6], stages, "{kernel:?}");
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
    fn few_channels_are_narrow() {
        assert_eq!([Width::of(Width::NARROW), Width::of(Width::NARROW + 1)], [Width::Narrow, Width::Wide]);
    }
}
