//! What a pass is held against: kernels that only move its tensors.

use anyhow::{bail, Result};
use candle_core::{DType, Device, Storage, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::measure::{Clock, WallClock};
use crate::stream::Element;

/// Moves as many tensors as a pass has to: those of a set of arguments, or at each call of another number some elsewhere.
pub type Yardstick<D> = Box<dyn Fn(&D, usize) -> Result<()>>;

/// The clock and the yardstick of a device, with its name.
pub type Measure<D> = (Box<dyn Clock>, &'static str, Yardstick<D>);

/// The clock of a device.
pub fn clock(device: &Device) -> Result<Box<dyn Clock>> {
    match device {
        Device::Cpu => Ok(Box::new(WallClock)),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(Box::new(cuda::Events::new(device))),
        _ => bail!("expected the CPU or a CUDA device, got {:?}", device.location()),
    }
}

/// The kernel on the CPU, and copies of as many bytes on a CUDA device.
pub fn on<D>(
    device: &Device,
    tensors: usize,
    shape: [usize; 3],
    dtype: DType,
    num_sets: usize,
    (name, kernel): (&'static str, Yardstick<D>),
) -> Result<Measure<D>> {
    let clock = clock(device)?;
    let bytes = tensors * shape.iter().product::<usize>() * dtype.size_in_bytes();
    match device {
        Device::Cpu => Ok((clock, name, kernel)),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let copies = cuda::Copies::new(device, bytes, num_sets)?;
            Ok((clock, "copy", Box::new(move |_, call| copies.run(call))))
        }
        _ => bail!("expected the CPU or a CUDA device, got {:?}, with {num_sets} x {bytes} bytes", device.location()),
    }
}

/// Calls `f` on the values of contiguous tensors on the CPU.
pub fn with_slices<T: Element, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[T]; N])) -> Result<()> {
    let guards = tensors.map(|t| t.storage_and_layout());
    let mut slices = [&[] as &[T]; N];
    for (slice, (guard, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**guard else { bail!("expected a tensor on the CPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        *slice = &storage.as_slice()?[start..end];
    }
    f(slices);
    Ok(())
}
