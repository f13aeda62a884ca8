//! Vectors of accumulators, and how elements of every dtype are read into and written from them.
//!
//! A kernel is written once, for any instruction set ([`Isa`]), element and accumulator; [`dispatch`] runs it with the
//! widest one the processor has. Products and sums are fused only where a kernel says so, and then in all instruction sets,
//! so that all of them give the same bits.

mod portable;
mod sweep;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::WithDType;
use half::{bf16, f16};

use super::gates::{Accuracy, Exponential};
use super::pointer::{Pointer, Raw};
pub(crate) use portable::{Portable, Scalar};
pub(crate) use sweep::{sweep, sweep_narrow, sweep_rows, whole_row, Recurrence};
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// An accumulator: what states and gradients of states are carried in.
pub(crate) trait Accumulator: Element<Acc = Self> + Lanes<Self> + Exponential + Default {
    const ONE: Self;

    #[cfg(target_arch = "x86_64")]
    type Avx2: Lanes<Self>;

    #[cfg(target_arch = "x86_64")]
    type Avx512: Lanes<Self>;
}

/// An element of a tensor.
pub(crate) trait Element: WithDType + Default + Accuracy<<Self as Element>::Acc> + 'static {
    type Acc: Accumulator;

    fn widen(self) -> Self::Acc;

    /// Rounds to nearest, ties to even.
    fn narrow(value: Self::Acc) -> Self;

    /// # Safety
    /// As for [`Isa::read_at`]; the processor has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn read_avx2(from: *const Self) -> <Self::Acc as Accumulator>::Avx2;

    /// # Safety
    /// As for [`Isa::write_at`]; the processor has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn write_avx2(value: <Self::Acc as Accumulator>::Avx2, to: *mut Self);

    /// # Safety
    /// As for [`Isa::read_at`]; the processor has AVX-512 F, DQ, BW, BF16 and VBMI.
    #[cfg(target_arch = "x86_64")]
    unsafe fn read_avx512(from: *const Self) -> <Self::Acc as Accumulator>::Avx512;

    /// # Safety
    /// As for [`Isa::write_at`]; the processor has AVX-512 F, DQ, BW, BF16 and VBMI.
    #[cfg(target_arch = "x86_64")]
    unsafe fn write_avx512(value: <Self::Acc as Accumulator>::Avx512, to: *mut Self);

    /// # Safety
    /// As for [`Isa::write_pairs_at`]; the processor has AVX-512 F, DQ, BW, BF16 and VBMI.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn write_pairs_avx512<const N: usize>(
        pairs: [[<Self::Acc as Accumulator>::Avx512; 2]; N],
        to: [*mut Self; N],
    ) {
        for ([first, second], to) in pairs.into_iter().zip(to) {
            // SAFETY: passed on to the caller.
            unsafe {
                Self::write_avx512(first, to);
                Self::write_avx512(second, to.add(<<Self::Acc as Accumulator>::Avx512 as Lanes<Self::Acc>>::LEN));
            }
        }
    }
}

/// `LEN` accumulators side by side.
pub(crate) trait Lanes<A>: Copy {
    const LEN: usize;
    /// Whether the compiler may count on an instruction for products and sums rounded once, and need not call a function.
    const FUSES: bool = true;

    fn splat(value: A) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// `self + factor * other`, rounded once.
    fn add_product(self, factor: Self, other: Self) -> Self;

    /// `self - factor * other`, rounded once.
    fn sub_product(self, factor: Self, other: Self) -> Self;

    /// Zero in place of what is smaller than the smallest normal number: a decaying state would otherwise spend its
    /// last hundred steps in denormal arithmetic, many times slower.
    fn flush(self) -> Self;

    /// `value` where `self` is not zero, and zero where it is: also where `value` is not finite.
    fn keep_zero(self, value: Self) -> Self;

    /// `self` where it is not less than `least`, which includes NaN, and `least` where it is.
    fn at_least(self, least: Self) -> Self;

    /// `self` where it is not more than `most`, which includes NaN, and `most` where it is.
    fn at_most(self, most: Self) -> Self;

    fn abs(self) -> Self;

    /// `negative` where the sign of `self` is set, and `positive` where it is not.
    fn by_sign(self, negative: Self, positive: Self) -> Self;

    /// The number that has the last bits of `self` as its exponent, and no sign nor fraction.
    fn as_exponent(self) -> Self;
}

/// An instruction set.
pub(crate) trait Isa {
    type V<A: Accumulator>: Lanes<A>;
    /// The set for [long](Recurrence::LONG) rows: two vectors for one, where there are registers for them.
    type Long: Isa;

    /// Reads `LEN` elements.
    ///
    /// # Safety
    /// `from` must be valid for reads of `LEN` elements, and the processor must have the instruction set.
    unsafe fn read_at<E: Element>(from: *const E) -> Self::V<E::Acc>;

    /// Writes `LEN` elements.
    ///
    /// # Safety
    /// `to` must be valid for writes of `LEN` elements, and the processor must have the instruction set.
    unsafe fn write_at<E: Element>(value: Self::V<E::Acc>, to: *mut E);

    /// Writes `LEN` elements to each of some places.
    ///
    /// # Safety
    /// As for [`write_at`](Self::write_at), of every place.
    #[inline(always)]
    unsafe fn write_each_at<E: Element, const N: usize>(values: [Self::V<E::Acc>; N], to: [*mut E; N]) {
        for (value, to) in values.into_iter().zip(to) {
            // SAFETY: passed on to the caller.
            unsafe { Self::write_at(value, to) }
        }
    }

    /// Writes twice `LEN` elements to each of some places.
    ///
    /// # Safety
    /// Every place must be valid for writes of twice `LEN` elements, and the processor must have the instruction set.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn write_pairs_at<E: Element, const N: usize>(pairs: [[Self::V<E::Acc>; 2]; N], to: [*mut E; N]) {
        for ([first, second], to) in pairs.into_iter().zip(to) {
            // SAFETY: passed on to the caller.
            unsafe {
                Self::write_at(first, to);
                Self::write_at(second, to.add(<Self::V<E::Acc>>::LEN));
            }
        }
    }

    /// Reads `LEN` elements, which kernels do by this alone: it checks the bounds with debug assertions.
    ///
    /// # Safety
    /// As for [`read_at`](Self::read_at).
    #[inline(always)]
    unsafe fn read<P: Raw<Element: Element>>(from: Pointer<P>) -> Self::V<<P::Element as Element>::Acc> {
        let from = from.reach(<Self::V<<P::Element as Element>::Acc>>::LEN);
        // SAFETY: passed on to the caller.
        unsafe { Self::read_at(from.address()) }
    }

    /// Writes `LEN` elements, as [`read`](Self::read).
    ///
    /// # Safety
    /// As for [`write_at`](Self::write_at).
    #[inline(always)]
    unsafe fn write<E: Element>(value: Self::V<E::Acc>, to: Pointer<*mut E>) {
        // SAFETY: passed on to the caller.
        unsafe { Self::write_at(value, to.reach(<Self::V<E::Acc>>::LEN)) }
    }

    /// Writes `LEN` elements to each of some places, as [`read`](Self::read): where rounding branches, once for all of them.
    ///
    /// # Safety
    /// As for [`write_at`](Self::write_at), of every place.
    #[inline(always)]
    unsafe fn write_each<E: Element, const N: usize>(values: [Self::V<E::Acc>; N], to: [Pointer<*mut E>; N]) {
        // SAFETY: passed on to the caller.
        unsafe { Self::write_each_at(values, to.map(|to| to.reach(<Self::V<E::Acc>>::LEN))) }
    }

    /// Whether [`write_line`](Self::write_line) goes past the caches.
    const STREAMS: bool = false;

    /// Copies a cache line past the caches, where that can be.
    ///
    /// # Safety
    /// `from` must be valid for reads of a line, and `to` for writes and aligned to one; the processor must have the instruction set.
    #[inline(always)]
    unsafe fn write_line(from: *const u8, to: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { to.copy_from_nonoverlapping(from, LINE) }
    }

    /// Lets other threads see the lines written so far as they see any other memory.
    #[inline(always)]
    fn settle() {}

    /// Asks for the cache line at `at` to be brought into the first-level cache. Any address will do.
    fn prefetch_l1<E: Element>(at: *const E);

    /// Asks for the cache line at `at` to be brought into the second-level cache. Any address will do.
    fn prefetch_l2<E: Element>(at: *const E);

    /// Asks for the cache line at `at`, soon to be overwritten. Any address will do.
    fn prefetch_for_write<E: Element>(at: *const E);
}

/// A computation that is compiled for every instruction set.
pub(crate) trait Vectorised {
    type Output;

    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn run<I: Isa>(self) -> Self::Output;
}

/// How many instruction sets there are.
pub(crate) const ISAS: usize = 4;

/// The widest instruction set that may be taken, as they are counted by their width. Without optimisation everything that a kernel
/// is made of has a place of its own on the stack, and wide vectors would need more of it than a thread has.
pub(crate) const MOST: usize = if cfg!(unoptimised) { 1 } else { ISAS - 1 };

/// Runs a computation with the widest instruction set of this processor.
pub(crate) fn dispatch<F: Vectorised>(f: F) -> F::Output {
    #[cfg(test)]
    let widest = WIDEST.load(Ordering::Relaxed);
    #[cfg(not(test))]
    let widest = MOST;
    #[cfg(target_arch = "x86_64")]
    if widest >= 3 && avx512::available() {
        // SAFETY: the processor has AVX-512 F, DQ, BW, BF16 and VBMI.
        return unsafe { avx512::run(f) };
    } else if widest >= 2 && avx2::available() {
        // SAFETY: the processor has AVX2, FMA and F16C.
        return unsafe { avx2::run(f) };
    }
    let _ = widest;
    // SAFETY: plain Rust runs on every processor.
    unsafe { f.run::<Portable>() }
}

/// Whether memory is to be fetched a little ahead, into the first-level cache, and not further ahead into the second: what has been
/// measured to be faster, by a tenth each, on a processor of Intel and on one of AMD.
pub(crate) fn fetches_near() -> bool {
    // AMD's alone have SSE4a
    #[cfg(target_arch = "x86_64")]
    return !is_x86_feature_detected!("sse4a");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// The widest instruction set that [`dispatch`] may take, as [`run_on`] counts them.
#[cfg(test)]
pub(crate) static WIDEST: AtomicUsize = AtomicUsize::new(MOST);

/// Runs a computation with one of the instruction sets, plain Rust first; `None` where the processor does not have it.
#[cfg(test)]
pub(crate) fn run_on<F: Vectorised>(isa: usize, f: F) -> Option<F::Output> {
    match isa {
        // SAFETY: plain Rust runs on every processor.
        0 => Some(unsafe { f.run::<Scalar>() }),
        // SAFETY: as above.
        1 => Some(unsafe { f.run::<Portable>() }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AVX2, FMA and F16C.
        2 if avx2::available() => Some(unsafe { avx2::run(f) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AVX-512 F, DQ, BW, BF16 and VBMI.
        3 if avx512::available() => Some(unsafe { avx512::run(f) }),
        _ => None,
    }
}

macro_rules! accumulators {
    ($($acc:ty: $line:ident),*) => {$(
        impl Accumulator for $acc {
            const ONE: Self = 1.;
            #[cfg(target_arch = "x86_64")]
            type Avx2 = avx2::$line;
            #[cfg(target_arch = "x86_64")]
            type Avx512 = avx512::$line;
        }
    )*};
}
accumulators!(f32: F32x16, f64: F64x8);

/// Not inlined: it asks for the processor's instructions and does without them, in more code than a step of a kernel has.
#[inline(never)]
fn f16_to_f32(value: f16) -> f32 {
    value.to_f32()
}

/// As [`f16_to_f32`].
#[inline(never)]
fn f32_to_f16(value: f32) -> f16 {
    f16::from_f32(value)
}

macro_rules! elements {
    ($($element:ty: $acc:ty, $widen:expr, $narrow:expr, $read:ident, $write:ident $(, $write_pairs:ident)?;)*) => {$(
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
                unsafe { avx2::$read(from) }
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn write_avx2(value: <$acc as Accumulator>::Avx2, to: *mut Self) {
                // SAFETY: passed on to the caller.
                unsafe { avx2::$write(value, to) }
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn read_avx512(from: *const Self) -> <$acc as Accumulator>::Avx512 {
                // SAFETY: passed on to the caller.
                unsafe { avx512::$read(from) }
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn write_avx512(value: <$acc as Accumulator>::Avx512, to: *mut Self) {
                // SAFETY: passed on to the caller.
                unsafe { avx512::$write(value, to) }
            }

            $(
                #[cfg(target_arch = "x86_64")]
                #[inline(always)]
                unsafe fn write_pairs_avx512<const N: usize>(
                    pairs: [[<$acc as Accumulator>::Avx512; 2]; N],
                    to: [*mut Self; N],
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { avx512::$write_pairs(pairs, to) }
                }
            )?
        }
    )*};
}
elements! {
    f32: f32, std::convert::identity, std::convert::identity, read_f32, write_f32;
    f64: f64, std::convert::identity, std::convert::identity, read_f64, write_f64;
    bf16: f32, bf16::to_f32, bf16::from_f32, read_bf16, write_bf16, write_pairs_bf16;
    f16: f32, f16_to_f32, f32_to_f16, read_f16, write_f16;
}

#[cfg(test)]
mod tests;
