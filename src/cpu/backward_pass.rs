//! The backward pass. With `g` the gradient of `y` and `z_t = a_t dh_t`, against time:
//!
//! ```text
//!   dh_t = c_t g_t + z_{t+1}      dx_t = b_t dh_t      db_t = x_t dh_t
//!   dc_t = g_t h_t                da_t = h_{t-1} dh_t
//! ```
//!
//! from `z_L`, the gradient of the last state, to `z_0`, that of the initial state. The states are computed again, a chunk
//! at a time from the one saved before it, so that what both directions read stays in the cache.

use super::buffer::{BlockMut, Buffer};
use super::chain::{carry_over, chunks, compose, run_jobs, Chain, Composite};
use super::forward_pass::copy;
use super::plan::{Job, Plan};
use super::simd::{dispatch, sweep, Element, Isa, Lanes, Recurrence, Vectorised};
use super::view::{Block, View};

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
        let last = self.plan.jobs.len().saturating_sub(1);
        let run =
            |job: &Job, scratch: &mut Scratch<T, G>| dispatch(BackwardJob { scan: self, chain: &chain, job, scratch });
        run_jobs(self.plan, |ticket| last - ticket, run);
    }
}

struct Scratch<T: Element, G> {
    /// The state before a chunk and after each of its steps.
    states: Vec<T::Acc>,
    carry: Vec<T::Acc>,
    z: Vec<T::Acc>,
    tile: Composite<T::Acc>,
    inputs: [Vec<T>; 4],
    g: Vec<G>,
}

impl<T: Element, G> Default for Scratch<T, G> {
    fn default() -> Self {
        let (states, carry, z, g) = Default::default();
        Self { states, carry, z, tile: Composite::default(), inputs: Default::default(), g }
    }
}

struct BackwardJob<'a, T: Element, G> {
    scan: &'a Backward<'a, T, G>,
    chain: &'a Chain<T::Acc>,
    job: &'a Job,
    scratch: &'a mut Scratch<T, G>,
}

impl<T: Element, G: Element<Acc = T::Acc>> Vectorised for BackwardJob<'_, T, G> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch } = self;
        let Scratch { states, carry, z, tile, inputs: [x_rows, a_rows, b_rows, c_rows], g: g_rows } = scratch;
        let sequence = &scan.plan.sequences[job.sequence];
        let (batch, columns, width) = (sequence.batch, &job.columns, job.columns.len());
        let state = sequence.index * scan.channels + columns.start;

        if job.tile > 0 {
            let times = sequence.times(&job.steps).backward();
            tile.clear(width);
            let compose = Compose::<T, G> {
                a: scan.a.block(batch, &times, columns, a_rows),
                c: scan.c.block(batch, &times, columns, c_rows),
                g: scan.g.block(batch, &times, columns, g_rows),
                product: tile.product.as_mut_ptr(),
                z: tile.state.as_mut_ptr(),
            };
            // SAFETY: all blocks are of these times and columns; the caller vouches for the processor.
            unsafe { sweep::<I, _>(&compose, times.len(), width) };
        }
        z.clear();
        match (job.last, scan.grad_last) {
            (true, None) => z.resize(width, T::Acc::default()),
            (true, Some(grad)) => z.extend_from_slice(&grad[state..state + width]),
            (false, _) => z.extend_from_slice(chain.wait(job.tile + 1, sequence.index)),
        }
        if job.tile > 0 {
            carry_over(z, tile);
            chain.publish(job.tile, sequence.index, &tile.state);
        }

        let need_states = scan.da.is_some() || scan.dc.is_some();
        for steps in chunks(&job.steps, scan.plan.chunk_len).rev() {
            let times = sequence.times(&steps);
            let rows = times.len();
            if need_states {
                let at = scan.plan.chunk(sequence, steps.start) * scan.channels + columns.start;
                states.resize((rows + 1) * width, T::Acc::default());
                let (first, after) = states.split_at_mut(width);
                first.copy_from_slice(&scan.saved[at..at + width]);
                carry.clear();
                carry.extend_from_slice(first);
                let states = States::<T> {
                    x: scan.x.block(batch, &times, columns, x_rows),
                    a: scan.a.block(batch, &times, columns, a_rows),
                    b: scan.b.block(batch, &times, columns, b_rows),
                    carry: carry.as_mut_ptr(),
                    h: BlockMut::adjacent(after, width),
                };
                // SAFETY: all blocks are of these times and columns; the caller vouches for the processor.
                unsafe { sweep::<I, _>(&states, rows, width) };
            }
            let times = times.backward();
            // SAFETY: no other job has these times of these columns.
            let out = |out: Option<&Buffer<T>>| {
                out.map(|out| unsafe { out.block(batch * scan.len * scan.channels, scan.channels, &times, columns) })
            };
            let gradients = Gradients::<T, G> {
                x: scan.x.block(batch, &times, columns, x_rows),
                a: scan.a.block(batch, &times, columns, a_rows),
                b: scan.b.block(batch, &times, columns, b_rows),
                c: scan.c.block(batch, &times, columns, c_rows),
                g: scan.g.block(batch, &times, columns, g_rows),
                h: Block::backward(if need_states { states } else { &[] }, width),
                z: z.as_mut_ptr(),
                dx: out(scan.dx),
                da: out(scan.da),
                db: out(scan.db),
                dc: out(scan.dc),
            };
            // SAFETY: all blocks are of these times and columns, and `h` is where it is read; the caller vouches for the
            // processor.
            unsafe { sweep::<I, _>(&gradients, rows, width) };
        }
        if let (0, Some(dh0)) = (job.tile, scan.dh0) {
            // SAFETY: no other job begins this sequence in these columns.
            copy(z, unsafe { dh0.row(state, width) });
        }
    }
}

/// A step back in a composite: `A = a A`, `Z = a (c g + Z)`.
struct Compose<'a, T: Element, G> {
    a: Block<'a, T>,
    c: Block<'a, T>,
    g: Block<'a, G>,
    product: *mut T::Acc,
    z: *mut T::Acc,
}

impl<T: Element, G: Element<Acc = T::Acc>> Recurrence for Compose<'_, T, G> {
    type Acc = T::Acc;
    type Carry<V: Copy> = (V, V);

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<T::Acc>, I::V<T::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe { (I::read(self.product.add(at)), I::read(self.z.add(at))) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (product, z): (I::V<T::Acc>, I::V<T::Acc>),
    ) -> (I::V<T::Acc>, I::V<T::Acc>) {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let dh = I::read(self.c.at(row, at)).mul(I::read(self.g.at(row, at))).add(z);
            let a = I::read(self.a.at(row, at));
            (compose(product, a), a.mul(dh).flush())
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (product, z): (I::V<T::Acc>, I::V<T::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(product, self.product.add(at));
            I::write(z, self.z.add(at));
        }
    }
}

/// The states after every step.
struct States<'a, T: Element> {
    x: Block<'a, T>,
    a: Block<'a, T>,
    b: Block<'a, T>,
    carry: *mut T::Acc,
    h: BlockMut<T::Acc>,
}

impl<T: Element> Recurrence for States<'_, T> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.carry.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, h: I::V<T::Acc>) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let input = I::read(self.b.at(row, at)).mul(I::read(self.x.at(row, at)));
            let h = I::read(self.a.at(row, at)).mul(h).add(input).flush();
            I::write(h, self.h.at(row, at));
            h
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<T::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(h, self.carry.add(at)) }
    }
}

/// All gradients of a step, against time.
struct Gradients<'a, T: Element, G> {
    x: Block<'a, T>,
    a: Block<'a, T>,
    b: Block<'a, T>,
    c: Block<'a, T>,
    g: Block<'a, G>,
    /// The states after the steps, and one row further on those before them; read for `da` and `dc` alone.
    h: Block<'a, T::Acc>,
    z: *mut T::Acc,
    dx: Option<BlockMut<T>>,
    da: Option<BlockMut<T>>,
    db: Option<BlockMut<T>>,
    dc: Option<BlockMut<T>>,
}

impl<T: Element, G: Element<Acc = T::Acc>> Recurrence for Gradients<'_, T, G> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.z.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, z: I::V<T::Acc>) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let g = I::read(self.g.at(row, at));
            let dh = I::read(self.c.at(row, at)).mul(g).add(z);
            if let Some(dx) = self.dx {
                I::write(I::read(self.b.at(row, at)).mul(dh), dx.at(row, at));
            }
            if let Some(db) = self.db {
                I::write(I::read(self.x.at(row, at)).mul(dh), db.at(row, at));
            }
            if let Some(dc) = self.dc {
                I::write(I::read(self.h.at(row, at)).mul(g), dc.at(row, at));
            }
            if let Some(da) = self.da {
                I::write(I::read(self.h.at(row + 1, at)).mul(dh), da.at(row, at));
            }
            I::read(self.a.at(row, at)).mul(dh).flush()
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, z: I::V<T::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(z, self.z.add(at)) }
    }
}
