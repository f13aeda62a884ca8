//! The gated scan of one tensor of pre-activations, whose rows hold the parts `a, d, u, ca, cb`:
//!
//! ```text
//!   h_t = sigmoid(a_t + bias) h_{t-1} + sigmoid(d_t) u_t        y_t = silu(ca_t) cb_t h_t
//! ```

use super::block::{Block, BlockMut};
use super::buffer::Buffer;
use super::form::{Adjoint, Form, Gradients, Terms};
use super::gates::{logistic, sigmoid, silu};
use super::pointer::Pointer;
use super::simd::{Element, Isa, Lanes, Recurrence};
use super::view::{Place, View};
use crate::gated::PARTS;

/// The arguments.
pub(crate) struct Gated<'a, T: Element> {
    /// `[B, L, S]` each.
    pub parts: [View<'a, T>; PARTS],
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
        let [a, d, u, ca, cb] = self.parts.each_ref().map(|part| part.adjacent(place));
        let part = self.bias.len();
        GatedTerms { a, d, u, ca, cb, bias: &self.bias[place.columns.clone()], part }
    }
}

/// What fetches the rows to come: each part by itself, or with `ALL` the gate for all of them.
pub(crate) struct GatedTerms<'s, T: Element, const ALL: bool> {
    a: Block<'s, T>,
    d: Block<'s, T>,
    u: Block<'s, T>,
    ca: Block<'s, T>,
    cb: Block<'s, T>,
    bias: &'s [T::Acc],
    /// Channels of a part.
    part: usize,
}

/// Reads a row and fetches one to come: five parts of a row, often as many times the same place in a page, are too many
/// for the processor to foresee. It comes as far as the second-level cache, for the first one does not hold two rows of all parts
/// everywhere.
///
/// # Safety
/// The row and the channels must lie within the block, and the processor must have the instruction set.
#[inline(always)]
unsafe fn read<I: Isa, T: Element>(part: &Block<T>, row: isize, at: usize) -> I::V<T::Acc> {
    I::prefetch(part.ahead(row, at));
    // SAFETY: within the block, says the caller.
    unsafe { I::read(part.at(row, at)) }
}

impl<T: Element, const ALL: bool> GatedTerms<'_, T, ALL> {
    /// The pre-activation of the gate.
    ///
    /// # Safety
    /// As for [`Terms::gate`].
    #[inline(always)]
    unsafe fn a<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller; the bias is as wide.
        unsafe { self.read::<I>(&self.a, row, at).add(I::read(Pointer::to(self.bias).add(at))) }
    }

    /// Reads a part.
    ///
    /// # Safety
    /// As for [`Terms::gate`].
    #[inline(always)]
    unsafe fn read<I: Isa>(&self, part: &Block<T>, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the block, says the caller.
        unsafe {
            match ALL {
                true => I::read(part.at(row, at)),
                false => read::<I, T>(part, row, at),
            }
        }
    }

    /// Where the cache lines of all parts are when every vector asks for as many, from a channel of the first part on, and how
    /// far apart: in a whole row, in the order in which they lie in memory, which is faster than at five places at a time.
    #[inline(always)]
    fn all_parts<I: Isa>(&self, at: usize) -> (usize, usize) {
        match self.bias.len() == self.part {
            true => (PARTS * at, <I::V<T::Acc>>::LEN),
            false => (at, self.part),
        }
    }
}

impl<'s, T: Element, const ALL: bool> Terms for GatedTerms<'s, T, ALL> {
    type Acc = T::Acc;
    const CHEAP: bool = false;
    const LONG: bool = size_of::<T>() < size_of::<T::Acc>();
    type All = GatedTerms<'s, T, true>;

    fn all(self) -> GatedTerms<'s, T, true> {
        let Self { a, d, u, ca, cb, bias, part } = self;
        GatedTerms { a, d, u, ca, cb, bias, part }
    }

    #[inline(always)]
    unsafe fn gate<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        if ALL {
            let (first, step) = self.all_parts::<I>(at);
            for n in 0..PARTS {
                I::prefetch(self.a.ahead(row, first + n * step));
            }
        }
        // SAFETY: passed on to the caller.
        unsafe { logistic::<T, _>(self.a::<I>(row, at)) }
    }

    #[inline(always)]
    unsafe fn drive<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe { logistic::<T, _>(self.read::<I>(&self.d, row, at)).mul(self.read::<I>(&self.u, row, at)) }
    }

    #[inline(always)]
    unsafe fn readout<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let ca = self.read::<I>(&self.ca, row, at);
            silu::<T, _>(ca).value.mul(self.read::<I>(&self.cb, row, at))
        }
    }

    #[inline(always)]
    fn fetch_readout<I: Isa>(&self, row: isize, at: usize) {
        self.ca.fetch::<I>(row, at);
        self.cb.fetch::<I>(row, at);
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, row: isize, at: usize) {
        self.a.fetch::<I>(row, at);
        self.d.fetch::<I>(row, at);
        self.u.fetch::<I>(row, at);
    }
}

/// What is wanted of the gradients, and `y` once more.
pub(crate) struct GatedGradients<'a, T: Element, G> {
    pub len: usize,
    pub channels: usize,
    /// `[B, L, 5S]`
    pub dp: Option<&'a Buffer<T>>,
    /// The gradient of the bias from each chunk, `[chunks, S]`.
    pub d_bias: Option<&'a Buffer<T::Acc>>,
    /// `[B, L, S]`
    pub y: Option<&'a Buffer<G>>,
}

impl<'a, T: Element, G: Element<Acc = T::Acc>> Gradients for GatedGradients<'a, T, G> {
    type Form = Gated<'a, T>;
    type Out = G;
    type Steps<'s>
        = GatedSteps<'s, T, G>
    where
        Self: 's;

    fn need_states(&self) -> bool {
        self.dp.is_some() || self.d_bias.is_some() || self.y.is_some()
    }

    unsafe fn steps<'s>(
        &'s self,
        place: &Place,
        chunk: usize,
        terms: GatedTerms<'s, T, false>,
        adjoint: Adjoint<'s, G>,
    ) -> GatedSteps<'s, T, G> {
        let (row, first) = (self.channels, place.batch * self.len * self.channels);
        // SAFETY: nobody else writes at this place, says the caller, nor in this chunk of its columns.
        unsafe {
            let part = |dp: &Buffer<T>, n: usize| dp.block(PARTS * first + n * row, PARTS * row, place);
            GatedSteps {
                terms,
                adjoint,
                dp: self.dp.map(|dp| std::array::from_fn(|n| part(dp, n))),
                d_bias: self.d_bias.map(|sum| {
                    let sum = sum.row(chunk * row + place.columns.start, place.width());
                    sum.iter_mut().for_each(|channel| _ = channel.write(T::Acc::default()));
                    Pointer::to_uninit(sum)
                }),
                y: self.y.map(|y| y.block(first, row, place)),
            }
        }
    }
}

/// With `dh_t = readout_t g_t + z_{t+1}`, and the gradients of the pre-activations by the derivatives of their functions.
pub(crate) struct GatedSteps<'s, T: Element, G: Element> {
    terms: GatedTerms<'s, T, false>,
    adjoint: Adjoint<'s, G>,
    dp: Option<[BlockMut<T>; PARTS]>,
    d_bias: Option<Pointer<*mut T::Acc>>,
    y: Option<BlockMut<G>>,
}

impl<T: Element, G: Element<Acc = T::Acc>> Recurrence for GatedSteps<'_, T, G> {
    type Acc = T::Acc;
    /// `z`, and the gradient of the bias.
    type Carry<V: Copy> = (V, V);
    const LONG: bool = GatedTerms::<T, false>::LONG;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<T::Acc>, I::V<T::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            let z = I::read(self.adjoint.z.add(at));
            match self.d_bias {
                Some(sum) => (z, I::read(sum.add(at))),
                None => (z, z),
            }
        }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (z, d_bias): (I::V<T::Acc>, I::V<T::Acc>),
    ) -> (I::V<T::Acc>, I::V<T::Acc>) {
        let (GatedTerms { d, u, ca, cb, .. }, Adjoint { g, h, .. }) = (&self.terms, &self.adjoint);
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let a = sigmoid::<T, _>(self.terms.a::<I>(row, at));
            let (ca, cb, g) = (read::<I, T>(ca, row, at), read::<I, T>(cb, row, at), read::<I, G>(g, row, at));
            let c = silu::<T, _>(ca);
            let readout = c.value.mul(cb);
            let dh = readout.mul(g).add(z);
            let mut d_bias = d_bias;
            if let Some(y) = self.y {
                I::write(readout.mul(I::read(h.at(row, at))), y.at(row, at));
            }
            if let Some([da, ..]) = self.dp {
                let (first, step) = self.terms.all_parts::<I>(at);
                for n in 0..PARTS {
                    I::prefetch(da.ahead(row, first + n * step));
                }
            }
            if self.dp.is_some() || self.d_bias.is_some() {
                let da = I::read(h.at(row + 1, at)).mul(dh).mul(a.slope);
                d_bias = d_bias.add(da);
                if let Some(dp) = self.dp {
                    let (d, u) = (sigmoid::<T, _>(I::read(d.at(row, at))), I::read(u.at(row, at)));
                    let dc = I::read(h.at(row, at)).mul(g);
                    let (dd, du) = (u.mul(dh).mul(d.slope), d.value.mul(dh));
                    let dca = dc.mul(cb).mul(c.slope);
                    // written after all of them: rounding to half precision may branch, and a branch ends what is
                    // computed in two vectors at once
                    for (part, gradient) in dp.iter().zip([da, dd, du, dca, dc.mul(c.value)]) {
                        I::write(gradient, part.at(row, at));
                    }
                }
            }
            (a.value.mul(dh).flush(), d_bias)
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (z, d_bias): (I::V<T::Acc>, I::V<T::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(z, self.adjoint.z.add(at));
            if let Some(sum) = self.d_bias {
                I::write(d_bias, sum.add(at));
            }
        }
    }
}
