//! The arguments of a scan, and the calls that are measured on them.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use clap::ValueEnum;
use quick_ssm::Scan;
use rand::{rngs::StdRng, Rng, SeedableRng};
use rayon::prelude::*;

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
    /// The backward pass through candle's autograd.
    Backward,
}

impl Pass {
    pub const ALL: [Self; 3] = [Self::Forward, Self::Gradients, Self::Backward];

    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Gradients => "gradients",
            Self::Backward => "backward",
        }
    }

    /// Tensors of the shape that have to cross memory: 4 in and 1 out, or 5 in and 4 out.
    pub fn tensors(self) -> usize {
        match self {
            Self::Forward => 5,
            Self::Gradients | Self::Backward => 9,
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

    /// `a` in [0, 1), all others in [-1, 1); the same numbers whatever the number of threads.
    pub fn random(shape: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Self> {
        let uniform = |low: f32, stream: u64| -> Result<Tensor> {
            let mut values = vec![0f32; shape.iter().product()];
            values.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
                let mut rng = StdRng::seed_from_u64(seed ^ (stream << 32) ^ ((i as u64) << 40));
                chunk.fill_with(|| rng.random_range(low..1.));
            });
            Ok(Tensor::from_vec(values, &shape[..], &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?)
        };
        Self::new([uniform(-1., 1)?, uniform(0., 2)?, uniform(-1., 3)?, uniform(-1., 4)?], uniform(-1., 5)?)
    }

    /// An impulse under a = 0.9, at the start for the forward and at the end for the backward pass: the state fades away.
    pub fn decaying([batch, len, channels]: [usize; 3], dtype: DType, device: &Device) -> Result<Self> {
        let full = |v: f64, len| -> Result<Tensor> {
            Ok(Tensor::full(v, (batch, len, channels), device)?.to_dtype(dtype)?.contiguous()?)
        };
        let (one, zeros, ones) = (full(1., 1)?, full(0., len - 1)?, full(1., len)?);
        let x = Tensor::cat(&[&one, &zeros], 1)?;
        let grad_y = Tensor::cat(&[&zeros, &one], 1)?;
        Self::new([x, full(0.9, len)?, ones.clone(), ones], grad_y)
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

    pub fn gradients(&self) -> Result<()> {
        let [x, a, b, c] = &self.args;
        Scan::new().gradients(x, a, b, c, &self.grad_y)?;
        Ok(())
    }

    /// candle's own element-wise operation.
    pub fn product(&self) -> Result<()> {
        (&self.args[0] * &self.args[1])?;
        Ok(())
    }
}
