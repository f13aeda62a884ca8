//! The layer beside the same one of candle's operations, and beside its matrix products alone.

#[path = "../../tests/layer_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Module, RNN};
use quick_ssm::{QuickSsm, QuickSsmConfig};

use crate::measure::{interleaved, Contender};
use crate::table::Table;
use crate::yardstick::clock;
use crate::Args;

/// `B,L,H`; those of one step are of generation.
pub const SHAPES: [[usize; 3]; 6] =
    [[4, 1024, 512], [1, 4096, 256], [32, 128, 256], [1, 1, 128], [1, 1, 512], [16, 1, 512]];
pub const CONTENDERS: [&str; 4] = ["checkpoint: false", "checkpoint: true", "composed of operations", "products alone"];

/// Steps of generation that are timed in one go: a single one is shorter than what surrounds it.
const STEPS: usize = 64;

/// Adds the row of one shape to the table.
pub fn measure(
    [batch, len, hidden]: [usize; 3],
    dtype: DType,
    device: &Device,
    args: &Args,
    table: &mut Table,
) -> Result<()> {
    let cfg = QuickSsmConfig { state_size_mult: args.state_size_mult, ..QuickSsmConfig::new(hidden) };
    let layer = Layer::new(cfg, dtype, device, args.seed)?;
    let (work, contenders, calls) = match len {
        1 => ("generation", generation(&layer, batch)?, STEPS),
        _ => ("training", training(&layer, batch, len)?, 1),
    };
    let (there, contenders): (Vec<_>, Vec<_>) =
        contenders.into_iter().enumerate().filter_map(|(n, contender)| Some((n, contender?))).unzip();
    let mut ms = vec![None; CONTENDERS.len()];
    for (n, times) in there.into_iter().zip(interleaved(&*clock(device)?, args.rounds as usize, contenders)?) {
        ms[n] = Some(times.median() * 1e3 / calls as f64);
    }
    table.push(format!("{work} {} [{batch},{len},{hidden}]", dtype.as_str()), ms);
    Ok(())
}

/// A configuration with its variables in f32, for inputs of `dtype`.
struct Layer {
    cfg: QuickSsmConfig,
    variables: BTreeMap<String, Var>,
    dtype: DType,
    device: Device,
}

/// One for each of [`CONTENDERS`], if it is one.
type Contenders<'a> = [Option<Contender<'a>>; CONTENDERS.len()];

impl Layer {
    fn new(cfg: QuickSsmConfig, dtype: DType, device: &Device, seed: u64) -> Result<Self> {
        let (_, variables) = support::layer_on(device, &cfg, DType::F32, seed)?;
        Ok(Self { cfg, variables, dtype, device: device.clone() })
    }

    fn random(&self, shape: &[usize]) -> candle_core::Result<Tensor> {
        Tensor::randn(0f32, 1., shape, &self.device)?.to_dtype(self.dtype)
    }
}

/// Forward and backward, with the gradients of the input and of every variable.
fn training(layer: &Layer, batch: usize, len: usize) -> Result<Contenders<'_>> {
    let Layer { cfg, variables, .. } = layer;
    let xs = Var::from_tensor(&layer.random(&[batch, len, cfg.hidden_size])?)?;
    let checkpointed = |checkpoint| {
        let cfg = QuickSsmConfig { checkpoint, ..cfg.clone() };
        let layer = support::layer_of(&cfg, variables)?;
        let xs = xs.clone();
        let run = move |_| {
            layer.forward(&xs)?.sum_all()?.backward()?;
            Ok(())
        };
        candle_core::Result::Ok(Some(Box::new(run) as Contender))
    };
    let products = Products::new(layer, batch * len)?;
    Ok([
        checkpointed(false)?,
        checkpointed(true)?,
        Some(Box::new(move |_| {
            let (ys, _) = support::composed::forward(cfg, variables, &xs, None)?;
            ys.sum_all()?.backward()?;
            Ok(())
        })),
        Some(Box::new(move |_| Ok(products.forward().and_then(|()| products.backward())?))),
    ])
}

/// Steps of frozen weights, each from the state that the one before has left.
fn generation(layer: &Layer, batch: usize) -> Result<Contenders<'_>> {
    let Layer { cfg, variables, .. } = layer;
    let x = layer.random(&[batch, cfg.hidden_size])?;
    let frozen: QuickSsm = support::frozen(cfg, variables)?;
    let mut state = frozen.zero_state(batch)?;
    let mut h = Tensor::zeros((batch, cfg.state_size()), DType::F32, &layer.device)?;
    let (xs, products) = (x.unsqueeze(1)?, Products::new(layer, batch)?);
    let detached = variables.iter().map(|(name, var)| Ok((name.clone(), Var::from_tensor(var)?)));
    let detached = detached.collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    Ok([
        Some(Box::new(move |_| {
            (0..STEPS).try_for_each(|_| frozen.step(&x, &state).map(|next| state = next))?;
            Ok(())
        })),
        None,
        Some(Box::new(move |_| {
            for _ in 0..STEPS {
                // a graph of all steps so far would grow
                h = support::composed::forward(cfg, &detached, &xs, Some(&h))?.1.detach();
            }
            Ok(())
        })),
        Some(Box::new(move |_| Ok((0..STEPS).try_for_each(|_| products.forward())?))),
    ])
}

/// The matrix products of a layer, each in a layout in which it is fast.
struct Products {
    /// The input, `[M, H]`, as large as the gradient of the output.
    n: Tensor,
    /// `[H, 5S]`
    projection: Tensor,
    /// The pre-activations, `[M, 5S]`.
    p: Tensor,
    /// What the scan returns, `[M, S]`.
    ch: Tensor,
    /// `[S, H]`, a transpose.
    out: Tensor,
}

impl Products {
    fn new(layer: &Layer, rows: usize) -> candle_core::Result<Self> {
        let (hidden, state) = (layer.cfg.hidden_size, layer.cfg.state_size());
        Ok(Self {
            n: layer.random(&[rows, hidden])?,
            projection: layer.random(&[hidden, 5 * state])?,
            p: layer.random(&[rows, 5 * state])?,
            ch: layer.random(&[rows, state])?,
            out: layer.random(&[hidden, state])?.t()?,
        })
    }

    fn forward(&self) -> candle_core::Result<()> {
        self.n.matmul(&self.projection)?;
        self.ch.matmul(&self.out)?;
        Ok(())
    }

    fn backward(&self) -> candle_core::Result<()> {
        let dy = &self.n;
        dy.matmul(&self.out.t()?)?;
        dy.t()?.matmul(&self.ch)?;
        self.p.matmul(&self.projection.t()?)?;
        self.n.t()?.matmul(&self.p)?;
        Ok(())
    }
}
