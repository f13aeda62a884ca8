//! States handed from tile to tile of a sequence.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::thread;

use super::plan::{Job, Plan};
use super::simd::Accumulator;

/// The states before the tiles of every sequence that is tiled.
pub(crate) struct Chain<A> {
    /// `[tile][sequence]`
    states: Vec<OnceLock<Box<[A]>>>,
    sequences: usize,
}

impl<A: Accumulator> Chain<A> {
    pub fn new(plan: &Plan) -> Self {
        let sequences = plan.sequences.len();
        let links = if plan.tiles > 1 { (plan.tiles + 1) * sequences } else { 0 };
        Self { states: (0..links).map(|_| OnceLock::new()).collect(), sequences }
    }

    /// Hands on the state at a link of a sequence, once.
    pub fn publish(&self, link: usize, sequence: usize, state: &[A]) {
        // each link has one predecessor, so that it is empty
        let _ = self.states[link * self.sequences + sequence].set(state.into());
    }

    /// The state at a link of a sequence, as soon as it is there.
    ///
    /// The job that publishes it has been started: tickets are handed out in the order of the chain.
    pub fn wait(&self, link: usize, sequence: usize) -> &[A] {
        let state = &self.states[link * self.sequences + sequence];
        let mut spins = 0;
        loop {
            if let Some(state) = state.get() {
                return state;
            }
            spins += 1;
            match spins < 64 {
                true => std::hint::spin_loop(),
                false => thread::yield_now(),
            }
        }
    }
}

/// Runs all jobs in order, each thread with a scratch of its own. `run` gets the job, and the one that its thread will most likely
/// run next.
pub(crate) fn run_jobs<S: Default>(
    plan: &Plan,
    order: impl Fn(usize) -> usize + Sync,
    run: impl Fn(&Job, Option<&Job>, &mut S) + Sync,
) {
    let ticket = AtomicUsize::new(0);
    let threads = plan.threads.min(plan.jobs.len());
    let job = |ticket: usize| (ticket < plan.jobs.len()).then(|| &plan.jobs[order(ticket)]);
    let work = || {
        let mut scratch = S::default();
        loop {
            let ticket = ticket.fetch_add(1, Ordering::Relaxed);
            match job(ticket) {
                Some(now) => run(now, job(ticket + threads), &mut scratch),
                None => break,
            }
        }
    };
    match threads {
        0 | 1 => work(),
        threads => rayon::scope(|scope| (0..threads).for_each(|_| scope.spawn(|_| work()))),
    }
}

/// The parts of `steps` that lie between saved states.
pub(crate) fn chunks(steps: &Range<usize>, len: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let Range { start: first, end } = *steps;
    let count = (end - first).div_ceil(len);
    (0..count).map(move |i| {
        let start = first + i * len;
        start..end.min(start + len)
    })
}
