//! The forms of the recurrence `h_t = gate_t h_{t-1} + drive_t`, `y_t = readout_t h_t`: what its terms are made of, and
//! where their gradients go.

use std::ops::Range;

use super::block::{Block, BlockMut};
use super::compose::Composite;
use super::lines::Lines;
use super::pointer::Pointer;
use super::simd::{Accumulator, Element, Isa};
use super::view::Place;

/// A form of the scan, on given tensors.
pub(crate) trait Form: Sync {
    type Acc: Accumulator;
    /// Whether gates and drives cost more to be computed than to be read, so that a tile that is gone over twice keeps them.
    const KEEP: bool;
    /// Memory for rows of tensors that cannot be read in place.
    type Rows: Default;
    type Terms<'s>: Terms<Acc = Self::Acc>
    where
        Self: 's;

    /// The terms at a place.
    fn terms<'s>(&'s self, place: &Place, rows: &'s mut Self::Rows) -> Self::Terms<'s>;
}

/// The terms of some steps of some channels, `LEN` of these at a time.
pub(crate) trait Terms {
    type Acc: Accumulator;
    /// Whether steps take less time than they wait for one another where rows are narrow.
    const CHEAP: bool;
    /// As [of a recurrence](Recurrence::LONG) with all terms.
    const LONG: bool = false;
    /// The same for a run that reads all terms of a row before those of the next one.
    type All: Terms<Acc = Self::Acc>;

    fn all(self) -> Self::All;

    /// # Safety
    /// The row and the channels must lie within the place, and the processor must have the instruction set.
    unsafe fn gate<I: Isa>(&self, row: isize, at: usize) -> I::V<Self::Acc>;

    /// The gate as the steps back compute it, whose rounding may be another one.
    ///
    /// # Safety
    /// As for [`gate`](Self::gate).
    #[inline(always)]
    unsafe fn gate_back<I: Isa>(&self, row: isize, at: usize) -> I::V<Self::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { self.gate::<I>(row, at) }
    }

    /// # Safety
    /// As for [`gate`](Self::gate).
    unsafe fn drive<I: Isa>(&self, row: isize, at: usize) -> I::V<Self::Acc>;

    /// # Safety
    /// As for [`gate`](Self::gate).
    unsafe fn readout<I: Isa>(&self, row: isize, at: usize) -> I::V<Self::Acc>;

    /// Asks for what [`readout`](Self::readout) will read.
    fn fetch_readout<I: Isa>(&self, row: isize, at: usize);

    /// Asks for what [`gate`](Self::gate) and [`drive`](Self::drive) will read.
    fn fetch<I: Isa>(&self, row: isize, at: usize);
}

/// Terms whose gates and drives are kept for a second run over a tile: with `WRITE` as they are computed, in the first run,
/// and without as they have been. The second run leaves memory idle: what a first run over a later place will read of gates and
/// drives can be fetched meanwhile.
pub(crate) struct Kept<X: Terms, const WRITE: bool> {
    terms: X,
    later: Option<X>,
    gates: BlockMut<X::Acc>,
    drives: BlockMut<X::Acc>,
}

impl<X: Terms, const WRITE: bool> Kept<X, WRITE> {
    /// The terms of rows of so many channels, at a `part` of the memory for the gates and drives of a tile.
    pub fn new(terms: X, [gates, drives]: &mut [Lines<X::Acc>; 2], part: Range<usize>, width: usize) -> Self {
        let gates = BlockMut::adjacent(&mut gates[part.clone()], width);
        Self { terms, later: None, gates, drives: BlockMut::adjacent(&mut drives[part], width) }
    }

    /// The same, which fetches for the terms of a later place.
    pub fn fetching(self, later: Option<X>) -> Self {
        Self { later, ..self }
    }
}

impl<X: Terms, const WRITE: bool> Terms for Kept<X, WRITE> {
    type Acc = X::Acc;
    const CHEAP: bool = !WRITE;
    type All = Self;

    fn all(self) -> Self {
        self
    }

    #[inline(always)]
    unsafe fn gate<I: Isa>(&self, row: isize, at: usize) -> I::V<X::Acc> {
        let kept = self.gates.at(row, at);
        if let Some(later) = &self.later {
            later.fetch::<I>(row, at);
        }
        // SAFETY: within the place, says the caller, of which the block is.
        unsafe {
            if !WRITE {
                return I::read(kept);
            }
            let gate = self.terms.gate::<I>(row, at);
            I::write(gate, kept);
            gate
        }
    }

    #[inline(always)]
    unsafe fn drive<I: Isa>(&self, row: isize, at: usize) -> I::V<X::Acc> {
        let kept = self.drives.at(row, at);
        // SAFETY: within the place, says the caller, of which the block is.
        unsafe {
            if !WRITE {
                return I::read(kept);
            }
            let drive = self.terms.drive::<I>(row, at);
            I::write(drive, kept);
            drive
        }
    }

    #[inline(always)]
    unsafe fn readout<I: Isa>(&self, row: isize, at: usize) -> I::V<X::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { self.terms.readout::<I>(row, at) }
    }

    #[inline(always)]
    fn fetch_readout<I: Isa>(&self, row: isize, at: usize) {
        self.terms.fetch_readout::<I>(row, at);
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, row: isize, at: usize) {
        self.terms.fetch::<I>(row, at);
    }
}

/// Where the gradients of a form go.
pub(crate) trait Gradients: Sync {
    type Form: Form;
    /// Of `y` and its gradient.
    type Out: Element<Acc = <Self::Form as Form>::Acc>;
    /// Memory for rows of gradients, before they are where they go.
    type Rows: Default;

    /// Whether the states are read.
    fn need_states(&self) -> bool;

    /// Whether [the steps back](Self::step_back) can be composed meanwhile.
    fn composes(&self) -> bool;

    /// Computes the steps of a place, which is backward, and within the given chunk of all; a composite of the steps so far is made
    /// one with these.
    ///
    /// # Safety
    /// All must be of this place, nobody else may write the gradients there, there may be a composite only where steps can be
    /// [composed](Self::composes), and the processor must have the instruction set.
    unsafe fn step_back<'s, I: Isa>(
        &'s self,
        place: &Place,
        chunk: usize,
        terms: <Self::Form as Form>::Terms<'s>,
        adjoint: Adjoint<'s, Self::Out>,
        rows: &'s mut Self::Rows,
        composite: Option<&mut Composite<<Self::Form as Form>::Acc>>,
    );
}

/// What the gradients of the terms are made of.
pub(crate) struct Adjoint<'s, G: Element> {
    /// The gradient of `y`.
    pub g: Block<'s, G>,
    /// The states after the steps, and one row further on those before them; nothing where they are not read.
    pub h: Block<'s, G::Acc>,
    /// `z_t = gate_t dh_t` of the last step; left with that of the first one.
    pub z: Pointer<*mut G::Acc>,
}

#[cfg(test)]
mod tests;
