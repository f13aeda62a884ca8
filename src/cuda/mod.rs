//! The scan on a CUDA device: one launch of a kernel of `cuda/` forward, and one backward.
//!
//! [`forward`] and [`backward`] read their arguments in place and queue everything on candle's stream; the host waits
//! for nothing.

#[cfg(feature = "cuda")]
mod module;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod params;
#[cfg(feature = "cuda")]
mod passes;
#[cfg(feature = "cuda")]
mod tensor;
#[cfg(feature = "cuda")]
mod workspace;

#[cfg(feature = "cuda")]
pub(crate) use passes::{backward, forward};
