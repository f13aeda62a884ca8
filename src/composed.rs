//! The gated scan from candle's operations around the plain one, where no kernel fuses them.

use candle_core::{Result, Tensor, Var};
use candle_nn::ops::{sigmoid, silu};

use crate::backend::{self, cast, Forward, GatedGradients, GatedInputs, GatedWanted, Gradients, Inputs, Wanted};
use crate::gated::PARTS;
use crate::problem::Problem;

/// `u, a, d, c`: the arguments of the scan, in the accumulation dtype.
fn gates(p: &Problem, pre: &Tensor, a_bias: Option<&Tensor>) -> Result<[Tensor; 4]> {
    let pre = cast(pre, p.acc)?;
    let part = |n: usize| pre.narrow(2, n * p.channels, p.channels)?.contiguous();
    debug_assert_eq!(pre.dim(2)?, PARTS * p.channels);
    let a = part(0)?;
    let a = match a_bias {
        Some(bias) => a.broadcast_add(bias)?,
        None => a,
    };
    Ok([part(2)?, sigmoid(&a)?, sigmoid(&part(1)?)?, (silu(&part(3)?)? * part(4)?)?])
}

fn plain(p: &Problem) -> Problem {
    Problem { dtype: p.acc, ..p.clone() }
}

pub(crate) fn forward(p: &Problem, inputs: &GatedInputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    let p = &plain(p);
    let [u, a, d, c] = gates(p, &inputs.p, inputs.a_bias.as_ref())?;
    backend::forward(p, &Inputs::new(p, &u, &a, &d, Some(&c), inputs.h0.as_ref())?, y, last, save)
}

pub(crate) fn backward(
    p: &Problem,
    inputs: &GatedInputs,
    saved: Option<&Tensor>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    wanted: GatedWanted,
) -> Result<GatedGradients> {
    let y = match wanted.y {
        true => forward(p, inputs, true, false, false)?.y,
        false => None,
    };
    let y = y.map(|y| Tensor::from_storage(y, p.dims(), candle_core::op::BackpropOp::none(), false));
    let dtype = p.dtype;
    let p = &plain(p);
    let pre = Var::from_tensor(&inputs.p)?;
    let bias = inputs.a_bias.as_ref().map(Var::from_tensor).transpose()?;
    let values = gates(p, &pre, bias.as_ref().map(Var::as_tensor))?;
    let [u, a, d, c] = &values;
    let all = Wanted { x: true, a: true, b: true, c: true, h0: wanted.h0 };
    let args = Inputs::new(p, u, a, d, Some(c), inputs.h0.as_ref())?;
    let Gradients { x, a, b, c, h0 } = backend::backward(p, &args, saved, grad_y, grad_last, all)?;
    let mut loss = Tensor::zeros((), p.acc, &p.device)?;
    for (value, grad) in values.iter().zip([x, a, b, c]) {
        if let Some(grad) = grad.filter(|g| g.elem_count() > 0) {
            loss = (loss + (value * grad)?.sum_all()?)?;
        }
    }
    let mut grads = loss.backward()?;
    let d_bias = bias.map(|b| grads.remove(&b).map_or_else(|| b.zeros_like(), Ok)).transpose()?;
    let d_p = grads.remove(&pre).map_or_else(|| pre.zeros_like(), Ok)?;
    let d_p = cast(&d_p, dtype)?;
    Ok(GatedGradients { p: wanted.p.then_some(d_p), a_bias: d_bias.filter(|_| wanted.a_bias), h0, y })
}
