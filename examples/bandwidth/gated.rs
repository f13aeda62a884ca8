//! The arguments of a gated scan, and its passes.

use anyhow::{bail, Result};
use candle_core::{DType, Device, Tensor, Var};
use quick_ssm::bench::{self, BackwardPass};
use quick_ssm::Scan;

use crate::data::{full, uniform, Pass};
use crate::passes::Operation;
use crate::stream::{stream11, stream6, Element, Pages, PARTS};
use crate::yardstick::{on, with_slices, Measure, Yardstick};

/// Pre-activations, `[B, L, 5S]`, a bias, and the gradient of the result.
pub struct GatedData {
    p: Tensor,
    bias: Tensor,
    /// The same memory, tracked.
    var: Var,
    bias_var: Var,
    grad_y: Tensor,
    /// As large as `grad_y`: some of the values of `p`.
    factors: [Tensor; 2],
}

impl GatedData {
    fn new(p: &Tensor, bias: &Tensor, grad_y: Tensor) -> Result<Self> {
        let (var, bias_var) = (Var::from_tensor(p)?, Var::from_tensor(bias)?);
        let (p, bias) = (var.as_detached_tensor(), bias_var.as_detached_tensor());
        let (values, count) = (p.flatten_all()?, grad_y.elem_count());
        let factors = [values.narrow(0, 0, count)?, values.narrow(0, count, count)?];
        Ok(Self { p, bias, var, bias_var, grad_y, factors })
    }
}

impl Operation for GatedData {
    const PASSES: &[Pass] = &[Pass::Forward, Pass::Backward];

    /// Gates between 0.1 and 0.9, those of the state moved up by the bias.
    fn random([batch, len, channels]: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Self> {
        let p = uniform(&[batch, len, PARTS * channels], -2.0..2., seed, 1, dtype, device)?;
        let bias = uniform(&[channels], 0.0..4., seed, 2, dtype, device)?;
        Self::new(&p, &bias, uniform(&[batch, len, channels], -1.0..1., seed, 3, dtype, device)?)
    }

    /// An impulse under a gate of 0.9, at the start for the forward and at the end for the backward pass.
    fn decaying([batch, len, channels]: [usize; 3], dtype: DType, device: &Device) -> Result<Self> {
        let full = |v: f64, len| full(v, (batch, len, channels), dtype, device);
        let (one, zeros, ones) = (full(1., 1)?, full(0., len - 1)?, full(1., len)?);
        let (a, d, u) = (full(9f64.ln(), len)?, full(0., len)?, Tensor::cat(&[&one, &zeros], 1)?);
        let p = Tensor::cat(&[&a, &d, &u, &ones, &ones], 2)?;
        let bias = Tensor::zeros(channels, dtype, device)?;
        Self::new(&p, &bias, Tensor::cat(&[&zeros, &one], 1)?)
    }

    /// 5 in and 1 out, or 6 in and 5 out.
    fn tensors(pass: Pass) -> usize {
        match pass {
            Pass::Forward => 6,
            Pass::Gradients | Pass::Backward => 11,
        }
    }

    fn yardstick<T: Element>(
        device: &Device,
        pass: Pass,
        shape: [usize; 3],
        num_sets: usize,
        pages: Pages,
    ) -> Result<Measure<Self>> {
        let [_, _, part] = shape;
        let kernel: (_, Yardstick<Self>) = match pass {
            Pass::Forward => {
                ("stream6", Box::new(move |data, _| with_slices([&data.p], |[p]| drop(stream6::<T>(p, part, pages)))))
            }
            Pass::Gradients | Pass::Backward => (
                "stream11",
                Box::new(move |data, _| {
                    with_slices([&data.grad_y, &data.p], |tensors| drop(stream11::<T>(tensors, part, pages)))
                }),
            ),
        };
        on(device, Self::tensors(pass), shape, T::DTYPE, num_sets, kernel)
    }

    fn forward(&self) -> Result<()> {
        Scan::new().apply_gated(&self.p, Some(&self.bias))?;
        Ok(())
    }

    fn gradients(&self) -> Result<()> {
        bail!("a gated scan has no gradients without a graph")
    }

    fn backward_pass(&self) -> Result<BackwardPass> {
        Ok(bench::gated(&self.var, &self.bias_var)?)
    }

    fn grad_y(&self) -> &Tensor {
        &self.grad_y
    }

    fn product(&self) -> Result<()> {
        (&self.factors[0] * &self.factors[1])?;
        Ok(())
    }
}
