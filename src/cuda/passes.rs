//! The passes of both forms: results, addresses and the launch.

use candle_core::op::BackpropOp;
use candle_core::{DType, Result, Shape, Storage, Tensor};

use super::arguments::{Access, Arguments, Held};
use super::kernel::Kernel;
use super::params::{dtype_code, Direction, Form, Params};
use crate::backend::{readable, Forward, GatedGradients, GatedInputs, GatedWanted, Given, Gradients, Inputs, Wanted};
use crate::gated::PARTS;
use crate::problem::{accumulation_dtype, Problem, Sequences};

/// Who holds tensors and runs kernels: a CUDA device, or the emulation of one.
pub(crate) trait Machine {
    /// Lives until everything that uses an address has been launched.
    type Guard<'a>
    where
        Self: 'a;

    /// The kernels for tensors of `dtype`, of so many sequences and channels.
    fn kernel(&self, form: Form, direction: Direction, dtype: DType, batch: usize, channels: usize) -> Result<Kernel>;

    /// Memory for `elements` elements, which are anything yet.
    fn allocate(&self, elements: usize, dtype: DType) -> Result<Storage>;

    /// The address of what is read: of floating numbers, or of offsets in i64.
    fn address<'a>(&'a self, storage: &'a Storage) -> Result<(u64, Self::Guard<'a>)>;

    /// The address of what is written, of floating numbers.
    fn address_mut<'a>(&'a self, storage: &'a mut Storage) -> Result<(u64, Self::Guard<'a>)>;

    /// Runs a kernel, or queues it.
    ///
    /// # Safety
    /// The addresses in `params` must be null where the kernel allows it, or those of memory of this machine that holds as
    /// many elements of that dtype as the kernel reads or writes there, until it has run; only the workspace is added
    /// here.
    unsafe fn launch(&self, kernel: Kernel, params: Params) -> Result<()>;
}

/// The arguments of a scan of either form.
#[derive(Clone, Copy)]
pub(crate) enum Terms<'a> {
    Plain(&'a Inputs),
    Gated(&'a GatedInputs),
}

impl<'a> Terms<'a> {
    fn form(self) -> Form {
        match self {
            Self::Plain(_) => Form::Plain,
            Self::Gated(_) => Form::Gated,
        }
    }

    pub(super) fn h0(self) -> Option<&'a Tensor> {
        match self {
            Self::Plain(inputs) => inputs.h0.as_ref(),
            Self::Gated(inputs) => inputs.h0.as_ref(),
        }
    }
}

/// The forward pass: `y`, the `last` states, and those before each tile of the backward pass (`save`).
pub(crate) fn forward<M: Machine>(
    machine: &M,
    p: &Problem,
    terms: Terms,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let dims: [usize; 3] = p.dims().into();
    let results = |wanted: bool, elements: usize, dtype| wanted.then(|| machine.allocate(elements, dtype)).transpose();
    if is_empty(dims) {
        let last = last.then(|| passed_on(machine, p, terms.h0())).transpose()?;
        let last = last.map(|h| h.storage_and_layout().0.try_clone(h.layout())).transpose()?;
        return Ok(Forward { y: results(y, 0, p.out)?, last, saved: None });
    }
    let kernel = machine.kernel(terms.form(), Direction::Forward, p.dtype, p.batch, p.channels)?;
    let mut params = kernel.params(dims)?;
    let saved_dims = (p.batch, kernel.saved_rows(p.len), p.channels);
    let mut y = results(y, dims.iter().product(), p.out)?;
    let mut last = results(last, states(p), p.acc)?;
    let mut saved = results(save, saved_dims.0 * saved_dims.1 * saved_dims.2, p.acc)?;

    let offsets = offsets(p)?;
    let arguments = Arguments::new(terms, offsets.as_ref());
    let mut access = Access::new(machine);
    arguments.fill(&mut params, p, &mut access)?;
    params.y_dtype = dtype_code(p.out)?;
    params.y = access.result(y.as_mut())?;
    params.last_state = access.result(last.as_mut())?;
    params.saved_states = access.result(saved.as_mut())?;
    // SAFETY: `access` has checked what is read and lives until after the launch, and the results have the sizes and dtypes
    // that the kernel writes.
    unsafe { machine.launch(kernel, params) }?;
    drop(access);
    Ok(Forward { y, last, saved: saved.map(|states| tensor(states, saved_dims)) })
}

/// The backward pass; without `saved` it computes the states before each of its tiles first.
pub(crate) fn backward<M: Machine>(
    machine: &M,
    p: &Problem,
    inputs: &Inputs,
    from: Given,
    wanted: Wanted,
) -> Result<Gradients> {
    let full = |wanted: bool| wanted.then(|| machine.allocate(p.batch * p.len * p.channels, p.dtype)).transpose();
    let like_x = |gradient: Option<Storage>| gradient.map(|storage| tensor(storage, p.dims()));
    if is_empty(p.dims().into()) {
        let like_x = |wanted: bool| full(wanted).map(like_x);
        let (x, a, b, c) = (like_x(wanted.x)?, like_x(wanted.a)?, like_x(wanted.b)?, like_x(wanted.c)?);
        return Ok(Gradients { x, a, b, c, h0: from.passed_on(machine, p, wanted.h0)? });
    }
    let mut launch = BackwardLaunch::new(machine, p, Terms::Plain(inputs), wanted.h0)?;
    let [mut dx, mut da, mut db, mut dc] = [full(wanted.x)?, full(wanted.a)?, full(wanted.b)?, full(wanted.c)?];
    // the states within a tile have no part in the other gradients
    let need_states = wanted.a || wanted.c;
    let (params, mut access) = (&mut launch.params, Access::new(machine));
    params.dx = access.result(dx.as_mut())?;
    params.da = access.result(da.as_mut())?;
    params.db = access.result(db.as_mut())?;
    params.dc = access.result(dc.as_mut())?;
    // SAFETY: the gradients have the size and dtype that the kernel writes, and `access` lives until after the launch.
    let h0 = unsafe { launch.run(from, need_states) }?;
    drop(access);
    Ok(Gradients { x: like_x(dx), a: like_x(da), b: like_x(db), c: like_x(dc), h0 })
}

/// The backward pass of a gated scan, as [`backward`].
pub(crate) fn backward_gated<M: Machine>(
    machine: &M,
    p: &Problem,
    inputs: &GatedInputs,
    from: Given,
    wanted: GatedWanted,
) -> Result<GatedGradients> {
    let (rows, columns) = (p.batch * p.len, PARTS * p.channels);
    let results = |wanted: bool, elements: usize, dtype| wanted.then(|| machine.allocate(elements, dtype)).transpose();
    let mut dp = results(wanted.p, rows * columns, p.dtype)?;
    let mut y = results(wanted.y, rows * p.channels, p.out)?;
    let (d_bias, h0) = if is_empty(p.dims().into()) {
        let d_bias = wanted.a_bias.then(|| Tensor::zeros(p.channels, p.acc, &p.device)).transpose()?;
        (d_bias, from.passed_on(machine, p, wanted.h0)?)
    } else {
        let mut launch = BackwardLaunch::new(machine, p, Terms::Gated(inputs), wanted.h0)?;
        let tiles = p.batch * launch.params.chunks as usize;
        let mut d_bias = results(wanted.a_bias, tiles * p.channels, p.acc)?;
        let need_states = wanted.p || wanted.a_bias || wanted.y;
        let (params, mut access) = (&mut launch.params, Access::new(machine));
        let first = access.result(dp.as_mut())?;
        let part = |n: usize| if first == 0 { 0 } else { first + (n * p.channels * p.dtype.size_in_bytes()) as u64 };
        [params.da, params.db, params.dx, params.dc, params.dcb] = std::array::from_fn(part);
        params.gradient_stride = columns as i64;
        params.d_bias = access.result(d_bias.as_mut())?;
        params.y_dtype = dtype_code(p.out)?;
        params.y = access.result(y.as_mut())?;
        // SAFETY: the gradients have the sizes and dtypes that the kernel writes, those of `p` in rows of `columns`, and
        // `access` lives until after the launch.
        let h0 = unsafe { launch.run(from, need_states) }?;
        drop(access);
        let dtype = inputs.a_bias.as_ref().map_or(p.acc, Tensor::dtype);
        let sum = |of_tiles| sum_of_rows(machine, &tensor(of_tiles, (tiles, p.channels)), dtype);
        (d_bias.map(sum).transpose()?, h0)
    };
    let y = y.map(|storage| tensor(storage, p.dims()));
    Ok(GatedGradients { p: dp.map(|storage| tensor(storage, (p.batch, p.len, columns))), a_bias: d_bias, h0, y })
}

/// The sum of the rows of `t`, `[R, D]`, in `dtype`.
pub(crate) fn sum_of_rows<M: Machine>(machine: &M, t: &Tensor, dtype: DType) -> Result<Tensor> {
    let (rows, channels) = t.dims2()?;
    if rows == 0 || channels == 0 {
        return Tensor::zeros(channels, dtype, t.device());
    }
    let t = readable(&t.unsqueeze(0)?)?;
    let kernel = machine.kernel(Form::Plain, Direction::Sum, t.dtype(), 1, channels)?;
    let mut params = kernel.params([1, rows, channels])?;
    let chunks = params.chunks as usize;
    // the sums of chunks are summed in turn
    let dtype_of_sums = if chunks == 1 { dtype } else { accumulation_dtype(t.dtype()) };
    let mut sums = machine.allocate(chunks * channels, dtype_of_sums)?;
    let held = Held::new(&t);
    let mut access = Access::new(machine);
    params.x = access.strided(&held, [1, rows, channels], t.dtype())?;
    params.y_dtype = dtype_code(dtype_of_sums)?;
    params.y = access.result(Some(&mut sums))?;
    // SAFETY: `access` has checked what is read and lives until after the launch, and `sums` has the size and dtype that the
    // kernel writes.
    unsafe { machine.launch(kernel, params) }?;
    drop(access);
    let sums = tensor(sums, (chunks, channels));
    if chunks == 1 {
        sums.squeeze(0)
    } else {
        sum_of_rows(machine, &sums, dtype)
    }
}

impl Given<'_> {
    /// The gradient of the initial states of sequences without steps, if `wanted`.
    fn passed_on<M: Machine>(self, machine: &M, p: &Problem, wanted: bool) -> Result<Option<Tensor>> {
        wanted.then(|| passed_on(machine, p, self.grad_last)).transpose()
    }
}

/// What the backward passes of both forms have in common.
struct BackwardLaunch<'a, M: Machine> {
    machine: &'a M,
    p: &'a Problem,
    terms: Terms<'a>,
    kernel: Kernel,
    params: Params,
    dh0: Option<Storage>,
}

impl<'a, M: Machine> BackwardLaunch<'a, M> {
    /// Checks the number of elements, which has its limit.
    fn new(machine: &'a M, p: &'a Problem, terms: Terms<'a>, dh0: bool) -> Result<Self> {
        let kernel = machine.kernel(terms.form(), Direction::Backward, p.dtype, p.batch, p.channels)?;
        let params = kernel.params(p.dims().into())?;
        let dh0 = dh0.then(|| machine.allocate(states(p), p.acc)).transpose()?;
        Ok(Self { machine, p, terms, kernel, params, dh0 })
    }

    /// Launches the kernel, and returns the gradient of the initial states.
    ///
    /// # Safety
    /// The addresses of the other gradients in `params` must be null, or those of memory of this machine that holds what the
    /// kernel writes there, until it has run; where it computes them from states, `need_states` must be set.
    unsafe fn run(self, from: Given, need_states: bool) -> Result<Option<Tensor>> {
        let Self { machine, p, terms, kernel, mut params, mut dh0 } = self;
        let computed = match from.saved {
            None if need_states => forward(machine, p, terms, false, false, true)?.saved,
            _ => None,
        };
        let saved = from.saved.or(computed.as_ref()).filter(|_| need_states).map(Held::new);
        let (grad_y, grad_last) = (from.grad_y.map(Held::new), from.grad_last.map(Held::new));
        let offsets = offsets(p)?;
        let arguments = Arguments::new(terms, offsets.as_ref());
        let mut access = Access::new(machine);
        arguments.fill(&mut params, p, &mut access)?;
        params.grad_y = access.operand(grad_y.as_ref(), p, p.channels, p.out)?;
        params.grad_last_state = access.contiguous(grad_last.as_ref(), states(p), p.acc)?;
        let saved_states = p.batch * kernel.saved_rows(p.len) * p.channels;
        params.saved_states = access.contiguous(saved.as_ref(), saved_states, p.acc)?;
        params.dh0 = access.result(dh0.as_mut())?;
        // SAFETY: `access` has checked what is read, the saved states that `need_states` asks for included, and lives until
        // after the launch; the caller answers for what is written.
        unsafe { machine.launch(kernel, params) }?;
        drop(access);
        Ok(dh0.map(|storage| tensor(storage, p.state_dims())))
    }
}

/// Whether there is nothing to launch a kernel on.
fn is_empty(dims: [usize; 3]) -> bool {
    dims.contains(&0)
}

/// Elements of the states of all sequences.
pub(super) fn states(p: &Problem) -> usize {
    let (sequences, channels) = p.state_dims();
    sequences * channels
}

/// What sequences without steps make of a state, or of its gradient: the same, or zeros.
fn passed_on<M: Machine>(machine: &M, p: &Problem, state: Option<&Tensor>) -> Result<Tensor> {
    match state {
        _ if states(p) == 0 => Ok(tensor(machine.allocate(0, p.acc)?, p.state_dims())),
        Some(state) => state.force_contiguous(),
        None => Tensor::zeros(p.state_dims(), p.acc, &p.device),
    }
}

/// The offsets of packed sequences, in the device's memory.
fn offsets(p: &Problem) -> Result<Option<Tensor>> {
    let Sequences::Packed(offsets) = &p.sequences else { return Ok(None) };
    let offsets: Vec<i64> = offsets.iter().map(|&offset| offset as i64).collect();
    let count = offsets.len();
    Tensor::from_vec(offsets, count, &p.device).map(Some)
}

/// A result as a tensor.
fn tensor<S: Into<Shape>>(storage: Storage, shape: S) -> Tensor {
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}
