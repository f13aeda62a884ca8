//! The layouts in which the same numbers can come.

use candle_core::{Device, Result, Tensor};

/// How an argument `[B, L, D]` lies in a larger or smaller *base* tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum View {
    Contiguous,
    /// The last batches of more of them.
    BatchSlice,
    /// The middle of a longer time.
    TimeSlice,
    /// Some of the channels of a wider projection, from an odd offset on.
    ChannelSlice,
    /// `[L, B, D]` with batch and time swapped.
    TimeMajor,
    /// `[L, B, 2 D + 1]`, sliced, with batch and time swapped.
    TimeMajorSlice,
    /// Every other channel.
    StridedChannels,
    /// `[B, D, L]` with time and channel swapped.
    ChannelMajor,
    /// `[1, L, D]` for every batch.
    BatchBroadcast,
    /// `[B, 1, D]` for every step.
    TimeBroadcast,
    /// `[B, L, 1]` for every channel.
    ChannelBroadcast,
    /// `[1, 1, D]` out of more channels: a parameter per channel.
    BatchTimeBroadcast,
    /// `[1, L, 1]`.
    BatchChannelBroadcast,
    /// `[B, 1, 1]`.
    TimeChannelBroadcast,
    /// A single number.
    Constant,
    /// What any slices, steps, transpositions and broadcasts make of a tensor.
    Strided {
        dims: [Extent; 3],
        /// Which dimension of the view is the first, second and third of the base.
        order: [usize; 3],
    },
}

/// How a dimension of a strided view lies in its base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// Places that are left out on both sides.
    pub around: [usize; 2],
    /// Places from an element to the next one; at least 1.
    pub step: usize,
    /// One place stands for all elements.
    pub broadcast: bool,
}

impl Extent {
    /// The places of the base that `size` elements are made of.
    fn places(&self, size: usize) -> usize {
        if self.broadcast {
            1
        } else {
            size
        }
    }
}

impl View {
    /// All but [`Strided`](Self::Strided).
    pub const ALL: [Self; 15] = [
        Self::Contiguous,
        Self::BatchSlice,
        Self::TimeSlice,
        Self::ChannelSlice,
        Self::TimeMajor,
        Self::TimeMajorSlice,
        Self::StridedChannels,
        Self::ChannelMajor,
        Self::BatchBroadcast,
        Self::TimeBroadcast,
        Self::ChannelBroadcast,
        Self::BatchTimeBroadcast,
        Self::BatchChannelBroadcast,
        Self::TimeChannelBroadcast,
        Self::Constant,
    ];

    /// The shape of the base of a view `[b, l, d]`.
    pub fn base_dims(self, (b, l, d): (usize, usize, usize)) -> Vec<usize> {
        match self {
            Self::Contiguous => vec![b, l, d],
            Self::BatchSlice => vec![b + 2, l, d],
            Self::TimeSlice => vec![b, l + 3, d],
            Self::ChannelSlice => vec![b, l, d + 4],
            Self::TimeMajor => vec![l, b, d],
            Self::TimeMajorSlice => vec![l, b, 2 * d + 1],
            Self::StridedChannels => vec![b, l, d, 2],
            Self::ChannelMajor => vec![b, d, l],
            Self::BatchBroadcast => vec![1, l, d],
            Self::TimeBroadcast => vec![b, 1, d],
            Self::ChannelBroadcast => vec![b, l, 1],
            Self::BatchTimeBroadcast => vec![1, 1, d + 4],
            Self::BatchChannelBroadcast => vec![1, l, 1],
            Self::TimeChannelBroadcast => vec![b, 1, 1],
            Self::Constant => vec![1, 1, 1],
            Self::Strided { dims, order } => {
                let size = |n: usize| dims[n].around[0] + dims[n].places([b, l, d][n]) + dims[n].around[1];
                order.into_iter().flat_map(|n| [size(n), dims[n].step]).collect()
            }
        }
    }

    /// The view `[b, l, d]` of its base.
    pub fn of(self, base: &Tensor, (b, l, d): (usize, usize, usize)) -> Result<Tensor> {
        match self {
            Self::Contiguous => Ok(base.clone()),
            Self::BatchSlice => base.narrow(0, 2, b),
            Self::TimeSlice => base.narrow(1, 1, l),
            Self::ChannelSlice => base.narrow(2, 3, d),
            Self::TimeMajor => base.transpose(0, 1),
            Self::TimeMajorSlice => base.narrow(2, d, d)?.transpose(0, 1),
            Self::StridedChannels => base.narrow(3, 1, 1)?.squeeze(3),
            Self::ChannelMajor => base.transpose(1, 2),
            Self::BatchTimeBroadcast => base.narrow(2, 3, d)?.broadcast_as((b, l, d)),
            Self::Strided { dims, order } => {
                let (mut view, mut places) = (base.clone(), [0; 3]);
                // from the last one on, as each step takes a dimension away
                for (at, n) in order.into_iter().enumerate().rev() {
                    let Extent { around: [before, _], step, .. } = dims[n];
                    view = view.narrow(2 * at, before, dims[n].places([b, l, d][n]))?;
                    view = view.narrow(2 * at + 1, step - 1, 1)?.squeeze(2 * at + 1)?;
                    places[n] = at;
                }
                view.permute(places)?.broadcast_as((b, l, d))
            }
            _ => base.broadcast_as((b, l, d)),
        }
    }

    /// Whether elements of the base stand for several of the view.
    pub fn broadcasts(self) -> bool {
        use View::*;
        if let Strided { dims, .. } = self {
            return dims.iter().any(|extent| extent.broadcast);
        }
        matches!(
            self,
            BatchBroadcast
                | TimeBroadcast
                | ChannelBroadcast
                | BatchTimeBroadcast
                | BatchChannelBroadcast
                | TimeChannelBroadcast
                | Constant
        )
    }

    /// For every element of the view, row by row, where it lies in the base.
    pub fn index(self, dims: (usize, usize, usize)) -> Result<Vec<usize>> {
        if dims.0 * dims.1 * dims.2 == 0 {
            return Ok(vec![]);
        }
        let base_dims = self.base_dims(dims);
        let positions: Vec<u32> = (0..base_dims.iter().product::<usize>() as u32).collect();
        let base = Tensor::from_vec(positions, base_dims, &Device::Cpu)?;
        let index = self.of(&base, dims)?.flatten_all()?.to_vec1::<u32>()?;
        Ok(index.into_iter().map(|i| i as usize).collect())
    }
}
