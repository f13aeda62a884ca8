//! The kernels of operations on rows.

use std::mem::MaybeUninit;

use candle_core::WithDType;

use super::super::pointer::Pointer;
use super::super::simd::{sweep, Accumulator, Element, Isa, Lanes, Recurrence, Vectorised};

/// No vector is longer.
const MOST_LANES: usize = 64;

/// The norm of some rows.
pub struct Norm<'a, X, T, A> {
    pub xs: &'a [X],
    pub weight: &'a [A],
    pub eps: A,
    pub to: &'a mut [MaybeUninit<T>],
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
                let (x, weight, to) = (Pointer::to(xs), Pointer::to(self.weight), Pointer::to_uninit(to));
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
            let value = I::read(Pointer::to(x).add(at));
            squares = squares.add(value.mul(value));
            if let Some(grad) = grad {
                let grad = I::read(Pointer::to(weight).add(at)).mul(I::read(Pointer::to(grad).add(at)));
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
    unsafe { I::write(v, Pointer::to_mut(&mut values)) };
    values[..<I::V<A>>::LEN].iter().fold(A::default(), |sum, value| Lanes::add(sum, *value))
}

/// `x w` times a number.
struct Scale<X: Element, T> {
    x: Pointer<*const X>,
    weight: Pointer<*const X::Acc>,
    scale: X::Acc,
    to: Pointer<*mut T>,
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
pub struct NormBackward<'a, X: Element, T> {
    pub xs: &'a [X],
    pub weight: &'a [X::Acc],
    pub eps: X::Acc,
    pub grad: &'a [T],
    pub residual: Option<&'a [X]>,
    pub dx: Option<&'a mut [MaybeUninit<X>]>,
    pub sum: Option<&'a mut [X::Acc]>,
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
                    x: Pointer::to(x),
                    weight: Pointer::to(self.weight),
                    grad: Pointer::to(grad),
                    residual: self.residual.map(|r| Pointer::to(&r[columns.clone()])),
                    scale,
                    back: X::Acc::from_f64(cubed * products.to_f64() / width as f64),
                    dx: self.dx.as_mut().map(|dx| Pointer::to_uninit(&mut dx[columns])),
                    sum: self.sum.as_mut().map(|sum| Pointer::to_mut(sum)),
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
    x: Pointer<*const X>,
    weight: Pointer<*const X::Acc>,
    grad: Pointer<*const T>,
    residual: Option<Pointer<*const X>>,
    /// `r`
    scale: X::Acc,
    /// `r^3 mean(x w g)`
    back: X::Acc,
    dx: Option<Pointer<*mut X>>,
    sum: Option<Pointer<*mut X::Acc>>,
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
pub struct Add<'a, X: Element, T> {
    pub ys: &'a [T],
    pub bias: &'a [X::Acc],
    pub residual: Option<&'a [X]>,
    pub to: &'a mut [MaybeUninit<X>],
}

impl<X: Element, T: Element<Acc = X::Acc>> Vectorised for Add<'_, X, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let width = self.bias.len();
        let kernel = AddRows {
            ys: Pointer::to(self.ys),
            bias: Pointer::to(self.bias),
            residual: self.residual.map(Pointer::to),
            to: Pointer::to_uninit(self.to),
            width,
        };
        // SAFETY: all slices have as many rows; the caller vouches for the processor.
        unsafe { sweep::<I, _>(&kernel, self.ys.len() / width, width) };
    }
}

struct AddRows<X: Element, T> {
    ys: Pointer<*const T>,
    bias: Pointer<*const X::Acc>,
    residual: Option<Pointer<*const X>>,
    to: Pointer<*mut X>,
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
pub struct Sum<'a, T: Element> {
    pub rows: &'a [T],
    pub sum: &'a mut [T::Acc],
}

impl<T: Element> Vectorised for Sum<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let width = self.sum.len();
        let kernel = SumRows { rows: Pointer::to(self.rows), sum: Pointer::to_mut(self.sum), width };
        // SAFETY: the sum is as wide as the rows; the caller vouches for the processor.
        unsafe { sweep::<I, _>(&kernel, self.rows.len() / width, width) };
    }
}

struct SumRows<T: Element> {
    rows: Pointer<*const T>,
    sum: Pointer<*mut T::Acc>,
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
