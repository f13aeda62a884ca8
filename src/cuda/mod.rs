//! The scan by the kernels of `cuda/`: one launch forward, and one backward, after which the gradient of a bias is summed up
//! from those of the tiles.
//!
//! The [`passes`] read their arguments in place, wherever tensors and kernels live; [`Queue`] is a CUDA device.

mod arguments;
#[cfg(feature = "cuda")]
mod device;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod kernel;
#[cfg(feature = "cuda")]
mod module;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod params;
pub(crate) mod passes;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod tile;
#[cfg(feature = "cuda")]
mod workspace;

#[cfg(feature = "cuda")]
pub(crate) use device::Queue;
