//! Operations on rows from those of candle, in the dtype of the weight or bias: f32 or f64.

use candle_core::{DType, Result, Tensor, D};

use super::sum;

/// `x w / sqrt(mean(x^2) + eps)` of every row.
pub(super) fn norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = xs.to_dtype(weight.dtype())?;
    match weight.dtype() {
        DType::F32 => candle_nn::ops::rms_norm(&xs, weight, eps as f32),
        // that takes an epsilon in f32
        _ => unit(&xs, eps)?.0.broadcast_mul(weight),
    }
}

/// `x r` and `r = 1 / sqrt(mean(x^2) + eps)` of every row.
fn unit(xs: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let scale = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((xs.broadcast_mul(&scale)?, scale))
}

/// The gradients of [`norm`] with respect to `xs`, with that of the `residual` added, and to `weight`.
pub(super) fn norm_backward(
    xs: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    residual: Option<&Tensor>,
    (want_xs, want_weight): (bool, bool),
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let wide = weight.dtype();
    let grad = grad.to_dtype(wide)?;
    let (unit, scale) = unit(&xs.to_dtype(wide)?, eps)?;
    let dx = || -> Result<Tensor> {
        let grad = grad.broadcast_mul(weight)?;
        let mean = (&grad * &unit)?.mean_keepdim(D::Minus1)?;
        let dx = (grad - unit.broadcast_mul(&mean)?)?.broadcast_mul(&scale)?;
        residual.map_or_else(|| Ok(dx.clone()), |r| &dx + r.to_dtype(wide)?)
    };
    let dw = || sum(&(&grad * &unit)?);
    Ok((want_xs.then(dx).transpose()?, want_weight.then(dw).transpose()?))
}

/// `ys + bias + residual`.
pub(super) fn add(ys: &Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let sum = ys.to_dtype(bias.dtype())?.broadcast_add(bias)?;
    residual.map_or_else(|| Ok(sum.clone()), |r| &sum + r.to_dtype(bias.dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Storage};

    use super::*;
    use crate::cpu::rows as cpu;

    fn random(shape: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
        let mut bits = seed;
        let mut next = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 40) as f64 / (1 << 23) as f64 - 1.
        };
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
    }

    #[track_caller]
    fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
        assert_eq!(got.dims(), expected.dims());
        let (got, expected) = (got.to_dtype(DType::F64)?, expected.to_dtype(DType::F64)?);
        let largest = expected.abs()?.max_all()?.to_scalar::<f64>()?;
        let difference = (got - expected)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(difference <= tolerance * largest, "{difference:e} of {largest:e}");
        Ok(())
    }

    /// What other devices compute is what the kernels of the CPU do.
    #[test]
    fn composed_is_what_the_kernels_compute() -> Result<()> {
        let wides =
            [(DType::F64, DType::F64), (DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::F16, DType::F32)];
        for (dtype, wide) in wides {
            let tolerance = match dtype {
                DType::F64 => 1e-14,
                DType::F32 => 2e-6,
                DType::F16 => 1e-3,
                _ => 8e-3,
            };
            for (rows, width) in [(1, 1), (3, 20), (700, 64)] {
                let of = |seed| random(&[rows, width], dtype, seed);
                let (xs, grad, residual, weight) = (of(1)?, of(2)?, of(3)?, random(&[width], wide, 4)?);
                let expected = cpu::rms_norm(&xs, &weight, 1e-3, dtype)?;
                assert_close(&norm(&xs, &weight, 1e-3)?, &expected, tolerance)?;
                for residual in [None, Some(&residual)] {
                    let wanted = (true, true);
                    let (dx, dw) = norm_backward(&xs, &weight, 1e-3, &grad, residual, wanted)?;
                    let expected = cpu::rms_norm_backward(&xs, &weight, 1e-3, &grad, residual, wanted)?;
                    assert_close(&dx.unwrap(), &expected.0.unwrap(), tolerance)?;
                    assert_close(&dw.unwrap(), &expected.1.unwrap(), tolerance)?;
                    let Storage::Cpu(sum) = cpu::add(&grad, &weight, residual, dtype)? else {
                        panic!("not on the CPU")
                    };
                    let sum = Tensor::from_storage(
                        Storage::Cpu(sum),
                        (rows, width),
                        candle_core::op::BackpropOp::none(),
                        false,
                    );
                    assert_close(&add(&grad, &weight, residual)?, &sum, tolerance)?;
                }
            }
        }
        Ok(())
    }
}
