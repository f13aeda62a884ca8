//! The layer's operations on rows, `[M, H]`, on the device that has them.

use candle_core::{DType, Device, Result, Storage, Tensor, D};

use super::weights::Dtypes;
use crate::cpu::rows as cpu;

/// The norm of rows, or the rows themselves where it has no weight; in the dtype of the products.
pub(super) fn norm(xs: &Tensor, weight: Option<&Tensor>, eps: f64, dtypes: Dtypes) -> Result<Tensor> {
    let Some(weight) = weight else { return xs.to_dtype(dtypes.compute) };
    match xs.device() {
        Device::Cpu => {
            let (first, second) = pair(xs.dtype(), dtypes.compute);
            cpu::rms_norm(&xs.to_dtype(first)?, weight, eps, second)?
        }
        // candle's takes the epsilon in f32
        _ if dtypes.wide == DType::F64 => unit(&xs.to_dtype(DType::F64)?, eps)?.0.broadcast_mul(weight)?,
        _ => candle_nn::ops::rms_norm(&xs.to_dtype(dtypes.wide)?, weight, eps as f32)?,
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
        return Ok((Some(residual.map_or(Ok(dx.clone()), |r| dx + r)?).filter(|_| wanted.0), None));
    };
    let (dx, dw) = match xs.device() {
        Device::Cpu => {
            let (first, second) = pair(dtype, grad.dtype());
            let (xs, grad) = (xs.to_dtype(first)?, grad.to_dtype(second)?);
            let residual = residual.map(|r| r.to_dtype(first)).transpose()?;
            cpu::rms_norm_backward(&xs, weight, eps, &grad, residual.as_ref(), wanted)?
        }
        _ => composed_norm_backward(xs, weight, eps, grad, residual, wanted)?,
    };
    Ok((dx.map(|dx| dx.to_dtype(dtype)).transpose()?, dw))
}

fn composed_norm_backward(
    xs: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    residual: Option<&Tensor>,
    (want_xs, want_weight): (bool, bool),
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let wide = weight.dtype();
    let (xs, grad) = (xs.to_dtype(wide)?, grad.to_dtype(wide)?);
    let (unit, scale) = unit(&xs, eps)?;
    let dx = || -> Result<Tensor> {
        let grad = grad.broadcast_mul(weight)?;
        let mean = (&grad * &unit)?.mean_keepdim(D::Minus1)?;
        let dx = (grad - unit.broadcast_mul(&mean)?)?.broadcast_mul(&scale)?;
        residual.map_or(Ok(dx.clone()), |r| &dx + r.to_dtype(wide)?)
    };
    let dw = || sum_by_product(&(&grad * &unit)?);
    Ok((want_xs.then(dx).transpose()?, want_weight.then(dw).transpose()?))
}

/// `x r` and `r = 1 / sqrt(mean(x^2) + eps)` of every row.
fn unit(xs: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let scale = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((xs.broadcast_mul(&scale)?, scale))
}

/// `ys + bias + residual` in `dtype`.
pub(super) fn add(ys: &Tensor, bias: &Tensor, residual: Option<&Tensor>, dtype: DType) -> Result<Storage> {
    if let Device::Cpu = ys.device() {
        let (first, second) = pair(dtype, ys.dtype());
        let residual = residual.map(|r| r.to_dtype(first)).transpose()?;
        let sum = cpu::add(&ys.to_dtype(second)?, bias, residual.as_ref(), first)?;
        if first == dtype {
            return Ok(sum);
        }
        use candle_core::backend::BackendStorage;
        return match &sum {
            Storage::Cpu(s) => Ok(Storage::Cpu(s.to_dtype(&candle_core::Layout::contiguous(ys.shape()), dtype)?)),
            _ => Ok(sum),
        };
    }
    let wide = bias.dtype();
    let sum = ys.to_dtype(wide)?.broadcast_add(bias)?;
    let sum = residual.map_or(Ok(sum.clone()), |r| &sum + r.to_dtype(wide)?)?.to_dtype(dtype)?;
    let (storage, layout) = sum.storage_and_layout();
    storage.try_clone(layout)
}

/// The sum of rows, in the accumulation dtype.
pub(super) fn sum(t: &Tensor, dtypes: Dtypes) -> Result<Tensor> {
    match t.device() {
        Device::Cpu => cpu::sum(t),
        _ => sum_by_product(&t.to_dtype(dtypes.wide)?),
    }
}

/// The sum of rows: on a GPU a product takes them in the order of memory, where candle's sum strides through it.
fn sum_by_product(t: &Tensor) -> Result<Tensor> {
    Tensor::ones((1, t.dim(0)?), t.dtype(), t.device())?.matmul(t)?.squeeze(0)
}

/// The dtypes in which the CPU computes on rows of two: f64 is not mixed with others.
fn pair(first: DType, second: DType) -> (DType, DType) {
    match first == DType::F64 || second == DType::F64 {
        true => (DType::F64, DType::F64),
        false => (first, second),
    }
}
