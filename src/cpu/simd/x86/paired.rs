//! Two vectors of an instruction set for one. Their operations alternate, so that a processor finds work in one while the
//! results of the other are on their way.

use std::marker::PhantomData;

use crate::cpu::simd::{Accumulator, Element, Isa, Lanes, LINE};

/// Two vectors of `I` for one.
pub(crate) struct Paired<I>(PhantomData<I>);

#[derive(Clone, Copy)]
pub(crate) struct Pair<V>([V; 2]);

impl<I: Isa> Isa for Paired<I> {
    type V<A: Accumulator> = Pair<I::V<A>>;
    type Long = Self;

    #[inline(always)]
    unsafe fn read_at<E: Element>(from: *const E) -> Self::V<E::Acc> {
        // SAFETY: valid for reads of twice as many, says the caller.
        unsafe { Pair([I::read_at(from), I::read_at(from.add(<I::V<E::Acc>>::LEN))]) }
    }

    #[inline(always)]
    unsafe fn write_at<E: Element>(Pair(values): Self::V<E::Acc>, to: *mut E) {
        // SAFETY: valid for writes of twice as many, says the caller.
        unsafe { I::write_pairs_at([values], [to]) }
    }

    #[inline(always)]
    unsafe fn write_each_at<E: Element, const N: usize>(values: [Self::V<E::Acc>; N], to: [*mut E; N]) {
        // SAFETY: valid for writes of twice as many, says the caller.
        unsafe { I::write_pairs_at(values.map(|Pair(values)| values), to) }
    }

    #[inline(always)]
    fn prefetch_l1<E: Element>(at: *const E) {
        for line in lines::<I, E>(at) {
            I::prefetch_l1(line);
        }
    }

    #[inline(always)]
    fn prefetch_l2<E: Element>(at: *const E) {
        for line in lines::<I, E>(at) {
            I::prefetch_l2(line);
        }
    }

    #[inline(always)]
    fn prefetch_for_write<E: Element>(at: *const E) {
        for line in lines::<I, E>(at) {
            I::prefetch_for_write(line);
        }
    }
}

/// The cache lines of a pair at `at`.
#[inline(always)]
fn lines<I: Isa, E: Element>(at: *const E) -> impl Iterator<Item = *const E> {
    (0..2 * <I::V<E::Acc>>::LEN).step_by(LINE / size_of::<E>()).map(move |i| at.wrapping_add(i))
}

impl<A: Copy, V: Lanes<A>> Lanes<A> for Pair<V> {
    const LEN: usize = 2 * V::LEN;

    #[inline(always)]
    fn splat(value: A) -> Self {
        Self([V::splat(value); 2])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self([self.0[0].add(other.0[0]), self.0[1].add(other.0[1])])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self([self.0[0].sub(other.0[0]), self.0[1].sub(other.0[1])])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self([self.0[0].mul(other.0[0]), self.0[1].mul(other.0[1])])
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self([self.0[0].div(other.0[0]), self.0[1].div(other.0[1])])
    }

    #[inline(always)]
    fn add_product(self, factor: Self, other: Self) -> Self {
        Self([self.0[0].add_product(factor.0[0], other.0[0]), self.0[1].add_product(factor.0[1], other.0[1])])
    }

    #[inline(always)]
    fn sub_product(self, factor: Self, other: Self) -> Self {
        Self([self.0[0].sub_product(factor.0[0], other.0[0]), self.0[1].sub_product(factor.0[1], other.0[1])])
    }

    #[inline(always)]
    fn flush(self) -> Self {
        Self([self.0[0].flush(), self.0[1].flush()])
    }

    #[inline(always)]
    fn keep_zero(self, value: Self) -> Self {
        Self([self.0[0].keep_zero(value.0[0]), self.0[1].keep_zero(value.0[1])])
    }

    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        Self([self.0[0].at_least(least.0[0]), self.0[1].at_least(least.0[1])])
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        Self([self.0[0].at_most(most.0[0]), self.0[1].at_most(most.0[1])])
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self([self.0[0].abs(), self.0[1].abs()])
    }

    #[inline(always)]
    fn by_sign(self, negative: Self, positive: Self) -> Self {
        let [first, second] = self.0;
        Self([first.by_sign(negative.0[0], positive.0[0]), second.by_sign(negative.0[1], positive.0[1])])
    }

    #[inline(always)]
    fn as_exponent(self) -> Self {
        Self([self.0[0].as_exponent(), self.0[1].as_exponent()])
    }
}
