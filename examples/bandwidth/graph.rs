//! The backward pass as candle's autograd runs it.
//!
//! Around the scan's own backward pass candle writes zeros for each gradient and adds to them. A stand-in for the
//! scan, whose backward pass hands out tensors that exist, has the same around it: it tells what to take off.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, Var};
use quick_ssm::{apply_op4, CustomOp4};

use crate::data::Data;
use crate::gated::GatedData;

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

/// The same with the stand-in.
pub fn idle(data: &Data) -> Result<Tensor> {
    let [x, a, b, c] = data.vars.each_ref().map(Var::as_tensor);
    apply_op4(x, a, b, c, Idle { grads: data.args.clone() })?.apply_op1(Seed { grad: data.grad_y.clone() })
}

/// Something whose `backward` is that of a gated scan.
pub fn gated(data: &GatedData) -> Result<Tensor> {
    data.apply(&data.var, &data.bias_var)?.apply_op1(Seed { grad: data.grad_y.clone() })
}

/// The same with a stand-in. The bias, of one number for each channel, counts for nothing.
pub fn idle_gated(data: &GatedData) -> Result<Tensor> {
    let y = data.var.apply_op2(&data.grad_y, IdleGated { grad: data.p.clone() })?;
    y.apply_op1(Seed { grad: data.grad_y.clone() })
}

/// Computes nothing, and hands out gradients that exist.
struct Idle {
    grads: [Tensor; 4],
}

impl CustomOp4 for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((s1.try_clone(l1)?, l1.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((s1.try_clone(l1)?, l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, a, b, c] = self.grads.each_ref().map(|t| Some(t.clone()));
        Ok((x, a, b, c))
    }
}

/// The same for a gated scan, with the second argument as its result.
struct IdleGated {
    grad: Tensor,
}

impl CustomOp2 for IdleGated {
    fn name(&self) -> &'static str {
        "idle-gated"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((s2.try_clone(l2)?, l2.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((s2.try_clone(l2)?, l2.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.grad.clone()), None))
    }
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
