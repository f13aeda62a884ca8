#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod autograd;
mod backend;
mod cpu;
mod custom_op;
mod problem;
pub mod reference;
mod scan;

pub use custom_op::{apply_op4, CustomOp4};
pub use scan::{scan, Scan};
