//! The two passes: results, addresses and the launch.

use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::WrapErr;
use candle_core::{bail, CudaDevice, CudaStorage, Result, Storage, Tensor};

use super::params::{dtype_code, Direction, Kernel, Params};
use super::tensor::{allocate, tensor, Access, Held};
use super::{module, workspace};
use crate::backend::{Forward, Gradients, Inputs, Wanted};
use crate::problem::{Problem, Sequences};

// SAFETY: `Params` is the struct that the kernels take by value: of plain numbers, with the layout of C, without padding.
unsafe impl DeviceRepr for Params {}

/// Whether a launch has no more blocks than the card holds at a time, which compute tile after tile, or one per tile.
const PERSISTENT: bool = true;

/// The forward pass: `y`, the `last` states, and those before each tile of the backward pass (`save`).
pub(crate) fn forward(p: &Problem, inputs: &Inputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    let device = p.device.as_cuda_device()?;
    let dims = p.dims().into();
    if is_empty(dims) {
        let y = y.then(|| allocate(device, 0, p.out)).transpose()?.map(Storage::Cuda);
        let last = last.then(|| passed_on(p, device, inputs.h0.as_ref())).transpose()?;
        let last = last.map(|h| h.storage_and_layout().0.try_clone(h.layout())).transpose()?;
        return Ok(Forward { y, last, saved: None });
    }
    let kernel = Kernel::new(Direction::Forward, p.dtype)?;
    let mut params = kernel.params(dims)?;
    let arguments = Arguments::new(p, device, inputs)?;
    let results = |wanted: bool, elements: usize, dtype| wanted.then(|| allocate(device, elements, dtype)).transpose();
    let saved_dims = (p.batch, kernel.saved_rows(p.len), p.channels);
    let mut y = results(y, dims.iter().product(), p.out)?;
    let mut last = results(last, states(p), p.acc)?;
    let mut saved = results(save, saved_dims.0 * saved_dims.1 * saved_dims.2, p.acc)?;

    let stream = device.cuda_stream();
    let mut access = Access::new(&stream);
    arguments.fill(&mut params, p, &mut access)?;
    params.y_dtype = dtype_code(p.out)?;
    params.y = access.result(y.as_mut())?;
    params.last_state = access.result(last.as_mut())?;
    params.saved_states = access.result(saved.as_mut())?;
    // SAFETY: `arguments` has checked what is read, the results have the sizes and dtypes that the kernel writes, and
    // `access` lives until after the launch.
    unsafe { launch(device, kernel, params) }?;
    drop(access);
    Ok(Forward {
        y: y.map(Storage::Cuda),
        last: last.map(Storage::Cuda),
        saved: saved.map(|states| tensor(states, saved_dims)),
    })
}

/// The backward pass; without `saved` it computes the states before each of its tiles first.
pub(crate) fn backward(
    p: &Problem,
    inputs: &Inputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: Wanted,
) -> Result<Gradients> {
    let device = p.device.as_cuda_device()?;
    let dims: [usize; 3] = p.dims().into();
    let full = |wanted: bool| wanted.then(|| allocate(device, dims.iter().product(), p.dtype)).transpose();
    let like_x = |gradient: Option<CudaStorage>| gradient.map(|storage| tensor(storage, p.dims()));
    if is_empty(dims) {
        let h0 = wanted.h0.then(|| passed_on(p, device, grad_last)).transpose()?;
        let [x, a, b, c] = [wanted.x, wanted.a, wanted.b, wanted.c].map(full);
        return Ok(Gradients { x: like_x(x?), a: like_x(a?), b: like_x(b?), c: like_x(c?), h0 });
    }
    let kernel = Kernel::new(Direction::Backward, p.dtype)?;
    let mut params = kernel.params(dims)?;
    // the states within a tile have no part in the other gradients
    let need_states = wanted.a || wanted.c;
    let computed = match saved {
        None if need_states => forward(p, inputs, false, false, true)?.saved,
        _ => None,
    };
    let saved = saved.or(computed.as_ref()).filter(|_| need_states).map(Held::new);
    let (grad_y_held, grad_last) = (grad_y.map(Held::new), grad_last.map(Held::new));
    let arguments = Arguments::new(p, device, inputs)?;
    let [mut dx, mut da, mut db, mut dc] = [full(wanted.x)?, full(wanted.a)?, full(wanted.b)?, full(wanted.c)?];
    let mut dh0 = wanted.h0.then(|| allocate(device, states(p), p.acc)).transpose()?;

    let stream = device.cuda_stream();
    let mut access = Access::new(&stream);
    arguments.fill(&mut params, p, &mut access)?;
    params.grad_y = access.operand(grad_y_held.as_ref(), dims, p.out)?;
    params.grad_last_state = access.state(grad_last.as_ref(), states(p), p.acc)?;
    params.saved_states = access.state(saved.as_ref(), p.batch * kernel.saved_rows(p.len) * p.channels, p.acc)?;
    params.dx = access.result(dx.as_mut())?;
    params.da = access.result(da.as_mut())?;
    params.db = access.result(db.as_mut())?;
    params.dc = access.result(dc.as_mut())?;
    params.dh0 = access.result(dh0.as_mut())?;
    // SAFETY: `arguments` and `access` have checked what is read, the saved states that `need_states` asks for included;
    // the gradients have the sizes and dtypes that the kernel writes, and `access` lives until after the launch.
    unsafe { launch(device, kernel, params) }?;
    drop(access);
    let h0 = dh0.map(|storage| tensor(storage, p.state_dims()));
    Ok(Gradients { x: like_x(dx), a: like_x(da), b: like_x(db), c: like_x(dc), h0 })
}

/// Whether there is nothing to launch a kernel on.
fn is_empty(dims: [usize; 3]) -> bool {
    dims.contains(&0)
}

/// Elements of the states of all sequences.
fn states(p: &Problem) -> usize {
    let (sequences, channels) = p.state_dims();
    sequences * channels
}

/// What sequences without steps make of a state, or of its gradient: the same, or zeros.
fn passed_on(p: &Problem, device: &CudaDevice, state: Option<&Tensor>) -> Result<Tensor> {
    match state {
        _ if states(p) == 0 => Ok(tensor(allocate(device, 0, p.acc)?, p.state_dims())),
        Some(state) => state.force_contiguous(),
        None => Tensor::zeros(p.state_dims(), p.acc, &p.device),
    }
}

/// What both passes read.
struct Arguments<'a> {
    x: Held<'a>,
    a: Held<'a>,
    b: Held<'a>,
    c: Option<Held<'a>>,
    h0: Option<Held<'a>>,
    /// Of packed sequences, in the device's memory.
    offsets: Option<CudaSlice<i64>>,
}

impl<'a> Arguments<'a> {
    fn new(p: &Problem, device: &CudaDevice, inputs: &'a Inputs) -> Result<Self> {
        let offsets = match &p.sequences {
            Sequences::Dense => None,
            Sequences::Packed(offsets) => {
                let offsets: Vec<i64> = offsets.iter().map(|&offset| offset as i64).collect();
                Some(device.clone_htod(&offsets)?)
            }
        };
        let (c, h0) = (inputs.c.as_ref().map(Held::new), inputs.h0.as_ref().map(Held::new));
        Ok(Self { x: Held::new(&inputs.x), a: Held::new(&inputs.a), b: Held::new(&inputs.b), c, h0, offsets })
    }

    fn fill<'s>(&'s self, params: &mut Params, p: &Problem, access: &mut Access<'s>) -> Result<()> {
        let dims = p.dims().into();
        params.x = access.operand(Some(&self.x), dims, p.dtype)?;
        params.a = access.operand(Some(&self.a), dims, p.dtype)?;
        params.b = access.operand(Some(&self.b), dims, p.dtype)?;
        params.c = access.operand(self.c.as_ref(), dims, p.dtype)?;
        params.initial_state = access.state(self.h0.as_ref(), states(p), p.acc)?;
        params.offsets = self.offsets.as_ref().map_or(0, |offsets| access.slice(offsets));
        params.reverse = p.reverse.into();
        params.sequences = match u32::try_from(p.num_sequences()) {
            Ok(sequences) if sequences < i32::MAX as u32 => sequences,
            _ => bail!("cu_seqlens: expected fewer than 2^31 sequences, got {}", p.num_sequences()),
        };
        Ok(())
    }
}

/// Queues a kernel on the device's stream.
///
/// # Safety
/// The addresses in `params` must be null where the kernel allows it, or those of memory of this device that holds as many
/// elements of that dtype as the kernel reads or writes there, until it has run; only the workspace is added here.
unsafe fn launch(device: &CudaDevice, kernel: Kernel, mut params: Params) -> Result<()> {
    let function = module::function(device, kernel, &kernel.entry(&params))?;
    let stream = device.cuda_stream();
    let (blocks, threads) = (blocks(&stream, &function, kernel, &params)?, kernel.tile().threads());
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    workspace::with(device, kernel.workspace_bytes(&params), |address| {
        params.workspace = address;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&params);
        // SAFETY: the kernel takes `Params`; its addresses are good, says the caller, and the workspace is as large as it
        // needs and belongs to this launch until the next one of the stream.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    })
}

/// The number of blocks of a launch; any number gives the same bits.
fn blocks(stream: &CudaStream, function: &CudaFunction, kernel: Kernel, params: &Params) -> Result<u32> {
    if !PERSISTENT {
        return Ok(params.tiles());
    }
    let processors = stream.context().attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).w()?;
    let resident = function.occupancy_max_active_blocks_per_multiprocessor(kernel.tile().threads(), 0, None).w()?;
    Ok(params.tiles().min(resident * processors.unsigned_abs()).max(1))
}
