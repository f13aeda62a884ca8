//! Training that gives the same result for the same seed.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};
use rand::{rngs::StdRng, Rng};

/// The variables by name: the map itself has no order that lasts.
pub fn variables(varmap: &VarMap) -> BTreeMap<String, Var> {
    let variables = varmap.data().lock().expect("no thread has failed with the map");
    variables.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
}

/// Overwrites the initial values, as candle's generator on the CPU takes no seed.
///
/// Embeddings have a variance of 1, matrices and biases the bounds of Torch's `nn.Linear`, norms keep their ones; the
/// biases of the decay are such that some of the states last from the beginning, which they would take long to learn.
pub fn initialise(varmap: &VarMap, rng: &mut StdRng) -> Result<()> {
    let variables = variables(varmap);
    for (name, var) in &variables {
        let matrix = variables.get(&name.replace(".bias", ".weight")).unwrap_or(var);
        let bound = match matrix.dims() {
            _ if name.contains("embed") => 3f32.sqrt(),
            &[_, inputs] => 1. / (inputs as f32).sqrt(),
            _ => continue,
        };
        let (low, high) = match name.ends_with("A_proj.bias") {
            // a decay between 0.5 and 0.998
            true => (0., 6.),
            false => (-bound, bound),
        };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(low..high)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// AdamW with a warm-up, then a rate that falls along a cosine, and a bound on the norm of the gradient.
pub struct Trainer {
    variables: Vec<Var>,
    optimizer: AdamW,
    rate: f64,
    step: usize,
    steps: usize,
}

const WARM_UP: usize = 50;
const LARGEST_NORM: f64 = 1.;

impl Trainer {
    pub fn new(varmap: &VarMap, rate: f64, steps: usize) -> Result<Self> {
        let variables: Vec<_> = variables(varmap).into_values().collect();
        let optimizer = AdamW::new(
            variables.clone(),
            ParamsAdamW { lr: rate, beta2: 0.98, weight_decay: 0., ..Default::default() },
        )?;
        Ok(Self { variables, optimizer, rate, step: 0, steps })
    }

    pub fn step(&mut self, loss: &Tensor) -> Result<()> {
        let mut grads = loss.backward()?;
        self.clip(&mut grads)?;
        let warm_up = (self.step + 1) as f64 / WARM_UP as f64;
        let cosine = 0.5 * (1. + (PI * self.step as f64 / self.steps as f64).cos());
        self.optimizer.set_learning_rate(self.rate * warm_up.min(1.) * cosine);
        self.step += 1;
        self.optimizer.step(&grads)
    }

    fn clip(&self, grads: &mut GradStore) -> Result<()> {
        let mut sum = 0f64;
        for grad in self.variables.iter().filter_map(|var| grads.get(var)) {
            sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = sum.sqrt();
        if norm > LARGEST_NORM {
            for var in &self.variables {
                if let Some(grad) = grads.remove(var) {
                    grads.insert(var, (grad * (LARGEST_NORM / norm))?);
                }
            }
        }
        Ok(())
    }
}
