//! The forward pass: `h_t = gate_t h_{t-1} + drive_t`, `y_t = readout_t h_t`.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::block::BlockMut;
use super::buffer::Buffer;
use super::chain::{chunks, run_jobs, Chain};
use super::compose::{Composite, Steps};
use super::form::{Form, Kept, Terms};
use super::plan::{Job, Plan, STRANDS};
use super::pointer::Pointer;
use super::simd::{dispatch, sweep, sweep_narrow, Element, Isa, Lanes, Recurrence, Vectorised};

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
    /// Of the strands of a tile.
    composites: [Composite<F::Acc>; STRANDS],
    rows: F::Rows,
    /// The gates and the drives of a tile.
    kept: [Vec<F::Acc>; 2],
}

impl<F: Form> Default for Scratch<F> {
    fn default() -> Self {
        let (h, kept) = Default::default();
        Self { h, composites: Default::default(), rows: F::Rows::default(), kept }
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
        let Self { scan, chain, job, scratch: Scratch { h, composites, rows, kept } } = self;
        let sequence = &scan.plan.sequences[job.sequence];
        let (columns, width) = (&job.columns, job.columns.len());
        let state = sequence.index * scan.channels + columns.start;
        let part =
            |steps: &Range<usize>| (steps.start - job.steps.start) * width..(steps.end - job.steps.start) * width;
        // all tiles but the last one are whole
        let strands = if job.last { 1 } else { scan.plan.strands };
        let strand_len = job.steps.len() / strands;

        if !job.last {
            if F::KEEP {
                kept.iter_mut().for_each(|values| values.resize(part(&job.steps).end, F::Acc::default()));
            }
            for (steps, composite) in chunks(&job.steps, strand_len).zip(&mut *composites) {
                let place = sequence.place(&steps, columns);
                let (terms, fetch_readout) = (scan.form.terms(&place, rows), scan.y.is_some());
                // SAFETY: all blocks are of this place; the caller vouches for the processor.
                unsafe {
                    match F::KEEP {
                        false => composite.compose::<I, _>(&Forwards { terms, fetch_readout }, place.rows(), width),
                        true => {
                            let terms = Kept::<_, true>::new(terms, kept, part(&steps), width);
                            composite.compose::<I, _>(&Forwards { terms, fetch_readout }, place.rows(), width);
                        }
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
            for (strand, composite) in composites[..strands].iter_mut().enumerate() {
                composite.carry_over(&h[strand * width..]);
                h.extend_from_slice(&composite.state);
            }
            chain.publish(job.tile + 1, sequence.index, &h[strands * width..]);
        }
        // side by side where each strand has one saved state, one after another where it has more
        let count = if strand_len == scan.plan.chunk_len { strands } else { 1 };
        for steps in chunks(&job.steps, count * scan.plan.chunk_len) {
            let strand = (steps.start - job.steps.start) / strand_len;
            let h = &mut h[strand * width..(strand + count) * width];
            if let Some(saved) = scan.saved {
                let at = scan.plan.chunk(sequence, steps.start) * scan.channels + columns.start;
                // SAFETY: no other job has these chunks of these columns, which are all where there are several strands.
                copy(h, unsafe { saved.row(at, h.len()) });
            }
            let state_wanted =
                !(steps.end - job.steps.start).is_multiple_of(strand_len) || (job.last && scan.last.is_some());
            if scan.y.is_none() && !state_wanted {
                continue;
            }
            let place = sequence.place(&steps, columns);
            let size = (count, place.rows() / count, width);
            let terms = scan.form.terms(&place, rows);
            // SAFETY: all blocks are of this place, to which no other job writes; the caller vouches for the processor.
            unsafe {
                let y = scan.y.map(|y| y.block(place.batch * scan.len * scan.channels, scan.channels, &place));
                match F::KEEP && !job.last {
                    false => advance::<I, _, O>(terms, h, y, size),
                    true => advance::<I, _, O>(Kept::<_, false>::new(terms, kept, part(&steps), width), h, y, size),
                }
            }
        }
        if let (true, Some(last)) = (job.last, scan.last) {
            // SAFETY: no other job ends this sequence in these columns.
            copy(h, unsafe { last.row(state, width) });
        }
    }
}

/// Advances the states of strands over their steps, and reads out of them into `y`.
///
/// # Safety
/// The terms, the states and `y` must have as many, nobody else may write to `y`, and the processor must have the
/// instruction set.
#[inline(always)]
unsafe fn advance<I: Isa, X: Terms, O: Element<Acc = X::Acc>>(
    terms: X,
    h: &mut [X::Acc],
    y: Option<BlockMut<O>>,
    size: (usize, usize, usize),
) {
    let h = Pointer::to_mut(h);
    // SAFETY: passed on to the caller.
    unsafe {
        match y {
            None => sweep_strands::<I, X, _>(&Advance { terms, h }, size),
            Some(y) => sweep_strands::<I, X, _>(&Output { advance: Advance { terms: terms.all(), h }, y }, size),
        }
    }
}

/// Runs a recurrence of some terms over one strand, or over two side by side, which are of cheap terms.
///
/// # Safety
/// As for [`sweep`], with carries for every strand.
#[inline(always)]
unsafe fn sweep_strands<I: Isa, X: Terms, K: Recurrence>(kernel: &K, (strands, rows, width): (usize, usize, usize)) {
    // SAFETY: passed on to the caller.
    unsafe {
        match X::CHEAP && strands == STRANDS {
            true => sweep_narrow::<I, _, STRANDS>(kernel, rows, width),
            false => sweep::<I, _>(kernel, strands * rows, width),
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
    const LONG: bool = X::LONG;

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

/// Steps forward: `h = gate h + drive`.
struct Forwards<X> {
    terms: X,
    /// Whether the tile is soon gone over again, for what is read out of its states: memory would else have nothing to do
    /// for one half of the time.
    fetch_readout: bool,
}

impl<X: Terms> Steps for Forwards<X> {
    type Acc = X::Acc;
    const CHEAP: bool = X::CHEAP;

    #[inline(always)]
    unsafe fn step<I: Isa>(&self, row: isize, at: usize) -> (I::V<X::Acc>, I::V<X::Acc>) {
        if self.fetch_readout {
            self.terms.fetch_readout::<I>(row, at);
        }
        // SAFETY: passed on to the caller.
        unsafe { (self.terms.gate::<I>(row, at), self.terms.drive::<I>(row, at)) }
    }

    #[inline(always)]
    fn advance<V: Lanes<X::Acc>>((gate, drive): (V, V), h: V) -> V {
        gate.mul(h).add(drive)
    }

    #[inline(always)]
    fn begin<V: Lanes<X::Acc>>((_, drive): (V, V)) -> V {
        drive
    }
}
