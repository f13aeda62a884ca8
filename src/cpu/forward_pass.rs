//! The forward pass: `h_t = a_t h_{t-1} + b_t x_t`, `y_t = c_t h_t`.

use std::mem::MaybeUninit;

use super::buffer::{BlockMut, Buffer};
use super::chain::{carry_over, chunks, compose, run_jobs, Chain, Composite};
use super::plan::{Job, Plan};
use super::simd::{dispatch, sweep, Element, Isa, Lanes, Recurrence, Vectorised};
use super::view::{Block, View};

/// What a forward pass reads and writes.
pub(crate) struct Forward<'a, T: Element, O> {
    pub plan: &'a Plan,
    pub channels: usize,
    /// Time steps in a batch element.
    pub len: usize,
    pub x: View<'a, T>,
    pub a: View<'a, T>,
    pub b: View<'a, T>,
    pub c: View<'a, T>,
    /// `[N, D]`; zeros where there is none.
    pub h0: Option<&'a [T::Acc]>,
    /// `[B, L, D]`
    pub y: Option<&'a Buffer<O>>,
    /// `[N, D]`
    pub last: Option<&'a Buffer<T::Acc>>,
    /// `[chunks, D]`
    pub saved: Option<&'a Buffer<T::Acc>>,
}

impl<T: Element, O: Element<Acc = T::Acc>> Forward<'_, T, O> {
    /// Computes all outputs: every element of them is written.
    pub fn run(&self) {
        let chain = Chain::new(self.plan);
        let run =
            |job: &Job, scratch: &mut Scratch<T>| dispatch(ForwardJob { scan: self, chain: &chain, job, scratch });
        run_jobs(self.plan, |ticket| ticket, run);
    }
}

struct Scratch<T: Element> {
    h: Vec<T::Acc>,
    tile: Composite<T::Acc>,
    inputs: [Vec<T>; 4],
}

impl<T: Element> Default for Scratch<T> {
    fn default() -> Self {
        Self { h: Vec::new(), tile: Composite::default(), inputs: Default::default() }
    }
}

struct ForwardJob<'a, T: Element, O> {
    scan: &'a Forward<'a, T, O>,
    chain: &'a Chain<T::Acc>,
    job: &'a Job,
    scratch: &'a mut Scratch<T>,
}

impl<T: Element, O: Element<Acc = T::Acc>> Vectorised for ForwardJob<'_, T, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch } = self;
        let Scratch { h, tile, inputs: [x_rows, a_rows, b_rows, c_rows] } = scratch;
        let sequence = &scan.plan.sequences[job.sequence];
        let (batch, columns, width) = (sequence.batch, &job.columns, job.columns.len());
        let state = sequence.index * scan.channels + columns.start;

        if !job.last {
            let times = sequence.times(&job.steps);
            tile.clear(width);
            let compose = Compose::<T> {
                x: scan.x.block(batch, &times, columns, x_rows),
                a: scan.a.block(batch, &times, columns, a_rows),
                b: scan.b.block(batch, &times, columns, b_rows),
                product: tile.product.as_mut_ptr(),
                state: tile.state.as_mut_ptr(),
            };
            // SAFETY: all blocks are of these times and columns; the caller vouches for the processor.
            unsafe { sweep::<I, _>(&compose, times.len(), width) };
        }
        h.clear();
        match (job.tile, scan.h0) {
            (0, None) => h.resize(width, T::Acc::default()),
            (0, Some(h0)) => h.extend_from_slice(&h0[state..state + width]),
            (tile, _) => h.extend_from_slice(chain.wait(tile, sequence.index)),
        }
        if !job.last {
            carry_over(h, tile);
            chain.publish(job.tile + 1, sequence.index, &tile.state);
        }
        for steps in chunks(&job.steps, scan.plan.chunk_len) {
            if let Some(saved) = scan.saved {
                let at = scan.plan.chunk(sequence, steps.start) * scan.channels + columns.start;
                // SAFETY: no other job has this chunk of these columns.
                copy(h, unsafe { saved.row(at, width) });
            }
            let state_wanted = steps.end < job.steps.end || (job.last && scan.last.is_some());
            if scan.y.is_none() && !state_wanted {
                continue;
            }
            let times = sequence.times(&steps);
            let advance = Advance::<T> {
                x: scan.x.block(batch, &times, columns, x_rows),
                a: scan.a.block(batch, &times, columns, a_rows),
                b: scan.b.block(batch, &times, columns, b_rows),
                h: h.as_mut_ptr(),
            };
            // SAFETY: all blocks are of these times and columns, which no other job writes; the caller vouches for the
            // processor.
            unsafe {
                match scan.y {
                    None => sweep::<I, _>(&advance, times.len(), width),
                    Some(y) => {
                        let c = scan.c.block(batch, &times, columns, c_rows);
                        let y = y.block(batch * scan.len * scan.channels, scan.channels, &times, columns);
                        sweep::<I, _>(&Output { advance, c, y }, times.len(), width);
                    }
                }
            }
        }
        if let (true, Some(last)) = (job.last, scan.last) {
            // SAFETY: no other job ends this sequence in these columns.
            copy(h, unsafe { last.row(state, width) });
        }
    }
}

pub(crate) fn copy<A: Copy>(from: &[A], to: &mut [MaybeUninit<A>]) {
    for (from, to) in from.iter().zip(to) {
        to.write(*from);
    }
}

/// `h = a h + b x`.
struct Advance<'a, T: Element> {
    x: Block<'a, T>,
    a: Block<'a, T>,
    b: Block<'a, T>,
    h: *mut T::Acc,
}

impl<T: Element> Recurrence for Advance<'_, T> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: within the row, says the caller.
        unsafe { I::read(self.h.add(at)) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, h: I::V<T::Acc>) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let input = I::read(self.b.at(row, at)).mul(I::read(self.x.at(row, at)));
            I::read(self.a.at(row, at)).mul(h).add(input).flush()
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<T::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(h, self.h.add(at)) }
    }
}

/// `y = c h` of the advanced state.
struct Output<'a, T: Element, O> {
    advance: Advance<'a, T>,
    c: Block<'a, T>,
    y: BlockMut<O>,
}

impl<T: Element, O: Element<Acc = T::Acc>> Recurrence for Output<'_, T, O> {
    type Acc = T::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<T::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.load::<I>(at) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, h: I::V<T::Acc>) -> I::V<T::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            if at.is_multiple_of(LINE / size_of::<O>()) {
                I::prefetch_for_write(self.y.ahead(row, at));
            }
            let h = self.advance.row::<I>(row, at, h);
            I::write(I::read(self.c.at(row, at)).mul(h), self.y.at(row, at));
            h
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<T::Acc>) {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.store::<I>(at, h) }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// A step more in a composite: `A = a A`, `H = a H + b x`.
struct Compose<'a, T: Element> {
    x: Block<'a, T>,
    a: Block<'a, T>,
    b: Block<'a, T>,
    product: *mut T::Acc,
    state: *mut T::Acc,
}

impl<T: Element> Recurrence for Compose<'_, T> {
    type Acc = T::Acc;
    type Carry<V: Copy> = (V, V);

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<T::Acc>, I::V<T::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe { (I::read(self.product.add(at)), I::read(self.state.add(at))) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (product, h): (I::V<T::Acc>, I::V<T::Acc>),
    ) -> (I::V<T::Acc>, I::V<T::Acc>) {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let input = I::read(self.b.at(row, at)).mul(I::read(self.x.at(row, at)));
            let a = I::read(self.a.at(row, at));
            (compose(product, a), a.mul(h).add(input).flush())
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (product, h): (I::V<T::Acc>, I::V<T::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(product, self.product.add(at));
            I::write(h, self.state.add(at));
        }
    }
}
