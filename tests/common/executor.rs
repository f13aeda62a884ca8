//! Those who compute cases.

#[cfg(feature = "simt")]
use std::hash::{DefaultHasher, Hash, Hasher};

use candle_core::{DType, Device, Result, Tensor, Var};
#[cfg(feature = "simt")]
use quick_ssm::simt::{emulate, Emulation, Tiles};

use super::case::{Arg, Case, Output};
use super::judge::judge;
use super::truth::Outcome;
use super::{in_reach, real_devices, values};

/// Something that computes scans and their gradients, and is held to the truth.
///
/// The test bodies ask for nothing else, so whatever computes scans can be put before them.
pub trait Executor {
    fn name(&self) -> String;

    /// Asserts that it computes the case right.
    fn check(&self, case: &Case) -> Result<()>;
}

/// The public interface on every device: with candle's autograd, and without it.
pub fn executors() -> Vec<Box<dyn Executor>> {
    let mut all: Vec<Box<dyn Executor>> = Vec::new();
    for device in real_devices() {
        all.push(Box::new(Autograd(device.clone())));
        all.push(Box::new(Direct(device.clone())));
    }
    #[cfg(feature = "simt")]
    all.push(Box::new(Emulated));
    all
}

/// The kernels that run in the place of the CPU.
#[cfg(feature = "simt")]
pub const EMULATED: [Tiles; 2] = [Tiles::Tiny, Tiles::Real];

/// The public interface on the CPU with the CUDA kernels in its place: one of the tiles, and with autograd or without it,
/// as chance has it.
#[cfg(feature = "simt")]
pub struct Emulated;

#[cfg(feature = "simt")]
impl Executor for Emulated {
    fn name(&self) -> String {
        "emulation".into()
    }

    fn check(&self, case: &Case) -> Result<()> {
        // the same for the same case, also when it is tried again alone
        let mut hasher = DefaultHasher::new();
        format!("{:?}", case.spec).hash(&mut hasher);
        let chance = hasher.finish() as usize;
        let _emulating = emulate(Emulation::new(EMULATED[chance % EMULATED.len()]));
        if !in_reach(case.spec.dims) {
            return Ok(());
        }
        if chance & 16 == 0 {
            Autograd(Device::Cpu).check(case)
        } else {
            Direct(Device::Cpu).check(case)
        }
    }
}

/// The scan of the case on these arguments: `y` or the states, and the last state where it is asked for.
pub fn outputs(case: &Case, inputs: &[Tensor], h0: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let mut scan = case.scan();
    if let Some(h0) = h0 {
        scan = scan.initial_state(h0);
    }
    let (y, last) = match (case.spec.output, inputs) {
        (Output::Y, [x, a, b, c]) => (scan.apply(x, a, b, c)?, None),
        (Output::YAndLast, [x, a, b, c]) => {
            let (y, last) = scan.apply_with_state(x, a, b, c)?;
            (y, Some(last))
        }
        (Output::States, [x, a, b]) => (scan.states(x, a, b)?, None),
        _ => panic!("a case with {} inputs", inputs.len()),
    };
    let (b, l, d) = case.spec.dims;
    assert_eq!((y.dims(), y.dtype()), ([b, l, d].as_slice(), case.spec.result_dtype()));
    if let Some(last) = &last {
        let acc = super::judge::accumulation_dtype(case.spec.dtype);
        let (_, n, d) = case.spec.state_dims();
        assert_eq!((last.dims(), last.dtype()), ([n, d].as_slice(), acc));
    }
    Ok((y, last))
}

/// Who computes on a device, for messages.
pub fn place(device: &Device) -> String {
    #[cfg(feature = "simt")]
    if let Some(emulation) = quick_ssm::simt::current(device) {
        return format!("the emulation with {:?} tiles", emulation.tiles);
    }
    format!("{:?}", device.location())
}

/// Variables, views of which are the arguments, and candle's backward pass.
pub struct Autograd(pub Device);

impl Executor for Autograd {
    fn name(&self) -> String {
        format!("autograd on {}", place(&self.0))
    }

    fn check(&self, case: &Case) -> Result<()> {
        let what = format!("{}, {:?}", self.name(), case.spec);
        let args: Vec<&Arg> = case.inputs().into_iter().chain(&case.h0).collect();
        let (b, l, d) = case.spec.dims;
        if self.0.is_cuda() && b * l * d == 0 && args.iter().any(|arg| arg.view.broadcasts()) {
            // candle's own sum of the gradient of an empty broadcast tensor divides by zero there
            return Ok(());
        }
        let vars = args.iter().map(|arg| Var::from_tensor(&arg.base(&self.0)?)).collect::<Result<Vec<_>>>()?;
        let mut inputs = args.iter().zip(&vars).map(|(arg, var)| arg.of(var)).collect::<Result<Vec<_>>>()?;
        let h0 = case.h0.as_ref().map(|_| inputs.pop().expect("h0 is the last argument").squeeze(0)).transpose()?;
        let (y, last) = outputs(case, &inputs, h0.as_ref())?;

        // the gradient of the sum of `y * grad_y` with respect to `y` is `grad_y`, exactly
        let weighted = |t: &Tensor, grad: &Arg| {
            let grad = grad.of(&grad.base(&self.0)?)?.reshape(t.dims())?;
            (t * grad)?.sum_all()?.to_dtype(DType::F64)
        };
        let mut loss = weighted(&y, &case.grad_y)?;
        let mut got = Outcome::from([("y", values(&y)?)]);
        if let Some(last) = &last {
            loss = (loss + weighted(last, &case.grad_last)?)?;
            got.insert("last", values(last)?);
        }
        judge(&what, case, &got);

        let grads = loss.backward()?;
        let numbers = case.numbers();
        let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
        for (arg, var) in args.into_iter().zip(&vars) {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{what}: no {}", arg.name));
            assert_eq!((grad.dims(), grad.dtype()), (var.dims(), var.dtype()), "{what}: {}", arg.name);
            // candle sums the gradient of a broadcast tensor in its own dtype: in half precision that is no measure
            let half = matches!(arg.dtype, DType::F16 | DType::BF16);
            if !(half && arg.view.broadcasts()) {
                arg.judge(&what, case, &values(grad)?, &truth, &magnitudes);
            }
        }
        Ok(())
    }
}

/// Tensors without autograd, and [`Scan::gradients`](quick_ssm::Scan::gradients).
pub struct Direct(pub Device);

impl Executor for Direct {
    fn name(&self) -> String {
        format!("gradients() on {}", place(&self.0))
    }

    fn check(&self, case: &Case) -> Result<()> {
        let what = format!("{}, {:?}", self.name(), case.spec);
        let view = |arg: &Arg| arg.of(&arg.base(&self.0)?);
        let inputs = case.inputs().into_iter().map(view).collect::<Result<Vec<_>>>()?;
        let h0 = case.h0.as_ref().map(|h0| view(h0)?.squeeze(0)).transpose()?;
        let (y, last) = outputs(case, &inputs, h0.as_ref())?;
        let mut got = Outcome::from([("y", values(&y)?)]);
        if let Some(last) = &last {
            got.insert("last", values(last)?);
        }
        judge(&what, case, &got);

        // it knows of no gradient of the last state, and of none of the states
        if let [x, a, b, c] = &inputs[..] {
            let mut scan = case.scan();
            if let Some(h0) = &h0 {
                scan = scan.initial_state(h0);
            }
            let grads = scan.gradients(x, a, b, c, &view(&case.grad_y)?)?;
            let mut got = Outcome::new();
            for (name, (grad, input)) in ["dx", "da", "db", "dc"].into_iter().zip(grads.iter().zip(&inputs)) {
                assert_eq!((grad.dims(), grad.dtype()), (input.dims(), input.dtype()), "{what}: {name}");
                got.insert(name, values(grad)?);
            }
            let mut case = case.clone();
            case.spec.output = Output::Y;
            judge(&what, &case, &got);
        }
        Ok(())
    }
}
