//! The scan beside what else a program could do: the recurrence step by step, and what memory allows at best.

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::data::{num_sets, Data, Pass};
use crate::measure::{interleaved, Contender, Times};
use crate::passes::Operation;
use crate::stream::{Element, Pages};
use crate::table::Table;
use crate::{graph, Args};

pub const SHAPES: [[usize; 3]; 4] = [[4, 256, 1024], [4, 2048, 1024], [1, 4096, 64], [1, 262144, 64]];
pub const CONTENDERS: [&str; 4] = ["scan", "plain kernel or copy", "candle's x * a, scaled", "step by step in candle"];

/// Steps that the step-by-step recurrence is made to go forward here; each of them costs the same.
const FORWARD_STEPS: usize = 4096;
/// Going back it writes a gradient of the whole sequence for every step: time grows with the square of the length.
const BACKWARD_STEPS: usize = 256;

/// What is compared.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Forward,
    /// That of candle's autograd, with what candle itself adds to it.
    Backward,
    Both,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Both => "both",
        }
    }

    fn passes(self) -> &'static [Pass] {
        match self {
            Self::Forward => &[Pass::Forward],
            Self::Backward => &[Pass::Backward],
            Self::Both => &[Pass::Forward, Pass::Backward],
        }
    }
}

type Graph = fn(&Data) -> candle_core::Result<Tensor>;

/// The forward pass, the backward pass of a graph that is there, or both, on one of the sets.
fn contender(work: Work, sets: &[Data], forward: Graph, graph: Graph) -> Result<Contender<'_>> {
    let kept = if work == Work::Backward { sets } else { &[] };
    let losses = kept.iter().map(graph).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Box::new(move |call| {
        let set = &sets[call % sets.len()];
        match work {
            Work::Forward => drop(forward(set)?),
            Work::Backward => drop(losses[call % losses.len()].backward()?),
            Work::Both => drop(graph(set)?.backward()?),
        }
        Ok(())
    }))
}

/// Adds the rows of one shape to the table.
pub fn measure<T: Element>(shape: [usize; 3], device: &Device, args: &Args, table: &mut Table) -> Result<()> {
    let num_sets = num_sets(shape, T::DTYPE);
    let seeds = (0..num_sets as u64).map(|k| args.seed.wrapping_add(k));
    let sets = seeds.map(|seed| Data::random(shape, T::DTYPE, seed, device)).collect::<Result<Vec<_>>>()?;
    let set = |call: usize| &sets[call % num_sets];
    let pages = if args.huge_pages { Pages::Huge } else { Pages::Any };
    for work in [Work::Forward, Work::Backward, Work::Both] {
        let mut clock = None;
        let mut plain = vec![];
        for &pass in work.passes() {
            let (its_clock, _, kernel) = Data::yardstick::<T>(device, pass, shape, num_sets, pages)?;
            clock.get_or_insert(its_clock);
            plain.push(kernel);
        }
        let Some(clock) = clock else { continue };
        let mut contenders: Vec<Contender> = vec![
            contender(work, &sets, Data::scan, graph::scan)?,
            Box::new(|call| plain.iter().try_for_each(|kernel| kernel(set(call), call))),
            Box::new(|call| set(call).product()),
        ];
        if shape[1] <= if work == Work::Forward { FORWARD_STEPS } else { BACKWARD_STEPS } {
            contenders.push(contender(work, &sets[..1], Data::step_by_step, graph::step_by_step)?);
        }
        let times = interleaved(&*clock, args.rounds as usize, contenders)?;
        let mut ms: Vec<_> = times.iter().map(|t: &Times| Some(t.median() * 1e3)).collect();
        ms.resize(CONTENDERS.len(), None);
        let tensors: usize = work.passes().iter().map(|&pass| Data::tensors(pass)).sum();
        // `&x * &a` moves three tensors
        ms[2] = ms[2].map(|ms| ms * tensors as f64 / 3.);
        table.push(format!("{} {} {shape:?}", work.name(), T::DTYPE.as_str()).replace(", ", ","), ms);
    }
    Ok(())
}
