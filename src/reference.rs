//! The definition of the recurrence, in candle's own tensor operations.

use candle_core::{Result, Tensor};

use crate::problem::{accumulation_dtype, check_inputs};

/// The recurrence `h_t = a_t h_{t-1} + b_t x_t`, `y_t = c_t h_t`, step by step from candle's tensor operations.
///
/// The arguments and the result are `[B, L, D]`, as for [`scan`](crate::scan()). It runs on any device of candle
/// and candle differentiates it; it is slow, and `backward` overflows the stack from a few thousand steps on.
/// It is what `scan` is tested against.
///
/// # Errors
/// Where the four arguments are not of one rank-3 shape, one floating dtype and one device.
pub fn scan(x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    let (batch, len, channels) = check_inputs(&[("x", x), ("a", a), ("b", b), ("c", c)])?;
    if x.elem_count() == 0 {
        return Tensor::zeros(x.shape(), x.dtype(), x.device());
    }
    let acc = accumulation_dtype(x.dtype());
    let wide = |t: &Tensor| t.to_dtype(acc);
    let (u, a, c) = ((wide(b)? * wide(x)?)?, wide(a)?, wide(c)?);
    let mut h = Tensor::zeros((batch, channels), acc, x.device())?;
    let mut ys = Vec::with_capacity(len);
    for t in 0..len {
        let at = |s: &Tensor| s.narrow(1, t, 1)?.squeeze(1);
        h = ((at(&a)? * h)? + at(&u)?)?;
        ys.push((at(&c)? * &h)?);
    }
    Tensor::stack(&ys, 1)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, DType::F64, Device::Cpu};

    #[test]
    fn two_steps_by_hand() -> Result<()> {
        let t = |v: [f64; 2]| Tensor::new(&v, &Cpu)?.reshape((1, 2, 1));
        let y = scan(&t([2., 3.])?, &t([9., 0.5])?, &t([1., 2.])?, &t([1., -1.])?)?;
        assert_eq!(y.dtype(), F64);
        assert_eq!(y.flatten_all()?.to_vec1::<f64>()?, [2., -7.]);
        Ok(())
    }

    #[test]
    fn an_empty_sequence_gives_an_empty_result() -> Result<()> {
        let t = Tensor::zeros((2, 0, 3), DType::BF16, &Cpu)?;
        assert_eq!(scan(&t, &t, &t, &t)?.dims(), [2, 0, 3]);
        Ok(())
    }
}
