//! What the examples have in common.
#![allow(dead_code)] // every example uses a part

pub mod model;
pub mod report;
pub mod train;

use candle_core::{Device, Result};

/// The first GPU where candle was built for one and there is one, else the CPU.
pub fn device(cpu: bool) -> Result<Device> {
    match cpu {
        true => Ok(Device::Cpu),
        false => Device::cuda_if_available(0),
    }
}
