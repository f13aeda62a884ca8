//! The layer as one operation of the graph, which holds only its input and computes the rest again going back.

use candle_core::{bail, DType, Result, Tensor, Var};

use super::compute::Compute;
use super::params::Params;
use super::QuickSsmConfig;
use crate::autograd::{attach, Backward, Output};

/// What [`Compute::forward`] gives.
pub(super) fn forward(
    compute: Compute,
    xs: &Tensor,
    h0: Option<&Tensor>,
    with_state: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut inputs = vec![xs];
    inputs.extend(h0);
    inputs.extend(compute.params.named().into_iter().map(|(_, t)| t));
    if !inputs.iter().any(|t| t.track_op()) {
        return compute.forward(xs, h0, with_state);
    }
    let (cfg, params) = (compute.cfg.clone(), compute.params.map(Tensor::detach));
    let untracked = Compute { cfg: &cfg, params: &params };
    let (y, last) = untracked.forward(&xs.detach(), h0.map(Tensor::detach).as_ref(), with_state)?;
    let outputs = std::iter::once(y).chain(last).map(output).collect::<Result<_>>()?;
    let op = Recompute { cfg, params, from_state: h0.is_some(), with_state };
    let mut outputs = attach(op, &inputs, outputs)?.into_iter();
    match (outputs.next(), outputs.next()) {
        (Some(y), last) => Ok((y, last)),
        _ => bail!("quick-ssm: an output is missing"),
    }
}

/// A copy of the storage of a tensor, contiguous from its beginning.
fn output(t: Tensor) -> Result<Output> {
    let fits = t.is_contiguous() && t.layout().start_offset() == 0;
    let t = if fits { t } else { t.force_contiguous()? };
    let (storage, layout) = t.storage_and_layout();
    Ok((storage.try_clone(layout)?, layout.shape().clone()))
}

/// The backward pass, with inputs `xs`, `h0` if `from_state`, and the parameters.
struct Recompute {
    cfg: QuickSsmConfig,
    params: Params,
    from_state: bool,
    with_state: bool,
}

impl Backward for Recompute {
    fn name(&self) -> &'static str {
        "quick-ssm"
    }

    fn bwd(&self, inputs: &[Tensor], _res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        // a graph of its own, whose leaves are the inputs
        let leaves = inputs.iter().map(leaf).collect::<Result<Vec<_>>>()?;
        let (before, parameters) = leaves.split_at(1 + usize::from(self.from_state));
        let mut parameters = parameters.iter();
        let params = self.params.map(|t| parameters.next().unwrap_or(t).clone());
        let compute = Compute { cfg: &self.cfg, params: &params };
        let (y, last) = compute.forward(&before[0], before.get(1), self.with_state)?;

        // a loss with the gradients that came as those of the outputs; its value is of no interest
        let mut loss = Tensor::zeros((), DType::F32, y.device())?;
        for (output, grad) in [Some(y), last].into_iter().flatten().zip(grads) {
            if let Some(grad) = grad {
                loss = (loss + (output * grad)?.sum_all()?.to_dtype(DType::F32)?)?;
            }
        }
        let mut grads = loss.backward()?;
        let grad = |(input, leaf): (&Tensor, &Tensor)| match grads.remove(leaf) {
            _ if !input.track_op() => Ok(None),
            Some(grad) => Ok(Some(grad.detach())),
            // without a part in the loss, or one variable in the place of two parameters, which has its gradient
            None => input.zeros_like().map(Some),
        };
        inputs.iter().zip(&leaves).map(grad).collect()
    }
}

/// A tensor of the same values at which a graph ends.
fn leaf(t: &Tensor) -> Result<Tensor> {
    match t.track_op() {
        true => Ok(Var::from_tensor(t)?.into_inner()),
        false => Ok(t.clone()),
    }
}
