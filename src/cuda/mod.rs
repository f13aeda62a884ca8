//! The scan on a CUDA device.

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod params;
pub(crate) mod pass;
