//! The backward pass of the gated scan: its steps, and where their gradients go.

use super::{all_parts, Gated, GatedTerms, Part};
use crate::cpu::block::BlockMut;
use crate::cpu::buffer::Buffer;
use crate::cpu::compose::{with_resets, Composite};
use crate::cpu::form::{Adjoint, Gradients, Terms};
use crate::cpu::forward_pass::{begin, copy};
use crate::cpu::gates::{sigmoid, silu};
use crate::cpu::lines::Lines;
use crate::cpu::pointer::Pointer;
use crate::cpu::simd::{sweep, sweep_rows, whole_row, Element, Isa, Lanes, Recurrence};
use crate::cpu::stream;
use crate::cpu::view::Place;
use crate::gated::PARTS;

/// What is wanted of the gradients, and `y` once more.
pub(crate) struct GatedGradients<'a, T: Element, G> {
    pub len: usize,
    pub channels: usize,
    /// Whether `dp` goes [past the caches](crate::cpu::stream).
    pub past_caches: bool,
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
    type Rows = (Lines<T>, Lines<T::Acc>);

    fn need_states(&self) -> bool {
        self.dp.is_some() || self.d_bias.is_some() || self.y.is_some()
    }

    /// The steps of the gradients that training wants.
    fn composes(&self) -> bool {
        self.dp.is_some() && self.d_bias.is_some()
    }

    #[inline(always)]
    unsafe fn step_back<'s, I: Isa>(
        &'s self,
        place: &Place,
        chunk: usize,
        terms: GatedTerms<'s, T, false>,
        adjoint: Adjoint<'s, G>,
        (dp_row, bias_row): &'s mut (Lines<T>, Lines<T::Acc>),
        composite: Option<&mut Composite<T::Acc>>,
    ) {
        let (row, first) = (self.channels, place.batch * self.len * self.channels);
        let past_caches = self.past_caches.then(|| stream::row(dp_row, all_parts(place, row).width()));
        begin(bias_row, None, place.width());
        // SAFETY: nobody else writes at this place, says the caller, nor in this chunk of its columns; all else is passed on.
        unsafe {
            let steps = GatedSteps {
                terms,
                adjoint,
                past_caches,
                fetched: true,
                composite: [],
                dp: self.dp.map(|dp| dp.block(PARTS * first, PARTS * row, &all_parts(place, row))),
                d_bias: self.d_bias.map(|_| Pointer::to_mut(bias_row)),
                y: self.y.map(|y| y.block(first, row, place)),
            };
            match composite {
                None => sweep::<I, _>(&steps, place.rows(), place.width()),
                Some(Composite { product, state }) => {
                    let steps = steps.composing([product, state].map(|values| Pointer::to_mut(values)));
                    sweep_rows::<I, _>(&steps, place.rows(), place.width());
                }
            }
            if let Some(sum) = self.d_bias {
                copy(bias_row, sum.row(chunk * row + place.columns.start, place.width()));
            }
        }
    }
}

/// With `dh_t = readout_t g_t + z_{t+1}`, and the gradients of the pre-activations by the derivatives of their functions. With
/// two `COMPOSED` the steps are composed meanwhile: their product, and their state from zero.
struct GatedSteps<'s, T: Element, G: Element, const COMPOSED: usize> {
    terms: GatedTerms<'s, T, false>,
    adjoint: Adjoint<'s, G>,
    /// A row of the gradients of all parts, if they go past the caches.
    past_caches: Option<BlockMut<T>>,
    /// Whether memory for the gradients is fetched, which that of such a row need not be.
    fetched: bool,
    /// The composite.
    composite: [Pointer<*mut T::Acc>; COMPOSED],
    /// The gradients of all parts.
    dp: Option<BlockMut<T>>,
    d_bias: Option<Pointer<*mut T::Acc>>,
    y: Option<BlockMut<G>>,
}

impl<'s, T: Element, G: Element, const COMPOSED: usize> GatedSteps<'s, T, G, COMPOSED> {
    /// The same with a composite.
    fn composing<const N: usize>(self, composite: [Pointer<*mut T::Acc>; N]) -> GatedSteps<'s, T, G, N> {
        let Self { terms, adjoint, past_caches, fetched, dp, d_bias, y, .. } = self;
        GatedSteps { terms, adjoint, past_caches, fetched, composite, dp, d_bias, y }
    }

    /// The steps from this row on.
    #[inline(always)]
    fn at_row(&self, row: isize) -> Self {
        let (GatedTerms { parts, bias, part, near }, Adjoint { g, h, z }) = (&self.terms, &self.adjoint);
        Self {
            terms: GatedTerms { parts: parts.at_row(row), bias, part: *part, near: *near },
            adjoint: Adjoint { g: g.at_row(row), h: h.at_row(row), z: *z },
            past_caches: self.past_caches,
            fetched: self.fetched,
            composite: self.composite,
            dp: self.dp.map(|dp| dp.at_row(row)),
            d_bias: self.d_bias,
            y: self.y.map(|y| y.at_row(row)),
        }
    }
}

impl<T: Element, G: Element<Acc = T::Acc>, const COMPOSED: usize> Recurrence for GatedSteps<'_, T, G, COMPOSED> {
    type Acc = T::Acc;
    /// `z`, the gradient of the bias, and the composite.
    type Carry<V: Copy> = (V, V, [V; COMPOSED]);
    const LONG: bool = GatedTerms::<T, false>::LONG;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> Self::Carry<I::V<T::Acc>> {
        // SAFETY: within the rows, says the caller.
        unsafe {
            let z = I::read(self.adjoint.z.add(at));
            let d_bias = match self.d_bias {
                Some(sum) => I::read(sum.add(at)),
                None => z,
            };
            // no closure here: it is compiled without the instruction set where it is not inlined
            let mut composite = [z; COMPOSED];
            for (value, from) in composite.iter_mut().zip(self.composite) {
                *value = I::read(from.add(at));
            }
            (z, d_bias, composite)
        }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (z, mut d_bias, mut composite): Self::Carry<I::V<T::Acc>>,
    ) -> Self::Carry<I::V<T::Acc>> {
        let (terms, Adjoint { g, h, .. }) = (&self.terms, &self.adjoint);
        // SAFETY: within the blocks, says the caller.
        unsafe {
            I::prefetch_l2(g.ahead(row, at, at));
            let g = I::read(g.at(row, at));
            let a = sigmoid::<T, _>(terms.part::<I>(Part::A, row, at).add(terms.bias::<I>(at)));
            let (ca, cb) = (terms.read::<I>(Part::Ca, row, at), terms.read::<I>(Part::Cb, row, at));
            let c = silu::<T, _>(ca);
            let readout = c.value.mul(cb);
            let dh = z.add_product(readout, g);
            if let Some(y) = self.y {
                I::write(readout.mul(I::read(h.at(row, at))), y.at(row, at));
            }
            if self.dp.is_some() || self.d_bias.is_some() {
                let da = I::read(h.at(row + 1, at)).mul(dh).mul(a.slope);
                d_bias = d_bias.add(da);
                if let Some(dp) = self.dp {
                    if self.fetched {
                        terms.fetch_ahead::<I, _>(&dp, row, at);
                    }
                    let (d, u) = (terms.part::<I>(Part::D, row, at), terms.part::<I>(Part::U, row, at));
                    let (d, dc) = (sigmoid::<T, _>(d), I::read(h.at(row, at)).mul(g));
                    let (dd, du) = (u.mul(dh).mul(d.slope), d.value.mul(dh));
                    let (dca, dcb) = (dc.mul(cb).mul(c.slope), dc.mul(c.value));
                    // written after all of them: rounding to half precision may branch, and a branch ends what is
                    // computed in two vectors at once
                    let to = std::array::from_fn(|n| dp.at(row, terms.channel(n, at)));
                    I::write_each([da, dd, du, dca, dcb], to);
                }
            }
            if let [product, state] = &mut composite[..] {
                *product = with_resets(*product, a.value).flush();
                *state = a.value.mul(readout.mul(g).add(*state)).flush();
            }
            (a.value.mul(dh).flush(), d_bias, composite)
        }
    }

    /// As of the plain scan: the addresses are those of the row, and what is wanted is known before.
    #[inline(always)]
    unsafe fn whole_row<I: Isa>(&self, row: isize, vectors: usize) {
        let steps = self.at_row(row);
        // SAFETY: passed on to the caller.
        unsafe {
            match (steps.dp, steps.d_bias) {
                (Some(dp), Some(d_bias)) => {
                    let past_caches = steps.past_caches.filter(|_| I::STREAMS && stream::is_fast::<T>());
                    let (to, fetched) = (Some(past_caches.unwrap_or(dp)), past_caches.is_none());
                    whole_row::<I, _>(&Self { fetched, dp: to, d_bias: Some(d_bias), ..steps }, 0, vectors);
                    if let Some(row) = past_caches {
                        let (width, part) = (vectors * <I::V<T::Acc>>::LEN, self.terms.part);
                        // one piece, or one for each part
                        let (pieces, width) = if width == part { (1, PARTS * part) } else { (PARTS, width) };
                        for n in 0..pieces {
                            stream::copy::<I, _>(row.at(0, n * part), dp.at(0, n * part), width);
                        }
                    }
                }
                _ if COMPOSED == 0 => whole_row::<I, _>(&steps, 0, vectors),
                // nothing is composed without both
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (z, d_bias, composite): Self::Carry<I::V<T::Acc>>) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(z, self.adjoint.z.add(at));
            if let Some(sum) = self.d_bias {
                I::write(d_bias, sum.add(at));
            }
            for (value, to) in composite.into_iter().zip(self.composite) {
                I::write(value, to.add(at));
            }
        }
    }
}
