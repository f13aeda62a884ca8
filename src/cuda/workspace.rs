//! Memory in which the blocks of a launch tell one another their carries.
//!
//! There is one workspace per stream, in the memory of candle's device. It grows to what the largest launch needs, and
//! stays for the next one: 16 bytes (f64: 32) for each channel of a tile, and up to 0.63 of that for groups of tiles.
//! One launch at a time may use it: those of a stream run one after the other.
//!
//! The stream of candle's devices is usually the "per-thread" one: a name that stands for another stream on every thread.
//! The workspaces of such streams belong to their threads, and are freed when these end. Those of other streams go with
//! the last tensor and device on them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};
use candle_core::{CudaDevice, Error, Result};

type Workspaces = Vec<CudaSlice<u8>>;

static SHARED: Mutex<Workspaces> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Workspaces> = const { RefCell::new(Vec::new()) };
}

/// The handle that means the calling thread's stream.
const PER_THREAD: usize = 2;

/// Sizes are rounded up to this, so that slightly larger tensors find room.
const GRANULARITY: usize = 1 << 20;

/// Calls `launch` with the address of at least `bytes` bytes, which nothing else is launched on meanwhile.
pub(super) fn with<R>(device: &CudaDevice, bytes: u64, launch: impl FnOnce(u64) -> Result<R>) -> Result<R> {
    let stream = device.cuda_stream();
    let bytes = usize::try_from(bytes).map_err(Error::wrap)?;
    if stream.cu_stream() as usize == PER_THREAD {
        let own = OWN.try_with(|own| within(&mut own.borrow_mut(), device, &stream, bytes, launch));
        own.map_err(Error::wrap)?
    } else {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // nobody else can use the stream of a workspace that alone holds it
        shared.retain(|workspace| Arc::strong_count(workspace.stream()) > 1);
        within(&mut shared, device, &stream, bytes, launch)
    }
}

fn within<R>(
    workspaces: &mut Workspaces,
    device: &CudaDevice,
    stream: &Arc<CudaStream>,
    bytes: usize,
    launch: impl FnOnce(u64) -> Result<R>,
) -> Result<R> {
    let found = workspaces.iter().position(|workspace| workspace.stream() == stream);
    let mut workspace = match found.map(|index| workspaces.swap_remove(index)) {
        Some(workspace) if workspace.len() >= bytes => workspace,
        // freed and allocated in the order of the stream, after the launches that use it
        smaller => {
            drop(smaller);
            device.alloc_zeros(bytes.next_multiple_of(GRANULARITY))?
        }
    };
    let (address, written) = workspace.device_ptr_mut(stream);
    let result = launch(address);
    drop(written);
    workspaces.push(workspace);
    result
}
