//! The gates: the logistic function and what is made of it.

use super::simd::{Accumulator, Element, Lanes};

/// The logistic function `1 / (1 + exp(-x))`.
#[derive(Clone, Copy)]
pub(crate) struct Sigmoid<V> {
    pub value: V,
    /// One minus the value, as accurate as the value itself where that is next to one.
    pub complement: V,
}

/// The logistic function of `x`, as accurate as elements `T` need it.
///
/// From `e = exp(-|x|)` it is `1 / (1 + e)` or `e / (1 + e)`, by the sign of `x`, and its complement the other one.
///
/// Of the relative error of `e`, the value has `1 - value` as large a part: a gate that is close to one, so that its
/// error goes into many later states, has little of it, and those that a state remembers add up to about one such error.
#[inline(always)]
pub(crate) fn sigmoid<T: Element, V: Lanes<T::Acc>>(x: V) -> Sigmoid<V> {
    let e = exp_of_negative::<T, V>(x.negative_abs());
    let one = V::splat(T::Acc::ONE);
    let larger = one.div(one.add(e));
    let smaller = e.mul(larger);
    Sigmoid { value: x.by_sign(smaller, larger), complement: x.by_sign(larger, smaller) }
}

impl<V> Sigmoid<V> {
    /// The derivative.
    #[inline(always)]
    pub fn slope<A>(self) -> V
    where
        V: Lanes<A>,
    {
        self.value.mul(self.complement)
    }
}

/// The exponential function of a number not above zero; zero where it would be smaller than the smallest normal number.
///
/// With `n` the multiple of `ln 2` nearest to `x`, it is `2^n` times a polynomial in the rest, which lies within half a
/// `ln 2` of zero. Its even and its odd powers are summed side by side: one sum waits for itself at every power.
#[inline(always)]
fn exp_of_negative<T: Element, V: Lanes<T::Acc>>(x: V) -> V {
    let x = x.at_least(V::splat(T::Acc::LEAST));
    let biased = x.mul(V::splat(T::Acc::LOG2_E)).add(V::splat(T::Acc::ROUND));
    let n = biased.sub(V::splat(T::Acc::ROUND));
    let mut rest = x;
    for part in T::LN_2 {
        rest = rest.sub(n.mul(V::splat(*part)));
    }
    let square = rest.mul(rest);
    // the last coefficient is that of an even power
    let odd = T::EXPONENTIAL.len() % 2;
    let power = every_second::<T, V>(1 - odd, square).add(every_second::<T, V>(odd, square).mul(rest));
    power.mul(biased.as_exponent())
}

/// The polynomial of every second coefficient from the `first` on.
#[inline(always)]
fn every_second<T: Element, V: Lanes<T::Acc>>(first: usize, square: V) -> V {
    let mut sum = V::splat(T::EXPONENTIAL[first]);
    let mut next = first + 2;
    while next < T::EXPONENTIAL.len() {
        sum = sum.mul(square).add(V::splat(T::EXPONENTIAL[next]));
        next += 2;
    }
    sum
}

/// The constants of an exponential function that belong to the arithmetic.
pub(crate) trait Exponential: Sized + 'static {
    /// 1 / ln 2.
    const LOG2_E: Self;
    /// A sum with it has no room for a fraction, and ends in the bits of the other summand plus the exponents' bias.
    const ROUND: Self;
    /// Rounds to a power of two whose biased exponent is zero.
    const LEAST: Self;
}

impl Exponential for f32 {
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const ROUND: Self = (3 << 22) as Self + 127.;
    const LEAST: Self = -88.;
}

impl Exponential for f64 {
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const ROUND: Self = (3_u64 << 51) as Self + 1023.;
    const LEAST: Self = -709.;
}

/// The constants of an exponential function that belong to the accuracy of a dtype.
pub(crate) trait Accuracy<A: 'static> {
    /// `ln 2`, or parts of which it is the sum: multiples of the first of two are exact for every exponent.
    const LN_2: &'static [A];
    /// The coefficients of the polynomial, the highest first. Its last two are those of the power series, the others have
    /// the least relative error within half a `ln 2` of zero: 5e-6 for half precision, 3e-9 and 4e-18. In half precision, far
    /// from zero, the rounding of multiples of `ln 2` makes that 1e-5.
    const EXPONENTIAL: &'static [A];
}

macro_rules! half_precision {
    ($($element:ty),*) => {$(
        impl Accuracy<f32> for $element {
            const LN_2: &'static [f32] = &[std::f32::consts::LN_2];
            const EXPONENTIAL: &'static [f32] = &[0.041_277_368, 0.167_536, 0.500_051_26, 1., 1.];
        }
    )*};
}
half_precision!(half::bf16, half::f16);

impl Accuracy<f32> for f32 {
    const LN_2: &'static [Self] = &[0.693_145_75, 1.428_606_8e-6];
    const EXPONENTIAL: &'static [Self] =
        &[0.001_381_431_9, 0.008_368_851, 0.041_668_4, 0.166_665_2, 0.499_999_94, 1., 1.];
}

impl Accuracy<f64> for f64 {
    const LN_2: &'static [Self] = &[0.693_147_180_560_117_7, -1.723_944_452_561_483_5e-13];
    const EXPONENTIAL: &'static [Self] = &[
        2.499_984_167_351_403_7e-8,
        2.763_052_313_825_741_6e-7,
        2.755_758_846_929_212e-6,
        2.480_149_238_927_857_3e-5,
        0.000_198_412_695_026_938_02,
        0.001_388_888_894_424_818,
        0.008_333_333_333_496_942,
        0.041_666_666_666_528_11,
        0.166_666_666_666_664_08,
        0.500_000_000_000_001_1,
        1.,
        1.,
    ];
}

#[cfg(test)]
mod tests;
