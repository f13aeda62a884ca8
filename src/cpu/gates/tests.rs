use super::*;
use crate::cpu::pointer::Pointer;
use crate::cpu::simd::{run_on, sweep, Isa, Recurrence, Vectorised, ISAS};

/// Writes the value, the complement and the slope of the logistic function of a row.
struct Rows<'a, A> {
    from: &'a [A],
    to: [Pointer<*mut A>; 3],
}

impl<A: Accumulator> Recurrence for Rows<'_, A> {
    type Acc = A;
    type Carry<V: Copy> = ();

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, _at: usize) {}

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, _row: isize, at: usize, _carry: ()) {
        // SAFETY: all rows are as long as the first one.
        unsafe {
            let s = sigmoid::<A, _>(I::read(Pointer::to(self.from).add(at)));
            I::write(s.value, self.to[0].add(at));
            I::write(s.complement, self.to[1].add(at));
            I::write(s.slope(), self.to[2].add(at));
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, _at: usize, _carry: ()) {}
}

impl<A: Accumulator> Vectorised for Rows<'_, A> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: one row of that length.
        unsafe { sweep::<I, _>(&self, 1, self.from.len()) }
    }
}

/// The value, the complement and the slope at every one of `from`, the same from every instruction set.
fn sigmoids<A: Accumulator>(from: &[A]) -> [Vec<A>; 3] {
    let on = |isa| {
        let mut to: [Vec<A>; 3] = std::array::from_fn(|_| vec![A::default(); from.len()]);
        run_on(isa, Rows { from, to: to.each_mut().map(|to| Pointer::to_mut(to)) }).map(|()| to)
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

/// Checks the logistic function against that of f64, and that of f64 against another way to compute it.
fn assert_accurate<A: Accumulator>(from: &[A], tolerance: f64, least: f64) {
    let [value, complement, slope] = sigmoids(from);
    for (i, x) in from.iter().enumerate() {
        let x = x.to_f64();
        let expected = [1. / (1. + (-x).exp()), 1. / (1. + x.exp())];
        let expected = [expected[0], expected[1], expected[0] * expected[1]];
        for (got, expected) in [value[i], complement[i], slope[i]].into_iter().zip(expected) {
            let error = (got.to_f64() - expected).abs();
            assert!(error <= tolerance * expected + least, "at {x}: {got}, not {expected}");
        }
    }
}

#[test]
fn f32_is_accurate_over_the_whole_range() {
    let even = (-120_000..120_000).map(|i| i as f32 / 1000.);
    // every exponent, with some fractions of each
    let all = (0..1 << 18).map(|i: u32| f32::from_bits(i << 14)).filter(|x| x.is_finite());
    let from: Vec<f32> = even.chain(all).chain([f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY]).collect();
    assert_accurate(&from, 3. * f64::from(f32::EPSILON), f32::MIN_POSITIVE.into());
}

#[test]
fn f64_is_accurate_over_the_whole_range() {
    let even = (-900_000..900_000).map(|i| f64::from(i) / 1000.);
    let all = (0..1 << 18).map(|i: u64| f64::from_bits(i << 46)).filter(|x| x.is_finite());
    let from: Vec<f64> = even.chain(all).chain([f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY]).collect();
    assert_accurate(&from, 4. * f64::EPSILON, f64::MIN_POSITIVE);
}

#[test]
fn limits_are_exact_and_nan_stays() {
    for zero in [0f32, -0.] {
        assert_eq!(sigmoids(&[zero]).map(|row| row[0]), [0.5, 0.5, 0.25]);
    }
    assert_eq!(sigmoids(&[f32::INFINITY]).map(|row| row[0]), [1., 0., 0.]);
    assert_eq!(sigmoids(&[f32::NEG_INFINITY]).map(|row| row[0]), [0., 1., 0.]);
    assert_eq!(sigmoids(&[f64::INFINITY]).map(|row| row[0]), [1., 0., 0.]);
    assert_eq!(sigmoids(&[f64::NEG_INFINITY]).map(|row| row[0]), [0., 1., 0.]);
    // in whole vectors too, next to numbers
    for nan in [f32::NAN, -f32::NAN] {
        let rows = sigmoids(&[[nan, 1.]; 24].concat());
        for (i, value) in rows.iter().flat_map(|row| row.iter().enumerate()) {
            assert_eq!(value.is_nan(), i % 2 == 0, "{value} at {i}");
        }
    }
}
