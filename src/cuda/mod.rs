//! The scan by the kernels of `cuda/`: one launch forward, and one backward.

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod params;
pub(crate) mod passes;
