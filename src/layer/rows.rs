//! The layer's operations on rows, `[M, H]`: by the kernels of the CPU, or from candle's operations on another device.

mod composed;

use candle_core::backend::BackendStorage;
use candle_core::{DType, Device, Layout, Result, Storage, Tensor};

use super::weights::Dtypes;
use crate::cpu::rows as cpu;
#[cfg(feature = "cuda")]
use crate::cuda::{passes::sum_of_rows, Queue};
use crate::problem::accumulation_dtype;

/// The norm of rows, or the rows themselves where it has no weight; in the dtype of the products.
pub(super) fn norm(xs: &Tensor, weight: Option<&Tensor>, eps: f64, dtypes: Dtypes) -> Result<Tensor> {
    let Some(weight) = weight else { return xs.to_dtype(dtypes.compute) };
    match xs.device() {
        Device::Cpu => {
            let (first, second) = pair(xs.dtype(), dtypes.compute);
            cpu::rms_norm(&xs.to_dtype(first)?, weight, eps, second)?
        }
        _ => composed::norm(xs, weight, eps)?,
    }
    .to_dtype(dtypes.compute)
}

/// The gradients of [`norm`] with respect to `xs`, with that of the `residual` added, and to `weight`, as far as they are
/// `wanted`, from `grad`.
pub(super) fn norm_backward(
    xs: &Tensor,
    weight: Option<&Tensor>,
    eps: f64,
    grad: &Tensor,
    residual: Option<&Tensor>,
    wanted: (bool, bool),
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let dtype = xs.dtype();
    let Some(weight) = weight else {
        let dx = grad.to_dtype(dtype)?;
        let dx = residual.map_or_else(|| Ok(dx.clone()), |r| &dx + r)?;
        return Ok((wanted.0.then_some(dx), None));
    };
    let (dx, dw) = match xs.device() {
        Device::Cpu => {
            let (first, second) = pair(dtype, grad.dtype());
            let (xs, grad) = (xs.to_dtype(first)?, grad.to_dtype(second)?);
            let residual = residual.map(|r| r.to_dtype(first)).transpose()?;
            cpu::rms_norm_backward(&xs, weight, eps, &grad, residual.as_ref(), wanted)?
        }
        _ => composed::norm_backward(xs, weight, eps, grad, residual, wanted)?,
    };
    Ok((dx.map(|dx| dx.to_dtype(dtype)).transpose()?, dw))
}

/// `ys + bias + residual` in `dtype`.
pub(super) fn add(ys: &Tensor, bias: &Tensor, residual: Option<&Tensor>, dtype: DType) -> Result<Storage> {
    let Device::Cpu = ys.device() else {
        let sum = composed::add(ys, bias, residual)?.to_dtype(dtype)?;
        let (storage, layout) = sum.storage_and_layout();
        return storage.try_clone(layout);
    };
    let (first, second) = pair(dtype, ys.dtype());
    let residual = residual.map(|r| r.to_dtype(first)).transpose()?;
    Ok(match cpu::add(&ys.to_dtype(second)?, bias, residual.as_ref(), first)? {
        Storage::Cpu(sum) if first != dtype => Storage::Cpu(sum.to_dtype(&Layout::contiguous(ys.shape()), dtype)?),
        sum => sum,
    })
}

/// The sum of rows, in the accumulation dtype.
pub(super) fn sum(t: &Tensor) -> Result<Tensor> {
    match t.device() {
        Device::Cpu => cpu::sum(t),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => sum_of_rows(&Queue::new(device), t, accumulation_dtype(t.dtype())),
        _ => t.to_dtype(accumulation_dtype(t.dtype()))?.sum(0),
    }
}

/// The dtypes in which the CPU computes on rows of two: f64 is not mixed with others.
fn pair(first: DType, second: DType) -> (DType, DType) {
    match first == DType::F64 || second == DType::F64 {
        true => (DType::F64, DType::F64),
        false => (first, second),
    }
}
