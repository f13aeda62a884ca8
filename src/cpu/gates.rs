//! The gates: the logistic function and what is made of it.

use super::simd::{Accumulator, Lanes};

/// The logistic function `1 / (1 + exp(-x))`.
#[derive(Clone, Copy)]
pub(crate) struct Sigmoid<V> {
    pub value: V,
    /// One minus the value, as accurate as the value itself where that is next to one.
    pub complement: V,
}

/// The logistic function of `x`.
///
/// From `e = exp(-|x|)` it is `1 / (1 + e)` or `e / (1 + e)`, by the sign of `x`, and its complement the other one.
#[inline(always)]
pub(crate) fn sigmoid<A: Accumulator, V: Lanes<A>>(x: V) -> Sigmoid<V> {
    let e = exp_of_negative(x.negative_abs());
    let one = V::splat(A::ONE);
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
/// `ln 2` of zero.
#[inline(always)]
fn exp_of_negative<A: Accumulator, V: Lanes<A>>(x: V) -> V {
    let x = x.at_least(V::splat(A::LEAST));
    let biased = x.mul(V::splat(A::LOG2_E)).add(V::splat(A::ROUND));
    let n = biased.sub(V::splat(A::ROUND));
    let [high, low] = A::LN_2;
    let rest = x.sub(n.mul(V::splat(high))).sub(n.mul(V::splat(low)));
    let mut power = V::splat(A::POLYNOMIAL[0]);
    for coefficient in &A::POLYNOMIAL[1..] {
        power = power.mul(rest).add(V::splat(*coefficient));
    }
    power.mul(biased.as_exponent())
}

/// The constants of an exponential function.
pub(crate) trait Exponential: Sized + 'static {
    /// 1 / ln 2.
    const LOG2_E: Self;
    /// `ln 2` as a sum of two: multiples of the first one are exact for every exponent.
    const LN_2: [Self; 2];
    /// A sum with it has no room for a fraction, and ends in the bits of the other summand plus the exponents' bias.
    const ROUND: Self;
    /// Rounds to a power of two whose biased exponent is zero.
    const LEAST: Self;
    /// The coefficients of the polynomial, the highest first. Its first two are those of the power series, the others have
    /// the least relative error within half a `ln 2` of zero: 3e-9 and 4e-18.
    const POLYNOMIAL: &'static [Self];
}

impl Exponential for f32 {
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN_2: [Self; 2] = [0.693_145_75, 1.428_606_8e-6];
    const ROUND: Self = (3 << 22) as Self + 127.;
    const LEAST: Self = -88.;
    const POLYNOMIAL: &'static [Self] =
        &[0.001_381_431_9, 0.008_368_851, 0.041_668_4, 0.166_665_2, 0.499_999_94, 1., 1.];
}

impl Exponential for f64 {
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN_2: [Self; 2] = [0.693_147_180_560_117_7, -1.723_944_452_561_483_5e-13];
    const ROUND: Self = (3_u64 << 51) as Self + 1023.;
    const LEAST: Self = -709.;
    const POLYNOMIAL: &'static [Self] = &[
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
