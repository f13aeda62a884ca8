//! When a result is right.
//!
//! The error of every single element is measured against the magnitudes that were added up to it
//! ([`Numbers::magnitudes`](super::truth::Numbers::magnitudes)), not against the largest element of the tensor, which
//! would hide errors in small ones. It may be the sum of
//!
//! * the rounding of the recurrence in the accumulation dtype: [`relative`], some tens of its unit roundoffs, for a
//!   step rounds three times and a state remembers some tens of steps;
//! * one rounding to the dtype of the result, relative to the result, because the state is never rounded to it;
//! * what flushing a subnormal state to zero takes away, and half the distance of subnormal results.

use candle_core::DType;

use super::truth::Outcome;
use super::Case;

/// `value` as `dtype` represents it; through f32 on the way to half precision, as tensors of f32 are converted.
pub fn round(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F64 => value,
        DType::F32 => value as f32 as f64,
        DType::F16 => half::f16::from_f32(value as f32).to_f64(),
        DType::BF16 => half::bf16::from_f32(value as f32).to_f64(),
        _ => panic!("{dtype:?} is not a floating dtype of the scan"),
    }
}

/// Half the distance from 1 to the next larger number.
pub fn roundoff(dtype: DType) -> f64 {
    let digits = match dtype {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => panic!("{dtype:?} is not a floating dtype of the scan"),
    };
    f64::powi(2., -digits)
}

pub fn accumulation_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// The relative error of values (50 roundoffs of f32) and gradients, in which two recurrences meet (170).
pub fn relative(acc: DType, gradient: bool) -> f64 {
    match (acc, gradient) {
        (DType::F64, _) => 1e-13,
        (_, false) => 3e-6,
        (_, true) => 1e-5,
    }
}

/// How far a result may be from the truth.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Relative to the magnitudes.
    pub relative: f64,
    /// Relative to the result.
    pub rounding: f64,
    pub absolute: f64,
}

impl Tolerance {
    pub fn new(acc: DType, result: DType, gradient: bool) -> Self {
        // a little more than half a unit, for a conversion from f64 to half precision may go through f32
        let rounding = if roundoff(result) > roundoff(acc) { 1.001 * roundoff(result) } else { 0. };
        // a flushed state is below the smallest normal number; later steps add such errors up
        let flushed = if acc == DType::F64 { 1e3 * f64::MIN_POSITIVE } else { 1e3 * f32::MIN_POSITIVE as f64 };
        let subnormal = if result == DType::F16 { f64::powi(2., -25) } else { 0. };
        Self { relative: relative(acc, gradient), rounding, absolute: flushed + subnormal }
    }

    /// Asserts that every element of `got` is as near to `want` as it must be.
    #[track_caller]
    pub fn check(&self, what: &str, got: &[f64], want: &[f64], magnitudes: &[f64]) {
        assert_eq!(got.len(), want.len(), "{what}: the number of elements");
        for (i, ((&g, &w), &m)) in got.iter().zip(want).zip(magnitudes).enumerate() {
            assert!(m.is_finite(), "{what}: the truth at {i} is not finite, so nothing can be said");
            let allowed = self.relative * m + self.rounding * w.abs() + self.absolute;
            // a NaN compares false, so it is the assertion that has to hold, not its opposite
            assert!((g - w).abs() <= allowed, "{what}: {g:e} at {i}, not {w:e} +- {allowed:e}");
        }
    }
}

/// Asserts that `got` is the outcome of the case.
#[track_caller]
pub fn judge(what: &str, case: &Case, got: &Outcome) {
    let numbers = case.numbers();
    let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
    for (&name, values) in got {
        let tolerance = case.tolerance(name);
        tolerance.check(&format!("{what}: {name}"), values, &truth[name], &magnitudes[name]);
    }
}
