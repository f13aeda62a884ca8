//! The layer as one operation of the graph.

use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{Error, Result, Shape, Tensor};

use super::params::Params;
use super::pass::{Between, Forward, Gradients, Keep, Pass, Results, Wanted};
use super::weights::{Dtypes, Weights};
use super::QuickSsmConfig;
use crate::autograd::{attach, Backward};
use crate::problem::Problem;

/// What a layer is made of.
pub(super) struct Parts<'a> {
    pub cfg: &'a QuickSsmConfig,
    pub params: &'a Params,
    pub weights: Arc<Weights>,
    /// Whether the layer holds the weights anyway.
    pub frozen: bool,
}

/// The output for `xs`, `[B, L, H]` of at least one element, from the state `h0`, `[B, S]`, and the last state if
/// `with_state`.
pub(super) fn forward(
    parts: Parts,
    xs: &Tensor,
    h0: Option<&Tensor>,
    with_state: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let Parts { cfg, params, weights, frozen } = parts;
    let mut inputs = vec![xs];
    inputs.extend(h0);
    if !frozen {
        inputs.extend(params.named().into_iter().map(|(_, t)| t));
    }
    let keep = match inputs.iter().any(|t| t.track_op()) {
        false => Keep::Nothing,
        true if cfg.checkpoint => Keep::States,
        true => Keep::All,
    };
    let Forward { y, last, saved, between, problem } =
        Pass { cfg, weights: &weights }.forward(xs, h0, with_state, keep)?;
    let state = Shape::from((xs.dim(0)?, cfg.state_size()));
    let (y, last) = ((y, xs.shape().clone()), last.map(|h| (h, state)));
    if keep == Keep::Nothing {
        let untracked = |(storage, shape)| Tensor::from_storage(storage, shape, BackpropOp::none(), false);
        return Ok((untracked(y), last.map(untracked)));
    }
    let op = LayerOp {
        cfg: cfg.clone(),
        dtypes: weights.dtypes,
        params: params.map(Tensor::detach),
        weights: (frozen || keep == Keep::All).then_some(weights),
        problem,
        saved,
        between,
        from_state: h0.is_some(),
        with_state,
    };
    let mut outputs = attach(op, &inputs, std::iter::once(y).chain(last).collect())?.into_iter();
    let y = outputs.next().ok_or_else(|| Error::msg("quick-ssm: an output is missing"))?;
    Ok((y, outputs.next()))
}

/// The backward pass, with inputs `xs`, `h0` if `from_state`, and the parameters unless they are frozen.
struct LayerOp {
    cfg: QuickSsmConfig,
    dtypes: Dtypes,
    params: Params,
    /// Made again where they are not held.
    weights: Option<Arc<Weights>>,
    problem: Problem,
    saved: Option<Tensor>,
    between: Vec<Between>,
    from_state: bool,
    with_state: bool,
}

impl Backward for LayerOp {
    fn name(&self) -> &'static str {
        "quick-ssm"
    }

    fn bwd(&self, inputs: &[Tensor], _res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let (before, parameters) = inputs.split_at(1 + usize::from(self.from_state));
        let (xs, h0) = (&before[0], before.get(1));
        let mut tracked = parameters.iter().map(Tensor::track_op);
        let wanted = Wanted {
            xs: xs.track_op(),
            h0: h0.is_some_and(Tensor::track_op),
            params: self.params.map(|_| tracked.next().unwrap_or(false)),
        };
        let weights = match &self.weights {
            Some(weights) => weights.clone(),
            None => Arc::new(Weights::new(&self.params, self.dtypes)?),
        };
        let mut grads = grads.into_iter();
        let (grad_y, grad_last) = (grads.next().flatten(), if self.with_state { grads.next().flatten() } else { None });
        let results = Results {
            problem: &self.problem,
            saved: self.saved.as_ref(),
            between: &self.between,
            grad_y: grad_y.as_ref(),
            grad_last: grad_last.as_ref(),
        };
        let pass = Pass { cfg: &self.cfg, weights: &weights };
        let Gradients { xs, h0, params } = pass.backward(xs, h0, results, &wanted)?;
        let mut grads = vec![xs];
        grads.extend(self.from_state.then_some(h0));
        grads.extend(params.named().into_iter().map(|(_, grad)| grad.clone()));
        let grad = |(input, grad): (&Tensor, Option<Tensor>)| match grad {
            _ if !input.track_op() => Ok(None),
            Some(grad) => grad.to_dtype(input.dtype())?.reshape(input.shape()).map(Some),
            // without a part in the loss
            None => input.zeros_like().map(Some),
        };
        inputs.iter().zip(grads).map(grad).collect()
    }
}
