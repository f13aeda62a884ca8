//! The clock and the yardstick on a CUDA device.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};
use candle_core::CudaDevice;

use crate::measure::Clock;

/// Times many calls in a row by events on the device: the host queues them faster than they run.
pub struct Events {
    stream: Arc<CudaStream>,
}

/// Calls before the clock starts: the device has work and its memory pool the outputs' memory.
const LEAD: usize = 3;
const CALLS: usize = 20;

impl Events {
    pub fn new(device: &CudaDevice) -> Self {
        Self { stream: device.cuda_stream() }
    }
}

impl Clock for Events {
    fn time(&self, run: &mut dyn FnMut(usize) -> Result<()>, round: usize) -> Result<f64> {
        let first = round * (LEAD + CALLS);
        for call in 0..LEAD {
            run(first + call)?;
        }
        let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
        for call in LEAD..LEAD + CALLS {
            run(first + call)?;
        }
        let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
        end.synchronize()?;
        Ok(start.elapsed_ms(&end)? as f64 / 1e3 / CALLS as f64)
    }
}

/// Copies within the device's memory that move a given number of bytes.
pub struct Copies {
    stream: Arc<CudaStream>,
    from: CudaSlice<u8>,
    to: RefCell<CudaSlice<u8>>,
    bytes: usize,
    sets: usize,
}

impl Copies {
    /// Copies that read and write `bytes` in all, from one of `sets` places to another.
    pub fn new(device: &CudaDevice, bytes: usize, sets: usize) -> Result<Self> {
        let bytes = bytes / 2;
        let (from, to) = (device.alloc_zeros(bytes * sets)?, RefCell::new(device.alloc_zeros(bytes * sets)?));
        Ok(Self { stream: device.cuda_stream(), from, to, bytes, sets })
    }

    pub fn run(&self, call: usize) -> Result<()> {
        let start = call % self.sets * self.bytes;
        let range = start..start + self.bytes;
        let mut to = self.to.borrow_mut();
        Ok(self.stream.memcpy_dtod(&self.from.slice(range.clone()), &mut to.slice_mut(range))?)
    }
}
