//! Scans without a step: of no elements, however large the dimensions are that are not zero.
//!
//! The last states are the initial ones, and so are their gradients.

use candle_core::{Result, Storage, Tensor};

use crate::backend::{zeros, Forward, GatedGradients, GatedWanted, Gradients, Wanted};
use crate::gated::PARTS;
use crate::problem::Problem;

pub(crate) fn forward(p: &Problem, h0: Option<&Tensor>, y: bool, last: bool) -> Result<Forward> {
    let (batch, len, channels) = p.dims();
    let y = y.then(|| storage(&zeros(&[batch, len, channels], p.out, &p.device)?)).transpose()?;
    let last = last.then(|| storage(&states(p, h0)?)).transpose()?;
    Ok(Forward { y, last, saved: None })
}

pub(crate) fn backward(p: &Problem, grad_last: Option<&Tensor>, wanted: Wanted) -> Result<Gradients> {
    let (batch, len, channels) = p.dims();
    let none = |wanted: bool| wanted.then(|| zeros(&[batch, len, channels], p.dtype, &p.device)).transpose();
    Ok(Gradients {
        x: none(wanted.x)?,
        a: none(wanted.a)?,
        b: none(wanted.b)?,
        c: none(wanted.c)?,
        h0: wanted.h0.then(|| states(p, grad_last)).transpose()?,
    })
}

pub(crate) fn backward_gated(p: &Problem, grad_last: Option<&Tensor>, wanted: GatedWanted) -> Result<GatedGradients> {
    let (batch, len, channels) = p.dims();
    let of = |wanted: bool, dims: &[usize], dtype| wanted.then(|| zeros(dims, dtype, &p.device)).transpose();
    Ok(GatedGradients {
        p: of(wanted.p, &[batch, len, PARTS * channels], p.dtype)?,
        a_bias: of(wanted.a_bias, &[channels], p.acc)?,
        h0: wanted.h0.then(|| states(p, grad_last)).transpose()?,
        y: of(wanted.y, &[batch, len, channels], p.out)?,
    })
}

/// These states, or zeros.
fn states(p: &Problem, given: Option<&Tensor>) -> Result<Tensor> {
    let (n, channels) = p.state_dims();
    given.map_or_else(|| zeros(&[n, channels], p.acc, &p.device), |states| Ok(states.clone()))
}

fn storage(t: &Tensor) -> Result<Storage> {
    let t = t.force_contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    storage.try_clone(layout)
}
