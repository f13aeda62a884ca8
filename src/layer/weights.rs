//! A layer's parameters in the form in which a pass uses them.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Result, Tensor};

use super::params::Params;
use crate::gated::PARTS;
use crate::problem::accumulation_dtype;

/// The dtypes that a pass uses weights in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dtypes {
    /// Of the products.
    pub compute: DType,
    /// Of the norm and the residual: f64 where the products or the input are in f64, or else f32.
    pub wide: DType,
}

impl Dtypes {
    pub fn new(compute: DType, input: DType) -> Self {
        let wide = match compute {
            DType::F64 => DType::F64,
            _ => accumulation_dtype(input),
        };
        Self { compute, wide }
    }
}

/// Untracked weights.
#[derive(Debug)]
pub(super) struct Weights {
    pub dtypes: Dtypes,
    /// `[H]`, wide.
    pub norm: Option<Tensor>,
    /// `[5S, H]`, the parts of the projection one after another; columns or rows adjacent.
    pub projection: Tensor,
    /// `[H, 5S]`, its transpose.
    pub projection_t: Tensor,
    /// `[S]` in the accumulation dtype.
    pub a_bias: Tensor,
    /// `[H, S]`
    pub out: Tensor,
    /// `[S, H]`, its transpose.
    pub out_t: Tensor,
    /// The same, contiguous, where the weights are frozen.
    pub out_t_contiguous: Option<Tensor>,
    /// `[H]`, wide.
    pub out_bias: Tensor,
}

impl Weights {
    /// Copies of the current values of `params`, or themselves where they are in that form already.
    pub fn new(params: &Params, dtypes: Dtypes) -> Result<Self> {
        let Dtypes { compute, wide } = dtypes;
        let (projection, out) = (projection(params, compute)?, plain(&params.out, compute)?);
        Ok(Self {
            dtypes,
            norm: params.pre_norm.as_ref().map(|w| plain(w, wide)).transpose()?,
            projection_t: projection.t()?,
            projection,
            a_bias: plain(&params.a_bias, accumulation_dtype(compute))?,
            out_t: out.t()?,
            out,
            out_t_contiguous: None,
            out_bias: plain(&params.out_bias, wide)?,
        })
    }
}

fn plain(t: &Tensor, dtype: DType) -> Result<Tensor> {
    t.detach().to_dtype(dtype)?.contiguous()
}

fn projection(params: &Params, dtype: DType) -> Result<Tensor> {
    let parts = params.projections().map(|w| w.detach().to_dtype(dtype));
    Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 0)
}

/// The weights of parameters that do not change, made once for each of the dtypes they are used in.
#[derive(Debug, Clone, Default)]
pub(super) struct Frozen(Arc<Mutex<Vec<Arc<Weights>>>>);

impl Frozen {
    /// The weights, and parameters that share their memory where the dtype is the same.
    pub fn new(params: Params) -> Result<(Self, Params)> {
        let dtype = params.a.dtype();
        if params.projections().iter().any(|w| w.dtype() != dtype) {
            return Ok((Self::default(), params));
        }
        let dtypes = Dtypes::new(dtype, dtype);
        let weights = frozen(&params, dtypes)?;
        let rows = params.a.dim(0)?;
        let [a, d, b, c_a, c_b] = std::array::from_fn(|n| weights.projection.narrow(0, n * rows, rows));
        const { assert!(PARTS == 5) };
        let params = Params { a: a?, d: d?, b: b?, c_a: c_a?, c_b: c_b?, ..params };
        Ok((Self(Arc::new(Mutex::new(vec![Arc::new(weights)]))), params))
    }

    pub fn get(&self, params: &Params, dtypes: Dtypes) -> Result<Arc<Weights>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(weights) = made.iter().find(|weights| weights.dtypes == dtypes) {
            return Ok(weights.clone());
        }
        let weights = Arc::new(frozen(params, dtypes)?);
        made.push(weights.clone());
        Ok(weights)
    }
}

/// Laid out for the products of few rows, as in the steps of a generation: those with a transposed matrix spend most of
/// their time on its layout.
fn frozen(params: &Params, dtypes: Dtypes) -> Result<Weights> {
    let weights = Weights::new(params, dtypes)?;
    let projection_t = weights.projection_t.contiguous()?;
    let out_t_contiguous = Some(weights.out_t.contiguous()?);
    Ok(Weights { projection: projection_t.t()?, projection_t, out_t_contiguous, ..weights })
}
