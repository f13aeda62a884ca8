//! Training that gives the same result for the same seed.

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::PI;

use candle_core::backprop::GradStore;
use candle_core::{bail, DType, Device, Result, Tensor, Var};
use candle_nn::{ParamsAdamW, VarBuilder, VarMap};
use rand::{rngs::StdRng, Rng};

use super::adamw::{named, AdamW};
use super::model::{Mixer, ModelConfig, SequenceModel};

/// The variables by name: the map itself has no order that lasts.
pub fn variables(varmap: &VarMap) -> BTreeMap<String, Var> {
    let variables = varmap.data().lock().expect("no thread has failed with the map");
    variables.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
}

/// Overwrites the initial values, as candle's generator on the CPU takes no seed.
///
/// Embeddings have a variance of 1, matrices and biases the bounds of Torch's `nn.Linear`, norms keep their ones. The biases
/// of the decay are uniform between 0 and `slowest`. The RG-LRU starts as in its paper: decays uniform in [0.9, 0.999] under
/// an open gate, gates of LeCun's variance.
pub fn initialise(varmap: &VarMap, slowest: f32, rng: &mut StdRng) -> Result<()> {
    let variables = variables(varmap);
    for (name, var) in &variables {
        let matrix = variables.get(&name.replace(".bias", ".weight")).unwrap_or(var);
        let within = |bound: f32| -bound..bound;
        let range = match *matrix.dims() {
            _ if name.contains("embed") => within(3f32.sqrt()),
            _ if name.ends_with("A_proj.bias") => 0.0..slowest,
            _ if name.ends_with("recurrent_param") => 0.9..0.999,
            _ if name.ends_with("gate_bias") => continue,
            [_, inputs] => within(1. / (inputs as f32).sqrt()),
            [_, inputs, _] => within((3. / inputs as f32).sqrt()),
            _ => continue,
        };
        let mut values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(range.clone())).collect();
        if name.ends_with("recurrent_param") {
            // where exp(-8 softplus(Lambda)) is the decay
            values.iter_mut().for_each(|value| *value = (-value.ln() / 8.).exp_m1().ln());
        }
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// How a model is trained.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The highest learning rate.
    pub rate: f64,
    pub weight_decay: f64,
    pub steps: usize,
    /// The highest initial bias of the decay.
    pub slowest: f32,
}

/// A bias of the decay, which then is 0.998: some states last from the beginning, which they would take long to learn.
pub const LASTING: f32 = 6.;

/// AdamW with a warm-up, then a rate that falls along a cosine, and a bound on the norm of the gradient.
pub struct Trainer {
    adamw: AdamW,
    options: Options,
}

/// A model whose initial values are drawn from `rng`, and its trainer.
pub fn start<M: Mixer>(
    cfg: &ModelConfig,
    options: Options,
    rng: &mut StdRng,
    device: &Device,
) -> Result<(SequenceModel<M>, Trainer)> {
    let varmap = VarMap::new();
    let model = SequenceModel::new(cfg, VarBuilder::from_varmap(&varmap, DType::F32, device))?;
    initialise(&varmap, options.slowest, rng)?;
    Ok((model, Trainer::new(&varmap, options)?))
}

const WARM_UP: usize = 50;
const LARGEST_NORM: f64 = 1.;

impl Trainer {
    fn new(varmap: &VarMap, options: Options) -> Result<Self> {
        let weight_decay = options.weight_decay;
        let adamw = ParamsAdamW { beta2: 0.98, weight_decay, ..Default::default() };
        Ok(Self { adamw: AdamW::new(variables(varmap), adamw)?, options })
    }

    /// The steps that have been made.
    pub fn steps(&self) -> usize {
        self.adamw.steps()
    }

    pub fn step(&mut self, loss: &Tensor) -> Result<()> {
        let mut grads = loss.backward()?;
        self.clip(&mut grads)?;
        let Options { rate, steps, .. } = self.options;
        let warm_up = (self.steps() + 1) as f64 / WARM_UP as f64;
        let cosine = 0.5 * (1. + (PI * self.steps() as f64 / steps as f64).cos());
        self.adamw.step(&grads, rate * warm_up.min(1.) * cosine)
    }

    fn clip(&self, grads: &mut GradStore) -> Result<()> {
        let mut sum = 0f64;
        for grad in self.adamw.variables().filter_map(|(_, var)| grads.get(var)) {
            sum += scalar(&grad.sqr()?.sum_all()?)?;
        }
        let norm = sum.sqrt();
        if !norm.is_finite() {
            bail!("step {}: the gradient is not finite; a lower learning rate may help", self.steps() + 1)
        }
        if norm > LARGEST_NORM {
            for (_, var) in self.adamw.variables() {
                if let Some(grad) = grads.remove(var) {
                    grads.insert(var, (grad * (LARGEST_NORM / norm))?);
                }
            }
        }
        Ok(())
    }

    /// The current values of the variables, by name.
    pub fn values(&self) -> Result<HashMap<String, Tensor>> {
        self.adamw.variables().map(|(name, var)| Ok((name.clone(), var.copy()?.detach()))).collect()
    }

    /// Everything that [`restore`](Self::restore) needs, besides the number of steps.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        Ok(self.values()?.into_iter().chain(self.adamw.moments()).collect())
    }

    /// Goes on where another trainer of the same variables was after `steps` steps.
    pub fn restore(&mut self, steps: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.adamw.variables() {
            var.set(&named(tensors, name, var)?.to_dtype(var.dtype())?)?;
        }
        self.adamw.restore(steps, tensors)
    }
}

/// The value of a tensor of one element, in f32.
pub fn scalar(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}
