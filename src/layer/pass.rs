//! The layer forward and backward, outside of any graph: its products, and a pass over memory between each two.

use candle_core::op::BackpropOp;
use candle_core::{bail, Result, Shape, Storage, Tensor};

use super::params::Params;
use super::rows;
use super::weights::Weights;
use super::QuickSsmConfig;
use crate::backend::{backward_gated, contiguous, forward_gated, GatedInputs, GatedWanted, Given};
use crate::problem::{accumulation_dtype, Problem};
use crate::Scan;

/// A layer as one pass sees it.
pub(super) struct Pass<'a> {
    pub cfg: &'a QuickSsmConfig,
    pub weights: &'a Weights,
}

/// What a pass computes on its way, with `M = B L`.
pub(super) struct Between {
    /// The projection's input, `[M, H]`.
    n: Tensor,
    /// The pre-activations, `[B, L, 5S]`.
    p: Tensor,
    /// The readout, `[M, S]`.
    ch: Tensor,
}

/// The results of a forward pass.
pub(super) struct Forward {
    /// `[B, L, H]` in the dtype of the input.
    pub y: Storage,
    /// `[B, S]` in the accumulation dtype.
    pub last: Option<Storage>,
    /// What the scan's backward pass begins its chunks with.
    pub saved: Option<Tensor>,
    /// Of each part of the batch that was computed by itself, where it is kept.
    pub between: Vec<Between>,
    /// What the scan was.
    pub problem: Problem,
}

/// What a forward pass keeps for a backward pass to follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Keep {
    Nothing,
    States,
    All,
}

/// The gradients of the inputs, where they were wanted.
pub(super) struct Gradients {
    pub xs: Option<Tensor>,
    pub h0: Option<Tensor>,
    pub params: Params<Option<Tensor>>,
}

/// The inputs that want a gradient.
pub(super) struct Wanted {
    pub xs: bool,
    pub h0: bool,
    pub params: Params<bool>,
}

/// What a backward pass starts from.
pub(super) struct Results<'a> {
    pub problem: &'a Problem,
    pub saved: Option<&'a Tensor>,
    /// As the forward pass has kept it; computed again where it has not.
    pub between: &'a [Between],
    pub grad_y: Option<&'a Tensor>,
    pub grad_last: Option<&'a Tensor>,
}

impl Pass<'_> {
    /// The output for `xs`, `[B, L, H]` of at least one element, from the state `h0`, `[B, S]`, and the last state if
    /// `with_state`.
    pub fn forward_at_once(&self, xs: &Tensor, h0: Option<&Tensor>, with_state: bool, keep: Keep) -> Result<Forward> {
        let rows = rows_of(xs)?;
        let n = self.norm(&rows)?;
        let p = self.project(&n, xs)?;
        let h0 = h0.map(|h0| h0.detach().to_dtype(accumulation_dtype(p.dtype()))).transpose()?;
        let problem = self.problem(&p, h0.as_ref())?;
        let inputs = self.scan_inputs(&problem, &p, h0.as_ref())?;
        let kept = (keep == Keep::All).then_some((n, p));
        let scan = forward_gated(&problem, &inputs, true, with_state, keep != Keep::Nothing)?;
        drop(inputs);
        let Some(ch) = scan.y else { bail!("quick-ssm: an output is missing") };
        let shape = Shape::from((rows.dim(0)?, problem.channels));
        let ch = Tensor::from_storage(ch, shape, BackpropOp::none(), false);
        let ys = self.readout(&ch)?;
        let residual = self.cfg.use_residual.then_some(&rows);
        let y = rows::add(&ys, &self.weights.out_bias, residual, xs.dtype())?;
        let between = kept.map(|(n, p)| Between { n, p, ch }).into_iter().collect();
        Ok(Forward { y, last: scan.last, saved: scan.saved, between, problem })
    }

    /// The gradients that are wanted.
    pub fn backward_at_once(
        &self,
        xs: &Tensor,
        h0: Option<&Tensor>,
        results: Results,
        wanted: &Wanted,
    ) -> Result<Gradients> {
        let Results { problem, saved, between, grad_y, grad_last } = results;
        let between = between.first();
        let (w, eps) = (&wanted.params, self.cfg.eps);
        let rows = rows_of(xs)?;
        let grad_y = grad_y.map(rows_of).transpose()?;
        let grad = grad_y.as_ref().map(|g| g.to_dtype(self.weights.dtypes.compute)).transpose()?;
        let mut grads = Gradients { xs: None, h0: None, params: w.map(|_| None) };
        let of = &mut grads.params;
        if let Some(grad_y) = grad_y.as_ref().filter(|_| w.out_bias) {
            of.out_bias = Some(rows::sum(grad_y)?);
        }

        let norm_wanted = (wanted.xs, w.pre_norm.unwrap_or(false));
        let dn_wanted = norm_wanted.0 || norm_wanted.1;
        let dw_wanted = w.projections().into_iter().any(|w| *w);
        let dp_wanted = dn_wanted || dw_wanted;
        let out_wanted = w.out && grad.is_some();
        if !(dp_wanted || out_wanted || w.a_bias || wanted.h0) {
            return Ok(grads);
        }

        let n = between.map_or_else(|| self.norm(&rows), |b| Ok(b.n.clone()))?;
        let p = between.map_or_else(|| self.project(&n, xs), |b| Ok(b.p.clone()))?;
        let inputs = self.scan_inputs(problem, &p, h0)?;
        drop(p);
        let gated = GatedWanted { p: dp_wanted, a_bias: w.a_bias, h0: wanted.h0, y: out_wanted && between.is_none() };
        let scan = {
            let dch = grad.as_ref().map(|g| g.matmul(&self.weights.out)?.reshape(problem.dims())).transpose()?;
            backward_gated(problem, &inputs, Given { saved, grad_y: dch.as_ref(), grad_last }, gated)?
        };
        drop(inputs);
        (grads.h0, of.a_bias) = (scan.h0, scan.a_bias);
        if let Some(grad) = grad.as_ref().filter(|_| out_wanted) {
            let again = scan.y.map(|ch| ch.reshape((rows.dim(0)?, problem.channels))).transpose()?;
            let ch = again.as_ref().or(between.map(|b| &b.ch));
            of.out = ch.map(|ch| grad.t()?.matmul(ch)).transpose()?;
        }
        let Some(dp) = scan.p else { return Ok(grads) };
        let dp = dp.reshape((rows.dim(0)?, ()))?;
        if dw_wanted {
            [of.a, of.d, of.b, of.c_a, of.c_b] = self.projection_gradients(&dp, &n, w)?;
        }
        drop(n);
        if dn_wanted {
            let dn = dp.matmul(&self.weights.projection)?;
            drop(dp);
            let residual = grad_y.as_ref().filter(|_| self.cfg.use_residual);
            let weight = self.weights.norm.as_ref();
            let (dx, dw) = rows::norm_backward(&rows, weight, eps, &dn, residual, norm_wanted)?;
            grads.xs = dx;
            of.pre_norm = w.pre_norm.map(|_| dw);
        }
        Ok(grads)
    }

    fn norm(&self, rows: &Tensor) -> Result<Tensor> {
        rows::norm(rows, self.weights.norm.as_ref(), self.cfg.eps, self.weights.dtypes)
    }

    /// The pre-activations, `[B, L, 5S]`.
    fn project(&self, n: &Tensor, xs: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = xs.dims3()?;
        let projection = &self.weights.projection_t;
        n.matmul(projection)?.reshape((batch, len, projection.dim(1)?))
    }

    /// `[M, H]` of the readout.
    fn readout(&self, ch: &Tensor) -> Result<Tensor> {
        match &self.weights.out_t_contiguous {
            Some(out) if ch.dim(0)? > 1 => ch.matmul(out),
            // one row times a transposed matrix is a product of vectors for each of few columns
            _ => ch.matmul(&self.weights.out_t),
        }
    }

    /// A scan of `p`.
    fn problem(&self, p: &Tensor, h0: Option<&Tensor>) -> Result<Problem> {
        let scan = h0.map_or_else(Scan::new, |h0| Scan::new().initial_state(h0));
        scan.gated_problem(p, Some(&self.weights.a_bias))
    }

    fn scan_inputs(&self, problem: &Problem, p: &Tensor, h0: Option<&Tensor>) -> Result<GatedInputs> {
        GatedInputs::new(problem, p, Some(&self.weights.a_bias), h0)
    }

    /// The gradients of the parts of the projection, where they are wanted.
    fn projection_gradients(&self, dp: &Tensor, n: &Tensor, wanted: &Params<bool>) -> Result<[Option<Tensor>; 5]> {
        let wanted = wanted.projections();
        let state = self.weights.a_bias.dim(0)?;
        let whole = match wanted.iter().all(|w| **w) {
            true => Some(dp.t()?.matmul(n)?),
            false => None,
        };
        let part = |index: usize| match (&whole, wanted[index]) {
            (_, false) => Ok(None),
            (Some(whole), true) => whole.narrow(0, index * state, state).map(Some),
            // a product takes a copy of some columns, as no device multiplies them where they are
            (None, true) => dp.narrow(1, index * state, state)?.contiguous()?.t()?.matmul(n).map(Some),
        };
        Ok([part(0)?, part(1)?, part(2)?, part(3)?, part(4)?])
    }
}

/// `[B, L, H]` as `[B L, H]`, contiguous and untracked.
fn rows_of(t: &Tensor) -> Result<Tensor> {
    let (batch, len, channels) = t.dims3()?;
    contiguous(t)?.reshape((batch * len, channels))
}
