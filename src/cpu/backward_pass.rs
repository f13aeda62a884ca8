//! The backward pass. With `g` the gradient of `y` and `z_t = gate_t dh_t`, against time:
//!
//! ```text
//!   dh_t = readout_t g_t + z_{t+1}
//! ```
//!
//! from `z_L`, the gradient of the last state, to `z_0`, that of the initial state, and from `dh_t` and the states around it
//! the gradients of the terms. The states are computed again, a chunk at a time from the one saved before it, so that what
//! both directions read stays in the cache.

use super::advance::Advance;
use super::block::{Block, BlockMut};
use super::buffer::Buffer;
use super::chain::{chunks, run_jobs, Chain};
use super::compose::{Composite, Steps};
use super::form::{Adjoint, Form, Gradients, Terms};
use super::forward_pass::{begin, copy};
use super::lines::Lines;
use super::plan::{Job, Plan};
use super::pointer::Pointer;
use super::simd::{dispatch, sweep, Element, Isa, Lanes, Recurrence, Vectorised};
use super::view::View;

/// What carries states and their gradients.
type Acc<D> = <<D as Gradients>::Form as Form>::Acc;

/// What a backward pass reads and writes.
pub(crate) struct Backward<'a, D: Gradients> {
    pub plan: &'a Plan,
    pub channels: usize,
    pub form: D::Form,
    /// The gradient of `y`.
    pub g: View<'a, D::Out>,
    /// `[N, D]`; zeros where there is none.
    pub h0: Option<&'a [Acc<D>]>,
    /// The states before the chunks, `[chunks, D]`. Where there are none, every job computes those of its own steps first,
    /// and so has to begin its sequence.
    pub saved: Option<&'a [Acc<D>]>,
    /// The gradient of the last states, `[N, D]`; zeros where there is none.
    pub grad_last: Option<&'a [Acc<D>]>,
    pub gradients: D,
    /// `[N, D]`
    pub dh0: Option<&'a Buffer<Acc<D>>>,
}

impl<D: Gradients> Backward<'_, D> {
    /// Computes all gradients that have a buffer: every element of them is written.
    pub fn run(&self) {
        let chain = Chain::new(self.plan);
        let last = self.plan.jobs.len().saturating_sub(1);
        let run = |job: &Job, _: Option<&Job>, scratch: &mut Scratch<D>| {
            dispatch(BackwardJob { scan: self, chain: &chain, job, scratch })
        };
        run_jobs(self.plan, |ticket| last - ticket, run);
    }
}

struct Scratch<D: Gradients> {
    /// The state before a chunk and after each of its steps.
    states: Lines<Acc<D>>,
    /// The states before the chunks of a job, where none are saved.
    own: Vec<Acc<D>>,
    carry: Lines<Acc<D>>,
    z: Lines<Acc<D>>,
    /// `z` after a tile that is gone through.
    after: Lines<Acc<D>>,
    tile: Composite<Acc<D>>,
    rows: <D::Form as Form>::Rows,
    g: Vec<D::Out>,
    gradients: D::Rows,
}

impl<D: Gradients> Default for Scratch<D> {
    fn default() -> Self {
        let (states, own, carry, z, after, g) = Default::default();
        Self {
            states,
            own,
            carry,
            z,
            after,
            tile: Composite::default(),
            rows: Default::default(),
            g,
            gradients: D::Rows::default(),
        }
    }
}

struct BackwardJob<'a, 'b, D: Gradients> {
    scan: &'a Backward<'b, D>,
    chain: &'a Chain<Acc<D>>,
    job: &'a Job,
    scratch: &'a mut Scratch<D>,
}

impl<D: Gradients> Vectorised for BackwardJob<'_, '_, D> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { scan, chain, job, scratch } = self;
        let Scratch { states, own, carry, z, after, tile, rows, g, gradients } = scratch;
        let sequence = &scan.plan.sequences[job.sequence];
        let (columns, width) = (&job.columns, job.columns.len());
        let state = sequence.index * scan.channels + columns.start;

        if job.tile > 0 {
            let place = sequence.place(&job.steps, columns).backward();
            let steps = Backwards { terms: scan.form.terms(&place, rows), g: scan.g.block(&place, g) };
            // SAFETY: all blocks are of this place; the caller vouches for the processor.
            unsafe { tile.compose::<I, _>(&steps, place.rows(), width) };
        }
        let last = match job.last {
            true => scan.grad_last.map(|grad| &grad[state..state + width]),
            false => Some(chain.wait(job.tile + 1, sequence.index)),
        };
        begin(z, last, width);
        if job.tile > 0 {
            tile.carry_over(z);
            chain.publish(job.tile, sequence.index, &tile.state);
        }

        let need_states = scan.gradients.need_states();
        if need_states && scan.saved.is_none() {
            own.clear();
            begin(carry, scan.h0.map(|h0| &h0[state..state + width]), width);
            for steps in chunks(&job.steps, scan.plan.chunk_len) {
                own.extend_from_slice(carry);
                if steps.end < job.steps.end {
                    let place = sequence.place(&steps, columns);
                    let advance = Advance { terms: scan.form.terms(&place, rows), h: Pointer::to_mut(carry) };
                    // SAFETY: the terms are of this place; the caller vouches for the processor.
                    unsafe { sweep::<I, _>(&advance, place.rows(), width) };
                }
            }
        }
        for steps in chunks(&job.steps, scan.plan.chunk_len).rev() {
            let place = sequence.place(&steps, columns);
            let chunk = scan.plan.chunk(sequence, steps.start);
            if need_states {
                let (saved, at) = match scan.saved {
                    Some(saved) => (saved, chunk * scan.channels + columns.start),
                    None => (&own[..], (steps.start - job.steps.start) / scan.plan.chunk_len * width),
                };
                states.resize((place.rows() + 1) * width);
                let (first, after) = states.split_at_mut(width);
                first.copy_from_slice(&saved[at..at + width]);
                begin(carry, Some(first), width);
                let advance = Advance { terms: scan.form.terms(&place, rows), h: Pointer::to_mut(carry) };
                let fetched = (!D::Form::KEEP).then(|| scan.g.block(&place, &mut *g));
                let h = BlockMut::adjacent(after, width);
                let states = States { advance, fetched, h };
                // SAFETY: all blocks are of this place; the caller vouches for the processor.
                unsafe { sweep::<I, _>(&states, place.rows(), width) };
            }
            let gone_through = job.tile_around_back(&steps);
            if gone_through.as_ref().is_some_and(|tile| steps.end == tile.end) {
                begin(after, Some(z), width);
                tile.clear(width);
            }
            let place = place.backward();
            let adjoint = Adjoint {
                g: scan.g.block(&place, g),
                h: Block::backward(if need_states { states } else { &[] }, width),
                z: Pointer::to_mut(z),
            };
            // SAFETY: no other job has this place nor this chunk of its columns; all blocks are of this place, and `h` is
            // where it is read; tiles are gone through only where their steps can be composed; the caller vouches for the processor.
            unsafe {
                let (terms, composite) = (scan.form.terms(&place, rows), gone_through.is_some().then_some(&mut *tile));
                scan.gradients.step_back::<I>(&place, chunk, terms, adjoint, gradients, composite);
            }
            // what another thread would have handed over at the start of the tile
            if gone_through.is_some_and(|tile| steps.start == tile.start) {
                tile.carry_over(after);
                z.copy_from_slice(&tile.state);
            }
        }
        if let (0, Some(dh0)) = (job.tile, scan.dh0) {
            // SAFETY: no other job begins this sequence in these columns.
            copy(z, unsafe { dh0.row(state, width) });
        }
        I::settle();
    }
}

/// Steps back: `z = gate (readout g + z)`.
struct Backwards<'a, X, G: Element> {
    terms: X,
    g: Block<'a, G>,
}

impl<X: Terms, G: Element<Acc = X::Acc>> Steps for Backwards<'_, X, G> {
    type Acc = X::Acc;
    const CHEAP: bool = X::CHEAP;

    #[inline(always)]
    unsafe fn step<I: Isa>(&self, row: isize, at: usize) -> (I::V<X::Acc>, I::V<X::Acc>) {
        // SAFETY: within the blocks, says the caller.
        unsafe {
            let from_y = self.terms.readout::<I>(row, at).mul(I::read(self.g.at(row, at)));
            (self.terms.gate_back::<I>(row, at), from_y)
        }
    }

    #[inline(always)]
    fn advance<V: Lanes<X::Acc>>((gate, from_y): (V, V), z: V) -> V {
        gate.mul(from_y.add(z))
    }

    #[inline(always)]
    fn begin<V: Lanes<X::Acc>>((gate, from_y): (V, V)) -> V {
        gate.mul(from_y)
    }
}

/// The states after every step.
struct States<'a, X: Terms, G> {
    advance: Advance<X>,
    /// The gradient of `y`, which the steps back will read, is fetched, and so is what is read out: memory would else have
    /// less to do now, and more then. Not so where the terms are of more tensors: these fill the cache by themselves.
    fetched: Option<Block<'a, G>>,
    h: BlockMut<X::Acc>,
}

impl<X: Terms, G: Element> Recurrence for States<'_, X, G> {
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
            if let Some(g) = &self.fetched {
                g.fetch::<I>(row, at);
                self.advance.terms.fetch_readout::<I>(row, at);
            }
            let h = self.advance.row::<I>(row, at, h);
            I::write(h, self.h.at(row, at));
            h
        }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(&self, at: usize, h: I::V<X::Acc>) {
        // SAFETY: passed on to the caller.
        unsafe { self.advance.store::<I>(at, h) }
    }
}
