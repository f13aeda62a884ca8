//! The layer's formulae from candle's operations, where every state is asked for.

use candle_core::{DType, Result, Tensor, D};
use candle_nn::ops::{sigmoid, silu};

use super::params::Params;
use super::QuickSsmConfig;
use crate::problem::accumulation_dtype;
use crate::Scan;

/// A layer's configuration and parameters, as one forward pass sees them.
#[derive(Clone, Copy)]
pub(super) struct Compute<'a> {
    pub cfg: &'a QuickSsmConfig,
    pub params: &'a Params,
}

/// The arguments of the scan, each `[B, L, S]` in the compute dtype.
struct Gates {
    /// The decay.
    a: Tensor,
    /// The gate of the input.
    d: Tensor,
    /// The input.
    u: Tensor,
    /// The readout.
    c: Tensor,
}

impl Compute<'_> {
    /// The dtype of the projections for an input of `dtype`.
    pub fn dtype(&self, input: DType) -> DType {
        self.cfg.compute_dtype.unwrap_or(input)
    }

    /// The dtype of the state for an input of `dtype`.
    pub fn state_dtype(&self, input: DType) -> DType {
        accumulation_dtype(self.dtype(input))
    }

    /// The output and the state after every step, `[B, L, S]` in the accumulation dtype.
    pub fn forward_with_states(&self, xs: &Tensor, h0: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let Gates { a, d, u, c } = self.gates(xs)?;
        let h = self.scan(h0, xs.dtype())?.states(&u, &a, &d)?;
        let ch = (c.to_dtype(h.dtype())? * &h)?.to_dtype(c.dtype())?;
        Ok((self.readout(xs, &ch)?, h))
    }

    fn scan(&self, h0: Option<&Tensor>, input: DType) -> Result<Scan> {
        Ok(match h0 {
            None => Scan::new(),
            Some(h0) => Scan::new().initial_state(&h0.to_dtype(self.state_dtype(input))?),
        })
    }

    fn gates(&self, xs: &Tensor) -> Result<Gates> {
        let (batch, len, hidden) = xs.dims3()?;
        let dtype = self.dtype(xs.dtype());
        // functions of half-precision numbers are taken in f32 and rounded once
        let acc = accumulation_dtype(dtype);
        let Params { a, a_bias, b, c_a, c_b, d, .. } = self.params;
        // in two dimensions, as each change of shape costs the backward pass two more passes over memory
        let n = self.norm(xs)?.reshape((batch * len, hidden))?.to_dtype(dtype)?;
        let project = |w: &Tensor| n.matmul(&w.to_dtype(dtype)?.t()?)?.to_dtype(acc);
        let gate = |t: Tensor| t.to_dtype(dtype)?.reshape((batch, len, self.cfg.state_size()));
        Ok(Gates {
            a: gate(sigmoid(&project(a)?.broadcast_add(&a_bias.to_dtype(acc)?)?)?)?,
            d: gate(sigmoid(&project(d)?)?)?,
            u: gate(project(b)?)?,
            c: gate((silu(&project(c_a)?)? * project(c_b)?)?)?,
        })
    }

    fn norm(&self, xs: &Tensor) -> Result<Tensor> {
        let Some(weight) = &self.params.pre_norm else { return Ok(xs.clone()) };
        let wide = match self.dtype(xs.dtype()) {
            DType::F64 => DType::F64,
            _ => accumulation_dtype(xs.dtype()),
        };
        let xs = xs.to_dtype(wide)?;
        // candle's own RmsNorm is a fused operation without a gradient
        let rms = (xs.sqr()?.mean_keepdim(D::Minus1)? + self.cfg.eps)?.sqrt()?;
        xs.broadcast_div(&rms)?.broadcast_mul(&weight.to_dtype(wide)?)
    }

    /// `out_proj(ch)`, with the residual.
    fn readout(&self, xs: &Tensor, ch: &Tensor) -> Result<Tensor> {
        let (batch, len, state) = ch.dims3()?;
        let dtype = ch.dtype();
        let Params { out, out_bias, .. } = self.params;
        let y = ch.reshape((batch * len, state))?.matmul(&out.to_dtype(dtype)?.t()?)?;
        let y = y.broadcast_add(&out_bias.to_dtype(dtype)?)?;
        let y = y.reshape((batch, len, self.cfg.hidden_size))?.to_dtype(xs.dtype())?;
        match self.cfg.use_residual {
            true => y + xs,
            false => Ok(y),
        }
    }
}
