//! What a layer does to the rows of its input and output, `[M, H]`, beside its products: a pass over memory each.
//!
//! Rows are taken in blocks, the size of which depends on the width alone: sums over rows are sums of those of the blocks,
//! in their order, and so the same for any number of threads.

mod kernels;

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{bail, DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::simd::{dispatch, Accumulator, Element};
use super::view::Held;
use super::{tensor, total};
use kernels::{Add, Norm, NormBackward, Sum};

/// Elements of a block of rows.
const BLOCK: usize = 1 << 15;

/// Calls a generic function of two element types with the same accumulator.
macro_rules! by_pair {
    ($first:expr, $second:expr, $f:ident($($arg:expr),*)) => {
        match ($first, $second) {
            (DType::F64, DType::F64) => $f::<f64, f64>($($arg),*),
            (DType::F32, DType::F32) => $f::<f32, f32>($($arg),*),
            (DType::F32, DType::BF16) => $f::<f32, bf16>($($arg),*),
            (DType::F32, DType::F16) => $f::<f32, f16>($($arg),*),
            (DType::BF16, DType::F32) => $f::<bf16, f32>($($arg),*),
            (DType::BF16, DType::BF16) => $f::<bf16, bf16>($($arg),*),
            (DType::BF16, DType::F16) => $f::<bf16, f16>($($arg),*),
            (DType::F16, DType::F32) => $f::<f16, f32>($($arg),*),
            (DType::F16, DType::BF16) => $f::<f16, bf16>($($arg),*),
            (DType::F16, DType::F16) => $f::<f16, f16>($($arg),*),
            (first, second) => bail!("quick-ssm: no operation on rows of {first:?} and {second:?}"),
        }
    };
}

/// `x w / sqrt(mean(x^2) + eps)` of every row of `xs`, `[M, H]` contiguous, in `dtype`; `weight` is `[H]` in the accumulation
/// dtype.
pub(crate) fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64, dtype: DType) -> Result<Tensor> {
    by_pair!(xs.dtype(), dtype, typed_norm(xs, weight, eps))
}

fn typed_norm<X: Element, T: Element<Acc = X::Acc>>(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (rows, width) = xs.dims2()?;
    let (xs, weight) = (Held::new(xs), Held::new(weight));
    let (xs, weight, eps) =
        (elements::<X>(&xs, rows * width)?, elements::<X::Acc>(&weight, width)?, X::Acc::from_f64(eps));
    let n = Buffer::<T>::new(rows * width)?;
    blocks(rows, width, |_, at| {
        // SAFETY: no other block has these rows.
        let to = unsafe { n.row(at.start, at.len()) };
        dispatch(Norm { xs: &xs[at], weight, eps, to });
    });
    // SAFETY: every row has been written.
    unsafe { tensor(n, (rows, width)) }
}

/// The gradients of [`rms_norm`] with respect to `xs` and `weight`, as far as they are wanted, from `grad`, `[M, H]`;
/// `residual`, `[M, H]` in the dtype of `xs`, is added to the first one. The second one is in the accumulation dtype.
pub(crate) fn rms_norm_backward(
    xs: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    residual: Option<&Tensor>,
    (want_xs, want_weight): (bool, bool),
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    by_pair!(xs.dtype(), grad.dtype(), typed_norm_backward(xs, weight, eps, grad, residual, want_xs, want_weight))
}

fn typed_norm_backward<X: Element, T: Element<Acc = X::Acc>>(
    xs: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    residual: Option<&Tensor>,
    want_xs: bool,
    want_weight: bool,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, width) = xs.dims2()?;
    let (xs, weight, grad, residual) = (Held::new(xs), Held::new(weight), Held::new(grad), residual.map(Held::new));
    let (xs, weight) = (elements::<X>(&xs, rows * width)?, elements::<X::Acc>(&weight, width)?);
    let grad = elements::<T>(&grad, rows * width)?;
    let residual = residual.as_ref().map(|r| elements::<X>(r, rows * width)).transpose()?;
    let dx = want_xs.then(|| Buffer::<X>::new(rows * width)).transpose()?;
    let sums = want_weight.then(|| Buffer::<X::Acc>::new(block_count(rows, width) * width)).transpose()?;
    blocks(rows, width, |block, at| {
        // SAFETY: no other block has these rows, nor this row of sums.
        let (dx, sum) = unsafe {
            (dx.as_ref().map(|dx| dx.row(at.start, at.len())), sums.as_ref().map(|s| s.row(block * width, width)))
        };
        dispatch(NormBackward {
            xs: &xs[at.clone()],
            weight,
            eps: X::Acc::from_f64(eps),
            grad: &grad[at.clone()],
            residual: residual.map(|r| &r[at]),
            dx,
            sum: sum.map(zeros),
        });
    });
    // SAFETY: every row has been written.
    let dx = dx.map(|dx| unsafe { tensor(dx, (rows, width)) }).transpose()?;
    let sum = sums.map(|sums| column_total(sums, width)).transpose()?;
    Ok((dx, sum))
}

/// `ys + bias + residual`, in `dtype`: `ys` is `[M, H]`, `bias` `[H]` in the accumulation dtype, and `residual` `[M, H]` in
/// `dtype`.
pub(crate) fn add(ys: &Tensor, bias: &Tensor, residual: Option<&Tensor>, dtype: DType) -> Result<Storage> {
    by_pair!(dtype, ys.dtype(), typed_add(ys, bias, residual))
}

fn typed_add<X: Element, T: Element<Acc = X::Acc>>(
    ys: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Storage> {
    let (rows, width) = ys.dims2()?;
    let (ys, bias, residual) = (Held::new(ys), Held::new(bias), residual.map(Held::new));
    let (ys, bias) = (elements::<T>(&ys, rows * width)?, elements::<X::Acc>(&bias, width)?);
    let residual = residual.as_ref().map(|r| elements::<X>(r, rows * width)).transpose()?;
    let sum = Buffer::<X>::new(rows * width)?;
    blocks(rows, width, |_, at| {
        // SAFETY: no other block has these rows.
        let to = unsafe { sum.row(at.start, at.len()) };
        dispatch(Add { ys: &ys[at.clone()], bias, residual: residual.map(|r| &r[at]), to });
    });
    // SAFETY: every row has been written.
    Ok(Storage::Cpu(X::to_cpu_storage_owned(unsafe { sum.into_vec() })))
}

/// The sum of the rows of `t`, `[M, H]` contiguous, in the accumulation dtype.
pub(crate) fn sum(t: &Tensor) -> Result<Tensor> {
    match t.dtype() {
        DType::F64 => typed_sum::<f64>(t),
        DType::F32 => typed_sum::<f32>(t),
        DType::BF16 => typed_sum::<bf16>(t),
        DType::F16 => typed_sum::<f16>(t),
        dtype => bail!("quick-ssm: no operation on rows of {dtype:?}"),
    }
}

fn typed_sum<T: Element>(t: &Tensor) -> Result<Tensor> {
    let (rows, width) = t.dims2()?;
    let t = Held::new(t);
    let t = elements::<T>(&t, rows * width)?;
    let sums = Buffer::<T::Acc>::new(block_count(rows, width) * width)?;
    blocks(rows, width, |block, at| {
        // SAFETY: no other block has this row of sums.
        let sum = zeros(unsafe { sums.row(block * width, width) });
        dispatch(Sum { rows: &t[at], sum });
    });
    column_total(sums, width)
}

/// The elements of a contiguous tensor that has `count` of them.
fn elements<'a, T: Element>(t: &'a Held, count: usize) -> Result<&'a [T]> {
    let elements = t.contiguous()?;
    if elements.len() != count {
        bail!("quick-ssm: expected {count} elements in rows, got {}", elements.len())
    }
    Ok(elements)
}

fn rows_of_block(width: usize) -> usize {
    (BLOCK / width.max(1)).max(1)
}

fn block_count(rows: usize, width: usize) -> usize {
    rows.div_ceil(rows_of_block(width))
}

/// Calls `f` for every block of rows, with its number and the range of its elements.
fn blocks(rows: usize, width: usize, f: impl Fn(usize, Range<usize>) + Sync) {
    let elements = rows_of_block(width) * width;
    let call = |block: usize| f(block, block * elements..((block + 1) * elements).min(rows * width));
    match block_count(rows, width) {
        0 => {}
        // not worth to wake another thread for
        1 => call(0),
        count => (0..count).into_par_iter().for_each(call),
    }
}

fn zeros<A: Default + Copy>(to: &mut [MaybeUninit<A>]) -> &mut [A] {
    to.iter_mut().for_each(|a| _ = a.write(A::default()));
    // SAFETY: all have just been written.
    unsafe { &mut *(to as *mut [MaybeUninit<A>] as *mut [A]) }
}

/// The total of the blocks' sums, all of which have been written.
fn column_total<A: Accumulator>(sums: Buffer<A>, width: usize) -> Result<Tensor> {
    // SAFETY: every block has written its own.
    let total = total(&unsafe { sums.into_vec() }, width);
    Tensor::from_vec(total, width, &Device::Cpu)
}
