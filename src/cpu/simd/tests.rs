use super::*;

/// Reads and writes rows as `T`, with arithmetic between.
struct Arithmetic<'a, T: Element> {
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Element> RowKernel for Arithmetic<'_, T> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: both rows have the length of the sweep.
        unsafe {
            let v = I::read(self.from.as_ptr().add(at));
            let twice = v.add(v).mul(v).flush();
            I::write(v.keep_zero(twice), self.to.as_mut_ptr().add(at));
        }
    }
}

impl<T: Element> Vectorised for Arithmetic<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(mut self) {
        assert_eq!(self.from.len(), self.to.len());
        // SAFETY: the lengths are equal.
        unsafe { sweep::<I, _>(self.from.len(), &mut self) }
    }
}

fn same_on_every_instruction_set<T: Element + std::fmt::Debug>(from: &[T], bits: impl Fn(&T) -> u64) {
    let mut results = Vec::new();
    for isa in 0..3 {
        let mut to = from.to_vec();
        let kernel = Arithmetic { from, to: &mut to };
        match isa {
            // SAFETY: plain Rust runs on every processor.
            0 => unsafe { kernel.run::<Scalar>() },
            // SAFETY: as above.
            1 => unsafe { kernel.run::<Portable>() },
            _ => dispatch(kernel),
        }
        results.push(to.iter().map(&bits).collect::<Vec<_>>());
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn every_bf16_and_f16_comes_out_the_same() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let bf16s: Vec<bf16> = all.iter().map(|&b| bf16::from_bits(b)).collect();
    let f16s: Vec<f16> = all.iter().map(|&b| f16::from_bits(b)).filter(|v| !v.is_nan()).collect();
    same_on_every_instruction_set(&bf16s, |v| v.to_bits().into());
    same_on_every_instruction_set(&f16s, |v| v.to_bits().into());
}

#[test]
fn f32_and_f64_come_out_the_same_at_every_length() {
    let special = [0., -0., 1., -1.5, f32::MIN_POSITIVE, f32::MIN_POSITIVE / 2., -1e-45, 1e-20, 3e19, f32::INFINITY];
    for len in 0..40 {
        let f32s: Vec<f32> = special.iter().cycle().take(len).copied().collect();
        let f64s: Vec<f64> = f32s.iter().map(|&v| f64::from(v)).collect();
        same_on_every_instruction_set(&f32s, |v| v.to_bits().into());
        same_on_every_instruction_set(&f64s, |v| v.to_bits());
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_even_and_keeps_nan() {
    let from: Vec<f32> = (0..1 << 16).map(|i: u32| f32::from_bits(0x3f7f_0000 + i * 7)).chain([f32::NAN]).collect();
    struct Narrow<'a>(&'a [f32], &'a mut [bf16]);
    impl RowKernel for Narrow<'_> {
        type Acc = f32;
        #[inline(always)]
        unsafe fn lanes<I: Isa>(&mut self, at: usize) {
            // SAFETY: both rows have the length of the sweep.
            unsafe { I::write(I::read(self.0.as_ptr().add(at)), self.1.as_mut_ptr().add(at)) }
        }
    }
    impl Vectorised for Narrow<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(mut self) {
            // SAFETY: the test makes rows of one length.
            unsafe { sweep::<I, _>(self.0.len(), &mut self) }
        }
    }
    let mut to = vec![bf16::ZERO; from.len()];
    dispatch(Narrow(&from, &mut to));
    for (&wide, &got) in from.iter().zip(&to) {
        let expected = bf16::from_f32(wide);
        assert!(got.to_bits() == expected.to_bits(), "{wide}: {got} is not {expected}");
    }
}
