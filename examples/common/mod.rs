//! What the examples have in common.
#![allow(dead_code)] // every example uses a part

pub mod adamw;
pub mod checkpoint;
pub mod griffin;
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

/// Leaves the cores to rayon, for the products and scans. To be called before anything else.
///
/// candle's threads for element-wise operations wait for one another in a busy loop: on the same few cores each such
/// operation then takes as long as the scheduler lets another thread run.
///
/// Without `RAYON_NUM_THREADS`, candle reads the processor's description from the operating system in every matrix product to
/// count the cores, which takes several times as long as the rest of a small step: here they are counted once.
pub fn share_cores() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        std::env::set_var("CANDLE_NUM_THREADS", "1");
    }
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        std::env::set_var("RAYON_NUM_THREADS", candle_core::utils::get_num_threads().to_string());
    }
}
