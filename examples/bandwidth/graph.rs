//! Losses whose backward pass in candle's autograd is that of a recurrence.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, Var};

use crate::data::Data;

/// Something whose `backward` is that of the scan on `data`, with its `grad_y`.
pub fn scan(data: &Data) -> Result<Tensor> {
    let [x, a, b, c] = data.vars.each_ref().map(Var::as_tensor);
    quick_ssm::scan(x, a, b, c)?.apply_op1(Seed { grad: data.grad_y.clone() })
}

/// The same with the recurrence of candle's own operations.
pub fn step_by_step(data: &Data) -> Result<Tensor> {
    let [x, a, b, c] = data.vars.each_ref().map(Var::as_tensor);
    quick_ssm::reference::scan(x, a, b, c)?.apply_op1(Seed { grad: data.grad_y.clone() })
}

/// A loss, of no value, that has `grad` as the gradient of its argument.
struct Seed {
    grad: Tensor,
}

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.]), Shape::from(())))
    }

    fn cuda_fwd(&self, s: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from(());
        Ok((s.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.grad.clone()))
    }
}
