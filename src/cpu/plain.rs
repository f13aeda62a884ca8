//! The scan of four tensors: `h_t = a_t h_{t-1} + b_t x_t`, `y_t = c_t h_t`.

use std::marker::PhantomData;

use super::block::{Block, BlockMut};
use super::buffer::Buffer;
use super::compose::Composite;
use super::form::{Adjoint, Form, Gradients, Terms};
use super::lines::Lines;
use super::simd::{sweep, whole_row, Element, Isa, Lanes, Recurrence};
use super::stream;
use super::view::{Place, View};

/// The arguments, `[B, L, D]` each.
pub(crate) struct Plain<'a, T> {
    pub x: View<'a, T>,
    pub a: View<'a, T>,
    pub b: View<'a, T>,
    pub c: View<'a, T>,
}

impl<T: Element> Form for Plain<'_, T> {
    type Acc = T::Acc;
    const KEEP: bool = false;
    type Rows = [Vec<T>; 4];
    type Terms<'s>
        = PlainTerms<'s, T>
    where
        Self: 's;

    fn terms<'s>(&'s self, place: &Place, [x, a, b, c]: &'s mut [Vec<T>; 4]) -> PlainTerms<'s, T> {
        PlainTerms {
            x: self.x.block(place, x),
            a: self.a.block(place, a),
            b: self.b.block(place, b),
            c: self.c.block(place, c),
        }
    }
}

pub(crate) struct PlainTerms<'s, T> {
    x: Block<'s, T>,
    a: Block<'s, T>,
    b: Block<'s, T>,
    c: Block<'s, T>,
}

impl<T: Element> Terms for PlainTerms<'_, T> {
    type Acc = T::Acc;
    const CHEAP: bool = true;
    type All = Self;

    fn all(self) -> Self {
        self
    }

    #[inline(always)]
    unsafe fn gate<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe { I::read(self.a.at(row, at)) }
    }

    #[inline(always)]
    unsafe fn drive<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe { I::read(self.b.at(row, at)).mul(I::read(self.x.at(row, at))) }
    }

    #[inline(always)]
    unsafe fn readout<I: Isa>(&self, row: isize, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe { I::read(self.c.at(row, at)) }
    }

    #[inline(always)]
    fn fetch_readout<I: Isa>(&self, row: isize, at: usize) {
        self.c.fetch::<I>(row, at);
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, row: isize, at: usize) {
        self.a.fetch::<I>(row, at);
        self.b.fetch::<I>(row, at);
        self.x.fetch::<I>(row, at);
    }
}

/// The gradients of the arguments, `[B, L, D]` each: those that are wanted.
pub(crate) struct PlainGradients<'a, T, G> {
    pub len: usize,
    pub channels: usize,
    /// Whether they go [past the caches](super::stream).
    pub past_caches: bool,
    pub dx: Option<&'a Buffer<T>>,
    pub da: Option<&'a Buffer<T>>,
    pub db: Option<&'a Buffer<T>>,
    pub dc: Option<&'a Buffer<T>>,
    pub out: PhantomData<G>,
}

impl<'a, T: Element, G: Element<Acc = T::Acc>> Gradients for PlainGradients<'a, T, G> {
    type Form = Plain<'a, T>;
    type Out = G;
    type Rows = [Lines<T>; 4];

    fn need_states(&self) -> bool {
        self.da.is_some() || self.dc.is_some()
    }

    /// To read a tile twice costs less than to compose it meanwhile.
    fn composes(&self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn step_back<'s, I: Isa>(
        &'s self,
        place: &Place,
        _chunk: usize,
        terms: PlainTerms<'s, T>,
        adjoint: Adjoint<'s, G>,
        rows: &'s mut [Lines<T>; 4],
        _composite: Option<&mut Composite<T::Acc>>,
    ) {
        let start = place.batch * self.len * self.channels;
        // SAFETY: nobody else writes there, says the caller.
        let block = |out: &Buffer<T>| unsafe { out.block(start, self.channels, place) };
        let (dx, da, db, dc) = (self.dx.map(block), self.da.map(block), self.db.map(block), self.dc.map(block));
        let past_caches = self.past_caches.then(|| rows.each_mut().map(|row| stream::row(row, place.width())));
        let steps = PlainSteps { terms, adjoint, past_caches, fetched: true, dx, da, db, dc };
        // SAFETY: passed on to the caller.
        unsafe { sweep::<I, _>(&steps, place.rows(), place.width()) }
    }
}

/// With `dh_t = c_t g_t + z_{t+1}`:
///
/// ```text
///   dx_t = b_t dh_t      db_t = x_t dh_t      dc_t = g_t h_t      da_t = h_{t-1} dh_t
/// ```
pub(crate) struct PlainSteps<'s, T, G: Element> {
    terms: PlainTerms<'s, T>,
    adjoint: Adjoint<'s, G>,
    /// A row of each gradient, if they go past the caches.
    past_caches: Option<[BlockMut<T>; 4]>,
    /// Whether memory for the gradients is fetched, which that of such rows need not be.
    fetched: bool,
    dx: Option<BlockMut<T>>,
    da: Option<BlockMut<T>>,
    db: Option<BlockMut<T>>,
    dc: Option<BlockMut<T>>,
}

impl<T: Element, G: Element> PlainSteps<'_, T, G> {
    /// The steps from this row on.
    #[inline(always)]
    fn at_row(&self, row: isize) -> Self {
        let PlainTerms { x, a, b, c } = &self.terms;
        let Adjoint { g, h, z } = &self.adjoint;
        let from = |block: BlockMut<T>| block.at_row(row);
        Self {
            terms: PlainTerms { x: x.at_row(row), a: a.at_row(row), b: b.at_row(row), c: c.at_row(row) },
            adjoint: Adjoint { g: g.at_row(row), h: h.at_row(row), z: *z },
            past_caches: self.past_caches,
            fetched: self.fetched,
            dx: self.dx.map(from),
            da: self.da.map(from),
            db: self.db.map(from),
            dc: self.dc.map(from),
        }
    }

    /// Fetches memory for a gradient. Rows of f64 are so long that the processor foresees them.
    #[inline(always)]
    fn fetch_ahead<I: Isa>(&self, to: BlockMut<T>, row: isize, at: usize) {
        if size_of::<T>() <= size_of::<f32>() && self.fetched {
            to.fetch_ahead::<I>(row, at);
        }
    }
}

impl<T: Element, G: Element<Acc = T::Acc>> Recurrence for PlainSteps<'_, T, G> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.adjoint.z.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, z: I::V<T::Acc>) -> I::V<T::Acc> {
        let (PlainTerms { x, a, b, c }, Adjoint { g, h, .. }) = (&self.terms, &self.adjoint);
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let g = I::read(g.at(row, at));
            let dh = I::read(c.at(row, at)).mul(g).add(z);
            if let Some(dx) = self.dx {
                self.fetch_ahead::<I>(dx, row, at);
                I::write(I::read(b.at(row, at)).mul(dh), dx.at(row, at));
            }
            if let Some(db) = self.db {
                self.fetch_ahead::<I>(db, row, at);
                I::write(I::read(x.at(row, at)).mul(dh), db.at(row, at));
            }
            if let Some(dc) = self.dc {
                self.fetch_ahead::<I>(dc, row, at);
                I::write(I::read(h.at(row, at)).mul(g), dc.at(row, at));
            }
            if let Some(da) = self.da {
                self.fetch_ahead::<I>(da, row, at);
                I::write(I::read(h.at(row + 1, at)).mul(dh), da.at(row, at));
            }
            I::read(a.at(row, at)).mul(dh).flush()
        }
    }

    /// The addresses in ten tensors are more than the processor has registers for: they are those of the row, and what is
    /// wanted is known before, not found out for every vector.
    #[inline(always)]
    unsafe fn whole_row<I: Isa>(&self, row: isize, vectors: usize) {
        let steps = self.at_row(row);
        // SAFETY: passed on to the caller.
        unsafe {
            match (steps.dx, steps.da, steps.db, steps.dc, steps.past_caches) {
                (Some(dx), Some(da), Some(db), Some(dc), Some(rows)) if I::STREAMS && stream::is_fast::<T>() => {
                    let gradients = [dx, da, db, dc];
                    let [dx, da, db, dc] = rows.map(Some);
                    whole_row::<I, _>(&Self { fetched: false, dx, da, db, dc, ..steps }, 0, vectors);
                    for (row, to) in rows.into_iter().zip(gradients) {
                        stream::copy::<I, _>(row.at(0, 0), to.at(0, 0), vectors * <I::V<T::Acc>>::LEN);
                    }
                }
                (Some(dx), Some(da), Some(db), Some(dc), _) => {
                    let [dx, da, db, dc] = [dx, da, db, dc].map(Some);
                    whole_row::<I, _>(&Self { fetched: true, dx, da, db, dc, ..steps }, 0, vectors);
                }
                _ => whole_row::<I, _>(&steps, 0, vectors),
            }
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, z: I::V<T::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(z, self.adjoint.z.add(at)) }
    }
}
