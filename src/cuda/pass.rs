//! The forward and the backward pass: which tensors there are, and what the kernels are told of them.

use candle_core::op::BackpropOp;
use candle_core::{DType, Layout, Result, Shape, Storage, Tensor};

use super::params::{Direction, Kernel, Operand, Params};
use crate::backend::{Forward, Gradients, Inputs, Wanted};
use crate::problem::{Problem, Sequences};

/// Who holds tensors and runs kernels: a CUDA device, or the emulation of one.
pub(crate) trait Machine {
    /// The kernels for tensors of `dtype`.
    fn kernel(&self, direction: Direction, dtype: DType) -> Result<Kernel>;

    /// Memory for `count` elements, which may hold anything.
    fn allocate(&self, count: usize, dtype: DType) -> Result<Storage>;

    /// The address of the first element, for reading.
    fn address(&self, storage: &Storage) -> Result<u64>;

    /// The address of the first element, for writing.
    fn address_mut(&self, storage: &mut Storage) -> Result<u64>;

    /// Runs a kernel in a workspace of its own.
    ///
    /// # Safety
    /// `params` are those that `kernel` made for the sizes of the tensors. Every address that is not null is one of
    /// these tensors, all of whose elements can be read, or written where it is an output, until the kernel has run.
    unsafe fn launch(&self, kernel: Kernel, params: Params) -> Result<()>;
}

/// The forward pass: `y`, the `last` states, and those before each tile of the backward pass (`save`).
pub(crate) fn forward<M: Machine>(
    machine: &M,
    p: &Problem,
    inputs: &Inputs,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let elements = p.batch * p.len * p.channels;
    let mut y = y.then(|| machine.allocate(elements, p.out)).transpose()?;
    if elements == 0 {
        // no step changes the state
        let last = last.then(|| storage(&state_or_zeros(p, inputs.h0.as_ref())?)).transpose()?;
        return Ok(Forward { y, last, saved: None });
    }
    let kernel = machine.kernel(Direction::Forward, p.dtype)?;
    let saved_shape = (p.batch, kernel.saved_rows(p.len), p.channels);
    let mut last = last.then(|| machine.allocate(p.num_sequences() * p.channels, p.acc)).transpose()?;
    let mut saved = save.then(|| machine.allocate(Shape::from(saved_shape).elem_count(), p.acc)).transpose()?;
    let offsets = offsets(p)?;

    let mut params = params(machine, kernel, p, inputs, offsets.as_ref())?;
    params.y = write(machine, y.as_mut())?;
    params.last_state = write(machine, last.as_mut())?;
    params.saved_states = write(machine, saved.as_mut())?;
    // SAFETY: the inputs and outputs have the sizes in `p`, which `params` was made for, and outlive the launch.
    unsafe { machine.launch(kernel, params)? };
    Ok(Forward { y, last, saved: saved.map(|states| tensor(states, saved_shape)) })
}

/// The backward pass; without `saved` it computes the states before each tile first.
pub(crate) fn backward<M: Machine>(
    machine: &M,
    p: &Problem,
    inputs: &Inputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: Wanted,
) -> Result<Gradients> {
    let elements = p.batch * p.len * p.channels;
    let gradient = |wanted: bool| wanted.then(|| machine.allocate(elements, p.dtype)).transpose();
    let (mut dx, mut da) = (gradient(wanted.x)?, gradient(wanted.a)?);
    let (mut db, mut dc) = (gradient(wanted.b)?, gradient(wanted.c)?);
    let mut dh0 = wanted.h0.then(|| machine.allocate(p.num_sequences() * p.channels, p.acc)).transpose()?;
    if elements == 0 {
        dh0 = wanted.h0.then(|| storage(&state_or_zeros(p, grad_last)?)).transpose()?;
    } else if dx.is_some() || da.is_some() || db.is_some() || dc.is_some() || dh0.is_some() {
        let needs_states = wanted.a || wanted.c;
        let computed = match saved {
            None if needs_states => forward(machine, p, inputs, false, false, true)?.saved,
            _ => None,
        };
        let states = saved.or(computed.as_ref()).filter(|_| needs_states);
        let kernel = machine.kernel(Direction::Backward, p.dtype)?;
        let offsets = offsets(p)?;

        let mut params = params(machine, kernel, p, inputs, offsets.as_ref())?;
        params.grad_y = operand(machine, p.out, grad_y)?;
        params.grad_last_state = read(machine, grad_last)?;
        params.saved_states = read(machine, states)?;
        params.dx = write(machine, dx.as_mut())?;
        params.da = write(machine, da.as_mut())?;
        params.db = write(machine, db.as_mut())?;
        params.dc = write(machine, dc.as_mut())?;
        params.dh0 = write(machine, dh0.as_mut())?;
        // SAFETY: the inputs, saved states and gradients have the sizes in `p`, which `params` was made for, and
        // outlive the launch.
        unsafe { machine.launch(kernel, params)? };
    }
    let gradient = |storage: Option<Storage>| storage.map(|s| tensor(s, p.dims()));
    Ok(Gradients {
        x: gradient(dx),
        a: gradient(da),
        b: gradient(db),
        c: gradient(dc),
        h0: dh0.map(|s| tensor(s, p.state_dims())),
    })
}

/// What both passes are told.
fn params<M: Machine>(
    machine: &M,
    kernel: Kernel,
    p: &Problem,
    inputs: &Inputs,
    offsets: Option<&Tensor>,
) -> Result<Params> {
    let sizes = kernel.params([p.batch, p.len, p.channels])?;
    let read_operand = |t: Option<&Tensor>| operand(machine, p.dtype, t);
    Ok(Params {
        x: read_operand(Some(&inputs.x))?,
        a: read_operand(Some(&inputs.a))?,
        b: read_operand(Some(&inputs.b))?,
        c: read_operand(inputs.c.as_ref())?,
        initial_state: read(machine, inputs.h0.as_ref())?,
        offsets: read(machine, offsets)?,
        sequences: u32::try_from(p.num_sequences()).map_err(candle_core::Error::wrap)?,
        y_dtype: super::params::dtype_code(p.out)?,
        reverse: u32::from(p.reverse),
        ..sizes
    })
}

/// The offsets of packed sequences, on the device.
fn offsets(p: &Problem) -> Result<Option<Tensor>> {
    let Sequences::Packed(offsets) = &p.sequences else { return Ok(None) };
    let offsets: Vec<i64> = offsets.iter().map(|&o| o as i64).collect();
    let count = offsets.len();
    Tensor::from_vec(offsets, count, &p.device).map(Some)
}

/// A `[B, L, D]` argument; null where there is none.
fn operand<M: Machine>(machine: &M, dtype: DType, t: Option<&Tensor>) -> Result<Operand> {
    let Some(t) = t else { return Operand::new(0, [0; 3], [0; 3], dtype) };
    let (dims, strides) = (t.dims3()?, t.stride());
    let strides = [strides[0], strides[1], strides[2]];
    Operand::new(read(machine, Some(t))?, dims.into(), strides, dtype)
}

/// The address of the first element of an argument; null where there is none.
fn read<M: Machine>(machine: &M, t: Option<&Tensor>) -> Result<u64> {
    let Some(t) = t else { return Ok(0) };
    let (storage, layout) = t.storage_and_layout();
    Ok(machine.address(&storage)? + (layout.start_offset() * t.dtype().size_in_bytes()) as u64)
}

/// The address of an output; null where there is none.
fn write<M: Machine>(machine: &M, storage: Option<&mut Storage>) -> Result<u64> {
    storage.map_or(Ok(0), |storage| machine.address_mut(storage))
}

fn tensor(storage: Storage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// A copy of `state`, or zeros.
fn state_or_zeros(p: &Problem, state: Option<&Tensor>) -> Result<Tensor> {
    state.map_or_else(|| Tensor::zeros(p.state_dims(), p.acc, &p.device), |state| state.force_contiguous())
}

/// A copy of the storage of a contiguous tensor.
fn storage(t: &Tensor) -> Result<Storage> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        _ if layout.start_offset() == 0 && layout.is_contiguous() => storage.try_clone(&Layout::contiguous(t.shape())),
        _ => candle_core::bail!("scan: expected a state of its own"),
    }
}
