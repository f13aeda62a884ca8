//! What a tile does to the state before it, computed before that state is known: the composite of its steps, `A h + H`.

use super::lines::Lines;
use super::plan::NARROW;
use super::pointer::Pointer;
use super::simd::{sweep, sweep_narrow, Accumulator, Isa, Lanes, Recurrence};

/// Narrow rows that are composed at a time. Wider ones lose more by being read out of their order in memory.
const AT_ONCE: usize = 4;

/// The composite of some steps of some channels.
#[derive(Default)]
pub(crate) struct Composite<A> {
    /// Products of gates.
    pub product: Lines<A>,
    /// States from zero.
    pub state: Lines<A>,
}

impl<A: Accumulator> Composite<A> {
    /// Makes it that of no steps.
    pub fn clear(&mut self, width: usize) {
        for (values, value) in [(&mut self.product, A::ONE), (&mut self.state, A::default())] {
            values.resize(width);
            values.fill(value);
        }
    }

    /// Whether no product is infinite or NaN.
    #[inline(always)]
    fn is_finite(&self) -> bool {
        let mut finite = true;
        for product in self.product.iter() {
            finite &= product.to_f64().is_finite();
        }
        finite
    }

    /// Makes it that of so many rows of steps of so many channels.
    ///
    /// # Safety
    /// There must be as many, and the processor must have the instruction set.
    #[inline(always)]
    pub unsafe fn compose<I: Isa, S: Steps<Acc = A>>(&mut self, steps: &S, rows: usize, width: usize) {
        self.clear(width);
        // SAFETY: passed on to the caller.
        unsafe {
            match S::CHEAP && width <= NARROW && rows.is_multiple_of(AT_ONCE) {
                true => sweep_narrow::<I, _, 1>(&self.kernel::<S, AT_ONCE, false>(steps), rows / AT_ONCE, width),
                false => sweep::<I, _>(&self.kernel::<S, 1, false>(steps), rows, width),
            }
            if !self.is_finite() {
                self.clear(width);
                sweep::<I, _>(&self.kernel::<S, 1, true>(steps), rows, width);
            }
        }
    }

    fn kernel<'s, S: Steps<Acc = A>, const ROWS: usize, const RESETS: bool>(
        &mut self,
        steps: &'s S,
    ) -> Compose<'s, S, ROWS, RESETS> {
        let (product, state) = (Pointer::to_mut(&mut self.product), Pointer::to_mut(&mut self.state));
        Compose { steps, product, state }
    }

    /// Carries a state over all steps, and leaves the state after them in `state`.
    ///
    /// Gates above one can make the product infinite while there is no state yet: where `from` is zero it does not count.
    pub fn carry_over(&mut self, from: &[A]) {
        for ((from, product), to) in from.iter().zip(self.product.iter()).zip(self.state.iter_mut()) {
            let carried = from.keep_zero(Lanes::mul(*product, *from));
            *to = Lanes::add(carried, *to).flush();
        }
    }
}

/// Steps of a recurrence, in one of the two directions.
pub(crate) trait Steps {
    type Acc: Accumulator;
    /// As [of the terms](super::form::Terms::CHEAP).
    const CHEAP: bool;

    /// The gate of a step, and what it adds.
    ///
    /// # Safety
    /// The row and the channels must lie within the steps, and the processor must have the instruction set.
    unsafe fn step<I: Isa>(&self, row: isize, at: usize) -> (I::V<Self::Acc>, I::V<Self::Acc>);

    /// The state after a step.
    fn advance<V: Lanes<Self::Acc>>(step: (V, V), state: V) -> V;

    /// The state after a first step, from zero.
    fn begin<V: Lanes<Self::Acc>>(step: (V, V)) -> V;
}

/// The product of some gates and one more: zero if one of them is, whatever the others are.
#[inline(always)]
pub(crate) fn with_resets<A, V: Lanes<A>>(product: V, gate: V) -> V {
    product.keep_zero(gate.keep_zero(product.mul(gate)))
}

/// `ROWS` steps more in a composite, of which every row of the recurrence consists.
///
/// With `RESETS` a gate of zero wins over infinity. Where all products [are finite](Composite::is_finite) in the end they
/// have been so throughout, and are the same without.
struct Compose<'s, S: Steps, const ROWS: usize, const RESETS: bool> {
    steps: &'s S,
    product: Pointer<*mut S::Acc>,
    state: Pointer<*mut S::Acc>,
}

impl<S: Steps, const ROWS: usize, const RESETS: bool> Recurrence for Compose<'_, S, ROWS, RESETS> {
    type Acc = S::Acc;
    type Carry<V: Copy> = (V, V);

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<S::Acc>, I::V<S::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe { (I::read(self.product.add(at)), I::read(self.state.add(at))) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (product, state): (I::V<S::Acc>, I::V<S::Acc>),
    ) -> (I::V<S::Acc>, I::V<S::Acc>) {
        const { assert!(ROWS == 1 || !RESETS) };
        let first = row * ROWS as isize;
        // SAFETY: within the steps, says the caller.
        unsafe {
            let step = self.steps.step::<I>(first, at);
            if ROWS == 1 {
                let product = if RESETS { with_resets(product, step.0) } else { product.mul(step.0) };
                return (product.flush(), S::advance(step, state).flush());
            }
            let (mut gates, mut from_zero) = (step.0, S::begin(step));
            for row in 1..ROWS as isize {
                let step = self.steps.step::<I>(first + row, at);
                gates = gates.mul(step.0);
                from_zero = S::advance(step, from_zero);
            }
            (product.mul(gates).flush(), gates.mul(state).add(from_zero).flush())
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (product, state): (I::V<S::Acc>, I::V<S::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(product, self.product.add(at));
            I::write(state, self.state.add(at));
        }
    }
}
