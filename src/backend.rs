//! What the devices implement: one forward and one backward pass, on checked arguments.

use candle_core::{bail, DType, Device, Result, Storage, Tensor};

use crate::autograd::Output;
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::cuda::passes::{self, Terms};
use crate::problem::Problem;

/// The arguments in the form in which kernels read them: untracked; `x`, `a`, `b`, `c` `[B, L, D]` with any strides of
/// batch and time and a channel stride of 1 or 0; `h0` contiguous, in the accumulation dtype.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub x: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    /// `None` stands for ones.
    pub c: Option<Tensor>,
    /// `None` stands for zeros.
    pub h0: Option<Tensor>,
}

impl Inputs {
    pub fn new(
        problem: &Problem,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        c: Option<&Tensor>,
        h0: Option<&Tensor>,
    ) -> Result<Self> {
        Ok(Self {
            x: readable(x)?,
            a: readable(a)?,
            b: readable(b)?,
            c: c.map(readable).transpose()?,
            h0: h0.map(|h0| state(problem, h0)).transpose()?,
        })
    }
}

/// The arguments of a gated scan in the form in which kernels read them: untracked; `p` `[B, L, 5S]` with any strides of
/// batch and time and adjacent columns; `a_bias` and `h0` contiguous, `h0` in the accumulation dtype.
#[derive(Debug)]
pub(crate) struct GatedInputs {
    pub p: Tensor,
    /// `[S]`, in the dtype of `p` or the accumulation dtype; `None` stands for zeros.
    pub a_bias: Option<Tensor>,
    /// `None` stands for zeros.
    pub h0: Option<Tensor>,
}

impl GatedInputs {
    pub fn new(problem: &Problem, p: &Tensor, a_bias: Option<&Tensor>, h0: Option<&Tensor>) -> Result<Self> {
        let p = p.detach();
        let in_place = p.elem_count() == 0 || p.stride().last() == Some(&1);
        let p = if in_place { p } else { copied(&p)? };
        let a_bias = a_bias.map(contiguous).transpose()?;
        Ok(Self { p, a_bias, h0: h0.map(|h0| state(problem, h0)).transpose()? })
    }
}

/// `t` itself where its channel stride is 1 or 0, else a contiguous copy.
pub(crate) fn readable(t: &Tensor) -> Result<Tensor> {
    let t = t.detach();
    match (t.dims(), t.stride()) {
        (&[_, _, channels], &[_, _, stride]) if channels > 1 && stride > 1 => copied(&t),
        _ => Ok(t),
    }
}

/// A state, contiguous and in the accumulation dtype.
pub(crate) fn state(problem: &Problem, h: &Tensor) -> Result<Tensor> {
    cast(&contiguous(h)?, problem.acc)
}

/// `t` itself where it is contiguous, else a copy.
pub(crate) fn contiguous(t: &Tensor) -> Result<Tensor> {
    let t = t.detach();
    if t.is_contiguous() {
        Ok(t)
    } else {
        copied(&t)
    }
}

/// A contiguous copy. A broadcast tensor can have more elements than there is memory for, and where there is none candle
/// would end the process.
pub(crate) fn copied(t: &Tensor) -> Result<Tensor> {
    check_memory(t.elem_count(), t.dtype(), t.device())?;
    t.force_contiguous()
}

/// Zeros, or an error where there is no memory for them.
pub(crate) fn zeros(dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    check_memory(dims.iter().product(), dtype, device)?;
    Tensor::zeros(dims, dtype, device)
}

/// Checks that there is memory for so many elements, where that can be told beforehand.
pub(crate) fn check_memory(elements: usize, dtype: DType, device: &Device) -> Result<()> {
    match device {
        Device::Cpu => cpu::memory::<u8>(elements * dtype.size_in_bytes()).map(drop),
        _ => Ok(()),
    }
}

/// `t` in another dtype. No kernel can be launched on a tensor without elements, so that one is made anew.
pub(crate) fn cast(t: &Tensor, dtype: DType) -> Result<Tensor> {
    if t.elem_count() == 0 && t.dtype() != dtype {
        return Tensor::zeros(t.shape(), dtype, t.device());
    }
    t.to_dtype(dtype)
}

/// The outputs of a forward pass that were asked for.
#[derive(Debug)]
pub(crate) struct Forward {
    /// `[B, L, D]` in `problem.out`.
    pub y: Option<Storage>,
    /// `[N, D]` in the accumulation dtype.
    pub last: Option<Storage>,
    /// The states that the backward pass of the same device starts its chunks from, in the accumulation dtype.
    pub saved: Option<Tensor>,
}

impl Forward {
    /// The outputs with their shapes.
    pub fn outputs(self, problem: &Problem) -> Vec<Output> {
        let y = self.y.map(|y| (y, problem.dims().into()));
        let last = self.last.map(|h| (h, problem.state_dims().into()));
        y.into_iter().chain(last).collect()
    }
}

/// The gradients that are wanted; the others are not computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub x: bool,
    pub a: bool,
    pub b: bool,
    pub c: bool,
    pub h0: bool,
}

/// The gradients that were wanted: `[B, L, D]` in x's dtype, that of `h0` `[N, D]` in the accumulation dtype.
#[derive(Debug, Default)]
pub(crate) struct Gradients {
    pub x: Option<Tensor>,
    pub a: Option<Tensor>,
    pub b: Option<Tensor>,
    pub c: Option<Tensor>,
    pub h0: Option<Tensor>,
}

/// The results of a gated backward pass that are wanted; the others are not computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedWanted {
    pub p: bool,
    pub a_bias: bool,
    pub h0: bool,
    /// The output once more: a layer that has not kept it needs it for the gradients of what follows.
    pub y: bool,
}

/// What was wanted of a gated backward pass.
#[derive(Debug, Default)]
pub(crate) struct GatedGradients {
    /// `[B, L, 5S]` in p's dtype.
    pub p: Option<Tensor>,
    /// `[S]` in the dtype of `a_bias` or the accumulation dtype.
    pub a_bias: Option<Tensor>,
    /// `[N, S]` in the accumulation dtype.
    pub h0: Option<Tensor>,
    /// `[B, L, S]` in `problem.out`.
    pub y: Option<Tensor>,
}

/// Calls a pass of the device of `$p`: that of the CPU, or that of a machine for the kernels of `cuda/`.
macro_rules! on_device {
    ($p:expr, $cpu:expr, |$machine:ident| $cuda:expr) => {
        match &$p.device {
            #[cfg(feature = "simt")]
            _ if $p.emulation.is_some() => match &$p.emulation {
                Some($machine) => $cuda,
                None => unsupported($p),
            },
            Device::Cpu => $cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let $machine = &cuda::Queue::new(device);
                $cuda
            }
            _ => unsupported($p),
        }
    };
}

/// The forward pass: `y`, the `last` states, and what the backward pass needs (`save`), as asked for.
pub(crate) fn forward(p: &Problem, inputs: &Inputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    on_device!(p, cpu::forward(p, inputs, y, last, save), |machine| {
        passes::forward(machine, p, Terms::Plain(inputs), y, last, save)
    })
}

/// The forward pass of a gated scan, with the outputs of [`forward`].
pub(crate) fn forward_gated(p: &Problem, inputs: &GatedInputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    on_device!(p, cpu::forward_gated(p, inputs, y, last, save), |machine| {
        passes::forward(machine, p, Terms::Gated(inputs), y, last, save)
    })
}

/// What a backward pass starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// The states that the forward pass has saved; without them the backward pass computes them first.
    pub saved: Option<&'a Tensor>,
    /// The gradient of `y`; `None` stands for zeros.
    pub grad_y: Option<&'a Tensor>,
    /// The gradient of the last states; `None` stands for zeros.
    pub grad_last: Option<&'a Tensor>,
}

impl Given<'_> {
    /// Both gradients in the form in which kernels read them.
    fn readable(self, p: &Problem) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad_last = self.grad_last.map(|g| state(p, g)).transpose()?;
        Ok((self.grad_y.map(readable).transpose()?, grad_last))
    }
}

/// The backward pass.
pub(crate) fn backward(p: &Problem, inputs: &Inputs, from: Given, wanted: Wanted) -> Result<Gradients> {
    let (grad_y, grad_last) = from.readable(p)?;
    let from = Given { grad_y: grad_y.as_ref(), grad_last: grad_last.as_ref(), ..from };
    on_device!(p, cpu::backward(p, inputs, from, wanted), |machine| {
        passes::backward(machine, p, inputs, from, wanted)
    })
}

/// The backward pass of a gated scan, as [`backward`].
pub(crate) fn backward_gated(
    p: &Problem,
    inputs: &GatedInputs,
    from: Given,
    wanted: GatedWanted,
) -> Result<GatedGradients> {
    let (grad_y, grad_last) = from.readable(p)?;
    let from = Given { grad_y: grad_y.as_ref(), grad_last: grad_last.as_ref(), ..from };
    on_device!(p, cpu::backward_gated(p, inputs, from, wanted), |machine| {
        passes::backward_gated(machine, p, inputs, from, wanted)
    })
}

fn unsupported<T>(p: &Problem) -> Result<T> {
    let expected = match p.device {
        Device::Cuda(_) => "tensors on the CPU, without the feature cuda of quick-ssm",
        _ => "tensors on the CPU or a CUDA device",
    };
    bail!("scan: expected {expected}, got {:?}", p.device.location())
}
