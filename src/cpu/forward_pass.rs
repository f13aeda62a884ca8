//! The forward pass: `h_t = gate_t h_{t-1} + drive_t`, `y_t = readout_t h_t`.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::advance::{advance, advance_composing};
use super::buffer::Buffer;
use super::chain::{chunks, run_jobs, Chain};
use super::compose::{Composite, Steps};
use super::form::{Form, Kept, Terms};
use super::lines::Lines;
use super::plan::{Job, Plan, STRANDS};
use super::simd::{dispatch, Element, Isa, Lanes, Vectorised};

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
        let run = |job: &Job, later: Option<&Job>, scratch: &mut Scratch<F>| {
            dispatch(ForwardJob { scan: self, chain: &chain, job, later, scratch })
        };
        run_jobs(self.plan, |ticket| ticket, run);
    }
}

struct Scratch<F: Form> {
    h: Lines<F::Acc>,
    /// The state before a tile that is gone through.
    before: Lines<F::Acc>,
    /// Of the strands of a tile.
    composites: [Composite<F::Acc>; STRANDS],
    rows: F::Rows,
    /// The gates and the drives of a tile.
    kept: [Lines<F::Acc>; 2],
}

impl<F: Form> Default for Scratch<F> {
    fn default() -> Self {
        let (h, before, kept) = Default::default();
        Self { h, before, composites: Default::default(), rows: F::Rows::default(), kept }
    }
}

struct ForwardJob<'a, 'b, F: Form, O> {
    scan: &'a Forward<'b, F, O>,
    chain: &'a Chain<F::Acc>,
    job: &'a Job,
    /// What the thread computes afterwards, most likely.
    later: Option<&'a Job>,
    scratch: &'a mut Scratch<F>,
}

impl<F: Form, O: Element<Acc = F::Acc>> Vectorised for ForwardJob<'_, '_, F, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, later, scratch: Scratch { h, before, composites, rows, kept } } = self;
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
                kept.iter_mut().for_each(|values| values.resize(part(&job.steps).end));
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
        let first = match job.tile {
            0 => scan.h0.map(|h0| &h0[state..state + width]),
            tile => Some(chain.wait(tile, sequence.index)),
        };
        begin(h, first, width);
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
            // jobs go through tiles only where that saves more than a second reading, and for `y`
            let tile = if F::KEEP { job.tile_around(&steps) } else { None };
            let place = sequence.place(&steps, columns);
            let size = (count, place.rows() / count, width);
            let mut rows_of_later = F::Rows::default();
            let terms = scan.form.terms(&place, rows);
            // SAFETY: all blocks are of this place, to which no other job writes; the caller vouches for the processor.
            unsafe {
                let y = scan.y.map(|y| y.block(place.batch * scan.len * scan.channels, scan.channels, &place));
                match (&tile, y) {
                    (Some(tile), Some(y)) => {
                        if steps.start == tile.start {
                            begin(before, Some(h), width);
                            composites[0].clear(width);
                        }
                        advance_composing::<I, _, O>(terms, h, &mut composites[0], y, size.1);
                    }
                    (_, y) if F::KEEP && !job.last => {
                        let place = later.and_then(|later| {
                            let steps = later.part_like(&job.steps, &steps)?;
                            Some(scan.plan.sequences[later.sequence].place(&steps, &later.columns))
                        });
                        let later = place.map(|place| scan.form.terms(&place, &mut rows_of_later));
                        let terms = Kept::<_, false>::new(terms, kept, part(&steps), width).fetching(later);
                        advance::<I, _, O>(terms, h, y, size)
                    }
                    (_, y) => advance::<I, _, O>(terms, h, y, size),
                }
            }
            // what another thread would have handed over at the end of the tile
            if tile.is_some_and(|tile| steps.end == tile.end) {
                composites[0].carry_over(before);
                h.copy_from_slice(&composites[0].state);
            }
        }
        if let (true, Some(last)) = (job.last, scan.last) {
            // SAFETY: no other job ends this sequence in these columns.
            copy(h, unsafe { last.row(state, width) });
        }
    }
}

/// Makes a carry that of the channels before a job; zeros where there is none.
pub(crate) fn begin<A: Copy + Default>(carry: &mut Lines<A>, before: Option<&[A]>, width: usize) {
    carry.clear();
    match before {
        None => carry.resize(width),
        Some(before) => carry.extend_from_slice(before),
    }
}

pub(crate) fn copy<A: Copy>(from: &[A], to: &mut [MaybeUninit<A>]) {
    for (from, to) in from.iter().zip(to) {
        to.write(*from);
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
