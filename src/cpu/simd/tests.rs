use super::*;

/// Reads and writes rows as `T`, with arithmetic between.
struct Arithmetic<'a, T: Element, const LONG: bool> {
    from: &'a [T],
    to: Pointer<*mut T>,
    carry: Pointer<*mut T>,
    width: usize,
}

impl<T: Element, const LONG: bool> Recurrence for Arithmetic<'_, T, LONG> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;
    const LONG: bool = LONG;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: the carry is as wide as the rows.
        unsafe { I::read(self.carry.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, carry: I::V<T::Acc>) -> I::V<T::Acc> {
        let at = row as usize * self.width + at;
        // SAFETY: the test sweeps the rows that there are.
        unsafe {
            let v = I::read(Pointer::to(self.from).add(at));
            let next = v.add(v).mul(v).add(carry).flush();
            I::write(v.keep_zero(next), self.to.add(at));
            v
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, carry: I::V<T::Acc>) {
        // SAFETY: the carry is as wide as the rows.
        unsafe { I::write(carry, self.carry.add(at)) }
    }
}

impl<T: Element, const LONG: bool> Vectorised for Arithmetic<'_, T, LONG> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: as many rows as there are.
        unsafe { sweep::<I, _>(&self, self.from.len() / self.width, self.width) }
    }
}

fn same_on_every_instruction_set<T: Element>(from: &[T], width: usize, bits: impl Fn(&T) -> u64) {
    let on = |isa, long| {
        let (mut to, mut carry) = (from.to_vec(), from[..width].to_vec());
        let (to_row, carry) = (Pointer::to_mut(&mut to), Pointer::to_mut(&mut carry));
        let ran = match long {
            false => run_on(isa, Arithmetic::<T, false> { from, to: to_row, carry, width }),
            true => run_on(isa, Arithmetic::<T, true> { from, to: to_row, carry, width }),
        };
        ran.map(|()| to.iter().map(&bits).collect::<Vec<_>>())
    };
    let expected = on(0, false);
    for (isa, long) in (0..ISAS).flat_map(|isa| [(isa, false), (isa, true)]) {
        if let Some(got) = on(isa, long) {
            assert_eq!(Some(got), expected, "width {width}, instruction set {isa}, long {long}");
        }
    }
}

#[test]
fn every_bf16_and_f16_comes_out_the_same() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let bf16s: Vec<bf16> = all.iter().map(|&b| bf16::from_bits(b)).filter(|v| !v.is_nan()).collect();
    let f16s: Vec<f16> = all.iter().map(|&b| f16::from_bits(b)).filter(|v| !v.is_nan()).collect();
    same_on_every_instruction_set(&bf16s, bf16s.len(), |v| v.to_bits().into());
    same_on_every_instruction_set(&f16s, f16s.len(), |v| v.to_bits().into());
}

#[test]
fn f32_and_f64_come_out_the_same_at_every_width() {
    let special = [0., -0., 1., -1.5, f32::MIN_POSITIVE, f32::MIN_POSITIVE / 2., -1e-45, 1e-20, 3e19, f32::INFINITY];
    for width in 1..100 {
        let f32s: Vec<f32> = special.iter().cycle().take(3 * width).copied().collect();
        let f64s: Vec<f64> = f32s.iter().map(|&v| f64::from(v)).collect();
        same_on_every_instruction_set(&f32s, width, |v| v.to_bits().into());
        same_on_every_instruction_set(&f64s, width, |v| v.to_bits());
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_even_and_keeps_nan() {
    struct Narrow<'a, const LONG: bool>([&'a [f32]; 2], [Pointer<*mut bf16>; 2]);
    impl<const LONG: bool> Recurrence for Narrow<'_, LONG> {
        type Acc = f32;
        type Carry<V: Copy> = ();
        const LONG: bool = LONG;
        #[inline(always)]
        unsafe fn load<I: Isa>(&self, _at: usize) {}
        #[inline(always)]
        unsafe fn row<I: Isa>(&self, _row: isize, at: usize, _carry: ()) {
            // SAFETY: the test makes rows of one length.
            unsafe {
                let [first, second] = self.0.map(|row| Pointer::to(row).add(at));
                I::write_each([I::read(first), I::read(second)], self.1.map(|row| row.add(at)));
            }
        }
        #[inline(always)]
        unsafe fn store<I: Isa>(&self, _at: usize, _carry: ()) {}
    }
    impl<const LONG: bool> Vectorised for Narrow<'_, LONG> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            // SAFETY: one row of that length.
            unsafe { sweep::<I, _>(&self, 1, self.0[0].len()) }
        }
    }
    // across several binades, the subnormal numbers (every 1009th of them), and NaN, also those that a carry would make a
    // number of, at every place in a vector
    let near_one = (0..1 << 16).map(|i: u32| f32::from_bits(0x3f7f_0000 + i * 7));
    let subnormal = (0..1 << 23).step_by(1009).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]);
    let nan = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xffff_ffff].map(f32::from_bits);
    let lonely = nan.into_iter().cycle().take(80).flat_map(|nan| [nan, 1., 1.5, -2., f32::MAX, f32::INFINITY, 0.]);
    let from: Vec<f32> = near_one.chain(subnormal).chain(lonely).collect();
    // next to others
    let (half, rest) = from.split_at(from.len() / 2);
    let others = [rest, half].concat();
    for (isa, long) in (0..ISAS).flat_map(|isa| [(isa, false), (isa, true)]) {
        let mut to = [vec![bf16::ZERO; from.len()], vec![bf16::ZERO; from.len()]];
        let (from, rows) = ([&from[..], &others], to.each_mut().map(|row| Pointer::to_mut(row)));
        let ran = match long {
            false => run_on(isa, Narrow::<false>(from, rows)),
            true => run_on(isa, Narrow::<true>(from, rows)),
        };
        if ran.is_none() {
            continue;
        }
        for (&wide, &got) in from.into_iter().flatten().zip(to.iter().flatten()) {
            let expected = bf16::from_f32(wide);
            assert!(
                got.to_bits() == expected.to_bits(),
                "{wide}: {got} is not {expected}, instruction set {isa}, long {long}"
            );
        }
    }
}
