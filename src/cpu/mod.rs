//! The scan on the CPU: dtypes and buffers. A pass reads every tensor once, in the order of time.
//!
//! A forward and a backward pass exist once each, for every [`form`] of the scan.

mod advance;
mod backward_pass;
mod block;
mod buffer;
mod chain;
mod compose;
mod empty;
mod form;
mod forward_pass;
mod gated;
mod gates;
mod lines;
mod plain;
mod plan;
mod pointer;
pub(crate) mod rows;
mod simd;
mod stream;
#[cfg(test)]
mod tests;
mod view;

use std::marker::PhantomData;

use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};

use crate::backend::{cast, Forward, GatedGradients, GatedInputs, GatedWanted, Given, Gradients, Inputs, Wanted};
use crate::gated::PARTS;
use crate::problem::Problem;
pub(crate) use buffer::memory;
use buffer::Buffer;
use form::Form;
use gated::Gated;
use plain::Plain;
use plan::Plan;
use simd::{Accumulator, Element};
use view::{Held, View};

/// Calls a generic function of the element type `$t`, and of `$o` (that of `y`): the element type or its accumulator.
macro_rules! by_dtype {
    ($p:expr, $f:ident($($arg:expr),*)) => {
        match ($p.dtype, $p.out) {
            (DType::F64, _) => $f::<f64, f64>($($arg),*),
            (DType::BF16, DType::BF16) => $f::<bf16, bf16>($($arg),*),
            (DType::BF16, _) => $f::<bf16, f32>($($arg),*),
            (DType::F16, DType::F16) => $f::<f16, f16>($($arg),*),
            (DType::F16, _) => $f::<f16, f32>($($arg),*),
            _ => $f::<f32, f32>($($arg),*),
        }
    };
}

/// The forward pass: `y`, the `last` states, and those before each chunk (`save`).
pub(crate) fn forward(p: &Problem, inputs: &Inputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    match p.is_empty() {
        true => empty::forward(p, inputs.h0.as_ref(), y, last),
        false => by_dtype!(p, typed_forward(p, inputs, y, last, save)),
    }
}

/// The forward pass of a gated scan, as [`forward`].
pub(crate) fn forward_gated(p: &Problem, inputs: &GatedInputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    match p.is_empty() {
        true => empty::forward(p, inputs.h0.as_ref(), y, last),
        false => by_dtype!(p, typed_forward_gated(p, inputs, y, last, save)),
    }
}

fn typed_forward<T: Element, O: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &Inputs,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let (held, one) = (HeldInputs::new(inputs), T::narrow(T::Acc::ONE));
    run_forward::<_, O>(p, held.form(&one)?, inputs.h0.as_ref(), y, last, save)
}

fn typed_forward_gated<T: Element, O: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &GatedInputs,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let bias = bias_of(p, inputs)?;
    let held = HeldGated::new(p, inputs, bias.as_ref());
    run_forward::<_, O>(p, held.form::<T>()?, inputs.h0.as_ref(), y, last, save)
}

fn run_forward<F: Form, O: Element<Acc = F::Acc>>(
    p: &Problem,
    form: F,
    h0: Option<&Tensor>,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let h0 = h0.map(Held::new);
    let y = y.then(|| Buffer::<O>::new(p.batch * p.len * p.channels)).transpose()?;
    let last = last.then(|| Buffer::new(p.num_sequences() * p.channels)).transpose()?;
    let plan = if F::KEEP && y.is_some() { Plan::going_through(p)? } else { Plan::new(p)? };
    let saved = save.then(|| Buffer::new(plan.chunks * p.channels)).transpose()?;
    let pass = forward_pass::Forward {
        plan: &plan,
        channels: p.channels,
        len: p.len,
        form,
        h0: h0.as_ref().map(Held::contiguous).transpose()?,
        y: y.as_ref(),
        last: last.as_ref(),
        saved: saved.as_ref(),
    };
    pass.run();
    Ok(Forward {
        // SAFETY: the pass has run.
        y: y.map(|y| in_dtype(unsafe { y.into_vec() }, p.out)).transpose()?,
        // SAFETY: the pass has run.
        last: last.map(|h| Storage::Cpu(F::Acc::to_cpu_storage_owned(unsafe { h.into_vec() }))),
        // SAFETY: the pass has run.
        saved: saved.map(|states| unsafe { tensor(states, (plan.chunks, p.channels)) }).transpose()?,
    })
}

/// The backward pass; without `saved` it computes the states before each chunk first.
pub(crate) fn backward(p: &Problem, inputs: &Inputs, from: Given, wanted: Wanted) -> Result<Gradients> {
    match p.is_empty() {
        true => empty::backward(p, from.grad_last, wanted),
        false => by_dtype!(p, typed_backward(p, inputs, from, wanted)),
    }
}

/// The backward pass of a gated scan, as [`backward`].
pub(crate) fn backward_gated(
    p: &Problem,
    inputs: &GatedInputs,
    from: Given,
    wanted: GatedWanted,
) -> Result<GatedGradients> {
    match p.is_empty() {
        true => empty::backward_gated(p, from.grad_last, wanted),
        false => by_dtype!(p, typed_backward_gated(p, inputs, from, wanted)),
    }
}

fn typed_backward<T: Element, G: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &Inputs,
    from: Given,
    wanted: Wanted,
) -> Result<Gradients> {
    let buffer = |wanted: bool| wanted.then(|| Buffer::<T>::new(p.batch * p.len * p.channels)).transpose();
    let (dx, da, db, dc) = (buffer(wanted.x)?, buffer(wanted.a)?, buffer(wanted.b)?, buffer(wanted.c)?);
    let saved = match from.saved {
        None if (wanted.a || wanted.c) && Plan::new(p)?.tiles > 1 => forward(p, inputs, false, false, true)?.saved,
        saved => saved.cloned(),
    };
    let (held, one) = (HeldInputs::new(inputs), T::narrow(T::Acc::ONE));
    let gradients = plain::PlainGradients::<T, G> {
        len: p.len,
        channels: p.channels,
        past_caches: stream::goes_past_caches::<T>(4 * p.batch * p.len * p.channels),
        dx: dx.as_ref(),
        da: da.as_ref(),
        db: db.as_ref(),
        dc: dc.as_ref(),
        out: PhantomData,
    };
    let from = Given { saved: saved.as_ref(), ..from };
    let h0 = run_backward(p, held.form(&one)?, gradients, inputs.h0.as_ref(), from, wanted.h0)?;
    // SAFETY: the pass has run.
    let result = |buffer: Option<Buffer<T>>| buffer.map(|b| unsafe { tensor(b, p.dims()) }).transpose();
    Ok(Gradients { x: result(dx)?, a: result(da)?, b: result(db)?, c: result(dc)?, h0 })
}

fn typed_backward_gated<T: Element, G: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &GatedInputs,
    from: Given,
    wanted: GatedWanted,
) -> Result<GatedGradients> {
    let rows = p.batch * p.len;
    let dp = wanted.p.then(|| Buffer::<T>::new(rows * PARTS * p.channels)).transpose()?;
    let y = wanted.y.then(|| Buffer::<G>::new(rows * p.channels)).transpose()?;
    let saved = match from.saved {
        None if (wanted.p || wanted.a_bias || wanted.y) && Plan::new(p)?.tiles > 1 => {
            forward_gated(p, inputs, false, false, true)?.saved
        }
        saved => saved.cloned(),
    };
    let chunks = Plan::new(p)?.chunks;
    let d_bias = wanted.a_bias.then(|| Buffer::<T::Acc>::new(chunks * p.channels)).transpose()?;
    let bias = bias_of(p, inputs)?;
    let held = HeldGated::new(p, inputs, bias.as_ref());
    let gradients = gated::GatedGradients {
        len: p.len,
        channels: p.channels,
        past_caches: stream::goes_past_caches::<T>(rows * PARTS * p.channels),
        dp: dp.as_ref(),
        d_bias: d_bias.as_ref(),
        y: y.as_ref(),
    };
    let from = Given { saved: saved.as_ref(), ..from };
    let h0 = run_backward(p, held.form()?, gradients, inputs.h0.as_ref(), from, wanted.h0)?;
    let d_bias = d_bias.map(|sums| {
        // SAFETY: the pass has run.
        let total = total(&unsafe { sums.into_vec() }, p.channels);
        Tensor::from_vec(total, p.channels, &Device::Cpu)
    });
    let y = y.map(|y| {
        // SAFETY: the pass has run.
        let y = in_dtype(unsafe { y.into_vec() }, p.out)?;
        Ok::<_, candle_core::Error>(Tensor::from_storage(y, p.dims(), BackpropOp::none(), false))
    });
    Ok(GatedGradients {
        // SAFETY: the pass has run.
        p: dp.map(|dp| unsafe { tensor(dp, (p.batch, p.len, PARTS * p.channels)) }).transpose()?,
        a_bias: d_bias.transpose()?,
        h0,
        y: y.transpose()?,
    })
}

/// Runs a backward pass; returns the gradient of the initial states, where it is `wanted`.
fn run_backward<D: form::Gradients>(
    p: &Problem,
    form: D::Form,
    gradients: D,
    h0: Option<&Tensor>,
    from: Given,
    wanted: bool,
) -> Result<Option<Tensor>> {
    let plan = if gradients.composes() { Plan::going_through(p)? } else { Plan::new(p)? };
    let zero = D::Out::narrow(<D::Out as Element>::Acc::default());
    let (h0, states) = (h0.map(Held::new), from.saved.filter(|_| gradients.need_states()).map(Held::new));
    let grad_y = from.grad_y.map(|g| g.to_dtype(D::Out::DTYPE)).transpose()?;
    let (g, grad_last) = (grad_y.as_ref().map(Held::new), from.grad_last.map(Held::new));
    let dh0 = wanted.then(|| Buffer::new(p.num_sequences() * p.channels)).transpose()?;
    let pass = backward_pass::Backward {
        plan: &plan,
        channels: p.channels,
        form,
        g: g.as_ref().map_or(Ok(View::constant(&zero)), Held::view)?,
        h0: h0.as_ref().map(Held::contiguous).transpose()?,
        saved: states.as_ref().map(Held::contiguous).transpose()?,
        grad_last: grad_last.as_ref().map(Held::contiguous).transpose()?,
        gradients,
        dh0: dh0.as_ref(),
    };
    pass.run();
    // SAFETY: the pass has run.
    dh0.map(|values| unsafe { tensor(values, p.state_dims()) }).transpose()
}

/// The arguments of a scan, held for reading.
struct HeldInputs<'a> {
    x: Held<'a>,
    a: Held<'a>,
    b: Held<'a>,
    c: Option<Held<'a>>,
}

impl<'a> HeldInputs<'a> {
    fn new(inputs: &'a Inputs) -> Self {
        let (x, a, b) = (Held::new(&inputs.x), Held::new(&inputs.a), Held::new(&inputs.b));
        Self { x, a, b, c: inputs.c.as_ref().map(Held::new) }
    }

    fn form<'s, T: Element>(&'s self, one: &'s T) -> Result<Plain<'s, T>> {
        let c = self.c.as_ref().map_or(Ok(View::constant(one)), Held::view)?;
        Ok(Plain { x: self.x.view()?, a: self.a.view()?, b: self.b.view()?, c })
    }
}

/// The arguments of a gated scan, held for reading.
struct HeldGated<'a, A> {
    p: Held<'a>,
    bias: Option<Held<'a>>,
    /// In the place of a bias.
    zeros: Vec<A>,
}

impl<'a, A: Accumulator> HeldGated<'a, A> {
    /// `bias` is that of the inputs in the accumulation dtype.
    fn new(p: &Problem, inputs: &'a GatedInputs, bias: Option<&'a Tensor>) -> Self {
        let zeros = if bias.is_none() { vec![A::default(); p.channels] } else { vec![] };
        Self { p: Held::new(&inputs.p), bias: bias.map(Held::new), zeros }
    }

    fn form<T: Element<Acc = A>>(&self) -> Result<Gated<'_, T>> {
        let bias = self.bias.as_ref().map_or(Ok(&self.zeros[..]), Held::contiguous)?;
        Ok(Gated { parts: self.p.view()?, bias })
    }
}

/// The bias of a gated scan, if it has one, in the accumulation dtype.
fn bias_of(p: &Problem, inputs: &GatedInputs) -> Result<Option<Tensor>> {
    inputs.a_bias.as_ref().map(|bias| cast(bias, p.acc)).transpose()
}

/// A result.
///
/// # Safety
/// All elements must have been written.
unsafe fn tensor<T: Element>(values: Buffer<T>, shape: impl candle_core::shape::ShapeWithOneHole) -> Result<Tensor> {
    // SAFETY: passed on to the caller.
    Tensor::from_vec(unsafe { values.into_vec() }, shape, &Device::Cpu)
}

/// A result in the dtype that was asked for: the kernels write the dtype of x and the accumulation dtype.
fn in_dtype<O: Element>(values: Vec<O>, dtype: DType) -> Result<Storage> {
    use candle_core::backend::BackendStorage;
    let layout = candle_core::Layout::contiguous(values.len());
    let storage = O::to_cpu_storage_owned(values);
    Ok(Storage::Cpu(if dtype == O::DTYPE { storage } else { storage.to_dtype(&layout, dtype)? }))
}

/// The sum of rows, in their order.
fn total<A: Accumulator>(rows: &[A], width: usize) -> Vec<A> {
    let mut total = vec![0f64; width];
    for row in rows.chunks_exact(width.max(1)) {
        for (sum, value) in total.iter_mut().zip(row) {
            *sum += value.to_f64();
        }
    }
    total.into_iter().map(A::from_f64).collect()
}
