//! The backward pass. With `g` the gradient of `y` and `z_t = a_t dh_t`, against time:
//!
//! ```text
//!   dh_t = c_t g_t + z_{t+1}      dx_t = b_t dh_t      db_t = x_t dh_t
//!   dc_t = g_t h_t                da_t = h_{t-1} dh_t
//! ```
//!
//! from `z_L`, the gradient of the last state, to `z_0`, that of the initial state. The states are computed again, a chunk
//! at a time from the one saved before it, so that what both directions read stays in the cache.

use super::buffer::Buffer;
use super::chain::{chunks, compose, run_jobs, CarryOver, Chain, Composite};
use super::forward_pass::{copy, prefetch_distance, LINE};
use super::plan::{Job, Plan};
use super::simd::{dispatch, sweep, Element, Isa, Lanes, RowKernel, Vectorised};
use super::view::View;

/// What a backward pass reads and writes.
pub(crate) struct Backward<'a, T: Element, G> {
    pub plan: &'a Plan,
    pub channels: usize,
    /// Time steps in a batch element.
    pub len: usize,
    pub x: View<'a, T>,
    pub a: View<'a, T>,
    pub b: View<'a, T>,
    pub c: View<'a, T>,
    /// The gradient of `y`.
    pub g: View<'a, G>,
    /// `[chunks, D]`
    pub saved: &'a [T::Acc],
    /// The gradient of the last states, `[N, D]`; zeros where there is none.
    pub grad_last: Option<&'a [T::Acc]>,
    /// `[B, L, D]` each
    pub dx: Option<&'a Buffer<T>>,
    pub da: Option<&'a Buffer<T>>,
    pub db: Option<&'a Buffer<T>>,
    pub dc: Option<&'a Buffer<T>>,
    /// `[N, D]`
    pub dh0: Option<&'a Buffer<T::Acc>>,
}

impl<T: Element, G: Element<Acc = T::Acc>> Backward<'_, T, G> {
    /// Computes all gradients that have a buffer: every element of them is written.
    pub fn run(&self) {
        let chain = Chain::new(self.plan);
        let jobs = self.plan.jobs.len();
        let scratch = || Scratch { states: Vec::new(), z: Vec::new(), tile: Composite::with_capacity(0) };
        run_jobs(
            self.plan,
            |ticket| jobs - 1 - ticket,
            scratch,
            |job, scratch| dispatch(BackwardJob { scan: self, chain: &chain, job, scratch }),
        );
    }
}

struct Scratch<A> {
    /// The state before a chunk and after each of its steps.
    states: Vec<A>,
    z: Vec<A>,
    tile: Composite<A>,
}

struct BackwardJob<'a, T: Element, G> {
    scan: &'a Backward<'a, T, G>,
    chain: &'a Chain<T::Acc>,
    job: &'a Job,
    scratch: &'a mut Scratch<T::Acc>,
}

impl<T: Element, G: Element<Acc = T::Acc>> Vectorised for BackwardJob<'_, T, G> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch } = self;
        let Scratch { states, z, tile } = scratch;
        let sequence = &scan.plan.sequences[job.sequence];
        let width = job.columns.len();
        let (batch, columns) = (sequence.batch, &job.columns);
        let [mut x, mut a, mut b, mut c] =
            [&scan.x, &scan.a, &scan.b, &scan.c].map(|view| view.rows(batch, columns.clone()));
        let mut g = scan.g.rows(batch, columns.clone());

        if job.tile > 0 {
            tile.clear(width);
            for t in job.steps.clone().rev().map(|step| sequence.time(step)) {
                let (a, c, g) = (a.get(t), c.get(t), g.get(t));
                let Composite { product, state: z } = &mut *tile;
                // SAFETY: all rows have `width` elements; the caller vouches for the processor.
                unsafe { sweep::<I, _>(width, &mut ComposeStep { a, c, g, product, z }) };
            }
        }
        z.clear();
        match (job.last, scan.grad_last) {
            (true, None) => z.resize(width, T::Acc::default()),
            (true, Some(grad)) => {
                let start = sequence.index * scan.channels;
                z.extend_from_slice(&grad[start + columns.start..start + columns.end]);
            }
            (false, _) => z.extend_from_slice(chain.wait(job.tile + 1, sequence.index)),
        }
        if job.tile > 0 {
            let Composite { product, state: to } = &mut *tile;
            // SAFETY: all rows have `width` elements; the caller vouches for the processor.
            unsafe { sweep::<I, _>(width, &mut CarryOver { from: z, product, to }) };
            chain.publish(job.tile, sequence.index, to);
        }

        let need_states = scan.da.is_some() || scan.dc.is_some();
        let ahead = -prefetch_distance::<T>(sequence, scan.channels);
        for steps in chunks(job.steps.clone(), scan.plan.chunk_len).rev() {
            if need_states {
                let at = scan.plan.chunk(sequence, steps.start) * scan.channels;
                states.resize((steps.len() + 1) * width, T::Acc::default());
                states[..width].copy_from_slice(&scan.saved[at + columns.start..at + columns.end]);
                for (i, t) in steps.clone().map(|step| sequence.time(step)).enumerate() {
                    let (from, to) = states[i * width..][..2 * width].split_at_mut(width);
                    let (x, a, b) = (x.get(t), a.get(t), b.get(t));
                    // SAFETY: all rows have `width` elements; the caller vouches for the processor.
                    unsafe { sweep::<I, _>(width, &mut StateStep { x, a, b, from, to }) };
                }
            }
            for (i, t) in steps.map(|step| sequence.time(step)).enumerate().rev() {
                let at = (batch * scan.len + t) * scan.channels + columns.start;
                // SAFETY: no other job has this time of these columns.
                let row =
                    |out: Option<&Buffer<T>>| out.map(|out| unsafe { out.row(at, width) }.as_mut_ptr().cast::<T>());
                let (dx, da, db, dc) = (row(scan.dx), row(scan.da), row(scan.db), row(scan.dc));
                let h = if need_states { &states[i * width..][..2 * width] } else { &[] };
                let (x, a, b, c, g) = (x.get(t), a.get(t), b.get(t), c.get(t), g.get(t));
                let mut step = Step { x, a, b, c, g, h, width, z, dx, da, db, dc, ahead };
                // SAFETY: all rows have `width` elements, and `h` two rows where it is read; the caller vouches for
                // the processor.
                unsafe { sweep::<I, _>(width, &mut step) };
            }
        }
        if let (0, Some(dh0)) = (job.tile, scan.dh0) {
            // SAFETY: no other job begins this sequence in these columns.
            copy(z, unsafe { dh0.row(sequence.index * scan.channels + columns.start, width) });
        }
    }
}

/// One step back in a composite: `A = a A`, `Z = a (c g + Z)`.
struct ComposeStep<'a, T: Element, G> {
    a: &'a [T],
    c: &'a [T],
    g: &'a [G],
    product: &'a mut [T::Acc],
    z: &'a mut [T::Acc],
}

impl<T: Element, G: Element<Acc = T::Acc>> RowKernel for ComposeStep<'_, T, G> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe {
            let (a, c) = (I::read(self.a.as_ptr().add(at)), I::read(self.c.as_ptr().add(at)));
            let (g, z) = (I::read(self.g.as_ptr().add(at)), self.z.as_mut_ptr().add(at));
            I::write(a.mul(c.mul(g).add(I::read(z))).flush(), z);
            let product = self.product.as_mut_ptr().add(at);
            I::write(compose(I::read(product), a), product);
        }
    }
}

/// The state after a step from the one before it.
struct StateStep<'a, T: Element> {
    x: &'a [T],
    a: &'a [T],
    b: &'a [T],
    from: &'a [T::Acc],
    to: &'a mut [T::Acc],
}

impl<T: Element> RowKernel for StateStep<'_, T> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe {
            let (x, a) = (I::read(self.x.as_ptr().add(at)), I::read(self.a.as_ptr().add(at)));
            let (b, h) = (I::read(self.b.as_ptr().add(at)), I::read(self.from.as_ptr().add(at)));
            I::write(a.mul(h).add(b.mul(x)).flush(), self.to.as_mut_ptr().add(at));
        }
    }
}

/// All gradients of a step.
struct Step<'a, T: Element, G> {
    x: &'a [T],
    a: &'a [T],
    b: &'a [T],
    c: &'a [T],
    g: &'a [G],
    /// The states before and after the step, `width` elements each; nothing where neither `da` nor `dc` is wanted.
    h: &'a [T::Acc],
    width: usize,
    z: &'a mut [T::Acc],
    dx: Option<*mut T>,
    da: Option<*mut T>,
    db: Option<*mut T>,
    dc: Option<*mut T>,
    ahead: isize,
}

impl<T: Element, G: Element<Acc = T::Acc>> RowKernel for Step<'_, T, G> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe {
            let z = self.z.as_mut_ptr().add(at);
            let (c, g) = (I::read(self.c.as_ptr().add(at)), I::read(self.g.as_ptr().add(at)));
            let dh = c.mul(g).add(I::read(z));
            if let Some(dx) = self.dx {
                self.put::<I>(dx, at, I::read(self.b.as_ptr().add(at)).mul(dh));
            }
            if let Some(db) = self.db {
                self.put::<I>(db, at, I::read(self.x.as_ptr().add(at)).mul(dh));
            }
            if let Some(da) = self.da {
                self.put::<I>(da, at, I::read(self.h.as_ptr().add(at)).mul(dh));
            }
            if let Some(dc) = self.dc {
                self.put::<I>(dc, at, I::read(self.h.as_ptr().add(self.width + at)).mul(g));
            }
            I::write(I::read(self.a.as_ptr().add(at)).mul(dh).flush(), z);
        }
    }
}

impl<T: Element, G> Step<'_, T, G> {
    /// Writes a part of a row of gradients, and fetches the same part of the row to be written next.
    ///
    /// # Safety
    /// `row` must be valid for writes up to `at + LEN`.
    #[inline(always)]
    unsafe fn put<I: Isa>(&self, row: *mut T, at: usize, value: I::V<T::Acc>) {
        // SAFETY: passed on to the caller.
        unsafe {
            let to = row.add(at);
            if at.is_multiple_of(LINE / size_of::<T>()) {
                I::prefetch_for_write(to.wrapping_offset(self.ahead));
            }
            I::write(value, to);
        }
    }
}
