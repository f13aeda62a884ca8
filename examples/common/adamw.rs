//! AdamW (Loshchilov and Hutter 2019, algorithm 2) whose moments can be saved.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{bail, DType, Result, Tensor, Var};
use candle_nn::ParamsAdamW;

/// The optimiser of a set of variables, with moments in f32 whatever the variables' dtype is.
pub struct AdamW {
    variables: BTreeMap<String, Variable>,
    options: ParamsAdamW,
    steps: usize,
}

struct Variable {
    var: Var,
    moments: [Tensor; 2],
}

/// How the moments of a variable are called in a file.
const PREFIXES: [&str; 2] = ["adamw.first.", "adamw.second."];

impl AdamW {
    pub fn new(variables: BTreeMap<String, Var>, options: ParamsAdamW) -> Result<Self> {
        let zeros = |var: &Var| Tensor::zeros(var.shape(), DType::F32, var.device());
        let with_moments = |(name, var): (String, Var)| {
            let moments = [zeros(&var)?, zeros(&var)?];
            Ok((name, Variable { var, moments }))
        };
        Ok(Self { variables: variables.into_iter().map(with_moments).collect::<Result<_>>()?, options, steps: 0 })
    }

    pub fn variables(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.variables.iter().map(|(name, variable)| (name, &variable.var))
    }

    /// The steps that have been made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One step at a learning rate of `rate`.
    pub fn step(&mut self, grads: &GradStore, rate: f64) -> Result<()> {
        self.steps += 1;
        let ParamsAdamW { beta1, beta2, eps, weight_decay, .. } = self.options;
        // the moments start from zero: what they lack of the mean of the gradients so far
        let [first, second] = [beta1, beta2].map(|beta| 1. / (1. - beta.powi(self.steps as i32)));
        for Variable { var, moments } in self.variables.values_mut() {
            let Some(grad) = grads.get(var) else { continue };
            // the gradient of a weight can be the result of an operation on the graph, all of which the moments would hold
            let grad = grad.detach().to_dtype(DType::F32)?;
            let [m, v] = moments;
            *m = ((&*m * beta1)? + (&grad * (1. - beta1))?)?;
            *v = ((&*v * beta2)? + (grad.sqr()? * (1. - beta2))?)?;
            let update = ((&*m * first)? / ((&*v * second)?.sqrt()? + eps)?)?;
            let value = var.as_detached_tensor().to_dtype(DType::F32)?;
            let value = ((value * (1. - rate * weight_decay))? - (update * rate)?)?;
            var.set(&value.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }

    /// The moments by name, as [`restore`](Self::restore) takes them.
    pub fn moments(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let named = |(name, variable): (&String, &Variable)| {
            let [m, v] = variable.moments.clone();
            PREFIXES.map(|prefix| format!("{prefix}{name}")).into_iter().zip([m, v]).collect::<Vec<_>>()
        };
        self.variables.iter().flat_map(named)
    }

    /// Goes on after `steps` steps that left these moments.
    pub fn restore(&mut self, steps: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, Variable { var, moments }) in &mut self.variables {
            for (prefix, moment) in PREFIXES.iter().zip(moments) {
                *moment = named(tensors, &format!("{prefix}{name}"), var)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// The tensor of this name, in f32, on the device of `var` and of its shape.
pub fn named(tensors: &HashMap<String, Tensor>, name: &str, var: &Var) -> Result<Tensor> {
    match tensors.get(name) {
        Some(t) if t.shape() == var.shape() => t.to_device(var.device())?.to_dtype(DType::F32),
        Some(t) => bail!("{name}: expected shape {:?}, got {:?}", var.shape(), t.shape()),
        None => bail!("{name}: missing"),
    }
}
