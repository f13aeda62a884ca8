//! Gated scans in plain numbers: drawn from a seed, computed in f64, compared.

use candle_core::{DType, Device, Result, Tensor, Var};
use quick_ssm::Scan;

use super::case::Arg;
use super::executor::place;
use super::judge::{accumulation_dtype, relative, roundoff, Tolerance};
use super::truth::{Numbers, Outcome};
use super::{rng, values, View};

/// The columns of `p` in their order.
const PARTS: [&str; 5] = ["a", "d", "u", "ca", "cb"];

/// The parameters of a case.
#[derive(Debug, Clone)]
pub struct GatedSpec {
    /// `B, L, S`; the `L` of packed sequences is their total length.
    pub dims: (usize, usize, usize),
    pub dtype: DType,
    pub seed: u64,
    pub bias: Option<DType>,
    pub h0: Option<DType>,
    pub with_state: bool,
    pub reverse: bool,
    pub offsets: Option<Vec<usize>>,
    pub chunk_len: Option<usize>,
    pub out_dtype: Option<DType>,
    /// Of `p` and of the gradient of `y`.
    pub views: [View; 2],
}

impl GatedSpec {
    /// The plain gated scan.
    pub fn new(dims: (usize, usize, usize), dtype: DType) -> Self {
        Self {
            dims,
            dtype,
            seed: 0,
            bias: Some(dtype),
            h0: None,
            with_state: false,
            reverse: false,
            offsets: None,
            chunk_len: None,
            out_dtype: None,
            views: [View::Contiguous; 2],
        }
    }

    pub fn draw(self) -> Result<GatedCase> {
        let mut rng = rng(self.seed);
        let (batch, len, channels) = self.dims;
        let (dtype, acc) = (self.dtype, accumulation_dtype(self.dtype));
        let sequences = self.offsets.as_ref().map_or(batch, |offsets| offsets.len() - 1);
        let [p_view, grad_view] = self.views;
        let mut arg = |name, view, dims, dtype| Arg::draw(&mut rng, name, view, dims, dtype, None);
        let states = (1, sequences, channels);
        let p = arg("dp", p_view, (batch, len, PARTS.len() * channels), dtype)?;
        let bias = self.bias.map(|dtype| arg("da_bias", View::Contiguous, (1, 1, channels), dtype)).transpose()?;
        let h0 = self.h0.map(|dtype| arg("dh0", View::Contiguous, states, dtype)).transpose()?;
        let grad_y = arg("grad_y", grad_view, self.dims, self.out_dtype.unwrap_or(dtype))?;
        let grad_last = arg("grad_last", View::Contiguous, states, acc)?;
        Ok(GatedCase { spec: self, p, bias, h0, grad_y, grad_last })
    }
}

/// A gated scan with its arguments and the gradients of its outputs, in plain numbers.
#[derive(Debug, Clone)]
pub struct GatedCase {
    pub spec: GatedSpec,
    /// `[B, L, 5S]`.
    pub p: Arg,
    /// `[1, 1, S]`.
    pub bias: Option<Arg>,
    /// `[1, N, S]`.
    pub h0: Option<Arg>,
    pub grad_y: Arg,
    /// `[1, N, S]`.
    pub grad_last: Arg,
}

pub fn sigmoid(x: f64) -> f64 {
    1. / (1. + (-x).exp())
}

/// Of each element, the pre-activations, with the bias.
fn parts(p: &[f64], bias: Option<&[f64]>, channels: usize) -> [Vec<f64>; 5] {
    let mut parts: [Vec<f64>; 5] = Default::default();
    for row in p.chunks(PARTS.len() * channels.max(1)) {
        for (part, values) in parts.iter_mut().zip(row.chunks(channels)) {
            part.extend_from_slice(values);
        }
    }
    if let Some(bias) = bias {
        parts[0].iter_mut().enumerate().for_each(|(i, a)| *a += bias[i % channels]);
    }
    parts
}

impl GatedCase {
    pub fn scan(&self) -> Scan {
        let spec = &self.spec;
        let mut scan = Scan::new().reverse(spec.reverse);
        if let Some(offsets) = &spec.offsets {
            scan = scan.cu_seqlens(offsets);
        }
        if let Some(steps) = spec.chunk_len {
            scan = scan.chunk_len(steps);
        }
        match spec.out_dtype {
            Some(dtype) => scan.out_dtype(dtype),
            None => scan,
        }
    }

    fn pre_activations(&self) -> [Vec<f64>; 5] {
        let bias = self.bias.as_ref().map(Arg::values);
        parts(&self.p.values(), bias.as_deref(), self.spec.dims.2)
    }

    /// The plain scan of the gates.
    fn numbers(&self) -> Numbers {
        let [a, d, u, ca, cb] = self.pre_activations();
        let states = self.grad_last.values().len();
        let gate = |v: Vec<f64>| v.into_iter().map(sigmoid).collect();
        Numbers {
            dims: self.spec.dims,
            offsets: self.spec.offsets.clone(),
            reverse: self.spec.reverse,
            x: u,
            a: gate(a),
            b: gate(d),
            c: ca.iter().zip(&cb).map(|(ca, cb)| ca * sigmoid(*ca) * cb).collect(),
            h0: self.h0.as_ref().map_or_else(|| vec![0.; states], Arg::values),
            grad_y: self.grad_y.values(),
            grad_last: match self.spec.with_state {
                true => self.grad_last.values(),
                false => vec![0.; states],
            },
        }
    }

    /// What the scan and its backward pass compute; or, of absolute values, what its rounding errors are relative to.
    pub fn outcome(&self, magnitudes: bool) -> Outcome {
        let numbers = self.numbers();
        let mut outcome = if magnitudes { numbers.magnitudes() } else { numbers.outcome() };
        let sign = |v: f64| if magnitudes { v.abs() } else { v };
        let [a, d, _, ca, cb] = self.pre_activations();
        let slope = |v: f64| sigmoid(v) * sigmoid(-v);
        let (da, dd, du, dc) = (&outcome["da"], &outcome["db"], &outcome["dx"], &outcome["dc"]);
        let channels = self.spec.dims.2;
        let mut dp = vec![0.; PARTS.len() * da.len()];
        let mut bias = vec![0.; channels];
        for i in 0..da.len() {
            let (row, channel) = (i / channels, i % channels);
            let s = sigmoid(ca[i]);
            let of = [
                da[i] * slope(a[i]),
                dd[i] * slope(d[i]),
                du[i],
                dc[i] * sign(cb[i]) * (s + sign(ca[i]) * slope(ca[i])),
                dc[i] * sign(ca[i] * s),
            ];
            of.iter().enumerate().for_each(|(n, g)| dp[(row * PARTS.len() + n) * channels + channel] = *g);
            bias[channel] += of[0];
        }
        outcome.extend([("dp", dp), ("da_bias", bias)]);
        outcome
    }

    fn tolerance(&self, name: &str) -> Tolerance {
        let (spec, acc) = (&self.spec, accumulation_dtype(self.spec.dtype));
        let tolerance = match name {
            "y" => Tolerance::new(acc, spec.out_dtype.unwrap_or(spec.dtype), false),
            "last" => Tolerance::new(acc, acc, false),
            "dh0" => Tolerance::new(acc, spec.h0.unwrap_or(acc), true),
            "da_bias" => Tolerance::new(acc, spec.bias.unwrap_or(acc), true),
            _ => Tolerance::new(acc, spec.dtype, true),
        };
        // a gate has some roundoffs of its own, each step anew; a sum over the steps rounds at each of them
        let rows = if name == "da_bias" { (spec.dims.0 * spec.dims.1) as f64 } else { 0. };
        Tolerance { relative: 2. * relative(acc, true) + rows.sqrt() * 4. * roundoff(acc), ..tolerance }
    }

    /// Asserts that the scan on a device, and candle's backward pass through it, are right.
    pub fn check(&self, device: &Device) -> Result<()> {
        let what = format!("{}, {:?}", place(device), self.spec);
        let channels = self.spec.dims.2;
        let acc = accumulation_dtype(self.spec.dtype);
        let var = |arg: &Arg| Var::from_tensor(&arg.base(device)?);
        let p = var(&self.p)?;
        let (bias, h0) = (self.bias.as_ref().map(var).transpose()?, self.h0.as_ref().map(var).transpose()?);
        let mut scan = self.scan();
        if let Some(h0) = &h0 {
            scan = scan.initial_state(&h0.squeeze(0)?);
        }
        let a_bias = bias.as_ref().map(|bias| bias.reshape(channels)).transpose()?;
        let view = self.p.of(&p)?;
        let (y, last) = match self.spec.with_state {
            false => (scan.apply_gated(&view, a_bias.as_ref())?, None),
            true => {
                let (y, last) = scan.apply_gated_with_state(&view, a_bias.as_ref())?;
                (y, Some(last))
            }
        };
        let (batch, len, _) = self.spec.dims;
        let out = self.spec.out_dtype.unwrap_or(self.spec.dtype);
        assert_eq!((y.dims(), y.dtype()), ([batch, len, channels].as_slice(), out), "{what}");

        let (truth, magnitudes) = (self.outcome(false), self.outcome(true));
        let check = |name: &str, t: &Tensor| -> Result<()> {
            self.tolerance(name).check(&format!("{what}: {name}"), &values(t)?, &truth[name], &magnitudes[name]);
            Ok(())
        };
        check("y", &y)?;
        let weighted = |t: &Tensor, grad: &Arg| {
            let grad = grad.of(&grad.base(device)?)?.reshape(t.dims())?;
            (t * grad)?.sum_all()?.to_dtype(DType::F64)
        };
        let mut loss = weighted(&y, &self.grad_y)?;
        if let Some(last) = &last {
            assert_eq!((last.dims(), last.dtype()), (&self.grad_last.dims_of_states()[..], acc), "{what}");
            check("last", last)?;
            loss = (loss + weighted(last, &self.grad_last)?)?;
        }
        let grads = loss.backward()?;
        let grad = |arg: &Arg, var: &Var| -> Result<Vec<f64>> {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{what}: no {}", arg.name));
            assert_eq!((grad.dims(), grad.dtype()), (var.dims(), var.dtype()), "{what}: {}", arg.name);
            values(grad)
        };
        for (arg, var) in [(&self.bias, &bias), (&self.h0, &h0)] {
            if let (Some(arg), Some(var)) = (arg, var) {
                let (name, got) = (arg.name, grad(arg, var)?);
                self.tolerance(name).check(&format!("{what}: {name}"), &got, &truth[name], &magnitudes[name]);
            }
        }
        // candle sums the gradient of a broadcast tensor in its own dtype: in half precision that is no measure
        let half = matches!(self.spec.dtype, DType::F16 | DType::BF16);
        let got = grad(&self.p, &p)?;
        if !(half && self.p.view.broadcasts()) {
            self.p.judge_with(self.tolerance("dp"), &what, &got, &truth, &magnitudes);
        }
        Ok(())
    }
}
