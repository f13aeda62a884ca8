//! Tensors in a device's memory, as the kernels address them.

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::op::BackpropOp;
use candle_core::{bail, CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, StorageRef, Tensor};

use super::params::Operand;

/// Memory for `elements` elements, which are anything yet.
pub(super) fn allocate(device: &CudaDevice, elements: usize, dtype: DType) -> Result<CudaStorage> {
    // the driver does not allocate nothing
    let shape = Shape::from(elements.max(1));
    // SAFETY: the kernels write all elements of the results that they are given, in the order of the stream and so before
    // anything reads them.
    unsafe { device.alloc_uninit(&shape, dtype) }
}

/// A result as a tensor.
pub(super) fn tensor<S: Into<Shape>>(storage: CudaStorage, shape: S) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// Calls `$f` with the slice of any floating dtype.
macro_rules! with_slice {
    ($slice:expr, |$s:ident| $f:expr) => {
        match $slice {
            CudaStorageSlice::F32($s) => $f,
            CudaStorageSlice::F16($s) => $f,
            CudaStorageSlice::BF16($s) => $f,
            CudaStorageSlice::F64($s) => $f,
            _ => bail!("scan: expected dtype f16, bf16, f32 or f64"),
        }
    };
}

/// A tensor's storage, held for reading.
pub(super) struct Held<'a>(StorageRef<'a>, &'a Layout);

impl<'a> Held<'a> {
    pub fn new(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self(storage, layout)
    }

    fn storage(&self) -> Result<&CudaStorage> {
        match &*self.0 {
            Storage::Cuda(storage) => Ok(storage),
            _ => bail!("scan: expected a tensor on a CUDA device"),
        }
    }
}

/// The addresses that one launch on a stream uses.
///
/// Until it is dropped, other streams do not know of the launch: it has to live until everything is in the stream.
pub(super) struct Access<'a> {
    stream: &'a CudaStream,
    guards: Vec<SyncOnDrop<'a>>,
}

impl<'a> Access<'a> {
    pub fn new(stream: &'a CudaStream) -> Self {
        Self { stream, guards: Vec::new() }
    }

    /// A slice that is read.
    pub fn slice<T>(&mut self, slice: &'a CudaSlice<T>) -> u64 {
        let (address, guard) = slice.device_ptr(self.stream);
        self.guards.push(guard);
        address
    }

    /// The first element of a tensor that is read, which has to be of `dtype`.
    fn first(&mut self, t: &'a Held, dtype: DType) -> Result<u64> {
        let storage = t.storage()?;
        let got = t.0.dtype();
        if got != dtype {
            bail!("scan: expected dtype {dtype:?}, got {got:?}")
        }
        let address = with_slice!(&storage.slice, |slice| self.slice(slice));
        Ok(address + (t.1.start_offset() * dtype.size_in_bytes()) as u64)
    }

    /// A `[B, L, D]` tensor that is read; null for none.
    pub fn operand(&mut self, t: Option<&'a Held>, dims: [usize; 3], dtype: DType) -> Result<Operand> {
        let Some(t) = t else { return Operand::new(0, dims, [0; 3], dtype) };
        let &[batch, time, channel] = t.1.stride() else {
            bail!("scan: expected three dimensions, got {:?}", t.1.dims())
        };
        if t.1.dims() != dims {
            bail!("scan: expected shape {dims:?}, got {:?}", t.1.dims())
        }
        Operand::new(self.first(t, dtype)?, dims, [batch, time, channel], dtype)
    }

    /// Contiguous states that are read; null for none.
    pub fn state(&mut self, t: Option<&'a Held>, elements: usize, dtype: DType) -> Result<u64> {
        let Some(t) = t else { return Ok(0) };
        if !t.1.is_contiguous() || t.1.shape().elem_count() != elements {
            bail!("scan: expected {elements} contiguous elements, got {:?} with strides {:?}", t.1.dims(), t.1.stride())
        }
        self.first(t, dtype)
    }

    /// A result that is written; null for none.
    pub fn result(&mut self, storage: Option<&'a mut CudaStorage>) -> Result<u64> {
        let Some(storage) = storage else { return Ok(0) };
        let stream = self.stream;
        let (address, guard) = with_slice!(&mut storage.slice, |slice| slice.device_ptr_mut(stream));
        self.guards.push(guard);
        Ok(address)
    }
}
