//! The gates: the logistic function and what is made of it.

use super::simd::{Accumulator, Element, Lanes};

/// The value of a function that a gate is made of, and of its derivative.
#[derive(Clone, Copy)]
pub(crate) struct Gate<V> {
    pub value: V,
    pub slope: V,
}

/// The logistic function `s(x) = 1 / (1 + exp(-x))` and its derivative `s(x) s(-x)`, as accurate as elements `T` need them.
///
/// From `exp(-|x|) = p / q` it is `p / (p + q)` for a negative `x`. That is the smaller one of `s(x)` and `s(-x)`, and both follow
/// from it as accurate as it is itself, the derivative also where the value is next to one.
///
/// Of the relative error of `p / q`, the value has `1 - value` as large a part: a gate that is close to one, so that its
/// error goes into many later states, has little of it, and those that a state remembers add up to about one such error.
#[inline(always)]
pub(crate) fn sigmoid<T: Element, V: Lanes<T::Acc>>(x: V) -> Gate<V> {
    let (p, power, q) = exp_of_minus::<T, V>(x.abs().at_most(V::splat(T::Acc::MOST)));
    let p = p.mul(power);
    let smaller = p.div(p.add(q));
    Gate { value: x.by_sign(smaller, one_minus(smaller)), slope: smaller.sub_product(smaller, smaller) }
}

/// The value of [`sigmoid`] alone, up to its rounding, for which `q / (p + q)` with `exp(-x) = p / q` does whatever the sign of
/// `x`, down to the smallest normal number, from less arithmetic.
#[inline(always)]
pub(crate) fn logistic<T: Element, V: Lanes<T::Acc>>(x: V) -> V {
    let x = x.at_least(V::splat(T::Acc::LEAST)).at_most(V::splat(T::Acc::MOST));
    let (p, power, q) = exp_of_minus::<T, V>(x);
    q.div(q.add_product(p, power))
}

/// `silu(x) = x s(x)`, with the value of [`logistic`], and its derivative `s(x) + silu(x) s(-x)`.
///
/// That the rounding of `s(x)` is all of `s(-x)` for a large `x` costs the derivative, which is next to one, `x` times as much: not
/// more than a few roundings, for then `s(-x)` vanishes altogether.
#[inline(always)]
pub(crate) fn silu<T: Element, V: Lanes<T::Acc>>(x: V) -> Gate<V> {
    let s = logistic::<T, V>(x);
    let value = x.mul(s);
    Gate { value, slope: s.add_product(value, one_minus(s)) }
}

#[inline(always)]
fn one_minus<A: Accumulator, V: Lanes<A>>(x: V) -> V {
    V::splat(A::ONE).sub(x)
}

/// `exp(-x)` of a number from `LEAST` to `MOST`, as `p`, a power of two and `q`: it is the power times `p / q`. The power is zero
/// where it would be smaller than the smallest normal number.
///
/// With `n` the multiple of `ln 2` nearest to `-x` it is `2^n` times `exp(-r)` for a rest `r`, which lies within half a `ln 2` of
/// zero. `E = r / tanh(r / 2)` has even powers only, falls off fast, and makes `exp(-r)` the quotient of `E - r` and `E + r`.
#[inline(always)]
fn exp_of_minus<T: Element, V: Lanes<T::Acc>>(x: V) -> (V, V, V) {
    match V::FUSES {
        true => exp_of_minus_inlined::<T, V>(x),
        false => exp_of_minus_apart::<T, V>(x),
    }
}

/// [`exp_of_minus`] as a function, where products and sums are fused by calls and another one does not matter.
#[inline(never)]
fn exp_of_minus_apart<T: Element, V: Lanes<T::Acc>>(x: V) -> (V, V, V) {
    exp_of_minus_inlined::<T, V>(x)
}

#[inline(always)]
fn exp_of_minus_inlined<T: Element, V: Lanes<T::Acc>>(x: V) -> (V, V, V) {
    let biased = V::splat(T::Acc::ROUND).sub_product(x, V::splat(T::Acc::LOG2_E));
    let n = biased.sub(V::splat(T::Acc::ROUND));
    let mut rest = x;
    for part in T::LN_2 {
        rest = rest.add_product(n, V::splat(*part));
    }
    let even = even::<T, V>(rest);
    (even.sub(rest), biased.as_exponent(), even.add(rest))
}

/// `r / tanh(r / 2)`.
#[inline(always)]
fn even<T: Element, V: Lanes<T::Acc>>(rest: V) -> V {
    let square = rest.mul(rest);
    let mut even = V::splat(T::EVEN[0]);
    for coefficient in &T::EVEN[1..] {
        even = V::splat(*coefficient).add_product(even, square);
    }
    even
}

/// The constants of an exponential function that belong to the arithmetic.
pub(crate) trait Exponential: Sized + 'static {
    /// 1 / ln 2.
    const LOG2_E: Self;
    /// A sum with it has no room for a fraction, and ends in the bits of the other summand plus the exponents' bias.
    const ROUND: Self;
    /// Of the exponential function of its negative the value is finite, but not the numerator of the quotient, twice that or more.
    const LEAST: Self;
    /// The exponential function of its negative is rounded to a power of two whose biased exponent is zero.
    const MOST: Self;
}

impl Exponential for f32 {
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const ROUND: Self = (3 << 22) as Self + 127.;
    const LEAST: Self = -Self::MOST;
    const MOST: Self = 88.3;
}

impl Exponential for f64 {
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const ROUND: Self = (3_u64 << 51) as Self + 1023.;
    const LEAST: Self = -Self::MOST;
    const MOST: Self = 709.3;
}

/// The constants of an exponential function that belong to the accuracy of a dtype.
pub(crate) trait Accuracy<A: 'static> {
    /// `ln 2`, or parts of which it is the sum: multiples of the first of two are exact for every exponent.
    const LN_2: &'static [A];
    /// The coefficients of the powers of `r^2` in `r / tanh(r / 2)`, the highest first: those that give the exponential function
    /// the least relative error within half a `ln 2` of zero, 9.2e-7 for half precision, 5.2e-10 and 1.8e-19.
    const EVEN: &'static [A];
}

macro_rules! half_precision {
    ($($element:ty),*) => {$(
        impl Accuracy<f32> for $element {
            const LN_2: &'static [f32] = &[std::f32::consts::LN_2];
            const EVEN: &'static [f32] = &[0.166_377_25, 2.];
        }
    )*};
}
half_precision!(half::bf16, half::f16);

impl Accuracy<f32> for f32 {
    const LN_2: &'static [Self] = &[0.693_145_75, 1.428_606_8e-6];
    const EVEN: &'static [Self] = &[-0.002_765_985, 0.166_666_18, 2.];
}

impl Accuracy<f64> for f64 {
    const LN_2: &'static [Self] = &[0.693_147_180_560_117_7, -1.723_944_452_561_483_5e-13];
    const EVEN: &'static [Self] = &[
        4.136_045_217_236_44e-8,
        -1.653_383_709_594_122e-6,
        6.613_756_250_060_687e-5,
        -0.002_777_777_777_669_608_6,
        0.166_666_666_666_665_55,
        2.,
    ];
}

#[cfg(test)]
mod tests;
