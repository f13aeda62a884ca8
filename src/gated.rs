//! The scan with the gates inside: from the pre-activations of a layer to its readout.

use candle_core::{bail, Result, Tensor};

use crate::autograd::{Backward, Computed};
use crate::backend::{backward_gated, cast, forward_gated, GatedInputs, GatedWanted, Given};
use crate::problem::{check_gated, Problem};
use crate::scan::Scan;

/// Parts of a row of pre-activations: `a`, `d`, `u`, `ca`, `cb`.
pub(crate) const PARTS: usize = 5;

impl Scan {
    /// Computes a gated readout from its pre-activations `p`, `[B, L, 5S]`: the scan with its gates inside.
    ///
    /// A row of `p` holds `S` columns of each of `a`, `d`, `u`, `ca` and `cb`, as one projection of a layer gives them, and
    /// the result is `y`, `[B, L, S]`:
    ///
    /// ```text
    ///   h_t = sigmoid(a_t + a_bias) h_{t-1} + sigmoid(d_t) u_t        y_t = silu(ca_t) cb_t h_t
    /// ```
    ///
    /// It is the recurrence of [`QuickSsm`](crate::QuickSsm) between its projections. One pass over memory reads `p` and
    /// writes `y`, another one back reads `p` and the gradient of `y` and writes that of `p`: the gates are
    /// computed where they are used, in the accumulation dtype, and never stored. All options hold, with `D = S`.
    ///
    /// `a_bias`, `[S]`, has p's dtype or the accumulation dtype, and so has its gradient. Batch and time of `p` may have any
    /// strides; where its columns are not adjacent it is copied once.
    ///
    /// ```
    /// use candle_core::{Device, Result, Tensor, Var};
    /// use quick_ssm::Scan;
    ///
    /// # fn main() -> Result<()> {
    /// let (batch, len, state) = (2, 100, 16);
    /// let p = Var::randn(0f32, 1f32, (batch, len, 5 * state), &Device::Cpu)?;
    /// let bias = Var::rand(0f32, 6f32, state, &Device::Cpu)?;
    /// let y = Scan::new().apply_gated(&p, Some(&bias))?;
    /// assert_eq!(y.dims3()?, (batch, len, state));
    /// let grads = y.sqr()?.sum_all()?.backward()?;
    /// assert_eq!(grads.get(&p).unwrap().dims(), p.dims());
    /// assert_eq!(grads.get(&bias).unwrap().dims(), bias.dims());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`apply`](Self::apply), and where the columns of `p` cannot be divided by five or `a_bias` is not one
    /// number for each of the `S` channels.
    pub fn apply_gated(&self, p: &Tensor, a_bias: Option<&Tensor>) -> Result<Tensor> {
        let [y] = self.gated_computed(p, a_bias, false)?.tensors()?;
        Ok(y)
    }

    /// Computes what [`apply_gated`](Self::apply_gated) does, and the last state, `[B, S]` (packed sequences: `[N, S]`) in
    /// the accumulation dtype.
    ///
    /// # Errors
    /// As for [`apply_gated`](Self::apply_gated).
    pub fn apply_gated_with_state(&self, p: &Tensor, a_bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let [y, last] = self.gated_computed(p, a_bias, true)?.tensors()?;
        Ok((y, last))
    }

    /// What a gated scan computes, checked.
    pub(crate) fn gated_problem(&self, p: &Tensor, a_bias: Option<&Tensor>) -> Result<Problem> {
        let dims = check_gated(p, a_bias)?;
        self.problem_of("p", p, dims, p.dtype())
    }

    /// `y`, and `with_state` the last state.
    pub(crate) fn gated_computed<'a>(
        &'a self,
        p: &'a Tensor,
        a_bias: Option<&'a Tensor>,
        with_state: bool,
    ) -> Result<Computed<'a, impl Backward>> {
        let problem = self.gated_problem(p, a_bias)?;
        let mut args = vec![p];
        args.extend(a_bias);
        args.extend(self.h0());
        let tracked = args.iter().any(|t| t.track_op());
        let inputs = GatedInputs::new(&problem, p, a_bias, self.h0())?;
        let mut forward = forward_gated(&problem, &inputs, true, with_state, tracked)?;
        let saved = forward.saved.take();
        let outputs = forward.outputs(&problem);
        Ok(Computed { op: GatedOp { problem, saved, has_bias: a_bias.is_some(), with_state }, inputs: args, outputs })
    }
}

/// The backward pass, with inputs `p`, `a_bias` where there is one, and `h0` where there is one.
struct GatedOp {
    problem: Problem,
    saved: Option<Tensor>,
    has_bias: bool,
    with_state: bool,
}

impl Backward for GatedOp {
    fn name(&self) -> &'static str {
        "gated-scan"
    }

    fn bwd(&self, inputs: &[Tensor], _res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let [p, rest @ ..] = inputs else { bail!("scan: expected at least one input, got none") };
        let (a_bias, h0) = if self.has_bias { (rest.first(), rest.get(1)) } else { (None, rest.first()) };
        let mut grads = grads.into_iter();
        let grad_y = grads.next().flatten();
        let grad_last = if self.with_state { grads.next().flatten() } else { None };
        let tracked = |t: Option<&Tensor>| t.is_some_and(Tensor::track_op);
        let wanted = GatedWanted { p: p.track_op(), a_bias: tracked(a_bias), h0: tracked(h0), y: false };
        let arguments = GatedInputs::new(&self.problem, p, a_bias, h0)?;
        let from = Given { saved: self.saved.as_ref(), grad_y: grad_y.as_ref(), grad_last: grad_last.as_ref() };
        let grads = backward_gated(&self.problem, &arguments, from, wanted)?;
        let mut all = vec![grads.p];
        for (input, grad) in [(a_bias, grads.a_bias), (h0, grads.h0)] {
            if let Some(input) = input {
                all.push(grad.map(|g| cast(&g, input.dtype())).transpose()?);
            }
        }
        Ok(all)
    }
}
