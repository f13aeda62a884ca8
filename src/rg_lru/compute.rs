//! The formulae of the RG-LRU, from candle's operations, up to the arguments of the scan.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::sigmoid;

use super::params::{Gate, Params};
use crate::problem::accumulation_dtype;

/// The `c` of the paper, which RecurrentGemma has too.
const C: f64 = 8.;

/// The arguments of the scan, each `[B, L, W]` in the accumulation dtype.
pub(super) struct Arguments {
    /// The input behind its gate.
    pub x: Tensor,
    /// The decay, 0 at a reset.
    pub a: Tensor,
    /// The scaling of the input, 1 at a reset.
    pub b: Tensor,
}

impl Params {
    /// The arguments for `xs`, `[B, L, W]`, of which nothing is zero.
    ///
    /// `resets`, `[B, K, 1]`, is not 0 where one of the first `K` steps starts a sequence. Where `drop_state` is not
    /// set, the state there is zero already.
    pub fn arguments(&self, xs: &Tensor, resets: &Tensor, drop_state: bool) -> Result<Arguments> {
        let acc = accumulation_dtype(xs.dtype());
        let blocks = self.input_gate.blocks(xs)?;
        let i = self.input_gate.open(&blocks, xs)?;
        let r = self.recurrent_gate.open(&blocks, xs)?;
        let decay = (softplus(&self.recurrent_param.to_dtype(acc)?)? * -C)?;
        let log_a = r.broadcast_mul(&decay)?;
        let a = log_a.exp()?;
        let b = at_resets(&input_scaling(&log_a, &a)?, resets, 1.)?;
        let a = if drop_state { at_resets(&a, resets, 0.)? } else { a };
        Ok(Arguments { x: (xs.to_dtype(acc)? * i)?, a, b })
    }
}

impl Gate {
    /// The input as the products take it, `[N, B L, W / N]`.
    fn blocks(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = xs.dims3()?;
        let (heads, block, _) = self.weight.dims3()?;
        xs.reshape((batch * len, heads, block))?.transpose(0, 1)?.contiguous()
    }

    /// The gate, `[B, L, W]` in the accumulation dtype: the product takes the dtype of the input, all else this one.
    fn open(&self, blocks: &Tensor, xs: &Tensor) -> Result<Tensor> {
        let acc = accumulation_dtype(xs.dtype());
        let product = blocks.matmul(&self.weight.to_dtype(xs.dtype())?.contiguous()?)?;
        let product = product.transpose(0, 1)?.reshape(xs.shape())?.to_dtype(acc)?;
        sigmoid(&product.broadcast_add(&self.bias.flatten_all()?.to_dtype(acc)?)?)
    }
}

/// `log(1 + exp(t))`, accurate where it is small too: there it is what a state forgets in a step.
fn softplus(t: &Tensor) -> Result<Tensor> {
    let x = t.detach();
    // log(1 + u) is u log(w) / (w - 1) with the rounded w = 1 + u, and u where that is 1
    let u = x.abs()?.neg()?.exp()?;
    let w = (&u + 1.)?;
    let log1p = w.eq(1f32)?.where_cond(&u, &((&u * w.log()?)? / (&w - 1.)?)?)?;
    with_derivative((x.relu()? + log1p)?, t, || sigmoid(&x))
}

/// `sqrt(1 - a^2)`, as `sqrt(-expm1(2 log a))`, for `log a` that is not positive.
///
/// Its derivative by `a` is infinite at 1. What follows it there, the derivative of `a` by the parameters, is zero, and
/// so is the limit of their product: at 1 it is taken as zero.
fn input_scaling(log_a: &Tensor, a: &Tensor) -> Result<Tensor> {
    // 1 - exp(2 v) = -2 t / (1 - t) with t = tanh(v), where nothing cancels for v <= 0
    let t = log_a.detach().tanh()?;
    let b = ((&t * -2.)? / (1. - &t)?)?.sqrt()?;
    with_derivative(b.clone(), a, || {
        let derivative = (a.detach() / &b)?.neg()?;
        b.gt(0f32)?.where_cond(&derivative, &derivative.zeros_like()?)
    })
}

/// `value` as a function of `t` whose derivative is the given one, for derivatives that candle's operations would round away
/// or divide by zero; `t` has to be finite.
fn with_derivative(value: Tensor, t: &Tensor, derivative: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if !t.track_op() {
        return Ok(value);
    }
    value + ((t - t.detach())? * derivative()?)?
}

/// `t`, `[B, L, W]`, with `value` where `resets`, `[B, K, 1]`, is not 0 among the first `K` steps.
fn at_resets(t: &Tensor, resets: &Tensor, value: f64) -> Result<Tensor> {
    let (len, steps) = (t.dim(1)?, resets.dim(1)?);
    let head = t.narrow(1, 0, steps)?;
    let constant = Tensor::full(value, (1, 1, 1), t.device())?.to_dtype(t.dtype())?;
    let shape = head.shape();
    let head = resets.broadcast_as(shape)?.where_cond(&constant.broadcast_as(shape)?, &head)?;
    match len - steps {
        0 => Ok(head),
        rest => Tensor::cat(&[head, t.narrow(1, steps, rest)?], 1),
    }
}

/// Where the sequences `cu_seqlens` start that `start`, `[N]`, says to be at their beginning: `[1, T, 1]`.
pub(super) fn packed_resets(start: &Tensor, cu_seqlens: &[usize], len: usize) -> Result<Tensor> {
    let not_empty = cu_seqlens.windows(2).enumerate().filter(|(_, pair)| pair[0] < pair[1]);
    let (sequences, steps): (Vec<_>, Vec<_>) = not_empty.map(|(n, pair)| (n as i64, pair[0] as i64)).unzip();
    let device = start.device();
    let index = |values: Vec<i64>| Tensor::new(values, device);
    let start = start.to_dtype(DType::F32)?.index_select(&index(sequences)?, 0)?;
    let resets = Tensor::zeros(len, DType::F32, device)?.index_add(&index(steps)?, &start, 0)?;
    resets.to_dtype(DType::U8)?.reshape((1, len, 1))
}
