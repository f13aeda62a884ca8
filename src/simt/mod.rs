//! The CUDA kernels on the CPU, for the tests of this crate. It is no part of the interface.
//!
//! What [`emulate`] sets holds for the scans that the calling thread makes from then on, and for their backward passes,
//! wherever these run: tensors of the CPU take the way of CUDA tensors, up to and including the parameters of a launch.

mod ffi;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;

use candle_core::{bail, CpuStorage, DType, Device, Result, Storage};
use half::{bf16, f16};

use crate::cuda::kernel::{Kernel, Room};
use crate::cuda::params::{Direction, Form, Params};
use crate::cuda::passes::Machine;
use crate::cuda::tile::{Tile, Width};

/// Bytes of shared memory that a block may have.
const ROOM: u32 = 227 << 10;

/// Which compilation of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// That of a GPU.
    Real,
    /// Of a few steps and channels, so that small problems take every branch.
    Tiny,
}

impl Tiles {
    /// The kernels for tensors of so many sequences and channels.
    fn kernel(self, form: Form, direction: Direction, dtype: DType, batch: usize, channels: usize) -> Result<Kernel> {
        if self == Self::Real {
            return Kernel::new(form, direction, dtype, batch, channels);
        }
        let width = if channels <= 6 { Width::Narrow } else { Width::Wide };
        let kernel = Kernel::of_width(form, direction, dtype, width)?;
        let backward = Kernel::of_width(form, Direction::Backward, dtype, width)?;
        Ok(kernel.with_tile(self.tile(kernel)?, self.tile(backward)?.len()))
    }

    /// The tile that a kernel was compiled with.
    fn tile(self, kernel: Kernel) -> Result<Tile> {
        let name = kernel.entry(&Params::default());
        match ffi::describe(self as u32, &name)? {
            Some(description) => Ok(description.tile()),
            None => bail!("scan: the emulation has no kernel {name}"),
        }
    }
}

/// In which order threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Of the order.
    pub seed: u64,
    /// Blocks of a launch, and how many processors the device is taken to have: it decides where tiles are large.
    pub grid: u32,
    /// How many of them run at a time.
    pub resident: u32,
    /// Whether kernels that access tensors by elements are used where those for vectors could be.
    pub by_elements: bool,
}

impl Schedule {
    /// One of many.
    pub fn nth(n: u64) -> Self {
        // neighbours in every respect but the seed are far apart
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let pick = |shift: u32, of: [u32; 8]| of[(mixed >> shift) as usize % 8];
        let (grid, resident) = (pick(0, [1, 2, 3, 4, 5, 7, 16, 64]), pick(8, [1, 2, 3, 4, 5, 6, 7, 8]));
        Self { seed: n, grid, resident, by_elements: mixed >> 16 & 3 == 0 }
    }
}

/// How the kernels are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emulation {
    pub tiles: Tiles,
    /// `None`: another one for every launch, the same in every run of a test.
    pub schedule: Option<Schedule>,
    /// The name of a barrier that is left out.
    pub skipped_barrier: Option<&'static CStr>,
}

impl Emulation {
    /// The kernels as they are, in schedules of every kind.
    pub fn new(tiles: Tiles) -> Self {
        Self { tiles, schedule: None, skipped_barrier: None }
    }
}

thread_local! {
    static CURRENT: Cell<Option<Emulation>> = const { Cell::new(None) };
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// Has the scans of this thread computed by the kernels, as long as the result lives.
#[must_use = "it ends when this is dropped"]
pub fn emulate(emulation: Emulation) -> Emulating {
    Emulating { before: CURRENT.replace(Some(emulation)), of_this_thread: PhantomData }
}

/// See [`emulate`].
#[derive(Debug)]
pub struct Emulating {
    before: Option<Emulation>,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Emulating {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Who computes for this thread in the place of the device.
pub fn current(device: &Device) -> Option<Emulation> {
    CURRENT.get().filter(|_| device.is_cpu())
}

/// Runs the C++ test of the kernels under so many schedules, which prints what it finds; returns whether all is well.
pub fn self_test(schedules: u32) -> bool {
    ffi::self_test(schedules)
}

impl Machine for Emulation {
    type Guard<'a> = ();

    fn kernel(&self, form: Form, direction: Direction, dtype: DType, batch: usize, channels: usize) -> Result<Kernel> {
        self.tiles.kernel(form, direction, dtype, batch, channels)
    }

    fn allocate(&self, elements: usize, dtype: DType) -> Result<Storage> {
        // what a kernel does not write shows
        Ok(Storage::Cpu(match dtype {
            DType::F32 => CpuStorage::F32(vec![f32::NAN; elements]),
            DType::F16 => CpuStorage::F16(vec![f16::NAN; elements]),
            DType::BF16 => CpuStorage::BF16(vec![bf16::NAN; elements]),
            DType::F64 => CpuStorage::F64(vec![f64::NAN; elements]),
            _ => bail!("scan: expected dtype f16, bf16, f32 or f64, got {dtype:?}"),
        }))
    }

    fn address(&self, storage: &Storage) -> Result<(u64, ())> {
        let address = match storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.as_ptr() as u64,
            Storage::Cpu(CpuStorage::F16(values)) => values.as_ptr() as u64,
            Storage::Cpu(CpuStorage::BF16(values)) => values.as_ptr() as u64,
            Storage::Cpu(CpuStorage::F64(values)) => values.as_ptr() as u64,
            Storage::Cpu(CpuStorage::I64(values)) => values.as_ptr() as u64,
            _ => bail!("scan: expected floating numbers or offsets on the CPU"),
        };
        Ok((address, ()))
    }

    fn address_mut(&self, storage: &mut Storage) -> Result<(u64, ())> {
        let address = match storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.as_mut_ptr() as u64,
            Storage::Cpu(CpuStorage::F16(values)) => values.as_mut_ptr() as u64,
            Storage::Cpu(CpuStorage::BF16(values)) => values.as_mut_ptr() as u64,
            Storage::Cpu(CpuStorage::F64(values)) => values.as_mut_ptr() as u64,
            _ => bail!("scan: expected floating numbers on the CPU"),
        };
        Ok((address, ()))
    }

    unsafe fn launch(&self, kernel: Kernel, params: Params) -> Result<()> {
        let schedule = self.schedule.unwrap_or_else(|| {
            LAUNCHES.set(LAUNCHES.get() + 1);
            Schedule::nth(LAUNCHES.get())
        });
        let (kernel, params) = match kernel.larger() {
            // there is none for elements
            Some(large) if !schedule.by_elements => {
                let tile = self.tiles.tile(large)?;
                let room = Room { processors: schedule.grid, shared_bytes: ROOM };
                kernel.or_larger(Some(large.with_tile(tile, 1 << params.saved_shift)), params, room)
            }
            _ => (kernel, params),
        };
        let entry = match kernel.entry(&params) {
            entry if schedule.by_elements => entry.replace("_vector", "_element"),
            entry => entry,
        };
        let launch = ffi::Launch {
            tiles: self.tiles as u32,
            entry: &entry,
            threads: kernel.tile().threads(),
            workspace_bytes: kernel.workspace_bytes(&params),
            schedule,
            skipped_barrier: self.skipped_barrier,
        };
        // SAFETY: the caller's promise is that of `Launch::run`.
        unsafe { launch.run(params) }
    }
}
