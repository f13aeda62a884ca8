//! The steps of a forward pass: states advanced, composed meanwhile, and read out.

use super::block::BlockMut;
use super::compose::{with_resets, Composite};
use super::form::Terms;
use super::plan::STRANDS;
use super::pointer::Pointer;
use super::simd::{sweep, sweep_narrow, sweep_rows, Element, Isa, Lanes, Recurrence};

/// Advances the states of strands over their steps, and reads out of them into `y`.
///
/// # Safety
/// The terms, the states and `y` must have as many, nobody else may write to `y`, and the processor must have the
/// instruction set.
#[inline(always)]
pub(crate) unsafe fn advance<I: Isa, X: Terms, O: Element<Acc = X::Acc>>(
    terms: X,
    h: &mut [X::Acc],
    y: Option<BlockMut<O>>,
    size: (usize, usize, usize),
) {
    let h = Pointer::to_mut(h);
    // SAFETY: passed on to the caller.
    unsafe {
        match y {
            None => sweep_strands::<I, X, _>(&Advance { terms, h }, size),
            Some(y) => sweep_strands::<I, X, _>(&Output { advance: Advance { terms: terms.all(), h }, y }, size),
        }
    }
}

/// Advances the states of one strand, composes its steps meanwhile, and reads out into `y`.
///
/// # Safety
/// As for [`advance`], with as many channels in the composite.
#[inline(always)]
pub(crate) unsafe fn advance_composing<I: Isa, X: Terms, O: Element<Acc = X::Acc>>(
    terms: X,
    h: &mut [X::Acc],
    composite: &mut Composite<X::Acc>,
    y: BlockMut<O>,
    rows: usize,
) {
    let width = h.len();
    let (product, state) = (Pointer::to_mut(&mut composite.product), Pointer::to_mut(&mut composite.state));
    let advance = AdvanceComposing { advance: Advance { terms: terms.all(), h: Pointer::to_mut(h) }, product, state };
    // SAFETY: passed on to the caller.
    unsafe { sweep_rows::<I, _>(&Output { advance, y }, rows, width) };
}

/// Runs a recurrence of some terms over one strand, or over two side by side, which are of cheap terms.
///
/// # Safety
/// As for [`sweep`], with carries for every strand.
#[inline(always)]
unsafe fn sweep_strands<I: Isa, X: Terms, K: Recurrence>(kernel: &K, (strands, rows, width): (usize, usize, usize)) {
    // SAFETY: passed on to the caller.
    unsafe {
        match X::CHEAP && strands == STRANDS {
            true => sweep_narrow::<I, _, STRANDS>(kernel, rows, width),
            false => sweep::<I, _>(kernel, strands * rows, width),
        }
    }
}

/// The state after a step.
#[inline(always)]
fn advanced<A, V: Lanes<A>>(gate: V, drive: V, h: V) -> V {
    gate.mul(h).add(drive).flush()
}

/// `h = gate h + drive`.
pub(crate) struct Advance<X: Terms> {
    pub terms: X,
    pub h: Pointer<*mut X::Acc>,
}

impl<X: Terms> Recurrence for Advance<X> {
    type Acc = X::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<X::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.h.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, h: I::V<X::Acc>) -> I::V<X::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let drive = self.terms.drive::<I>(row, at);
            advanced(self.terms.gate::<I>(row, at), drive, h)
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<X::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(h, self.h.add(at)) }
    }
}

/// The same, with the composite of the steps.
struct AdvanceComposing<X: Terms> {
    advance: Advance<X>,
    product: Pointer<*mut X::Acc>,
    state: Pointer<*mut X::Acc>,
}

impl<X: Terms> Recurrence for AdvanceComposing<X> {
    type Acc = X::Acc;
    /// The state, and the product and the state of the composite.
    type Carry<V: Copy> = (V, V, V);

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<X::Acc>, I::V<X::Acc>, I::V<X::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe { (self.advance.load::<I>(at), I::read(self.product.add(at)), I::read(self.state.add(at))) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (h, product, state): (I::V<X::Acc>, I::V<X::Acc>, I::V<X::Acc>),
    ) -> (I::V<X::Acc>, I::V<X::Acc>, I::V<X::Acc>) {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let drive = self.advance.terms.drive::<I>(row, at);
            let gate = self.advance.terms.gate::<I>(row, at);
            (advanced(gate, drive, h), with_resets(product, gate).flush(), advanced(gate, drive, state))
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (h, product, state): (I::V<X::Acc>, I::V<X::Acc>, I::V<X::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            self.advance.store::<I>(at, h);
            I::write(product, self.product.add(at));
            I::write(state, self.state.add(at));
        }
    }
}

/// What advances a state.
trait Advances: Recurrence {
    type Terms: Terms<Acc = Self::Acc>;

    fn terms(&self) -> &Self::Terms;

    fn state<V: Copy>(carry: Self::Carry<V>) -> V;
}

impl<X: Terms> Advances for Advance<X> {
    type Terms = X;

    #[inline(always)]
    fn terms(&self) -> &X {
        &self.terms
    }

    #[inline(always)]
    fn state<V: Copy>(h: V) -> V {
        h
    }
}

impl<X: Terms> Advances for AdvanceComposing<X> {
    type Terms = X;

    #[inline(always)]
    fn terms(&self) -> &X {
        &self.advance.terms
    }

    #[inline(always)]
    fn state<V: Copy>((h, _, _): (V, V, V)) -> V {
        h
    }
}

/// `y = readout h` of the advanced state.
struct Output<A, O> {
    advance: A,
    y: BlockMut<O>,
}

impl<A: Advances, O: Element<Acc = A::Acc>> Recurrence for Output<A, O> {
    type Acc = A::Acc;
    type Carry<V: Copy> = A::Carry<V>;
    const LONG: bool = A::Terms::LONG;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> A::Carry<I::V<A::Acc>> {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.load::<I>(at) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, carry: A::Carry<I::V<A::Acc>>) -> A::Carry<I::V<A::Acc>> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            self.y.fetch_ahead::<I>(row, at);
            let carry = self.advance.row::<I>(row, at, carry);
            I::write(self.advance.terms().readout::<I>(row, at).mul(A::state(carry)), self.y.at(row, at));
            carry
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, carry: A::Carry<I::V<A::Acc>>) {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.store::<I>(at, carry) }
    }
}
