//! The passes of an operation against the bandwidth of memory.

use std::cell::RefCell;

use anyhow::{bail, Result};
use candle_core::{DType, Device, Tensor};

use crate::data::{num_sets, Pass};
use crate::measure::{interleaved, Contender, Times};
use crate::report::{print_row, PassTimes, Row};
use crate::span::Span;
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

    /// A loss whose backward pass is that of the operation.
    fn loss(&self) -> candle_core::Result<Tensor>;

    /// The part of `loss().backward()` on the CPU that is the backward pass of the operation.
    fn span(&self) -> Span;

    /// The same loss of the stand-in, which computes nothing.
    fn idle_loss(&self) -> candle_core::Result<Tensor>;

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
        let (of_scan, of_decaying) = (RefCell::default(), RefCell::default());
        let mut contenders: Vec<Contender> =
            vec![Box::new(|call| yardstick(set(call), call)), Box::new(|call| set(call).product())];
        // how a backward pass is told from what candle does around it
        let (watched, beside_idle) = match pass {
            Pass::Backward => (device.is_cpu(), !device.is_cpu()),
            Pass::Forward | Pass::Gradients => (false, false),
        };
        if watched {
            contenders.push(watched_backward(&sets, &of_scan)?);
            contenders.push(watched_backward(&decaying, &of_decaying)?);
        } else {
            contenders.push(contender(pass, &sets)?);
            contenders.push(contender(pass, &decaying)?);
        }
        if beside_idle {
            contenders.push(backward(sets.iter().map(O::idle_loss))?);
        }
        let mut times = interleaved(&*clock, args.rounds as usize, contenders)?;
        let around = if beside_idle { times.pop() } else { None };
        let Ok([yardstick, candle, scan, decaying]) = <[_; 4]>::try_from(times) else { bail!("a time is missing") };
        let own = |times: Times, spans: RefCell<Vec<f64>>| match &around {
            Some(around) => times.without(around),
            None if watched => Times::last(args.rounds as usize, spans.into_inner()),
            None => times,
        };
        let (scan, decaying) = (own(scan, of_scan), own(decaying, of_decaying));
        let times = PassTimes { scan, yardstick, candle, decaying, around };
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
        Pass::Backward => backward(sets.iter().map(O::loss))?,
    })
}

/// That of one of the sets through candle's autograd; what it takes by itself is added to `spans`.
fn watched_backward<'a, O: Operation>(sets: &'a [O], spans: &'a RefCell<Vec<f64>>) -> Result<Contender<'a>> {
    let losses = sets.iter().map(O::loss).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Box::new(move |call| {
        let n = call % sets.len();
        spans.borrow_mut().push(sets[n].span().time(|| losses[n].backward())?);
        Ok(())
    }))
}

/// The backward pass of one of the losses, whose forward pass has been.
fn backward<'a>(losses: impl Iterator<Item = candle_core::Result<Tensor>>) -> Result<Contender<'a>> {
    let losses = losses.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Box::new(move |call| {
        losses[call % losses.len()].backward()?;
        Ok(())
    }))
}
