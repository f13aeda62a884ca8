//! The scan by the kernels of `cuda/`, on a CUDA device or under their emulation: one launch forward, and one backward.
//!
//! [`forward`] and [`backward`] read their arguments in place and queue everything on candle's stream; the host waits
//! for nothing.

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod module;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod params;
mod passes;
#[cfg(feature = "cuda")]
mod workspace;

#[cfg(feature = "cuda")]
pub(crate) use device::Cuda;
#[cfg(feature = "simt")]
pub(crate) use passes::Machine;
pub(crate) use passes::{backward, forward};
