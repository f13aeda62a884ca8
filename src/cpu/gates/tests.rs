use candle_core::WithDType;
use half::{bf16, f16};

use super::*;
use crate::cpu::pointer::Pointer;
use crate::cpu::simd::{run_on, sweep, Isa, Recurrence, Vectorised, ISAS};

/// What is made of a number `x`: the exponential function of `-|x|`, the value and the slope of the logistic function, the value
/// alone, and value and slope of `silu`.
const FUNCTIONS: usize = 6;

/// Writes the functions of a row, as accurate as elements `T` need them.
struct Rows<'a, T: Element> {
    from: &'a [T::Acc],
    to: [Pointer<*mut T::Acc>; FUNCTIONS],
}

impl<T: Element> Recurrence for Rows<'_, T> {
    type Acc = T::Acc;
    type Carry<V: Copy> = ();

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, _at: usize) {}

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, _row: isize, at: usize, _carry: ()) {
        // SAFETY: all rows are as long as the first one.
        unsafe {
            let x = I::read(Pointer::to(self.from).add(at));
            let (p, power, q) = exp_of_minus::<T, _>(x.abs().at_most(Lanes::splat(T::Acc::MOST)));
            let (s, silu) = (sigmoid::<T, _>(x), silu::<T, _>(x));
            let functions = [p.mul(power).div(q), s.value, s.slope, logistic::<T, _>(x), silu.value, silu.slope];
            for (to, value) in self.to.into_iter().zip(functions) {
                I::write(value, to.add(at));
            }
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, _at: usize, _carry: ()) {}
}

impl<T: Element> Vectorised for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: one row of that length.
        unsafe { sweep::<I, _>(&self, 1, self.from.len()) }
    }
}

/// The functions of every one of `from`, the same from every instruction set.
fn functions<T: Element>(from: &[T::Acc]) -> [Vec<T::Acc>; FUNCTIONS] {
    let on = |isa| {
        let mut to: [Vec<T::Acc>; FUNCTIONS] = std::array::from_fn(|_| vec![T::Acc::default(); from.len()]);
        run_on(isa, Rows::<T> { from, to: to.each_mut().map(|to| Pointer::to_mut(to)) }).map(|()| to)
    };
    let first = on(0).expect("plain Rust runs on every processor");
    for isa in 1..ISAS {
        for (row, others) in on(isa).iter().flat_map(|rows| rows.iter().zip(&first)) {
            for (i, (&value, &other)) in row.iter().zip(others).enumerate() {
                // signs of zero and bits of NaN aside, equal numbers have equal bits
                let same = value == other || (value.to_f64().is_nan() && other.to_f64().is_nan());
                assert!(same, "at {}: {value} and {other} with instruction set {isa}", from[i]);
            }
        }
    }
    first
}

/// Checks the functions of finite numbers against those of f64.
///
/// The exponential function may have a relative error of `of_exp`, what is made of it that part of it which comes through
/// (of the value of the logistic function as much as there is to one), and all of them an error of `rounding` besides.
/// Numbers below `least` may be zero.
fn assert_accurate<T: Element>(from: &[T::Acc], [of_exp, rounding, least]: [f64; 3]) {
    let got = functions::<T>(from);
    for (i, x) in from.iter().enumerate() {
        let x = x.to_f64();
        let (e, value, complement) = ((-x.abs()).exp(), 1. / (1. + (-x).exp()), 1. / (1. + x.exp()));
        let (slope, silu) = (value * complement, x * value);
        let expected = [e, value, slope, value, silu, value + silu * complement];
        // what the error is relative to: the last one is a sum of opposite signs, and an error of `s(-x)` is one of `s(x)`
        let scale = [e, value, slope, value, silu.abs(), value + silu.abs()];
        let comes_through = [1., complement, (value - complement).abs(), complement, complement, complement];
        let least = [1., 1., 1., 1., x.abs().max(1.), x.abs().max(1.)].map(|times| least * times);
        for n in 0..FUNCTIONS {
            let (got, expected) = (got[n][i].to_f64(), expected[n]);
            let most = (of_exp * comes_through[n] + rounding) * scale[n] + least[n];
            assert!((got - expected).abs() <= most, "function {n} at {x}: {got}, not {expected}");
        }
    }
}

/// Numbers of f32 over the whole range: even steps, and every exponent with some fractions of each.
fn numbers() -> Vec<f32> {
    let even = (-120_000..120_000).map(|i| i as f32 / 1000.);
    let all = (0..1 << 18).map(|i: u32| f32::from_bits(i << 14)).filter(|x| x.is_finite());
    even.chain(all).chain([f32::MAX, f32::MIN]).collect()
}

#[test]
fn f32_is_accurate_over_the_whole_range() {
    let epsilon = f64::from(f32::EPSILON);
    assert_accurate::<f32>(&numbers(), [epsilon, 2. * epsilon, f32::MIN_POSITIVE.into()]);
}

#[test]
fn half_precision_is_accurate_to_a_millionth_over_the_whole_range() {
    let bounds = [1e-6, 2. * f64::from(f32::EPSILON), f32::MIN_POSITIVE.into()];
    assert_accurate::<bf16>(&numbers(), bounds);
    assert_accurate::<f16>(&numbers(), bounds);
}

#[test]
fn f64_is_accurate_over_the_whole_range() {
    let even = (-900_000..900_000).map(|i| f64::from(i) / 1000.);
    let all = (0..1 << 18).map(|i: u64| f64::from_bits(i << 46)).filter(|x| x.is_finite());
    let from: Vec<f64> = even.chain(all).chain([f64::MAX, f64::MIN]).collect();
    assert_accurate::<f64>(&from, [f64::EPSILON, 3. * f64::EPSILON, f64::MIN_POSITIVE]);
}

/// Checks zeros, infinities and NaN, alone and in whole vectors next to numbers.
fn assert_limits<T: Element>() {
    let number = T::Acc::from_f64;
    let at = |x: f64| functions::<T>(&[number(x)]).map(|row| row[0].to_f64());
    for zero in [0., -0.] {
        assert_eq!(at(zero), [1., 0.5, 0.25, 0.5, 0., 0.5]);
    }
    assert_eq!(at(f64::INFINITY)[..5], [0., 1., 0., 1., f64::INFINITY]);
    assert_eq!(at(f64::NEG_INFINITY)[..4], [0., 0., 0., 0.]);
    let of_silu = [at(f64::INFINITY)[5], at(f64::NEG_INFINITY)[4], at(f64::NEG_INFINITY)[5]];
    assert!(of_silu.iter().all(|x| x.is_nan()), "infinity times zero, as in x / (1 + exp(-x)), got {of_silu:?}");
    for nan in [f64::NAN, -f64::NAN] {
        let rows = functions::<T>(&[[number(nan), number(1.)]; 24].concat());
        for (i, value) in rows.iter().flat_map(|row| row.iter().enumerate()) {
            assert_eq!(value.to_f64().is_nan(), i % 2 == 0, "{value} at {i}");
        }
    }
}

#[test]
fn limits_are_exact_and_nan_stays() {
    assert_limits::<f32>();
    assert_limits::<f64>();
    assert_limits::<bf16>();
    assert_limits::<f16>();
}
