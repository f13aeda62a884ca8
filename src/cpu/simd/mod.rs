//! Vectors of accumulators, and how elements of every dtype are read into and written from them.
//!
//! A kernel is written once, for any instruction set ([`Isa`]), element and accumulator; [`dispatch`] runs it with the
//! widest one the processor has. Products and sums are fused only where a kernel says so, and then in all instruction sets,
//! so that all of them give the same bits.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::WithDType;
use half::{bf16, f16};

use super::gates::{Accuracy, Exponential};
use super::pointer::{Pointer, Raw};
pub(crate) use portable::{Portable, Scalar};
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
pub(crate) trait Element: WithDType + Accuracy<<Self as Element>::Acc> + 'static {
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
    /// As for [`Isa::read_at`]; the processor has AVX-512 F, DQ and BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn read_avx512(from: *const Self) -> <Self::Acc as Accumulator>::Avx512;

    /// # Safety
    /// As for [`Isa::write_at`]; the processor has AVX-512 F, DQ and BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn write_avx512(value: <Self::Acc as Accumulator>::Avx512, to: *mut Self);

    /// # Safety
    /// As for [`Isa::write_two_at`]; the processor has AVX-512 F, DQ and BF16.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn write_two_avx512([first, second]: [<Self::Acc as Accumulator>::Avx512; 2], to: *mut Self) {
        // SAFETY: passed on to the caller.
        unsafe {
            Self::write_avx512(first, to);
            Self::write_avx512(second, to.add(<<Self::Acc as Accumulator>::Avx512 as Lanes<Self::Acc>>::LEN));
        }
    }
}

/// `LEN` accumulators side by side.
pub(crate) trait Lanes<A>: Copy {
    const LEN: usize;

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

    /// Writes twice `LEN` elements.
    ///
    /// # Safety
    /// `to` must be valid for writes of twice `LEN` elements, and the processor must have the instruction set.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn write_two_at<E: Element>([first, second]: [Self::V<E::Acc>; 2], to: *mut E) {
        // SAFETY: passed on to the caller.
        unsafe {
            Self::write_at(first, to);
            Self::write_at(second, to.add(<Self::V<E::Acc>>::LEN));
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

    /// Asks for the cache line at `at`, soon to be read. Any address will do.
    fn prefetch<E: Element>(at: *const E);

    /// Asks for the cache line at `at` to be brought into the second-level cache. Any address will do.
    fn prefetch_for_later<E: Element>(at: *const E);

    /// Asks for the cache line at `at`, soon to be overwritten. Any address will do.
    fn prefetch_for_write<E: Element>(at: *const E);
}

/// A recurrence over the rows of a block, on `LEN` channels at a time.
pub(crate) trait Recurrence {
    type Acc: Accumulator;
    /// What a row hands to the next one.
    type Carry<V: Copy>: Copy;
    /// Whether a row is so long a chain of operations that the processor does not see its end while it waits for the start, and
    /// reads so little that two vectors are better computed at once.
    const LONG: bool = false;

    /// The carry into the first row, of the channels `at .. at + LEN`.
    ///
    /// # Safety
    /// The channels must lie within the rows, and the processor must have the instruction set.
    unsafe fn load<I: Isa>(&self, at: usize) -> Self::Carry<I::V<Self::Acc>>;

    /// Computes a row.
    ///
    /// # Safety
    /// As for [`load`](Self::load), and the row must lie within the block.
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        carry: Self::Carry<I::V<Self::Acc>>,
    ) -> Self::Carry<I::V<Self::Acc>>;

    /// Computes a row of so many vectors, each with the carry that [`load`](Self::load) finds.
    ///
    /// # Safety
    /// As for [`row`](Self::row).
    #[inline(always)]
    unsafe fn whole_row<I: Isa>(&self, row: isize, vectors: usize)
    where
        Self: Sized,
    {
        // SAFETY: passed on to the caller.
        unsafe { whole_row::<I, _>(self, row, vectors) };
    }

    /// Puts the carry out of the last row where [`load`](Self::load) found it.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn store<I: Isa>(&self, at: usize, carry: Self::Carry<I::V<Self::Acc>>);
}

/// Runs a recurrence over `rows` rows of `width` channels.
///
/// Wide rows are taken one after another, which is the order that memory likes. The carry of a few vectors stays in
/// registers all the way.
///
/// # Safety
/// The recurrence must have rows and channels as many, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn sweep<I: Isa, K: Recurrence>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    let vectors = width / lanes;
    let size = (rows, width);
    // SAFETY: channels below `vectors * lanes` or `width`, rows below `rows`; the scalar set is on every processor.
    unsafe {
        match vectors {
            0 => {}
            1 => sweep_columns::<I, K, 1, 1>(kernel, size, 0),
            2 => sweep_columns::<I, K, 2, 1>(kernel, size, 0),
            4 => sweep_columns::<I, K, 4, 1>(kernel, size, 0),
            _ => {
                for row in 0..rows as isize {
                    kernel.whole_row::<I>(row, vectors);
                }
            }
        }
        for at in vectors * lanes..width {
            sweep_columns::<Scalar, K, 1, 1>(kernel, size, at);
        }
    }
}

/// Runs a recurrence over `rows` rows of `width` channels, one row after another.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
pub(crate) unsafe fn sweep_rows<I: Isa, K: Recurrence>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    let vectors = width / lanes;
    // SAFETY: as in `sweep`.
    unsafe {
        for row in 0..rows as isize {
            kernel.whole_row::<I>(row, vectors);
        }
        for at in vectors * lanes..width {
            sweep_columns::<Scalar, K, 1, 1>(kernel, (rows, width), at);
        }
    }
}

/// Runs a recurrence over `S` strands side by side: the rows and the carries of one lie after those of another. Rows have one
/// or two vectors, and are taken a vector at a time.
///
/// # Safety
/// The recurrence must have `S` times as many rows and carries, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn sweep_narrow<I: Isa, K: Recurrence, const S: usize>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    let whole = width / lanes * lanes;
    // SAFETY: passed on to the caller; the scalar set is on every processor.
    unsafe {
        match whole == lanes {
            // at a place that the compiler knows
            true => sweep_columns::<I, K, 1, S>(kernel, (rows, width), 0),
            false => {
                for at in (0..whole).step_by(lanes) {
                    sweep_columns::<I, K, 1, S>(kernel, (rows, width), at);
                }
            }
        }
        for at in whole..width {
            sweep_columns::<Scalar, K, 1, S>(kernel, (rows, width), at);
        }
    }
}

/// Runs one row of a recurrence, over so many vectors.
///
/// # Safety
/// As for [`Recurrence::row`].
#[inline(always)]
pub(crate) unsafe fn whole_row<I: Isa, K: Recurrence>(kernel: &K, row: isize, vectors: usize) {
    let (lanes, long) = (<I::V<K::Acc>>::LEN, <<I::Long as Isa>::V<K::Acc>>::LEN);
    let paired = if K::LONG { vectors * lanes / long * long } else { 0 };
    for at in (0..paired).step_by(long) {
        // SAFETY: passed on to the caller.
        unsafe { kernel.store::<I::Long>(at, kernel.row::<I::Long>(row, at, kernel.load::<I::Long>(at))) };
    }
    for at in (paired..vectors * lanes).step_by(lanes) {
        // SAFETY: passed on to the caller.
        unsafe { kernel.store::<I>(at, kernel.row::<I>(row, at, kernel.load::<I>(at))) };
    }
}

/// Runs a recurrence over the `N` vectors of channels from `at` on, in `S` strands.
///
/// # Safety
/// As for [`sweep`], or [`sweep_narrow`].
#[inline(always)]
unsafe fn sweep_columns<I: Isa, K: Recurrence, const N: usize, const S: usize>(
    kernel: &K,
    (rows, width): (usize, usize),
    at: usize,
) {
    let lanes = <I::V<K::Acc>>::LEN;
    // SAFETY: passed on to the caller.
    unsafe {
        // no closures here: they are compiled without the instruction set where they are not inlined
        let mut carries = [[kernel.load::<I>(at); N]; S];
        for (strand, carries) in carries.iter_mut().enumerate() {
            for (i, carry) in carries.iter_mut().enumerate() {
                *carry = kernel.load::<I>(strand * width + at + i * lanes);
            }
        }
        for row in 0..rows {
            for (strand, carries) in carries.iter_mut().enumerate() {
                let row = (strand * rows + row) as isize;
                for (i, carry) in carries.iter_mut().enumerate() {
                    *carry = kernel.row::<I>(row, at + i * lanes, *carry);
                }
            }
        }
        for (strand, carries) in carries.into_iter().enumerate() {
            for (i, carry) in carries.into_iter().enumerate() {
                kernel.store::<I>(strand * width + at + i * lanes, carry);
            }
        }
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
    #[cfg(test)]
    let widest = WIDEST.load(Ordering::Relaxed);
    #[cfg(not(test))]
    let widest = 3;
    #[cfg(target_arch = "x86_64")]
    if widest >= 3 && avx512::available() {
        // SAFETY: the processor has AVX-512 F, DQ and BF16.
        return unsafe { avx512::run(f) };
    } else if widest >= 2 && avx2::available() {
        // SAFETY: the processor has AVX2, FMA and F16C.
        return unsafe { avx2::run(f) };
    }
    let _ = widest;
    // SAFETY: plain Rust runs on every processor.
    unsafe { f.run::<Portable>() }
}

/// How many instruction sets there are.
#[cfg(test)]
pub(crate) const ISAS: usize = 4;

/// The widest instruction set that [`dispatch`] may take, as [`run_on`] counts them.
#[cfg(test)]
pub(crate) static WIDEST: AtomicUsize = AtomicUsize::new(ISAS - 1);

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
        // SAFETY: the processor has AVX-512 F, DQ and BF16.
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

macro_rules! elements {
    ($($element:ty: $acc:ty, $widen:expr, $narrow:expr, $read:ident, $write:ident $(, $write_two:ident)?;)*) => {$(
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
                unsafe fn write_two_avx512(values: [<$acc as Accumulator>::Avx512; 2], to: *mut Self) {
                    // SAFETY: passed on to the caller.
                    unsafe { avx512::$write_two(values, to) }
                }
            )?
        }
    )*};
}
elements! {
    f32: f32, std::convert::identity, std::convert::identity, read_f32, write_f32;
    f64: f64, std::convert::identity, std::convert::identity, read_f64, write_f64;
    bf16: f32, bf16::to_f32, bf16::from_f32, read_bf16, write_bf16, write_two_bf16;
    f16: f32, f16::to_f32, f16::from_f32, read_f16, write_f16;
}

#[cfg(test)]
mod tests;
