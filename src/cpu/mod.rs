//! The scan on the CPU: dtypes and buffers. [`forward`] and [`backward`] read every tensor once, in the order of time.

mod backward_pass;
mod buffer;
mod chain;
mod forward_pass;
mod plan;
mod simd;
mod view;

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};

use crate::backend::{Forward, Gradients, Inputs, Wanted};
use crate::problem::Problem;
use buffer::Buffer;
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
    by_dtype!(p, typed_forward(p, inputs, y, last, save))
}

fn typed_forward<T: Element, O: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &Inputs,
    y: bool,
    last: bool,
    save: bool,
) -> Result<Forward> {
    let plan = Plan::new(p);
    let one = T::narrow(T::Acc::ONE);
    let (x, a, b) = (Held::new(&inputs.x), Held::new(&inputs.a), Held::new(&inputs.b));
    let (c, h0) = (inputs.c.as_ref().map(Held::new), inputs.h0.as_ref().map(Held::new));
    let elements = p.batch * p.len * p.channels;
    let y = y.then(|| Buffer::<O>::new(elements));
    let last = last.then(|| Buffer::new(p.num_sequences() * p.channels));
    let saved = save.then(|| Buffer::new(plan.chunks * p.channels));
    let pass = forward_pass::Forward {
        plan: &plan,
        channels: p.channels,
        len: p.len,
        x: x.view::<T>()?,
        a: a.view()?,
        b: b.view()?,
        c: c.as_ref().map_or(Ok(View::constant(&one)), Held::view)?,
        h0: h0.as_ref().map(Held::contiguous).transpose()?,
        y: y.as_ref(),
        last: last.as_ref(),
        saved: saved.as_ref(),
    };
    pass.run();
    let saved = saved.map(|states| {
        let shape = (plan.chunks, p.channels);
        // SAFETY: the pass has run.
        Tensor::from_vec(unsafe { states.into_vec() }, shape, &Device::Cpu)
    });
    Ok(Forward {
        // SAFETY: the pass has run.
        y: y.map(|y| in_dtype(unsafe { y.into_vec() }, p.out)).transpose()?,
        // SAFETY: the pass has run.
        last: last.map(|h| Storage::Cpu(T::Acc::to_cpu_storage_owned(unsafe { h.into_vec() }))),
        saved: saved.transpose()?,
    })
}

/// A result in the dtype that was asked for: the kernels write the dtype of x and the accumulation dtype.
fn in_dtype<O: Element>(values: Vec<O>, dtype: DType) -> Result<Storage> {
    use candle_core::backend::BackendStorage;
    let layout = candle_core::Layout::contiguous(values.len());
    let storage = O::to_cpu_storage_owned(values);
    Ok(Storage::Cpu(if dtype == O::DTYPE { storage } else { storage.to_dtype(&layout, dtype)? }))
}

/// The backward pass; without `saved` it computes the states before each chunk first.
pub(crate) fn backward(
    p: &Problem,
    inputs: &Inputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: Wanted,
) -> Result<Gradients> {
    by_dtype!(p, typed_backward(p, inputs, saved, grad_y, grad_last, wanted))
}

fn typed_backward<T: Element, G: Element<Acc = T::Acc>>(
    p: &Problem,
    inputs: &Inputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: Wanted,
) -> Result<Gradients> {
    let need_states = wanted.a || wanted.c;
    let computed = match saved {
        None if need_states => forward(p, inputs, false, false, true)?.saved,
        _ => None,
    };
    let states = saved.or(computed.as_ref()).filter(|_| need_states).map(Held::new);
    let plan = Plan::new(p);
    let (one, zero) = (T::narrow(T::Acc::ONE), G::narrow(G::Acc::default()));
    let (x, a, b) = (Held::new(&inputs.x), Held::new(&inputs.a), Held::new(&inputs.b));
    let c = inputs.c.as_ref().map(Held::new);
    let grad_y = grad_y.map(|g| g.to_dtype(G::DTYPE)).transpose()?;
    let (g, grad_last) = (grad_y.as_ref().map(Held::new), grad_last.map(Held::new));
    let elements = p.batch * p.len * p.channels;
    let buffer = |wanted: bool| wanted.then(|| Buffer::<T>::new(elements));
    let (dx, da, db, dc) = (buffer(wanted.x), buffer(wanted.a), buffer(wanted.b), buffer(wanted.c));
    let dh0 = wanted.h0.then(|| Buffer::new(p.num_sequences() * p.channels));
    let pass = backward_pass::Backward {
        plan: &plan,
        channels: p.channels,
        len: p.len,
        x: x.view::<T>()?,
        a: a.view()?,
        b: b.view()?,
        c: c.as_ref().map_or(Ok(View::constant(&one)), Held::view)?,
        g: g.as_ref().map_or(Ok(View::constant(&zero)), Held::view::<G>)?,
        saved: states.as_ref().map_or(Ok(&[][..]), Held::contiguous)?,
        grad_last: grad_last.as_ref().map(Held::contiguous).transpose()?,
        dx: dx.as_ref(),
        da: da.as_ref(),
        db: db.as_ref(),
        dc: dc.as_ref(),
        dh0: dh0.as_ref(),
    };
    pass.run();
    let tensor = |buffer: Option<Buffer<T>>| {
        // SAFETY: the pass has run.
        buffer.map(|values| Tensor::from_vec(unsafe { values.into_vec() }, p.dims(), &Device::Cpu)).transpose()
    };
    // SAFETY: the pass has run.
    let dh0 = dh0.map(|values| Tensor::from_vec(unsafe { values.into_vec() }, p.state_dims(), &Device::Cpu));
    Ok(Gradients { x: tensor(dx)?, a: tensor(da)?, b: tensor(db)?, c: tensor(dc)?, h0: dh0.transpose()? })
}
