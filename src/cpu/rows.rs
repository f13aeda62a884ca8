//! What a layer does to the rows of its input and output, `[M, H]`, beside its products: a pass over memory each.
//!
//! Rows are taken in blocks, the size of which depends on the width alone: sums over rows are sums of those of the blocks,
//! in their order, and so the same for any number of threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{bail, DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::simd::{dispatch, sweep, Accumulator, Element, Isa, Lanes, Recurrence, Vectorised};
use super::view::Held;
use super::{tensor, total};

/// Elements of a block of rows.
const BLOCK: usize = 1 << 15;
/// No vector is longer.
const MOST_LANES: usize = 64;

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
    let (xs, weight, eps) = (xs.contiguous::<X>()?, weight.contiguous::<X::Acc>()?, X::Acc::from_f64(eps));
    let n = Buffer::<T>::new(rows * width);
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
    let (xs, weight) = (xs.contiguous::<X>()?, weight.contiguous::<X::Acc>()?);
    let (grad, residual) = (grad.contiguous::<T>()?, residual.as_ref().map(Held::contiguous::<X>).transpose()?);
    let dx = want_xs.then(|| Buffer::<X>::new(rows * width));
    let sums = want_weight.then(|| Buffer::<X::Acc>::new(block_count(rows, width) * width));
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
    let (ys, bias) = (ys.contiguous::<T>()?, bias.contiguous::<X::Acc>()?);
    let residual = residual.as_ref().map(Held::contiguous::<X>).transpose()?;
    let sum = Buffer::<X>::new(rows * width);
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
    let t = t.contiguous::<T>()?;
    let sums = Buffer::<T::Acc>::new(block_count(rows, width) * width);
    blocks(rows, width, |block, at| {
        // SAFETY: no other block has this row of sums.
        let sum = zeros(unsafe { sums.row(block * width, width) });
        dispatch(Sum { rows: &t[at], sum });
    });
    column_total(sums, width)
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

/// The norm of some rows.
struct Norm<'a, X, T, A> {
    xs: &'a [X],
    weight: &'a [A],
    eps: A,
    to: &'a mut [MaybeUninit<T>],
}

impl<X: Element, T: Element<Acc = X::Acc>> Vectorised for Norm<'_, X, T, X::Acc> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let width = self.weight.len();
        for (xs, to) in self.xs.chunks_exact(width).zip(self.to.chunks_exact_mut(width)) {
            // SAFETY: the rows are as wide as the weight; the caller vouches for the processor.
            unsafe {
                let (squares, _) = row_sums::<I, X, X>(xs, self.weight, None);
                let (x, weight, to) = (xs.as_ptr(), self.weight.as_ptr(), to.as_mut_ptr().cast::<T>());
                let scale = inverse_rms(squares, self.eps, width);
                sweep::<I, _>(&Scale { x, weight, scale, to }, 1, width);
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_rms<A: Accumulator>(squares: A, eps: A, width: usize) -> A {
    A::from_f64(1. / (squares.to_f64() / width as f64 + eps.to_f64()).sqrt())
}

/// `sum(x^2)` and, where there is a gradient `g`, `sum(x w g)` of a row.
///
/// # Safety
/// The slices must have the same length, and the processor the instruction set.
#[inline(always)]
unsafe fn row_sums<I: Isa, X: Element, T: Element<Acc = X::Acc>>(
    x: &[X],
    weight: &[X::Acc],
    grad: Option<&[T]>,
) -> (X::Acc, X::Acc) {
    let lanes = <I::V<X::Acc>>::LEN;
    let whole = x.len() / lanes * lanes;
    let zero = X::Acc::default();
    let (mut squares, mut products) = (<I::V<X::Acc>>::splat(zero), <I::V<X::Acc>>::splat(zero));
    for at in (0..whole).step_by(lanes) {
        // SAFETY: within the rows.
        unsafe {
            let value = I::read(x.as_ptr().add(at));
            squares = squares.add(value.mul(value));
            if let Some(grad) = grad {
                let grad = I::read(weight.as_ptr().add(at)).mul(I::read(grad.as_ptr().add(at)));
                products = products.add(value.mul(grad));
            }
        }
    }
    // SAFETY: passed on to the caller.
    let (mut squares, mut products) = unsafe { (across::<I, X::Acc>(squares), across::<I, X::Acc>(products)) };
    for at in whole..x.len() {
        let value = x[at].widen();
        squares = Lanes::add(squares, Lanes::mul(value, value));
        if let Some(grad) = grad {
            products = Lanes::add(products, Lanes::mul(value, Lanes::mul(weight[at], grad[at].widen())));
        }
    }
    (squares, products)
}

/// The sum of the numbers side by side.
///
/// # Safety
/// The processor must have the instruction set.
#[inline(always)]
unsafe fn across<I: Isa, A: Accumulator>(v: I::V<A>) -> A {
    const { assert!(<I::V<A>>::LEN <= MOST_LANES) };
    let mut values = [A::default(); MOST_LANES];
    // SAFETY: there is room for as many, as just checked.
    unsafe { I::write(v, values.as_mut_ptr()) };
    values[..<I::V<A>>::LEN].iter().fold(A::default(), |sum, value| Lanes::add(sum, *value))
}

/// `x w` times a number.
struct Scale<X: Element, T> {
    x: *const X,
    weight: *const X::Acc,
    scale: X::Acc,
    to: *mut T,
}

impl<X: Element, T: Element<Acc = X::Acc>> Recurrence for Scale<X, T> {
    type Acc = X::Acc;
    type Carry<V: Copy> = ();

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, _at: usize) {}

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, _row: isize, at: usize, _: ()) {
        // SAFETY: within the row, says the caller.
        unsafe {
            let scaled = I::read(self.x.add(at)).mul(<I::V<X::Acc>>::splat(self.scale));
            I::write(scaled.mul(I::read(self.weight.add(at))), self.to.add(at));
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, _at: usize, _: ()) {}
}

/// The gradients of the norm of some rows.
struct NormBackward<'a, X: Element, T> {
    xs: &'a [X],
    weight: &'a [X::Acc],
    eps: X::Acc,
    grad: &'a [T],
    residual: Option<&'a [X]>,
    dx: Option<&'a mut [MaybeUninit<X>]>,
    sum: Option<&'a mut [X::Acc]>,
}

impl<X: Element, T: Element<Acc = X::Acc>> Vectorised for NormBackward<'_, X, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(mut self) {
        let width = self.weight.len();
        for (row, (x, grad)) in self.xs.chunks_exact(width).zip(self.grad.chunks_exact(width)).enumerate() {
            let columns = row * width..(row + 1) * width;
            // SAFETY: the rows are as wide as the weight; the caller vouches for the processor.
            unsafe {
                let (squares, products) = row_sums::<I, X, T>(x, self.weight, Some(grad));
                let scale = inverse_rms(squares, self.eps, width);
                let cubed = scale.to_f64().powi(3);
                let kernel = NormBackwardRow {
                    x: x.as_ptr(),
                    weight: self.weight.as_ptr(),
                    grad: grad.as_ptr(),
                    residual: self.residual.map(|r| r[columns.clone()].as_ptr()),
                    scale,
                    back: X::Acc::from_f64(cubed * products.to_f64() / width as f64),
                    dx: self.dx.as_mut().map(|dx| dx[columns].as_mut_ptr().cast()),
                    sum: self.sum.as_mut().map(|sum| sum.as_mut_ptr()),
                };
                sweep::<I, _>(&kernel, 1, width);
            }
        }
    }
}

/// With `r = 1 / sqrt(mean(x^2) + eps)`:
///
/// ```text
///   dx = r w g - x r^3 mean(x w g)        dw = sum of the rows' x r g
/// ```
struct NormBackwardRow<X: Element, T> {
    x: *const X,
    weight: *const X::Acc,
    grad: *const T,
    residual: Option<*const X>,
    /// `r`
    scale: X::Acc,
    /// `r^3 mean(x w g)`
    back: X::Acc,
    dx: Option<*mut X>,
    sum: Option<*mut X::Acc>,
}

impl<X: Element, T: Element<Acc = X::Acc>> Recurrence for NormBackwardRow<X, T> {
    type Acc = X::Acc;
    type Carry<V: Copy> = ();

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, _at: usize) {}

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, _row: isize, at: usize, _: ()) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            let x = I::read(self.x.add(at));
            let scaled = I::read(self.grad.add(at)).mul(<I::V<X::Acc>>::splat(self.scale));
            if let Some(sum) = self.sum {
                let sum = sum.add(at);
                I::write(I::read(sum).add(scaled.mul(x)), sum);
            }
            if let Some(dx) = self.dx {
                let back = x.mul(<I::V<X::Acc>>::splat(self.back));
                let mut value = scaled.mul(I::read(self.weight.add(at))).sub(back);
                if let Some(residual) = self.residual {
                    value = value.add(I::read(residual.add(at)));
                }
                I::write(value, dx.add(at));
            }
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, _at: usize, _: ()) {}
}

/// Sums of some rows with others.
struct Add<'a, X: Element, T> {
    ys: &'a [T],
    bias: &'a [X::Acc],
    residual: Option<&'a [X]>,
    to: &'a mut [MaybeUninit<X>],
}

impl<X: Element, T: Element<Acc = X::Acc>> Vectorised for Add<'_, X, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let width = self.bias.len();
        let kernel = AddRows {
            ys: self.ys.as_ptr(),
            bias: self.bias.as_ptr(),
            residual: self.residual.map(<[X]>::as_ptr),
            to: self.to.as_mut_ptr().cast(),
            width,
        };
        // SAFETY: all slices have as many rows; the caller vouches for the processor.
        unsafe { sweep::<I, _>(&kernel, self.ys.len() / width, width) };
    }
}

struct AddRows<X: Element, T> {
    ys: *const T,
    bias: *const X::Acc,
    residual: Option<*const X>,
    to: *mut X,
    width: usize,
}

impl<X: Element, T: Element<Acc = X::Acc>> Recurrence for AddRows<X, T> {
    type Acc = X::Acc;
    type Carry<V: Copy> = ();

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, _at: usize) {}

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, _: ()) {
        let element = row as usize * self.width + at;
        // SAFETY: within the rows, says the caller.
        unsafe {
            let mut sum = I::read(self.ys.add(element)).add(I::read(self.bias.add(at)));
            if let Some(residual) = self.residual {
                sum = sum.add(I::read(residual.add(element)));
            }
            I::write(sum, self.to.add(element));
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, _at: usize, _: ()) {}
}

/// The sum of some rows.
struct Sum<'a, T: Element> {
    rows: &'a [T],
    sum: &'a mut [T::Acc],
}

impl<T: Element> Vectorised for Sum<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let width = self.sum.len();
        let kernel = SumRows { rows: self.rows.as_ptr(), sum: self.sum.as_mut_ptr(), width };
        // SAFETY: the sum is as wide as the rows; the caller vouches for the processor.
        unsafe { sweep::<I, _>(&kernel, self.rows.len() / width, width) };
    }
}

struct SumRows<T: Element> {
    rows: *const T,
    sum: *mut T::Acc,
    width: usize,
}

impl<T: Element> Recurrence for SumRows<T> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.sum.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, sum: I::V<T::Acc>) -> I::V<T::Acc> {
        // SAFETY: within the rows, says the caller.
        unsafe { sum.add(I::read(self.rows.add(row as usize * self.width + at))) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, sum: I::V<T::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(sum, self.sum.add(at)) }
    }
}
