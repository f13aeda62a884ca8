//! The layer from candle's operations around the scan: five products, candle's gates, and nothing computed twice.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var, D};
use candle_nn::ops::{sigmoid, silu};
use quick_ssm::{QuickSsmConfig, Scan};

/// The output for `xs`, `[B, L, H]`, from the state `h0`, `[B, S]`, or zeros; and the last state.
pub fn forward(
    cfg: &QuickSsmConfig,
    variables: &BTreeMap<String, Var>,
    xs: &Tensor,
    h0: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (batch, len, hidden) = xs.dims3()?;
    let dtype = cfg.compute_dtype.unwrap_or(xs.dtype());
    let acc = |dtype| if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let weight = |name: &str| variables[name].to_dtype(dtype);

    let wide = if dtype == DType::F64 { DType::F64 } else { acc(xs.dtype()) };
    let n = match cfg.use_norm {
        false => xs.clone(),
        true => {
            let xs = xs.to_dtype(wide)?;
            let rms = (xs.sqr()?.mean_keepdim(D::Minus1)? + cfg.eps)?.sqrt()?;
            xs.broadcast_div(&rms)?.broadcast_mul(&variables["pre_norm.weight"].to_dtype(wide)?)?
        }
    };
    let n = n.reshape((batch * len, hidden))?.to_dtype(dtype)?;
    // the functions of numbers in half precision are taken in f32
    let project = |name: &str| n.matmul(&weight(name)?.t()?)?.to_dtype(acc(dtype));
    let gate = |t: Tensor| t.to_dtype(dtype)?.reshape((batch, len, cfg.state_size()));
    let bias = variables["A_proj.bias"].to_dtype(acc(dtype))?;
    let a = gate(sigmoid(&project("A_proj.weight")?.broadcast_add(&bias)?)?)?;
    let d = gate(sigmoid(&project("D_proj.weight")?)?)?;
    let u = gate(project("B_proj.weight")?)?;
    let c = gate((silu(&project("C_proj_a.weight")?)? * project("C_proj_b.weight")?)?)?;

    let scan = h0.map_or_else(Scan::new, |h0| Scan::new().initial_state(h0));
    let (ch, last) = match h0 {
        None => (scan.apply(&u, &a, &d, &c)?, Tensor::zeros((batch, cfg.state_size()), acc(dtype), xs.device())?),
        Some(_) => scan.apply_with_state(&u, &a, &d, &c)?,
    };
    let y = ch.reshape((batch * len, cfg.state_size()))?.matmul(&weight("out_proj.weight")?.t()?)?;
    let y = y.broadcast_add(&weight("out_proj.bias")?)?.reshape((batch, len, hidden))?.to_dtype(xs.dtype())?;
    match cfg.use_residual {
        true => Ok(((y + xs)?, last)),
        false => Ok((y, last)),
    }
}
