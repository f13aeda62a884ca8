//! The instruction sets of plain Rust: one element at a time, and short arrays that every compiler backend vectorises.

use super::{Accumulator, Element, Isa, Lanes};

/// One element at a time: the ends of rows.
pub(crate) struct Scalar;

impl Isa for Scalar {
    type V<A: Accumulator> = A;
    type Long = Self;

    #[inline(always)]
    unsafe fn read_at<E: Element>(from: *const E) -> E::Acc {
        // SAFETY: valid for reads, says the caller.
        unsafe { from.read() }.widen()
    }

    #[inline(always)]
    unsafe fn write_at<E: Element>(value: E::Acc, to: *mut E) {
        // SAFETY: valid for writes, says the caller.
        unsafe { to.write(E::narrow(value)) }
    }

    #[inline(always)]
    fn prefetch_l1<E: Element>(_at: *const E) {}

    #[inline(always)]
    fn prefetch_l2<E: Element>(_at: *const E) {}

    #[inline(always)]
    fn prefetch_for_write<E: Element>(_at: *const E) {}
}

macro_rules! scalar_lanes {
    ($($acc:ty),*) => {$(
        impl Lanes<$acc> for $acc {
            const LEN: usize = 1;

            #[inline(always)]
            fn splat(value: $acc) -> Self {
                value
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self - other
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self / other
            }

            #[inline(always)]
            fn add_product(self, factor: Self, other: Self) -> Self {
                factor.mul_add(other, self)
            }

            #[inline(always)]
            fn sub_product(self, factor: Self, other: Self) -> Self {
                (-factor).mul_add(other, self)
            }

            #[inline(always)]
            fn flush(self) -> Self {
                if self.abs() < <$acc>::MIN_POSITIVE { 0. } else { self }
            }

            #[inline(always)]
            fn keep_zero(self, value: Self) -> Self {
                if self == 0. { 0. } else { value }
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                if self < least { least } else { self }
            }

            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                if self > most { most } else { self }
            }

            #[inline(always)]
            fn abs(self) -> Self {
                <$acc>::abs(self)
            }

            #[inline(always)]
            fn by_sign(self, negative: Self, positive: Self) -> Self {
                if self.is_sign_negative() { negative } else { positive }
            }

            #[inline(always)]
            fn as_exponent(self) -> Self {
                Self::from_bits(self.to_bits() << (Self::MANTISSA_DIGITS - 1))
            }
        }
    )*};
}
scalar_lanes!(f32, f64);

/// Short arrays, for processors without an instruction set of their own here.
pub(crate) struct Portable;

const WIDTH: usize = 4;

#[derive(Clone, Copy)]
pub(crate) struct Array<A>([A; WIDTH]);

impl Isa for Portable {
    type V<A: Accumulator> = Array<A>;
    type Long = Self;

    #[inline(always)]
    unsafe fn read_at<E: Element>(from: *const E) -> Array<E::Acc> {
        // SAFETY: valid for reads of WIDTH elements, says the caller; an array is aligned as its elements are.
        Array(unsafe { from.cast::<[E; WIDTH]>().read() }.map(E::widen))
    }

    #[inline(always)]
    unsafe fn write_at<E: Element>(value: Array<E::Acc>, to: *mut E) {
        // SAFETY: valid for writes of WIDTH elements, says the caller; an array is aligned as its elements are.
        unsafe { to.cast::<[E; WIDTH]>().write(value.0.map(E::narrow)) }
    }

    #[inline(always)]
    fn prefetch_l1<E: Element>(_at: *const E) {}

    #[inline(always)]
    fn prefetch_l2<E: Element>(_at: *const E) {}

    #[inline(always)]
    fn prefetch_for_write<E: Element>(_at: *const E) {}
}

impl<A: Accumulator> Array<A> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(A, A) -> A) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    /// A product and a sum rounded once. Without an [instruction](Lanes::FUSES) for that, each lane is a call, before which all
    /// registers are saved: one call for all lanes makes kernels, which consist of little else, much smaller.
    #[inline(always)]
    fn fused(self, factor: Self, other: Self, f: impl Fn(A, A, A) -> A) -> Self {
        match Self::FUSES {
            true => self.zip3(factor, other, f),
            false => self.fused_apart(factor, other, f),
        }
    }

    #[inline(never)]
    fn fused_apart(self, factor: Self, other: Self, f: impl Fn(A, A, A) -> A) -> Self {
        self.zip3(factor, other, f)
    }

    #[inline(always)]
    fn zip3(self, second: Self, third: Self, f: impl Fn(A, A, A) -> A) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], second.0[i], third.0[i])))
    }
}

impl<A: Accumulator> Lanes<A> for Array<A> {
    const LEN: usize = WIDTH;
    const FUSES: bool = cfg!(any(not(target_arch = "x86_64"), target_feature = "fma"));

    #[inline(always)]
    fn splat(value: A) -> Self {
        Self([value; WIDTH])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, <A as Lanes<A>>::add)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, <A as Lanes<A>>::sub)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, <A as Lanes<A>>::mul)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, <A as Lanes<A>>::div)
    }

    #[inline(always)]
    fn add_product(self, factor: Self, other: Self) -> Self {
        self.fused(factor, other, A::add_product)
    }

    #[inline(always)]
    fn sub_product(self, factor: Self, other: Self) -> Self {
        self.fused(factor, other, A::sub_product)
    }

    #[inline(always)]
    fn flush(self) -> Self {
        Self(self.0.map(A::flush))
    }

    #[inline(always)]
    fn keep_zero(self, value: Self) -> Self {
        self.zip(value, A::keep_zero)
    }

    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        self.zip(least, A::at_least)
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        self.zip(most, A::at_most)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(A::abs))
    }

    #[inline(always)]
    fn by_sign(self, negative: Self, positive: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].by_sign(negative.0[i], positive.0[i])))
    }

    #[inline(always)]
    fn as_exponent(self) -> Self {
        Self(self.0.map(A::as_exponent))
    }
}
