#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod autograd;
mod backend;
#[doc(hidden)]
pub mod bench;
mod cpu;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod cuda;
mod custom_op;
mod gated;
pub mod guide;
mod layer;
mod problem;
pub mod reference;
mod rg_lru;
mod scan;
#[cfg(feature = "simt")]
#[doc(hidden)]
pub mod simt;

pub use custom_op::{apply_op4, CustomOp4};
pub use layer::{QuickSsm, QuickSsmConfig, QuickSsmState};
pub use rg_lru::{RgLru, RgLruConfig, RgLruState};
pub use scan::{scan, Scan};
