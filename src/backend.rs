//! What the devices implement: one forward and one backward pass, on checked arguments.

use candle_core::{bail, DType, Device, Result, Storage, Tensor};

use crate::cpu;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::cuda;
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

/// `t` itself where its channel stride is 1 or 0, else a contiguous copy.
pub(crate) fn readable(t: &Tensor) -> Result<Tensor> {
    let t = t.detach();
    match (t.dims(), t.stride()) {
        (&[_, _, channels], &[_, _, stride]) if channels > 1 && stride > 1 => t.contiguous(),
        _ => Ok(t),
    }
}

/// A state, contiguous and in the accumulation dtype.
pub(crate) fn state(problem: &Problem, h: &Tensor) -> Result<Tensor> {
    cast(&h.detach(), problem.acc)?.contiguous()
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

/// The forward pass: `y`, the `last` states, and what the backward pass needs (`save`), as asked for.
pub(crate) fn forward(p: &Problem, inputs: &Inputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    #[cfg(feature = "simt")]
    if let Some(machine) = &p.emulation {
        return cuda::forward(machine, p, inputs, y, last, save);
    }
    match &p.device {
        Device::Cpu => cpu::forward(p, inputs, y, last, save),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::forward(&cuda::Cuda::new(device), p, inputs, y, last, save),
        _ => unsupported(p),
    }
}

/// The backward pass, from the gradients of `y` and of the last states, where there are such.
///
/// Without `saved` it computes the states between chunks first.
pub(crate) fn backward(
    p: &Problem,
    inputs: &Inputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: Wanted,
) -> Result<Gradients> {
    let grad_y = grad_y.map(readable).transpose()?;
    let grad_last = grad_last.map(|g| state(p, g)).transpose()?;
    let (grad_y, grad_last) = (grad_y.as_ref(), grad_last.as_ref());
    #[cfg(feature = "simt")]
    if let Some(machine) = &p.emulation {
        return cuda::backward(machine, p, inputs, saved, grad_y, grad_last, wanted);
    }
    match &p.device {
        Device::Cpu => cpu::backward(p, inputs, saved, grad_y, grad_last, wanted),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::backward(&cuda::Cuda::new(device), p, inputs, saved, grad_y, grad_last, wanted),
        _ => unsupported(p),
    }
}

fn unsupported<T>(p: &Problem) -> Result<T> {
    let expected = match p.device {
        Device::Cuda(_) => "tensors on the CPU, without the feature cuda of quick-ssm",
        _ => "tensors on the CPU or a CUDA device",
    };
    bail!("scan: expected {expected}, got {:?}", p.device.location())
}
