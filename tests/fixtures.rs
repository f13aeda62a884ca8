//! The vectors in `tests/fixtures`: inputs in f32, results that Torch computed in f64.

mod common;

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, Var};
use common::judge::{accumulation_dtype, relative, round, Tolerance};
use common::truth::{Numbers, Outcome};
use common::{devices, values, DTYPES};
use quick_ssm::Scan;

const NAMES: [&str; 8] = ["one", "readme", "odd", "ragged", "long", "wide", "growing", "resets"];

struct Fixture {
    name: String,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    fn load(name: &str) -> Result<Self> {
        let path = format!("{}/tests/fixtures/scan_{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu)?;
        Ok(Self { name: name.to_string(), tensors })
    }

    fn all() -> Result<Vec<Self>> {
        NAMES.into_iter().map(Self::load).collect()
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn values(&self, name: &str) -> Result<Vec<f64>> {
        values(self.tensor(name))
    }

    /// The inputs as `dtype` represents them, for the truth in f64.
    fn numbers(&self, dtype: DType) -> Result<Numbers> {
        let rounded =
            |name| -> Result<Vec<f64>> { Ok(self.values(name)?.into_iter().map(|v| round(dtype, v)).collect()) };
        let dims = self.tensor("x").dims3()?;
        let states = vec![0.; dims.0 * dims.2];
        Ok(Numbers {
            dims,
            offsets: None,
            reverse: false,
            x: rounded("x")?,
            a: rounded("a")?,
            b: rounded("b")?,
            c: rounded("c")?,
            h0: states.clone(),
            grad_y: rounded("dy")?,
            grad_last: states,
        })
    }
}

/// `y`, `h` and the gradients, with the inputs in `dtype`.
fn compute(fixture: &Fixture, dtype: DType, device: &candle_core::Device) -> Result<HashMap<&'static str, Tensor>> {
    let var = |name| Var::from_tensor(&fixture.tensor(name).to_dtype(dtype)?.to_device(device)?);
    let (x, a, b, c) = (var("x")?, var("a")?, var("b")?, var("c")?);
    let dy = fixture.tensor("dy").to_dtype(dtype)?.to_device(device)?;
    let y = quick_ssm::scan(&x, &a, &b, &c)?;
    let h = Scan::new().states(&x, &a, &b)?;
    let grads = (&y * &dy)?.sum_all()?.backward()?;
    let grad = |var| grads.get(var).cloned().expect("a gradient");
    let mut all = HashMap::from([("y", y.clone()), ("h", h)]);
    all.extend([("dx", grad(&x)), ("da", grad(&a)), ("db", grad(&b)), ("dc", grad(&c))]);
    let direct = Scan::new().gradients(&x, &a, &b, &c, &dy)?;
    all.extend(["direct dx", "direct da", "direct db", "direct dc"].into_iter().zip(direct));
    Ok(all)
}

/// The largest error, relative to the largest element, or absolute where all elements should be zero.
fn largest_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
    let error = got.iter().zip(want).fold(0f64, |m, (g, w)| if m.is_nan() { m } else { (g - w).abs().max(m) });
    assert!(got.iter().all(|g| g.is_finite()));
    if largest == 0. {
        error
    } else {
        error / largest
    }
}

#[test]
fn the_truth_of_the_tests_is_that_of_the_vectors() -> Result<()> {
    for fixture in Fixture::all()? {
        let truth = fixture.numbers(DType::F32)?.outcome();
        for name in ["y", "dx", "da", "db", "dc"] {
            let error = largest_error(&truth[name], &fixture.values(name)?);
            assert!(error < 1e-14, "{} of {}: {error:e}", name, fixture.name);
        }
    }
    Ok(())
}

/// f32 and f64: the inputs are exact in both, so the vectors themselves are the truth.
#[test]
fn values_and_gradients() -> Result<()> {
    for device in devices() {
        for (fixture, dtype) in Fixture::all()?.iter().flat_map(|f| [(f, DType::F32), (f, DType::F64)]) {
            let magnitudes = fixture.numbers(dtype)?.magnitudes();
            for (result, got) in compute(fixture, dtype, device)? {
                let what = format!("{result} of {} in {dtype:?}", fixture.name);
                let name = result.trim_start_matches("direct ");
                let (gradient, got) = (name.starts_with('d'), values(&got)?);
                let want = fixture.values(name)?;
                let (error, limit) = (largest_error(&got, &want), relative(dtype, gradient));
                assert!(error <= limit, "{what}: relative error {error:e}, allowed {limit:e}");
                if let Some(magnitudes) = magnitudes.get(name) {
                    Tolerance::new(dtype, dtype, gradient).check(&what, &got, &want, magnitudes);
                }
            }
        }
    }
    Ok(())
}

/// The half types: the truth is that of the rounded inputs, and only the result is rounded once more.
#[test]
fn values_and_gradients_in_half_precision() -> Result<()> {
    for device in devices() {
        for (fixture, dtype) in Fixture::all()?.iter().flat_map(|f| [(f, DType::BF16), (f, DType::F16)]) {
            let mut numbers = fixture.numbers(dtype)?;
            let (mut truth, mut magnitudes): (Outcome, Outcome) = (numbers.outcome(), numbers.magnitudes());
            numbers.c.fill(1.);
            truth.extend([("h", numbers.outcome()["y"].clone())]);
            magnitudes.extend([("h", numbers.magnitudes()["y"].clone())]);
            for (result, got) in compute(fixture, dtype, device)? {
                let what = format!("{result} of {} in {dtype:?}", fixture.name);
                let name = result.trim_start_matches("direct ");
                let acc = accumulation_dtype(dtype);
                assert_eq!(got.dtype(), if name == "h" { acc } else { dtype }, "{what}");
                let tolerance = Tolerance::new(acc, got.dtype(), name.starts_with('d'));
                tolerance.check(&what, &values(&got)?, &truth[name], &magnitudes[name]);
            }
        }
    }
    Ok(())
}

/// The operation from candle's tensor operations is held to the same vectors.
#[test]
fn the_reference_operation() -> Result<()> {
    for device in devices() {
        for (fixture, dtype) in Fixture::all()?.iter().flat_map(|f| DTYPES.map(|dtype| (f, dtype))) {
            let arg = |name| fixture.tensor(name).to_dtype(dtype)?.to_device(device);
            let y = quick_ssm::reference::scan(&arg("x")?, &arg("a")?, &arg("b")?, &arg("c")?)?;
            let numbers = fixture.numbers(dtype)?;
            let tolerance = Tolerance::new(accumulation_dtype(dtype), dtype, false);
            let what = format!("reference::scan of {} in {dtype:?}", fixture.name);
            tolerance.check(&what, &values(&y)?, &numbers.outcome()["y"], &numbers.magnitudes()["y"]);
        }
    }
    Ok(())
}
