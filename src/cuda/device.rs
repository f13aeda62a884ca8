//! Kernels and their memory on a CUDA device.

use std::sync::Arc;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{bail, CudaDevice, CudaStorage, DType, Error, Result, Shape, Storage};

use super::kernel::{Kernel, Room};
use super::params::{Direction, Form, Params};
use super::passes::Machine;
use super::tile::Feeding;
use super::{module, workspace};

// SAFETY: `Params` is what the kernels take by value: plain numbers, in the layout of C and without padding.
unsafe impl DeviceRepr for Params {}

/// Calls `$f` with the slice of elements of a storage, of the given dtypes.
macro_rules! with_slice {
    ($storage:expr, [$($dtype:ident),*], |$slice:ident| $f:expr) => {
        match $storage {
            $(Storage::Cuda(CudaStorage { slice: CudaStorageSlice::$dtype($slice), .. }) => $f,)*
            other => bail!("scan: expected one of {:?} on a CUDA device, got {:?}", [$(DType::$dtype),*], other.dtype()),
        }
    };
}

/// The stream of a device: everything is queued there, and the host waits for nothing.
pub(crate) struct Queue<'d> {
    device: &'d CudaDevice,
    stream: Arc<CudaStream>,
}

impl<'d> Queue<'d> {
    pub fn new(device: &'d CudaDevice) -> Self {
        Self { device, stream: device.cuda_stream() }
    }

    fn room(&self) -> Result<Room> {
        let attribute = |of| Ok::<_, Error>(self.stream.context().attribute(of).w()?.unsigned_abs());
        Ok(Room {
            processors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        })
    }

    /// The number of blocks of a launch: no more than the device holds at a time, which compute tile after tile. Any
    /// number gives the same bits.
    fn blocks(function: &CudaFunction, kernel: Kernel, params: &Params, room: Room) -> Result<u32> {
        let (threads, shared_bytes) = (kernel.tile().threads(), kernel.shared_bytes(params) as usize);
        let resident = function.occupancy_max_active_blocks_per_multiprocessor(threads, shared_bytes, None).w()?;
        Ok(params.tiles().min(resident * room.processors).max(1))
    }
}

impl Machine for Queue<'_> {
    /// Tells other streams, when it is dropped, what this one has been given to do.
    type Guard<'a>
        = SyncOnDrop<'a>
    where
        Self: 'a;

    fn kernel(&self, form: Form, direction: Direction, dtype: DType, batch: usize, channels: usize) -> Result<Kernel> {
        Kernel::new(form, direction, dtype, batch, channels)
    }

    fn allocate(&self, elements: usize, dtype: DType) -> Result<Storage> {
        // not every driver allocates nothing
        let shape = Shape::from(elements.max(1));
        // SAFETY: what is allocated here is the result of a kernel, which writes all its elements, in the order of the
        // stream and so before anything reads them.
        unsafe { self.device.alloc_uninit(&shape, dtype) }.map(Storage::Cuda)
    }

    fn address<'a>(&'a self, storage: &'a Storage) -> Result<(u64, SyncOnDrop<'a>)> {
        with_slice!(storage, [F32, F16, BF16, F64, I64], |slice| Ok(slice.device_ptr(&self.stream)))
    }

    fn address_mut<'a>(&'a self, storage: &'a mut Storage) -> Result<(u64, SyncOnDrop<'a>)> {
        with_slice!(storage, [F32, F16, BF16, F64], |slice| Ok(slice.device_ptr_mut(&self.stream)))
    }

    unsafe fn launch(&self, kernel: Kernel, params: Params) -> Result<()> {
        let room = self.room()?;
        let (kernel, params) = kernel.or_larger(kernel.larger(), params, room);
        let function = module::function(self.device, &kernel.entry(&params))?;
        let shared_mem_bytes = kernel.shared_bytes(&params);
        function
            .set_attribute(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_mem_bytes.try_into().map_err(Error::wrap)?,
            )
            .w()?;
        let (blocks, threads) = (Self::blocks(&function, kernel, &params, room)?, kernel.tile().threads());
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes };
        workspace::with(self.device, kernel.workspace_bytes(&params), |workspace| {
            let params = Params { workspace, ..params };
            let mut launch = self.stream.launch_builder(&function);
            launch.arg(&params);
            // SAFETY: the kernel takes `Params`. Its addresses are good, says the caller; the workspace is as large as it
            // needs, and no launch gets it before this one has run. Blocks that wait for one another without tickets run
            // together: a cooperative launch begins when there is room for all of them.
            unsafe {
                match kernel.tile().feeding {
                    Feeding::Ahead | Feeding::Behind => launch.launch(config),
                    Feeding::InTurn => launch.launch_cooperative(config),
                }
            }
            .w()?;
            Ok(())
        })
    }
}
