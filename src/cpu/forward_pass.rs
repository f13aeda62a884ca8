//! The forward pass: `h_t = a_t h_{t-1} + b_t x_t`, `y_t = c_t h_t`.

use std::mem::MaybeUninit;

use super::buffer::Buffer;
use super::chain::{chunks, compose, run_jobs, CarryOver, Chain, Composite};
use super::plan::{Job, Plan, Sequence};
use super::simd::{dispatch, sweep, Element, Isa, Lanes, RowKernel, Vectorised};
use super::view::View;

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
        let scratch = || Scratch { h: Vec::new(), tile: Composite::with_capacity(0) };
        run_jobs(
            self.plan,
            |ticket| ticket,
            scratch,
            |job, scratch| dispatch(ForwardJob { scan: self, chain: &chain, job, scratch }),
        );
    }
}

struct Scratch<A> {
    h: Vec<A>,
    tile: Composite<A>,
}

struct ForwardJob<'a, T: Element, O> {
    scan: &'a Forward<'a, T, O>,
    chain: &'a Chain<T::Acc>,
    job: &'a Job,
    scratch: &'a mut Scratch<T::Acc>,
}

impl<T: Element, O: Element<Acc = T::Acc>> Vectorised for ForwardJob<'_, T, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch } = self;
        let sequence = &scan.plan.sequences[job.sequence];
        let width = job.columns.len();
        let [mut x, mut a, mut b, mut c] =
            [&scan.x, &scan.a, &scan.b, &scan.c].map(|view| view.rows(sequence.batch, job.columns.clone()));

        if !job.last {
            scratch.tile.clear(width);
            for t in job.steps.clone().map(|step| sequence.time(step)) {
                let (x, a, b) = (x.get(t), a.get(t), b.get(t));
                let Composite { product, state } = &mut scratch.tile;
                // SAFETY: all rows have `width` elements; the caller vouches for the processor.
                unsafe { sweep::<I, _>(width, &mut ComposeStep { x, a, b, product, state }) };
            }
        }
        scratch.h.clear();
        match (job.tile, scan.h0) {
            (0, None) => scratch.h.resize(width, T::Acc::default()),
            (0, Some(h0)) => {
                let start = sequence.index * scan.channels;
                scratch.h.extend_from_slice(&h0[start + job.columns.start..start + job.columns.end]);
            }
            (tile, _) => scratch.h.extend_from_slice(chain.wait(tile, sequence.index)),
        }
        if !job.last {
            let (from, Composite { product, state: to }) = (&scratch.h, &mut scratch.tile);
            // SAFETY: all rows have `width` elements; the caller vouches for the processor.
            unsafe { sweep::<I, _>(width, &mut CarryOver { from, product, to }) };
            chain.publish(job.tile + 1, sequence.index, &scratch.tile.state);
        }

        let h = &mut scratch.h;
        for steps in chunks(job.steps.clone(), scan.plan.chunk_len) {
            if let Some(saved) = scan.saved {
                let at = scan.plan.chunk(sequence, steps.start) * scan.channels + job.columns.start;
                // SAFETY: no other job has this chunk of these columns.
                copy(h, unsafe { saved.row(at, width) });
            }
            let wanted_later = steps.end < job.steps.end || (job.last && scan.last.is_some());
            match scan.y {
                Some(y) => {
                    let ahead = prefetch_distance::<O>(sequence, scan.channels);
                    for t in steps.map(|step| sequence.time(step)) {
                        let at = (sequence.batch * scan.len + t) * scan.channels + job.columns.start;
                        // SAFETY: no other job has this time of these columns.
                        let y = unsafe { y.row(at, width) };
                        let (x, a, b, c) = (x.get(t), a.get(t), b.get(t), c.get(t));
                        // SAFETY: all rows have `width` elements; the caller vouches for the processor.
                        unsafe { sweep::<I, _>(width, &mut Step { x, a, b, c, h, y, ahead }) };
                    }
                }
                None if wanted_later => {
                    for t in steps.map(|step| sequence.time(step)) {
                        let (x, a, b) = (x.get(t), a.get(t), b.get(t));
                        // SAFETY: all rows have `width` elements; the caller vouches for the processor.
                        unsafe { sweep::<I, _>(width, &mut StateStep { x, a, b, h }) };
                    }
                }
                None => {}
            }
        }
        if let (true, Some(last)) = (job.last, scan.last) {
            // SAFETY: no other job ends this sequence in these columns.
            copy(h, unsafe { last.row(sequence.index * scan.channels + job.columns.start, width) });
        }
    }
}

pub(crate) fn copy<A: Copy>(from: &[A], to: &mut [MaybeUninit<A>]) {
    for (from, to) in from.iter().zip(to) {
        to.write(*from);
    }
}

/// How many elements ahead of the row that is written lies the one to fetch: whole rows, of a page or more.
pub(crate) fn prefetch_distance<O>(sequence: &Sequence, channels: usize) -> isize {
    let row = channels.max(1);
    let distance = (row * (PAGE / size_of::<O>()).div_ceil(row)) as isize;
    match sequence.reverse {
        false => distance,
        true => -distance,
    }
}

const PAGE: usize = 4096;

/// `h = a h + b x`, `y = c h`.
struct Step<'a, T: Element, O> {
    x: &'a [T],
    a: &'a [T],
    b: &'a [T],
    c: &'a [T],
    h: &'a mut [T::Acc],
    y: &'a mut [MaybeUninit<O>],
    ahead: isize,
}

impl<T: Element, O: Element<Acc = T::Acc>> RowKernel for Step<'_, T, O> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe {
            let h = next_state::<I, T>(self.x, self.a, self.b, self.h, at);
            let y = self.y.as_mut_ptr().add(at);
            if at.is_multiple_of(LINE / size_of::<O>()) {
                I::prefetch_for_write(y.wrapping_offset(self.ahead));
            }
            I::write(I::read(self.c.as_ptr().add(at)).mul(h), y.cast::<O>());
        }
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// `h = a h + b x`.
struct StateStep<'a, T: Element> {
    x: &'a [T],
    a: &'a [T],
    b: &'a [T],
    h: &'a mut [T::Acc],
}

impl<T: Element> RowKernel for StateStep<'_, T> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe { next_state::<I, T>(self.x, self.a, self.b, self.h, at) };
    }
}

/// Advances some channels of the state by one step.
///
/// # Safety
/// `at .. at + LEN` must lie within the rows, and the processor must have the instruction set.
#[inline(always)]
unsafe fn next_state<I: Isa, T: Element>(x: &[T], a: &[T], b: &[T], h: &mut [T::Acc], at: usize) -> I::V<T::Acc> {
    // SAFETY: the caller keeps `at` within the rows.
    unsafe {
        let (x, a, b) = (I::read(x.as_ptr().add(at)), I::read(a.as_ptr().add(at)), I::read(b.as_ptr().add(at)));
        let to = h.as_mut_ptr().add(at);
        let h = a.mul(I::read(to)).add(b.mul(x)).flush();
        I::write(h, to);
        h
    }
}

/// One step more in a composite: `A = a A`, `H = a H + b x`.
struct ComposeStep<'a, T: Element> {
    x: &'a [T],
    a: &'a [T],
    b: &'a [T],
    product: &'a mut [T::Acc],
    state: &'a mut [T::Acc],
}

impl<T: Element> RowKernel for ComposeStep<'_, T> {
    type Acc = T::Acc;

    #[inline(always)]
    unsafe fn lanes<I: Isa>(&mut self, at: usize) {
        // SAFETY: the caller keeps `at` within the rows.
        unsafe {
            next_state::<I, T>(self.x, self.a, self.b, self.state, at);
            let product = self.product.as_mut_ptr().add(at);
            I::write(compose(I::read(product), I::read(self.a.as_ptr().add(at))), product);
        }
    }
}
