//! The gated scan of one tensor of pre-activations, whose rows hold the parts `a, d, u, ca, cb`:
//!
//! ```text
//!   h_t = sigmoid(a_t + bias) h_{t-1} + sigmoid(d_t) u_t        y_t = silu(ca_t) cb_t h_t
//! ```

use std::ops::Range;

use super::block::{Block, Strided};
use super::form::{Form, Terms};
use super::gates::{logistic, sigmoid, silu};
use super::pointer::{Pointer, Raw};
use super::simd::{fetches_near, Element, Isa, Lanes};
use super::view::{Place, View};
use crate::gated::PARTS;
pub(crate) use gradients::GatedGradients;

mod gradients;

/// Channels of each part that are fetched ahead into the first-level cache: enough of them that memory has answered by then, with
/// every core asking it, and so few that they are still there.
const NEAR: usize = 512;
/// Channels that are fetched ahead into the second-level cache, in whole rows.
const FAR: usize = 2048;

/// The arguments.
pub(crate) struct Gated<'a, T: Element> {
    /// `[B, L, 5S]`
    pub parts: View<'a, T>,
    /// `[S]`
    pub bias: &'a [T::Acc],
}

impl<T: Element> Form for Gated<'_, T> {
    type Acc = T::Acc;
    const KEEP: bool = true;
    type Rows = ();
    type Terms<'s>
        = GatedTerms<'s, T, false>
    where
        Self: 's;

    fn terms<'s>(&'s self, place: &Place, _rows: &'s mut ()) -> GatedTerms<'s, T, false> {
        let part = self.bias.len();
        let (near, width) = (fetches_near(), place.width());
        let channels = if near { NEAR } else { FAR.next_multiple_of(width.max(1)) };
        let parts = self.parts.adjacent(&all_parts(place, part)).fetching(channels, width);
        GatedTerms { parts, bias: &self.bias[place.columns.clone()], part, near }
    }
}

/// A place in the rows of all parts: from its columns of the first part, which has so many channels, to those of the last one.
fn all_parts(place: &Place, part: usize) -> Place {
    let Range { start, end } = place.columns;
    Place { columns: start..end + (PARTS - 1) * part, ..place.clone() }
}

/// The parts, as they lie in a row.
#[derive(Clone, Copy)]
enum Part {
    A,
    D,
    U,
    Ca,
    Cb,
}

/// What fetches the rows to come: each part by itself, or with `ALL` the gate for all of them.
pub(crate) struct GatedTerms<'s, T: Element, const ALL: bool> {
    parts: Block<'s, T>,
    bias: &'s [T::Acc],
    /// Channels of a part.
    part: usize,
    /// Whether what is fetched comes as far as the first-level cache.
    near: bool,
}

impl<T: Element, const ALL: bool> GatedTerms<'_, T, ALL> {
    /// Where a channel of a part is in a row.
    #[inline(always)]
    fn channel(&self, part: usize, at: usize) -> usize {
        part * self.part + at
    }

    /// Reads a part, without fetching.
    ///
    /// # Safety
    /// As for [`Terms::gate`].
    #[inline(always)]
    unsafe fn part<I: Isa>(&self, part: Part, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the block, says the caller.
        unsafe { I::read(self.parts.at(row, self.channel(part as usize, at))) }
    }

    /// Reads a part of a row and fetches what comes later of it: five parts of a row, often as many times the same place in a page,
    /// are too many for the processor to foresee.
    ///
    /// # Safety
    /// As for [`Terms::gate`].
    #[inline(always)]
    unsafe fn read<I: Isa>(&self, part: Part, row: isize, at: usize) -> I::V<T::Acc> {
        if !ALL {
            self.fetch_part::<I>(part as usize, row, at);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.part::<I>(part, row, at) }
    }

    /// The bias of the gate.
    ///
    /// # Safety
    /// As for [`Terms::gate`].
    #[inline(always)]
    unsafe fn bias<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: as wide as the block, within which the channel is, says the caller.
        unsafe { I::read(Pointer::to(self.bias).add(at)) }
    }

    /// Asks for what comes later of a part.
    #[inline(always)]
    fn fetch_part<I: Isa>(&self, part: usize, row: isize, at: usize) {
        let ahead = self.parts.ahead(row, at, self.channel(part, at));
        if self.near {
            I::prefetch_l1(ahead);
        } else {
            I::prefetch_l2(ahead);
        }
    }

    /// Asks for a cache line for each part of a row to come: of a whole row, in the order in which they lie in memory.
    #[inline(always)]
    fn fetch_ahead<I: Isa, P: Raw<Element = T>>(&self, rows: &Strided<P>, row: isize, at: usize) {
        let (first, step) = match self.bias.len() == self.part {
            true => (PARTS * at, <I::V<T::Acc>>::LEN),
            false => (at, self.part),
        };
        for n in 0..PARTS {
            I::prefetch_l2(rows.ahead(row, at, first + n * step));
        }
    }
}

impl<'s, T: Element, const ALL: bool> Terms for GatedTerms<'s, T, ALL> {
    type Acc = T::Acc;
    const CHEAP: bool = false;
    const LONG: bool = size_of::<T>() < size_of::<T::Acc>();
    type All = GatedTerms<'s, T, true>;

    fn all(self) -> GatedTerms<'s, T, true> {
        let Self { parts, bias, part, near } = self;
        GatedTerms { parts, bias, part, near }
    }

    #[inline(always)]
    unsafe fn gate<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        if ALL && self.near {
            for part in 0..PARTS {
                self.fetch_part::<I>(part, row, at);
            }
        } else if ALL {
            self.fetch_ahead::<I, _>(&self.parts, row, at);
        }
        // SAFETY: passed on to the caller.
        unsafe { logistic::<T, _>(self.read::<I>(Part::A, row, at).add(self.bias::<I>(at))) }
    }

    #[inline(always)]
    unsafe fn gate_back<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { sigmoid::<T, _>(self.read::<I>(Part::A, row, at).add(self.bias::<I>(at))).value }
    }

    #[inline(always)]
    unsafe fn drive<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { logistic::<T, _>(self.read::<I>(Part::D, row, at)).mul(self.read::<I>(Part::U, row, at)) }
    }

    #[inline(always)]
    unsafe fn readout<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: passed on to the caller.
        unsafe {
            let ca = self.read::<I>(Part::Ca, row, at);
            silu::<T, _>(ca).value.mul(self.read::<I>(Part::Cb, row, at))
        }
    }

    #[inline(always)]
    fn fetch_readout<I: Isa>(&self, row: isize, at: usize) {
        for part in [Part::Ca, Part::Cb] {
            self.parts.fetch::<I>(row, self.channel(part as usize, at));
        }
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, row: isize, at: usize) {
        for part in [Part::A, Part::D, Part::U] {
            self.parts.fetch::<I>(row, self.channel(part as usize, at));
        }
    }
}
