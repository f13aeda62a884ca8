//! Vectors of accumulators, and how elements of every dtype are read into and written from them.
//!
//! A kernel is written once, for any instruction set ([`Isa`]), element and accumulator; [`dispatch`] runs it with the
//! widest one the processor has. No instruction set fuses multiplication and addition, so that all of them give the
//! same bits.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use candle_core::WithDType;
use half::{bf16, f16};

pub(crate) use portable::{Portable, Scalar};

/// An accumulator: what states and gradients of states are carried in.
pub(crate) trait Accumulator: Element<Acc = Self> + Lanes<Self> + Default {
    const ONE: Self;

    #[cfg(target_arch = "x86_64")]
    type Avx2: Lanes<Self>;
}

/// An element of a tensor.
pub(crate) trait Element: WithDType + 'static {
    type Acc: Accumulator;

    fn widen(self) -> Self::Acc;

    /// Rounds to nearest, ties to even.
    fn narrow(value: Self::Acc) -> Self;

    /// # Safety
    /// As for [`Isa::read`]; the processor has AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn read_avx2(from: *const Self) -> <Self::Acc as Accumulator>::Avx2;

    /// # Safety
    /// As for [`Isa::write`]; the processor has AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn write_avx2(value: <Self::Acc as Accumulator>::Avx2, to: *mut Self);
}

/// `LEN` accumulators side by side.
pub(crate) trait Lanes<A>: Copy {
    const LEN: usize;

    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;

    /// Zero in place of what is smaller than the smallest normal number: a decaying state would otherwise spend its
    /// last hundred steps in denormal arithmetic, many times slower.
    fn flush(self) -> Self;

    /// `value` where `self` is not zero, and zero where it is: also where `value` is not finite.
    fn keep_zero(self, value: Self) -> Self;
}

/// An instruction set.
pub(crate) trait Isa {
    type V<A: Accumulator>: Lanes<A>;

    /// Reads `LEN` elements.
    ///
    /// # Safety
    /// `from` must be valid for reads of `LEN` elements, and the processor must have the instruction set.
    unsafe fn read<E: Element>(from: *const E) -> Self::V<E::Acc>;

    /// Writes `LEN` elements.
    ///
    /// # Safety
    /// `to` must be valid for writes of `LEN` elements, and the processor must have the instruction set.
    unsafe fn write<E: Element>(value: Self::V<E::Acc>, to: *mut E);

    /// Asks for the cache line at `at`, soon to be overwritten. Any address will do.
    fn prefetch_for_write<E>(at: *const E);
}

/// A computation on all elements of some rows of equal length, at one group of lanes after another.
pub(crate) trait RowKernel {
    type Acc: Accumulator;

    /// Computes the elements `at .. at + LEN`.
    ///
    /// # Safety
    /// They must lie within the rows, and the processor must have the instruction set.
    unsafe fn lanes<I: Isa>(&mut self, at: usize);
}

/// Runs a kernel on elements `0 .. len`.
///
/// # Safety
/// The kernel's rows must have at least `len` elements, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn sweep<I: Isa, K: RowKernel>(len: usize, kernel: &mut K) {
    let lanes = <I::V<K::Acc>>::LEN;
    let mut at = 0;
    while at + lanes <= len {
        // SAFETY: at + LEN <= len; the caller vouches for the rest.
        unsafe { kernel.lanes::<I>(at) };
        at += lanes;
    }
    while at < len {
        // SAFETY: at < len; the scalar set is on every processor.
        unsafe { kernel.lanes::<Scalar>(at) };
        at += 1;
    }
}

/// A computation that is compiled for every instruction set.
pub(crate) trait Vectorised {
    type Output;

    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn run<I: Isa>(self) -> Self::Output;
}

/// Runs a computation with the widest instruction set of this processor.
pub(crate) fn dispatch<F: Vectorised>(f: F) -> F::Output {
    #[cfg(target_arch = "x86_64")]
    if x86::available() {
        // SAFETY: the processor has AVX2 and F16C.
        return unsafe { x86::run(f) };
    }
    // SAFETY: plain Rust runs on every processor.
    unsafe { f.run::<Portable>() }
}

macro_rules! accumulators {
    ($($acc:ty: $avx2:ident),*) => {$(
        impl Accumulator for $acc {
            const ONE: Self = 1.;
            #[cfg(target_arch = "x86_64")]
            type Avx2 = x86::$avx2;
        }
    )*};
}
accumulators!(f32: F32x8, f64: F64x4);

macro_rules! elements {
    ($($element:ty: $acc:ty, $widen:expr, $narrow:expr, $read:ident, $write:ident;)*) => {$(
        impl Element for $element {
            type Acc = $acc;

            #[inline(always)]
            fn widen(self) -> $acc {
                $widen(self)
            }

            #[inline(always)]
            fn narrow(value: $acc) -> Self {
                $narrow(value)
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn read_avx2(from: *const Self) -> <$acc as Accumulator>::Avx2 {
                // SAFETY: passed on to the caller.
                unsafe { x86::$read(from) }
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn write_avx2(value: <$acc as Accumulator>::Avx2, to: *mut Self) {
                // SAFETY: passed on to the caller.
                unsafe { x86::$write(value, to) }
            }
        }
    )*};
}
elements! {
    f32: f32, std::convert::identity, std::convert::identity, read_f32, write_f32;
    f64: f64, std::convert::identity, std::convert::identity, read_f64, write_f64;
    bf16: f32, bf16::to_f32, bf16::from_f32, read_bf16, write_bf16;
    f16: f32, f16::to_f32, f16::from_f32, read_f16, write_f16;
}

#[cfg(test)]
mod tests;
