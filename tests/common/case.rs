//! Problems in plain numbers, drawn from a seed.

use candle_core::{DType, Device, Result, Tensor};
use quick_ssm::Scan;
use rand::rngs::SmallRng;
use rand::Rng;

use super::judge::{accumulation_dtype, round, roundoff, Tolerance};
use super::truth::{Numbers, Outcome};
use super::{rng, tensor, uniform, View};

/// The distribution of the transition factors `a`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// Between -1 and 1.
    Signed,
    /// Between 0.9 and 0.99, where a state is remembered for tens of steps.
    Stable,
    /// Zero at every fifth step or so.
    Resets,
    /// So close to 1 that a state lasts from one tile of time to the next.
    Lasting,
}

impl Gate {
    pub const ALL: [Self; 4] = [Self::Signed, Self::Stable, Self::Resets, Self::Lasting];

    /// `count` gates that `dtype` represents exactly.
    pub fn draw(self, rng: &mut SmallRng, count: usize, dtype: DType) -> Vec<f64> {
        match self {
            Self::Signed => uniform(rng, count, -1., 1., dtype),
            Self::Stable => uniform(rng, count, 0.9, 0.99, dtype),
            Self::Lasting => {
                // half precision has few numbers this close to 1, and little room for what long sums grow to
                let lowest = if matches!(dtype, DType::F16 | DType::BF16) { 0.99 } else { 0.9999 };
                uniform(rng, count, lowest, 1., dtype)
            }
            Self::Resets => {
                let a = uniform(rng, count, 0.5, 1., dtype);
                a.into_iter().map(|a| if rng.random_bool(0.2) { 0. } else { a }).collect()
            }
        }
    }
}

/// What a case computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Output {
    Y,
    YAndLast,
    States,
}

/// The parameters of a case.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `B, L, D`; the `L` of packed sequences is their total length.
    pub dims: (usize, usize, usize),
    pub dtype: DType,
    pub gate: Gate,
    pub seed: u64,
    pub output: Output,
    pub h0: Option<DType>,
    pub reverse: bool,
    pub offsets: Option<Vec<usize>>,
    pub chunk_len: Option<usize>,
    pub out_dtype: Option<DType>,
    /// Of `x`, `a`, `b`, `c` and, where it is an argument, the gradient of `y`.
    pub views: [View; 5],
    pub h0_view: View,
}

impl Spec {
    /// The plain scan.
    pub fn new(dims: (usize, usize, usize), dtype: DType) -> Self {
        Self {
            dims,
            dtype,
            gate: Gate::Signed,
            seed: 0,
            output: Output::Y,
            h0: None,
            reverse: false,
            offsets: None,
            chunk_len: None,
            out_dtype: None,
            views: [View::Contiguous; 5],
            h0_view: View::Contiguous,
        }
    }

    /// Draws the numbers.
    pub fn draw(self) -> Result<Case> {
        let mut rng = rng(self.seed);
        let dtype = self.dtype;
        let [x, a, b, c, grad_y] = self.views;
        let mut arg = |name, view, dtype| Arg::draw(&mut rng, name, view, self.dims, dtype, None);
        let args = [arg("dx", x, dtype)?, arg("da", a, dtype)?, arg("db", b, dtype)?, arg("dc", c, dtype)?];
        let [x, mut a, b, c] = args;
        let grad_y = arg("grad_y", grad_y, self.result_dtype())?;
        a = Arg::draw(&mut rng, "da", a.view, self.dims, dtype, Some(self.gate))?;
        let (states, acc) = (self.state_dims(), accumulation_dtype(dtype));
        let h0 = self.h0.map(|dtype| Arg::draw(&mut rng, "dh0", self.h0_view, states, dtype, None)).transpose()?;
        let grad_last = Arg::draw(&mut rng, "grad_last", View::Contiguous, states, acc, None)?;
        Ok(Case { spec: self, x, a, b, c, h0, grad_y, grad_last })
    }

    /// The dtype of `y`, or of the states.
    pub fn result_dtype(&self) -> DType {
        let acc = accumulation_dtype(self.dtype);
        self.out_dtype.unwrap_or(if self.output == Output::States { acc } else { self.dtype })
    }

    /// The first and last states, `[1, N, D]`.
    pub fn state_dims(&self) -> (usize, usize, usize) {
        (1, self.offsets.as_ref().map_or(self.dims.0, |offsets| offsets.len() - 1), self.dims.2)
    }
}

/// An argument, `[B, L, D]`: a view of a base.
#[derive(Debug, Clone)]
pub struct Arg {
    /// The name of its gradient.
    pub name: &'static str,
    pub dims: (usize, usize, usize),
    pub dtype: DType,
    pub view: View,
    /// NaN where the view has no element, so that nobody reads it.
    base: Vec<f64>,
    index: Vec<usize>,
}

impl Arg {
    pub fn draw(
        rng: &mut SmallRng,
        name: &'static str,
        view: View,
        dims: (usize, usize, usize),
        dtype: DType,
        gate: Option<Gate>,
    ) -> Result<Self> {
        let index = view.index(dims)?;
        let count = view.base_dims(dims).iter().product();
        let drawn = match gate {
            None => uniform(rng, count, -1.5, 1.5, dtype),
            Some(gate) => gate.draw(rng, count, dtype),
        };
        let mut base = vec![f64::NAN; count];
        index.iter().for_each(|&i| base[i] = drawn[i]);
        Ok(Self { name, dims, dtype, view, base, index })
    }

    /// The elements of the view.
    pub fn values(&self) -> Vec<f64> {
        self.index.iter().map(|&i| self.base[i]).collect()
    }

    pub fn base(&self, device: &Device) -> Result<Tensor> {
        tensor(&self.base, &self.view.base_dims(self.dims), self.dtype, device)
    }

    /// The argument as a view of its base.
    pub fn of(&self, base: &Tensor) -> Result<Tensor> {
        self.view.of(base, self.dims)
    }

    /// The gradient of the base from that of the view.
    fn fold(&self, gradient: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.; self.base.len()];
        self.index.iter().zip(gradient).for_each(|(&i, g)| sums[i] += g);
        sums
    }

    /// How many elements of the view one of the base stands for.
    fn repeats(&self) -> usize {
        let elements = self.base.iter().filter(|v| !v.is_nan()).count();
        self.index.len() / elements.max(1)
    }

    /// The dimensions `[N, D]` of states, which are kept as `[1, N, D]`.
    pub fn dims_of_states(&self) -> [usize; 2] {
        [self.dims.1, self.dims.2]
    }

    /// Asserts that `got` is the gradient of the base.
    #[track_caller]
    pub fn judge(&self, what: &str, case: &Case, got: &[f64], truth: &Outcome, magnitudes: &Outcome) {
        self.judge_with(case.tolerance(self.name), what, got, truth, magnitudes);
    }

    /// Asserts that `got` is the gradient of the base, to the tolerance of the gradient of the view.
    #[track_caller]
    pub fn judge_with(&self, mut tolerance: Tolerance, what: &str, got: &[f64], truth: &Outcome, magnitudes: &Outcome) {
        // the sum over a broadcast dimension is candle's, term by term, each of which can round
        tolerance.relative += roundoff(self.dtype) * (self.repeats().saturating_sub(1)) as f64;
        let (want, magnitudes) = (self.fold(&truth[self.name]), self.fold(&magnitudes[self.name]));
        tolerance.check(&format!("{what}: {} of a {:?} base", self.name, self.view), got, &want, &magnitudes);
    }
}

/// A scan with its arguments and the gradients of its outputs, in plain numbers.
#[derive(Debug, Clone)]
pub struct Case {
    pub spec: Spec,
    pub x: Arg,
    pub a: Arg,
    pub b: Arg,
    pub c: Arg,
    /// `[1, N, D]`.
    pub h0: Option<Arg>,
    pub grad_y: Arg,
    /// `[1, N, D]`, for an output of both.
    pub grad_last: Arg,
}

impl Case {
    /// The scan with its options but the initial state.
    pub fn scan(&self) -> Scan {
        let mut scan = Scan::new().reverse(self.spec.reverse);
        if let Some(offsets) = &self.spec.offsets {
            scan = scan.cu_seqlens(offsets);
        }
        if let Some(steps) = self.spec.chunk_len {
            scan = scan.chunk_len(steps);
        }
        match self.spec.out_dtype {
            Some(dtype) => scan.out_dtype(dtype),
            None => scan,
        }
    }

    /// `x`, `a`, `b`, and `c` where it is an argument.
    pub fn inputs(&self) -> Vec<&Arg> {
        let mut inputs = vec![&self.x, &self.a, &self.b];
        if self.spec.output != Output::States {
            inputs.push(&self.c);
        }
        inputs
    }

    /// The case for the loops of the truth.
    pub fn numbers(&self) -> Numbers {
        let states = self.grad_last.index.len();
        let c = match self.spec.output {
            Output::States => vec![1.; self.c.index.len()],
            _ => self.c.values(),
        };
        let grad_last = match self.spec.output {
            Output::YAndLast => self.grad_last.values(),
            _ => vec![0.; states],
        };
        Numbers {
            dims: self.spec.dims,
            offsets: self.spec.offsets.clone(),
            reverse: self.spec.reverse,
            x: self.x.values(),
            a: self.a.values(),
            b: self.b.values(),
            c,
            h0: self.h0.as_ref().map_or_else(|| vec![0.; states], Arg::values),
            grad_y: self.grad_y.values(),
            grad_last,
        }
    }

    /// How far a result of this name may be from the truth.
    pub fn tolerance(&self, name: &str) -> Tolerance {
        let acc = accumulation_dtype(self.spec.dtype);
        match name {
            "y" => Tolerance::new(acc, self.spec.result_dtype(), false),
            "last" => Tolerance::new(acc, acc, false),
            "dh0" => Tolerance::new(acc, self.spec.h0.unwrap_or(acc), true),
            _ => Tolerance::new(acc, self.spec.dtype, true),
        }
    }

    /// Checks that the numbers are those that the tensors hold.
    pub fn is_exact(&self) -> bool {
        let exact = |arg: &Arg| arg.values().iter().all(|&v| round(arg.dtype, v) == v);
        self.inputs().into_iter().chain(&self.h0).chain([&self.grad_y]).all(exact)
    }
}
