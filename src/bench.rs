//! Backward passes as candle's autograd calls them, without the zeros and additions that it puts around them: for the
//! project's own benchmark, and no part of its interface.

use candle_core::op::BackpropOp;
use candle_core::{bail, Result, Tensor};

use crate::autograd::{Backward, Computed};
use crate::Scan;

/// The backward pass of an operation whose forward pass has been, with what that has saved.
pub struct BackwardPass {
    op: Box<dyn Backward>,
    inputs: Vec<Tensor>,
    result: Tensor,
}

impl BackwardPass {
    /// Of an operation with one result.
    fn new(Computed { op, inputs, mut outputs }: Computed<impl Backward>) -> Result<Self> {
        let Some((storage, shape)) = outputs.pop().filter(|_| outputs.is_empty()) else {
            bail!("{}: expected one output", op.name())
        };
        let result = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
        Ok(Self { op: Box::new(op), inputs: inputs.into_iter().cloned().collect(), result })
    }

    /// The gradients of the inputs that are tracked, from that of the result.
    pub fn run(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        self.op.bwd(&self.inputs, &self.result, vec![Some(grad.clone())])
    }
}

/// That of [`scan`](crate::scan).
pub fn scan(x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<BackwardPass> {
    BackwardPass::new(Scan::new().computed(x, a, b, Some(c), false)?)
}

/// That of [`Scan::apply_gated`].
pub fn gated(p: &Tensor, a_bias: &Tensor) -> Result<BackwardPass> {
    BackwardPass::new(Scan::new().gated_computed(p, Some(a_bias), false)?)
}
