//! The operation: its options, and its way through candle's autograd.

use std::sync::Arc;

use candle_core::{bail, DType, Result, Tensor};

use crate::autograd::{Backward, Computed};
use crate::backend::{backward, cast, forward, Given, Gradients, Inputs, Wanted};
use crate::problem::{
    accumulation_dtype, check_addressable, check_float, check_inputs, check_offsets, Problem, Sequences,
};

/// The gated linear recurrence `h_t = a_t h_{t-1} + b_t x_t`, `y_t = c_t h_t`, from a state of zeros.
///
/// All arguments and the result are `[B, L, D]` (batch, time, channel). It is [`Scan::new().apply(..)`](Scan::apply).
///
/// ```
/// use candle_core::{Device, Result, Tensor, Var};
///
/// # fn main() -> Result<()> {
/// let shape = (2, 1000, 16);
/// let t = || Var::rand(0f32, 1f32, shape, &Device::Cpu);
/// let (x, a, b, c) = (t()?, t()?, t()?, t()?);
/// let y = quick_ssm::scan(&x, &a, &b, &c)?;
/// let grads = y.sum_all()?.backward()?;
/// assert_eq!(grads.get(&a).unwrap().dims3()?, shape);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As for [`Scan::apply`].
pub fn scan(x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    Scan::new().apply(x, a, b, c)
}

/// The scan with its options.
///
/// On a CUDA device (with the feature `cuda`) a forward and a backward pass are one kernel each, queued on the stream of
/// candle's device without waiting for it; a backward pass for which none was saved computes the states with another
/// one. Besides its results a pass uses a workspace of up to 0.41 of the bytes of `x`, its channels rounded up to a
/// multiple of 64. It grows with the largest call and stays allocated: one for each stream, or for each thread where the
/// device has a stream per thread. The driver compiles a kernel when it is first called, in up to half a second, and keeps
/// what it has compiled in its cache on disk.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use quick_ssm::Scan;
///
/// # fn main() -> Result<()> {
/// // two sequences, of 3 and 5 steps, packed after one another; each has its own initial state
/// let t = || Tensor::rand(0f32, 1f32, (1, 8, 4), &Device::Cpu);
/// let h0 = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
/// let scan = Scan::new().cu_seqlens(&[0, 3, 8]).initial_state(&h0);
/// let (y, last) = scan.apply_with_state(&t()?, &t()?, &t()?, &t()?)?;
/// assert_eq!((y.dims3()?, last.dims2()?), ((1, 8, 4), (2, 4)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Scan {
    initial_state: Option<Tensor>,
    reverse: bool,
    cu_seqlens: Option<Arc<[usize]>>,
    chunk_len: Option<usize>,
    out_dtype: Option<DType>,
}

impl Scan {
    /// A scan over time from 0 to `L - 1`, from a state of zeros.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts from the state `h0`, `[B, D]` (packed sequences: `[N, D]`), of x's dtype or the accumulation dtype.
    ///
    /// The gradient flows to it.
    pub fn initial_state(mut self, h0: &Tensor) -> Self {
        self.initial_state = Some(h0.clone());
        self
    }

    /// Lets time run from `L - 1` to 0; the last state is then the one after `t = 0`.
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// Scans packed sequences: `x` is `[1, T, D]`, and sequence `n` its steps `offsets[n] .. offsets[n + 1]`.
    ///
    /// The offsets are `0 = o_0 <= .. <= o_N = T`. An empty sequence hands on its initial state.
    pub fn cu_seqlens(mut self, offsets: &[usize]) -> Self {
        self.cu_seqlens = Some(offsets.into());
        self
    }

    /// Saves a state for the backward pass every `steps` time steps; the default fits the cache.
    ///
    /// The states between are computed again. It never changes a result, only what is held between forward and
    /// backward: `L / steps` states of `D` channels for each sequence. The kernels may round it down. A CUDA device
    /// rounds it to the length of its tiles, 16 to 64 steps, which do not end where packed sequences do.
    pub fn chunk_len(mut self, steps: usize) -> Self {
        self.chunk_len = Some(steps);
        self
    }

    /// The dtype of `y`, a floating one; the default is that of `x`.
    pub fn out_dtype(mut self, dtype: DType) -> Self {
        self.out_dtype = Some(dtype);
        self
    }

    /// Computes `y`, `[B, L, D]`, of the same shape as the four arguments.
    ///
    /// The arguments have one floating dtype (f32, f64, f16 or bf16); the state is carried in the accumulation
    /// dtype, f64 for f64 and f32 for all others. Any strides will do: slices, swapped batch and time, and broadcast
    /// dimensions are read in place. The gradient flows to all arguments and the initial state; it is final, candle
    /// cannot differentiate it again.
    ///
    /// # Errors
    /// A wrong rank, shape, dtype or device, a chunk length of 0, or offsets that decrease or do not end at the
    /// length of `x`.
    pub fn apply(&self, x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
        let [y] = self.computed(x, a, b, Some(c), false)?.tensors()?;
        Ok(y)
    }

    /// Computes `y` and the last state, `[B, D]` (packed sequences: `[N, D]`) in the accumulation dtype.
    ///
    /// Both can be differentiated.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn apply_with_state(&self, x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        let [y, last] = self.computed(x, a, b, Some(c), true)?.tensors()?;
        Ok((y, last))
    }

    /// Computes the states `h`, `[B, L, D]` in the accumulation dtype, or in that of [`out_dtype`](Self::out_dtype).
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn states(&self, x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let [h] = self.computed(x, a, b, None, false)?.tensors()?;
        Ok(h)
    }

    /// Computes the gradients of `x`, `a`, `b` and `c` from that of `y`, without candle's autograd.
    ///
    /// `grad_y` has the shape and dtype of `y`. No forward pass has saved anything for it, so it first computes the
    /// states between chunks, from `x`, `a` and `b`.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn gradients(&self, x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor, grad_y: &Tensor) -> Result<[Tensor; 4]> {
        let problem = self.problem(x, a, b, Some(c))?;
        problem.check_grad_y(grad_y, x)?;
        let inputs = Inputs::new(&problem, x, a, b, Some(c), self.initial_state.as_ref())?;
        let wanted = Wanted { x: true, a: true, b: true, c: true, h0: false };
        let from = Given { saved: None, grad_y: Some(grad_y), grad_last: None };
        match backward(&problem, &inputs, from, wanted)? {
            Gradients { x: Some(x), a: Some(a), b: Some(b), c: Some(c), .. } => Ok([x, a, b, c]),
            _ => bail!("scan: a gradient is missing"),
        }
    }

    fn problem(&self, x: &Tensor, a: &Tensor, b: &Tensor, c: Option<&Tensor>) -> Result<Problem> {
        let mut args = vec![("x", x), ("a", a), ("b", b)];
        args.extend(c.map(|c| ("c", c)));
        let dims = check_inputs(&args)?;
        let out = if c.is_some() { x.dtype() } else { accumulation_dtype(x.dtype()) };
        self.problem_of("x", x, dims, out)
    }

    /// The initial state.
    pub(crate) fn h0(&self) -> Option<&Tensor> {
        self.initial_state.as_ref()
    }

    /// A scan of `B, L, D` with these options, whose first argument has been checked; `out` is the dtype of its output
    /// where none was asked for.
    pub(crate) fn problem_of(
        &self,
        name: &str,
        first: &Tensor,
        (batch, len, channels): (usize, usize, usize),
        out: DType,
    ) -> Result<Problem> {
        let sequences = match &self.cu_seqlens {
            None => Sequences::Dense,
            Some(offsets) => {
                check_offsets(offsets, name, first, (batch, len))?;
                Sequences::Packed(offsets.clone())
            }
        };
        if self.chunk_len == Some(0) {
            bail!("chunk_len: expected at least 1 time step, got 0")
        }
        let (dtype, acc) = (first.dtype(), accumulation_dtype(first.dtype()));
        let out = self.out_dtype.unwrap_or(out);
        check_float("out_dtype", out)?;
        let (device, reverse, chunk_len) = (first.device().clone(), self.reverse, self.chunk_len);
        let problem = Problem {
            batch,
            len,
            channels,
            dtype,
            acc,
            out,
            device,
            reverse,
            sequences,
            chunk_len,
            #[cfg(feature = "simt")]
            emulation: crate::simt::current(first.device()),
        };
        let (sequences, channels) = problem.state_dims();
        check_addressable(name, &[sequences, channels])?;
        if let Some(h0) = &self.initial_state {
            problem.check_state("h0", h0, name, first)?;
        }
        Ok(problem)
    }

    /// The states where there is no `c`, else `y`, and `with_state` the last state.
    pub(crate) fn computed<'a>(
        &'a self,
        x: &'a Tensor,
        a: &'a Tensor,
        b: &'a Tensor,
        c: Option<&'a Tensor>,
        with_state: bool,
    ) -> Result<Computed<'a, impl Backward>> {
        let problem = self.problem(x, a, b, c)?;
        let mut args = vec![x, a, b];
        args.extend(c);
        args.extend(self.h0());
        let tracked = args.iter().any(|t| t.track_op());
        let inputs = Inputs::new(&problem, x, a, b, c, self.h0())?;
        let mut forward = forward(&problem, &inputs, true, with_state, tracked)?;
        let saved = forward.saved.take();
        let outputs = forward.outputs(&problem);
        Ok(Computed { op: ScanOp { problem, saved, has_c: c.is_some(), with_state }, inputs: args, outputs })
    }
}

/// The backward pass of every form of the scan, with inputs `x, a, b`, `c` where there is one, and `h0` where there is one.
struct ScanOp {
    problem: Problem,
    saved: Option<Tensor>,
    has_c: bool,
    with_state: bool,
}

impl Backward for ScanOp {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn bwd(&self, inputs: &[Tensor], _res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let [x, a, b, rest @ ..] = inputs else { bail!("scan: expected at least three inputs, got {}", inputs.len()) };
        let (c, h0) = if self.has_c { (rest.first(), rest.get(1)) } else { (None, rest.first()) };
        let mut grads = grads.into_iter();
        let grad_y = grads.next().flatten();
        let grad_last = if self.with_state { grads.next().flatten() } else { None };
        let tracked = |t: Option<&Tensor>| t.is_some_and(Tensor::track_op);
        let wanted = Wanted { x: x.track_op(), a: a.track_op(), b: b.track_op(), c: tracked(c), h0: tracked(h0) };
        let arguments = Inputs::new(&self.problem, x, a, b, c, h0)?;
        let from = Given { saved: self.saved.as_ref(), grad_y: grad_y.as_ref(), grad_last: grad_last.as_ref() };
        let grads = backward(&self.problem, &arguments, from, wanted)?;
        let mut all = vec![grads.x, grads.a, grads.b];
        all.extend(c.map(|_| grads.c));
        if let Some(h0) = h0 {
            all.push(grads.h0.map(|g| cast(&g, h0.dtype())).transpose()?);
        }
        Ok(all)
    }
}
