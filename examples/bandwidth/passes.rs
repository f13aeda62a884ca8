//! The passes of an operation against the bandwidth of memory.

use anyhow::{bail, Result};
use candle_core::{DType, Device, Tensor};
use quick_ssm::bench::BackwardPass;

use crate::data::{num_sets, Pass};
use crate::measure::{interleaved, Contender};
use crate::report::{print_row, PassTimes, Row};
use crate::stream::{Element, Pages};
use crate::yardstick::Measure;
use crate::{or_all, Args};

/// An operation on a set of arguments.
pub trait Operation: Sized {
    /// The passes that it has.
    const PASSES: &[Pass];

    fn random(shape: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Self>;

    /// Arguments under which the state fades away.
    fn decaying(shape: [usize; 3], dtype: DType, device: &Device) -> Result<Self>;

    /// Tensors of the shape that have to cross memory.
    fn tensors(pass: Pass) -> usize;

    fn yardstick<T: Element>(
        device: &Device,
        pass: Pass,
        shape: [usize; 3],
        num_sets: usize,
        pages: Pages,
    ) -> Result<Measure<Self>>;

    fn forward(&self) -> Result<()>;

    fn gradients(&self) -> Result<()>;

    /// The backward pass after a forward pass, without candle's autograd around it.
    fn backward_pass(&self) -> Result<BackwardPass>;

    /// The gradient of the result.
    fn grad_y(&self) -> &Tensor;

    /// candle's own element-wise operation: two tensors in, one out.
    fn product(&self) -> Result<()>;
}

/// Prints a row for each pass.
pub fn measure<T: Element, O: Operation>(shape: [usize; 3], device: &Device, args: &Args) -> Result<Vec<Row>> {
    let num_sets = num_sets(shape, T::DTYPE);
    let seeds = (0..num_sets as u64).map(|k| args.seed.wrapping_add(k));
    let sets = seeds.map(|seed| O::random(shape, T::DTYPE, seed, device)).collect::<Result<Vec<_>>>()?;
    let decaying = (0..num_sets).map(|_| O::decaying(shape, T::DTYPE, device)).collect::<Result<Vec<_>>>()?;
    let set = |call: usize| &sets[call % num_sets];
    let pages = if args.huge_pages { Pages::Huge } else { Pages::Any };
    let mut rows = Vec::new();
    for pass in or_all(&args.pass, O::PASSES) {
        if !O::PASSES.contains(&pass) {
            bail!("expected one of the passes that there are, {:?}, got {pass:?}", O::PASSES);
        }
        let (clock, name, yardstick) = O::yardstick::<T>(device, pass, shape, num_sets, pages)?;
        let contenders: Vec<Contender> = vec![
            Box::new(|call| yardstick(set(call), call)),
            Box::new(|call| set(call).product()),
            contender(pass, &sets)?,
            contender(pass, &decaying)?,
        ];
        let times = interleaved(&*clock, args.rounds as usize, contenders)?;
        let Ok([yardstick, candle, scan, decaying]) = <[_; 4]>::try_from(times) else { bail!("a time is missing") };
        let times = PassTimes { scan, yardstick, candle, decaying };
        let row = Row::new(T::DTYPE, shape, pass, O::tensors(pass), name, &times);
        print_row(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// A pass of the operation on one of the sets.
pub fn contender<O: Operation>(pass: Pass, sets: &[O]) -> Result<Contender<'_>> {
    Ok(match pass {
        Pass::Forward => Box::new(|call| sets[call % sets.len()].forward()),
        Pass::Gradients => Box::new(|call| sets[call % sets.len()].gradients()),
        Pass::Backward => {
            let passes = sets.iter().map(O::backward_pass).collect::<Result<Vec<_>>>()?;
            Box::new(move |call| {
                let n = call % sets.len();
                passes[n].run(sets[n].grad_y())?;
                Ok(())
            })
        }
    })
}
