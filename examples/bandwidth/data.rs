//! The arguments of a scan, and its passes.

use std::ops::Range;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use clap::ValueEnum;
use quick_ssm::bench::{self, BackwardPass};
use quick_ssm::Scan;
use rand::{rngs::StdRng, Rng, SeedableRng};
use rayon::prelude::*;

use crate::passes::Operation;
use crate::stream::{stream5, stream9, Element, Pages};
use crate::yardstick::{on, with_slices, Measure, Yardstick};

/// Sets of arguments are rotated through until they exceed this, so that no cache holds them from call to call.
const COLD_BYTES: usize = 256 << 20;

/// How many sets of five tensors are that large.
pub fn num_sets(shape: [usize; 3], dtype: DType) -> usize {
    COLD_BYTES.div_ceil(5 * shape.iter().product::<usize>() * dtype.size_in_bytes()).min(16)
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Pass {
    /// `scan`.
    Forward,
    /// `Scan::gradients`: the backward pass when no forward pass has kept a state for it.
    Gradients,
    /// The backward pass that candle's autograd calls, which has the states that a forward pass has kept.
    Backward,
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Gradients => "gradients",
            Self::Backward => "backward",
        }
    }
}

/// The arguments of a scan and the gradient of its result, all contiguous.
pub struct Data {
    /// `x`, `a`, `b` and `c`.
    pub args: [Tensor; 4],
    /// The same memory, tracked.
    pub vars: [Var; 4],
    pub grad_y: Tensor,
}

impl Data {
    fn new(args: [Tensor; 4], grad_y: Tensor) -> Result<Self> {
        let [x, a, b, c] = args.map(|t| Var::from_tensor(&t));
        let vars = [x?, a?, b?, c?];
        Ok(Self { args: vars.each_ref().map(Var::as_detached_tensor), vars, grad_y })
    }

    pub fn scan(&self) -> candle_core::Result<Tensor> {
        let [x, a, b, c] = &self.args;
        quick_ssm::scan(x, a, b, c)
    }

    /// The same recurrence in candle's own operations.
    pub fn step_by_step(&self) -> candle_core::Result<Tensor> {
        let [x, a, b, c] = &self.args;
        quick_ssm::reference::scan(x, a, b, c)
    }
}

impl Operation for Data {
    const PASSES: &[Pass] = &[Pass::Forward, Pass::Gradients, Pass::Backward];

    /// `a` in [0, 1), all others in [-1, 1).
    fn random(shape: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Self> {
        let draw = |low, stream| uniform(&shape, low..1., seed, stream, dtype, device);
        Self::new([draw(-1., 1)?, draw(0., 2)?, draw(-1., 3)?, draw(-1., 4)?], draw(-1., 5)?)
    }

    /// An impulse under a = 0.9, at the start for the forward and at the end for the backward pass.
    fn decaying([batch, len, channels]: [usize; 3], dtype: DType, device: &Device) -> Result<Self> {
        let full = |v: f64, len| full(v, (batch, len, channels), dtype, device);
        let (one, zeros, ones) = (full(1., 1)?, full(0., len - 1)?, full(1., len)?);
        let x = Tensor::cat(&[&one, &zeros], 1)?;
        let grad_y = Tensor::cat(&[&zeros, &one], 1)?;
        Self::new([x, full(0.9, len)?, ones.clone(), ones], grad_y)
    }

    /// 4 in and 1 out, or 5 in and 4 out.
    fn tensors(pass: Pass) -> usize {
        match pass {
            Pass::Forward => 5,
            Pass::Gradients | Pass::Backward => 9,
        }
    }

    fn yardstick<T: Element>(
        device: &Device,
        pass: Pass,
        shape: [usize; 3],
        num_sets: usize,
        pages: Pages,
    ) -> Result<Measure<Self>> {
        let kernel: (_, Yardstick<Self>) = match pass {
            Pass::Forward => (
                "stream5",
                Box::new(move |data, _| {
                    let [x, a, b, c] = &data.args;
                    with_slices([x, a, b, c], |s| drop(stream5::<T>(s, pages)))
                }),
            ),
            Pass::Gradients | Pass::Backward => (
                "stream9",
                Box::new(move |data, _| {
                    let [x, a, b, c] = &data.args;
                    with_slices([&data.grad_y, x, a, b, c], |s| drop(stream9::<T>(s, pages)))
                }),
            ),
        };
        on(device, Self::tensors(pass), shape, T::DTYPE, num_sets, kernel)
    }

    fn forward(&self) -> Result<()> {
        self.scan()?;
        Ok(())
    }

    fn gradients(&self) -> Result<()> {
        let [x, a, b, c] = &self.args;
        Scan::new().gradients(x, a, b, c, &self.grad_y)?;
        Ok(())
    }

    fn backward_pass(&self) -> Result<BackwardPass> {
        let [x, a, b, c] = self.vars.each_ref().map(Var::as_tensor);
        Ok(bench::scan(x, a, b, c)?)
    }

    fn grad_y(&self) -> &Tensor {
        &self.grad_y
    }

    fn product(&self) -> Result<()> {
        (&self.args[0] * &self.args[1])?;
        Ok(())
    }
}

/// Numbers in a range; the same ones whatever the number of threads.
pub fn uniform(
    dims: &[usize],
    range: Range<f32>,
    seed: u64,
    stream: u64,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let mut values = vec![0f32; dims.iter().product()];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
        let mut rng = StdRng::seed_from_u64(seed ^ (stream << 32) ^ ((i as u64) << 40));
        chunk.fill_with(|| rng.random_range(range.clone()));
    });
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?)
}

/// One number everywhere.
pub fn full(value: f64, dims: (usize, usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(Tensor::full(value, dims, device)?.to_dtype(dtype)?.contiguous()?)
}
