//! The forward pass: `h_t = gate_t h_{t-1} + drive_t`, `y_t = readout_t h_t`.

use std::mem::MaybeUninit;

use super::block::BlockMut;
use super::buffer::Buffer;
use super::chain::{carry_over, chunks, compose, run_jobs, Chain, Composite};
use super::form::{Form, Kept, Terms};
use super::plan::{Job, Plan};
use super::pointer::Pointer;
use super::simd::{dispatch, sweep, Element, Isa, Lanes, Recurrence, Vectorised};

/// What a forward pass reads and writes.
pub(crate) struct Forward<'a, F: Form, O> {
    pub plan: &'a Plan,
    pub channels: usize,
    /// Time steps in a batch element.
    pub len: usize,
    pub form: F,
    /// `[N, D]`; zeros where there is none.
    pub h0: Option<&'a [F::Acc]>,
    /// `[B, L, D]`
    pub y: Option<&'a Buffer<O>>,
    /// `[N, D]`
    pub last: Option<&'a Buffer<F::Acc>>,
    /// `[chunks, D]`
    pub saved: Option<&'a Buffer<F::Acc>>,
}

impl<F: Form, O: Element<Acc = F::Acc>> Forward<'_, F, O> {
    /// Computes all outputs: every element of them is written.
    pub fn run(&self) {
        let chain = Chain::new(self.plan);
        let run =
            |job: &Job, scratch: &mut Scratch<F>| dispatch(ForwardJob { scan: self, chain: &chain, job, scratch });
        run_jobs(self.plan, |ticket| ticket, run);
    }
}

struct Scratch<F: Form> {
    h: Vec<F::Acc>,
    tile: Composite<F::Acc>,
    rows: F::Rows,
    /// The gates and the drives of a tile.
    kept: [Vec<F::Acc>; 2],
}

impl<F: Form> Default for Scratch<F> {
    fn default() -> Self {
        let (h, kept) = Default::default();
        Self { h, tile: Composite::default(), rows: F::Rows::default(), kept }
    }
}

struct ForwardJob<'a, 'b, F: Form, O> {
    scan: &'a Forward<'b, F, O>,
    chain: &'a Chain<F::Acc>,
    job: &'a Job,
    scratch: &'a mut Scratch<F>,
}

impl<F: Form, O: Element<Acc = F::Acc>> Vectorised for ForwardJob<'_, '_, F, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch: Scratch { h, tile, rows, kept } } = self;
        let sequence = &scan.plan.sequences[job.sequence];
        let (columns, width) = (&job.columns, job.columns.len());
        let state = sequence.index * scan.channels + columns.start;

        if !job.last {
            let place = sequence.place(&job.steps, columns);
            let (size, fetch_readout) = ((place.rows(), width), scan.y.is_some());
            let terms = scan.form.terms(&place, rows);
            // SAFETY: all blocks are of this place; the caller vouches for the processor.
            unsafe {
                match F::KEEP {
                    false => compose_tile::<I, _>(terms, tile, size, fetch_readout),
                    true => {
                        let all = 0..place.rows() * width;
                        kept.iter_mut().for_each(|values| values.resize(all.end, F::Acc::default()));
                        let terms = Kept::<_, true>::new(terms, kept, all, width);
                        compose_tile::<I, _>(terms, tile, size, fetch_readout)
                    }
                }
            }
        }
        let before = match job.tile {
            0 => scan.h0.map(|h0| &h0[state..state + width]),
            tile => Some(chain.wait(tile, sequence.index)),
        };
        begin(h, before, width);
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
            let place = sequence.place(&steps, columns);
            let size = (place.rows(), width);
            let terms = scan.form.terms(&place, rows);
            // SAFETY: all blocks are of this place, to which no other job writes; the caller vouches for the processor.
            unsafe {
                let y = scan.y.map(|y| y.block(place.batch * scan.len * scan.channels, scan.channels, &place));
                match F::KEEP && !job.last {
                    false => advance::<I, _, O>(terms, h, y, size),
                    true => {
                        let of_chunk = (steps.start - job.steps.start) * width..(steps.end - job.steps.start) * width;
                        advance::<I, _, O>(Kept::<_, false>::new(terms, kept, of_chunk, width), h, y, size)
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

/// Makes a tile the composite of so many steps of so many channels.
///
/// # Safety
/// The terms must have as many, and the processor must have the instruction set.
#[inline(always)]
unsafe fn compose_tile<I: Isa, X: Terms>(
    terms: X,
    tile: &mut Composite<X::Acc>,
    (rows, width): (usize, usize),
    fetch_readout: bool,
) {
    tile.clear(width);
    let (product, state) = (Pointer::to_mut(&mut tile.product), Pointer::to_mut(&mut tile.state));
    let compose = Compose::<X, false> { terms, product, state, fetch_readout };
    // SAFETY: passed on to the caller.
    unsafe { sweep::<I, _>(&compose, rows, width) };
    if !tile.is_finite() {
        tile.clear(width);
        let (product, state) = (Pointer::to_mut(&mut tile.product), Pointer::to_mut(&mut tile.state));
        let compose = Compose::<X, true> { terms: compose.terms, product, state, fetch_readout };
        // SAFETY: passed on to the caller.
        unsafe { sweep::<I, _>(&compose, rows, width) };
    }
}

/// Advances a state over so many steps of so many channels, and reads out of it into `y`.
///
/// # Safety
/// The terms and `y` must have as many, nobody else may write to `y`, and the processor must have the instruction set.
#[inline(always)]
unsafe fn advance<I: Isa, X: Terms, O: Element<Acc = X::Acc>>(
    terms: X,
    h: &mut [X::Acc],
    y: Option<BlockMut<O>>,
    (rows, width): (usize, usize),
) {
    let advance = Advance { terms, h: Pointer::to_mut(h) };
    // SAFETY: passed on to the caller.
    unsafe {
        match y {
            None => sweep::<I, _>(&advance, rows, width),
            Some(y) => sweep::<I, _>(&Output { advance, y }, rows, width),
        }
    }
}

/// Makes a carry that of the channels before a job; zeros where there is none.
pub(crate) fn begin<A: Copy + Default>(carry: &mut Vec<A>, before: Option<&[A]>, width: usize) {
    carry.clear();
    match before {
        None => carry.resize(width, A::default()),
        Some(before) => carry.extend_from_slice(before),
    }
}

pub(crate) fn copy<A: Copy>(from: &[A], to: &mut [MaybeUninit<A>]) {
    for (from, to) in from.iter().zip(to) {
        to.write(*from);
    }
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
            self.terms.gate::<I>(row, at).mul(h).add(drive).flush()
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<X::Acc>) {
        // SAFETY: within the row, says the caller.
        unsafe { I::write(h, self.h.add(at)) }
    }
}

/// `y = readout h` of the advanced state.
struct Output<X: Terms, O> {
    advance: Advance<X>,
    y: BlockMut<O>,
}

impl<X: Terms, O: Element<Acc = X::Acc>> Recurrence for Output<X, O> {
    type Acc = X::Acc;
    type Carry<V: Copy> = V;

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> I::V<X::Acc> {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.load::<I>(at) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(&self, row: isize, at: usize, h: I::V<X::Acc>) -> I::V<X::Acc> {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            self.y.fetch_ahead::<I>(row, at);
            let h = self.advance.row::<I>(row, at, h);
            I::write(self.advance.terms.readout::<I>(row, at).mul(h), self.y.at(row, at));
            h
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<X::Acc>) {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.store::<I>(at, h) }
    }
}

/// A step more in a composite: `A = gate A`, `H = gate H + drive`.
struct Compose<X: Terms, const RESETS: bool> {
    terms: X,
    product: Pointer<*mut X::Acc>,
    state: Pointer<*mut X::Acc>,
    /// Whether the tile is soon gone over again, for what is read out of its states: memory would else have nothing to do
    /// for one half of the time.
    fetch_readout: bool,
}

impl<X: Terms, const RESETS: bool> Recurrence for Compose<X, RESETS> {
    type Acc = X::Acc;
    type Carry<V: Copy> = (V, V);

    #[inline(always)]
    unsafe fn load<I: Isa>(&self, at: usize) -> (I::V<X::Acc>, I::V<X::Acc>) {
        // SAFETY: within the rows, says the caller.
        unsafe { (I::read(self.product.add(at)), I::read(self.state.add(at))) }
    }

    #[inline(always)]
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        (product, h): (I::V<X::Acc>, I::V<X::Acc>),
    ) -> (I::V<X::Acc>, I::V<X::Acc>) {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            if self.fetch_readout {
                self.terms.fetch_readout::<I>(row, at);
            }
            let (gate, drive) = (self.terms.gate::<I>(row, at), self.terms.drive::<I>(row, at));
            (compose::<_, _, RESETS>(product, gate), gate.mul(h).add(drive).flush())
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, (product, h): (I::V<X::Acc>, I::V<X::Acc>)) {
        // SAFETY: within the rows, says the caller.
        unsafe {
            I::write(product, self.product.add(at));
            I::write(h, self.state.add(at));
        }
    }
}
