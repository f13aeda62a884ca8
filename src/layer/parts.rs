//! The passes of a layer by parts of the batch, where the pre-activations of all of it would leave the cache.
//!
//! No part needs anything of another one, so that neither the pre-activations nor their gradient exist as a whole: they stay in the
//! cache from the product that makes them to the scan that reads them, and each part gets the memory of the one before, whose
//! pages are there. The gradients of the parameters are sums over the parts.

use std::ops::Range;

use candle_core::{bail, CpuStorage, Device, Result, Storage, Tensor};

use super::pass::{Forward, Gradients, Keep, Pass, Results, Wanted};
use crate::problem::{accumulation_dtype, Problem};

/// Bytes of pre-activations of a part, unless a single sequence has more.
const MOST: usize = 24 << 20;

impl Pass<'_> {
    /// As [`forward_at_once`](Self::forward_at_once).
    pub fn forward(&self, xs: &Tensor, h0: Option<&Tensor>, with_state: bool, keep: Keep) -> Result<Forward> {
        let (batch, size) = (xs.dim(0)?, self.part_size(xs)?);
        if size >= batch {
            return self.forward_at_once(xs, h0, with_state, keep);
        }
        let (mut ys, mut lasts, mut saved, mut between) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut of_part = None;
        for part in parts(batch, size) {
            let h0 = h0.map(|h0| of(h0, &part, batch)).transpose()?;
            let forward = self.forward_at_once(&of(xs, &part, batch)?, h0.as_ref(), with_state, keep)?;
            ys.push(forward.y);
            lasts.extend(forward.last);
            saved.extend(forward.saved);
            between.extend(forward.between);
            of_part = Some(forward.problem);
        }
        let Some(problem) = of_part else { bail!("quick-ssm: expected a batch, got none") };
        Ok(Forward {
            y: joined(ys)?,
            last: with_state.then(|| joined(lasts)).transpose()?,
            saved: (keep != Keep::Nothing).then(|| Tensor::cat(&saved, 0)).transpose()?,
            between,
            problem: Problem { batch, ..problem },
        })
    }

    /// As [`backward_at_once`](Self::backward_at_once).
    pub fn backward(&self, xs: &Tensor, h0: Option<&Tensor>, results: Results, wanted: &Wanted) -> Result<Gradients> {
        let (batch, size) = (xs.dim(0)?, self.part_size(xs)?);
        if size >= batch {
            return self.backward_at_once(xs, h0, results, wanted);
        }
        let (mut dxs, mut dh0s) = (Vec::new(), Vec::new());
        let mut sums: Vec<Option<Tensor>> = Vec::new();
        for (n, part) in parts(batch, size).enumerate() {
            let of_some = |t: Option<&Tensor>| t.map(|t| of(t, &part, batch)).transpose();
            let (saved, grad_y, grad_last) =
                (of_some(results.saved)?, of_some(results.grad_y)?, of_some(results.grad_last)?);
            let results = Results {
                problem: &Problem { batch: part.len(), ..results.problem.clone() },
                saved: saved.as_ref(),
                between: results.between.get(n..=n).unwrap_or_default(),
                grad_y: grad_y.as_ref(),
                grad_last: grad_last.as_ref(),
            };
            let grads = self.backward_at_once(&of(xs, &part, batch)?, of_some(h0)?.as_ref(), results, wanted)?;
            dxs.extend(grads.xs);
            dh0s.extend(grads.h0);
            let params = grads.params.named().into_iter().map(|(_, grad)| grad.clone());
            sums = match sums.is_empty() {
                true => params.collect(),
                false => sums.into_iter().zip(params).map(|(sum, grad)| plus(sum, grad)).collect::<Result<_>>()?,
            };
        }
        let whole = |parts: Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::cat(&parts, 0)).transpose();
        let mut sums = sums.into_iter();
        Ok(Gradients { xs: whole(dxs)?, h0: whole(dh0s)?, params: wanted.params.map(|_| sums.next().flatten()) })
    }

    /// Sequences of a part, for parts about as large as one another. All of them on a device, and in half precision, where
    /// gradients that are added up would be rounded once for each part.
    fn part_size(&self, xs: &Tensor) -> Result<usize> {
        let (batch, len, _) = xs.dims3()?;
        let dtype = self.weights.dtypes.compute;
        let row = self.weights.projection.dim(0)? * dtype.size_in_bytes();
        let most = match xs.device() {
            Device::Cpu if accumulation_dtype(dtype) == dtype => MOST / len.saturating_mul(row).max(1),
            _ => batch,
        };
        let parts = batch.div_ceil(most.max(1)).max(1);
        Ok(batch.div_ceil(parts))
    }
}

/// The parts of a batch, of so many sequences but for the last one, which may have fewer.
fn parts(batch: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..batch).step_by(size).map(move |start| start..batch.min(start + size))
}

/// A part of a tensor that has one row, or several, for each sequence of the batch.
fn of(t: &Tensor, part: &Range<usize>, batch: usize) -> Result<Tensor> {
    let rows = t.dim(0)? / batch;
    t.detach().narrow(0, part.start * rows, part.len() * rows)
}

fn plus(sum: Option<Tensor>, grad: Option<Tensor>) -> Result<Option<Tensor>> {
    sum.zip(grad).map(|(sum, grad)| sum + grad).transpose()
}

/// What is stored one after the other.
fn joined(parts: Vec<Storage>) -> Result<Storage> {
    let on_cpu = |part| match part {
        Storage::Cpu(part) => Ok(part),
        _ => bail!("quick-ssm: expected a part on the CPU"),
    };
    let parts = parts.into_iter().map(on_cpu).collect::<Result<Vec<_>>>()?;
    CpuStorage::concat(&parts).map(Storage::Cpu)
}
