//! A CUDA device: its memory, and the launches on candle's stream.

use std::sync::Arc;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{bail, CudaDevice, DType, Result, Shape, Storage};

use super::params::{Direction, Kernel, Params};
use super::passes::Machine;
use super::{module, workspace};

// SAFETY: `Params` is the struct that the kernels take by value: of plain numbers, with the layout of C, without padding.
unsafe impl DeviceRepr for Params {}

/// Whether a launch has no more blocks than the card holds at a time, which compute tile after tile, or one per tile.
const PERSISTENT: bool = true;

/// A device and its stream.
pub(crate) struct Cuda<'a> {
    device: &'a CudaDevice,
    stream: Arc<CudaStream>,
}

impl<'a> Cuda<'a> {
    pub fn new(device: &'a CudaDevice) -> Self {
        Self { device, stream: device.cuda_stream() }
    }

    /// The number of blocks of a launch; any number gives the same bits.
    fn blocks(&self, function: &CudaFunction, kernel: Kernel, params: &Params) -> Result<u32> {
        if !PERSISTENT {
            return Ok(params.tiles());
        }
        let processors = self.stream.context().attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).w()?;
        let resident = function.occupancy_max_active_blocks_per_multiprocessor(kernel.tile().threads(), 0, None).w()?;
        Ok(params.tiles().min(resident * processors.unsigned_abs()).max(1))
    }
}

/// Calls `$f` with the slice of any dtype that the kernels read or write.
macro_rules! with_slice {
    ($slice:expr, |$s:ident| $f:expr) => {
        match $slice {
            CudaStorageSlice::F32($s) => $f,
            CudaStorageSlice::F16($s) => $f,
            CudaStorageSlice::BF16($s) => $f,
            CudaStorageSlice::F64($s) => $f,
            CudaStorageSlice::I64($s) => $f,
            _ => bail!("scan: expected dtype f16, bf16, f32, f64 or i64"),
        }
    };
}

impl Machine for Cuda<'_> {
    /// Until it is dropped, other streams do not know of the launch.
    type Guard<'a>
        = SyncOnDrop<'a>
    where
        Self: 'a;

    fn kernel(&self, direction: Direction, dtype: DType) -> Result<Kernel> {
        Kernel::new(direction, dtype)
    }

    fn allocate(&self, elements: usize, dtype: DType) -> Result<Storage> {
        // the driver does not allocate nothing
        let shape = Shape::from(elements.max(1));
        // SAFETY: the kernels write all elements of the results that they are given, in the order of the stream and so
        // before anything reads them.
        Ok(Storage::Cuda(unsafe { self.device.alloc_uninit(&shape, dtype) }?))
    }

    fn address<'a>(&'a self, storage: &'a Storage) -> Result<(u64, SyncOnDrop<'a>)> {
        let Storage::Cuda(storage) = storage else { bail!("scan: expected a tensor on a CUDA device") };
        Ok(with_slice!(&storage.slice, |slice| slice.device_ptr(&self.stream)))
    }

    fn address_mut<'a>(&'a self, storage: &'a mut Storage) -> Result<(u64, SyncOnDrop<'a>)> {
        let Storage::Cuda(storage) = storage else { bail!("scan: expected a tensor on a CUDA device") };
        Ok(with_slice!(&mut storage.slice, |slice| slice.device_ptr_mut(&self.stream)))
    }

    /// Queues the kernel; the host does not wait for it.
    unsafe fn launch(&self, kernel: Kernel, mut params: Params) -> Result<()> {
        let function = module::function(self.device, kernel, &kernel.entry(&params))?;
        let (blocks, threads) = (self.blocks(&function, kernel, &params)?, kernel.tile().threads());
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        workspace::with(self.device, kernel.workspace_bytes(&params), |address| {
            params.workspace = address;
            let mut launch = self.stream.launch_builder(&function);
            launch.arg(&params);
            // SAFETY: the kernel takes `Params`; its addresses are good, says the caller, and the workspace is as large as
            // it needs and belongs to this launch until the next one of the stream.
            unsafe { launch.launch(config) }.w()?;
            Ok(())
        })
    }
}
