//! Backward passes as candle's autograd calls them, without the zeros and additions that it puts around them: for the
//! project's own benchmark, and no part of its interface.

use candle_core::op::BackpropOp;
use candle_core::{bail, Result, Tensor};

use crate::autograd::{Backward, Output};
use crate::Scan;

/// The backward pass of an operation whose forward pass has been, with what that has saved.
pub struct BackwardPass {
    op: Box<dyn Backward>,
    inputs: Vec<Tensor>,
    result: Tensor,
}

impl BackwardPass {
    /// Of an operation with one result.
    pub(crate) fn new(op: impl Backward, inputs: &[&Tensor], mut computed: Vec<Output>) -> Result<Self> {
        let Some((storage, shape)) = computed.pop().filter(|_| computed.is_empty()) else {
            bail!("{}: expected one output", op.name())
        };
        let result = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
        Ok(Self { op: Box::new(op), inputs: inputs.iter().map(|&t| t.clone()).collect(), result })
    }

    /// The gradients of the inputs that are tracked, from that of the result.
    pub fn run(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        self.op.bwd(&self.inputs, &self.result, vec![Some(grad.clone())])
    }
}

/// That of [`scan`](crate::scan).
pub fn scan(x: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<BackwardPass> {
    Scan::new().backward_pass(x, a, b, c)
}

/// That of [`Scan::apply_gated`].
pub fn gated(p: &Tensor, a_bias: &Tensor) -> Result<BackwardPass> {
    Scan::new().gated_backward_pass(p, a_bias)
}
