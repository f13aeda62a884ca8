//! `Scan`: of any arguments and options, an error or the right result.

use candle_core::{DType, Device, Result, Tensor};
use quick_ssm::Scan;

use super::{fixture, Bytes};
use crate::common::gated::sigmoid;
use crate::common::judge::accumulation_dtype;
use crate::common::truth::Numbers;
use crate::common::view::Extent;
use crate::common::{values, Autograd, Direct, Executor, Gate, GatedSpec, Output, Spec, View, DTYPES};

const CPU: Device = Device::Cpu;

/// No number of elements has room for so many.
const HUGE: [usize; 4] = [1 << 61, 1 << 62, usize::MAX - 31, usize::MAX];

/// The elements of a problem whose results are computed.
const MOST_ELEMENTS: usize = 12_000;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    match bytes.below(4) {
        0 => plain(&mut bytes).expect("a problem that is computed"),
        1 => gated(&mut bytes).expect("a problem that is computed"),
        2 => any_arguments(&mut bytes).expect("tensors"),
        _ => any_gated_arguments(&mut bytes).expect("tensors"),
    }
}

/// The sizes of the scans among the fixtures, plain and gated, and arguments of each kind with each fault alone.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in ["one", "readme", "odd", "ragged", "long", "wide", "growing", "resets"] {
        let tensors = candle_core::safetensors::load_buffer(&fixture(&format!("scan_{name}")), &CPU).expect("tensors");
        let (batch, len, channels) = tensors["x"].dims3().expect("three dimensions");
        for kind in [0, 1] {
            let (len, channels) = (len as u16, channels as u8);
            seeds.push([&[kind, 0, batch as u8][..], &len.to_be_bytes(), &[channels]].concat());
        }
    }
    for kind in [2, 3] {
        seeds.extend((0..8).map(|fault| vec![kind, 0, 2, 3, 4, 1, 1, 0, 1, fault]));
    }
    seeds
}

/// `B, L, D`, and offsets of packed sequences where the first choice says so.
fn sizes(bytes: &mut Bytes) -> ((usize, usize, usize), Option<Vec<usize>>) {
    let packed = bytes.byte() % 4 == 3;
    let (batch, len, channels) = (bytes.below(6), bytes.below(2100), bytes.below(200));
    let batch = if packed { 1 } else { batch };
    let len = len.min(MOST_ELEMENTS / (batch * channels).max(1));
    let offsets = packed.then(|| {
        let mut offsets: Vec<_> = (0..bytes.below(6)).map(|_| bytes.below(len + 1)).collect();
        offsets.extend([0, len]);
        offsets.sort_unstable();
        offsets
    });
    ((batch, len, channels), offsets)
}

fn view(bytes: &mut Bytes) -> View {
    let chosen = bytes.below(2 * View::ALL.len());
    if let Some(view) = View::ALL.get(chosen) {
        return *view;
    }
    let mut extent = || Extent {
        around: [bytes.below(3), bytes.below(3)],
        step: 1 + bytes.below(4) / 2,
        broadcast: bytes.byte() % 4 == 3,
    };
    let dims = [extent(), extent(), extent()];
    let order = bytes.pick(&[[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 0, 1], [1, 2, 0], [2, 1, 0]]);
    View::Strided { dims, order }
}

fn chunk_len(bytes: &mut Bytes) -> Option<usize> {
    match bytes.byte() {
        0..64 => None,
        64 => Some(usize::MAX),
        65 => Some(1 << 63),
        steps => Some(usize::from(steps) - 64),
    }
}

/// One of x's dtype and that of its state, or nothing.
fn state_dtype(bytes: &mut Bytes, dtype: DType) -> Option<DType> {
    bytes.pick(&[None, Some(dtype), Some(accumulation_dtype(dtype))])
}

fn out_dtype(bytes: &mut Bytes) -> Option<DType> {
    let out = bytes.pick(&DTYPES);
    bytes.flag().then_some(out)
}

fn plain(bytes: &mut Bytes) -> Result<()> {
    let (dims, offsets) = sizes(bytes);
    let dtype = bytes.pick(&DTYPES);
    let spec = Spec {
        gate: bytes.pick(&Gate::ALL),
        seed: bytes.byte().into(),
        output: bytes.pick(&[Output::Y, Output::YAndLast, Output::States]),
        h0: state_dtype(bytes, dtype),
        reverse: bytes.flag(),
        offsets,
        chunk_len: chunk_len(bytes),
        out_dtype: out_dtype(bytes),
        views: std::array::from_fn(|_| view(bytes)),
        h0_view: view(bytes),
        ..Spec::new(dims, dtype)
    };
    let case = spec.draw()?;
    Autograd(CPU).check(&case)?;
    Direct(CPU).check(&case)
}

fn gated(bytes: &mut Bytes) -> Result<()> {
    let (dims, offsets) = sizes(bytes);
    let dtype = bytes.pick(&DTYPES);
    let spec = GatedSpec {
        seed: bytes.byte().into(),
        bias: state_dtype(bytes, dtype),
        h0: state_dtype(bytes, dtype),
        with_state: bytes.flag(),
        reverse: bytes.flag(),
        offsets,
        chunk_len: chunk_len(bytes),
        out_dtype: out_dtype(bytes),
        views: std::array::from_fn(|_| view(bytes)),
        ..GatedSpec::new(dims, dtype)
    };
    spec.draw()?.check(&CPU)
}

/// The shape and dtype of a tensor of ones.
#[derive(Debug, Clone, PartialEq)]
struct Ones {
    dims: Vec<usize>,
    dtype: DType,
}

impl Ones {
    /// Its elements are one number.
    fn tensor(&self) -> Result<Tensor> {
        Tensor::ones((), DType::F32, &CPU)?.to_dtype(self.dtype)?.broadcast_as(self.dims.as_slice())
    }
}

/// Whether so many elements have room in memory at all.
fn has_room(dims: &[usize]) -> bool {
    let elements = dims.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
    elements.and_then(|n| n.checked_mul(8)).is_some_and(|bytes| bytes <= isize::MAX as usize)
}

fn is_float(dtype: DType) -> bool {
    DTYPES.contains(&dtype)
}

/// Arguments of ones and options, of which any can be wrong.
#[derive(Debug)]
struct Arguments {
    /// Of one shape and dtype, if they are right.
    inputs: Vec<Ones>,
    bias: Option<Ones>,
    h0: Option<Ones>,
    grad_y: Ones,
    offsets: Option<Vec<usize>>,
    chunk_len: Option<usize>,
    out_dtype: Option<DType>,
    reverse: bool,
}

impl Arguments {
    /// `count` arguments with `columns` for every channel, right but for some faults.
    fn draw(bytes: &mut Bytes, count: usize, columns: usize) -> Self {
        let packed = bytes.byte() % 4 == 3;
        let (batch, len, channels) = (bytes.below(5), bytes.below(5), bytes.below(5));
        let batch = if packed { 1 } else { batch };
        let dtype = bytes.pick(&DTYPES);
        let ones = |dims: &[usize], dtype| Ones { dims: dims.to_vec(), dtype };
        let mut arguments = Self {
            inputs: vec![ones(&[batch, len, columns * channels], dtype); count],
            bias: (columns > 1 && bytes.flag()).then(|| ones(&[channels], dtype)),
            h0: bytes.flag().then(|| ones(&[batch, channels], dtype)),
            grad_y: ones(&[batch, len, channels], dtype),
            offsets: packed.then(|| vec![0, len]),
            chunk_len: None,
            out_dtype: None,
            reverse: bytes.flag(),
        };
        for _ in 0..bytes.below(4) {
            arguments.spoil(bytes);
        }
        arguments
    }

    /// Changes something, mostly for the worse.
    fn spoil(&mut self, bytes: &mut Bytes) {
        let sizes = [&[0, 1, 2, 3, 5, 10][..], &HUGE].concat();
        let dtypes = [&DTYPES[..], &[DType::U8, DType::U32, DType::I64]].concat();
        let fault = bytes.below(8);
        let (size, dtype, at) = (bytes.pick(&sizes), bytes.pick(&dtypes), bytes.below(4));
        let count = self.inputs.len();
        let more = [Some(&mut self.grad_y), self.h0.as_mut(), self.bias.as_mut()];
        let mut all: Vec<_> = self.inputs.iter_mut().chain(more.into_iter().flatten()).collect();
        let which = bytes.below(all.len());
        match fault {
            0 => match at {
                0 => _ = all[which].dims.pop(),
                at => {
                    let dims = &mut all[which].dims;
                    dims.insert(at.min(dims.len()), size);
                }
            },
            1 => all[which].dims.iter_mut().skip(at).take(1).for_each(|dim| *dim = size),
            2 => all[which].dtype = dtype,
            // the same size or dtype everywhere may be right
            3 => {
                all[..=count].iter_mut().for_each(|ones| ones.dims.iter_mut().skip(at).take(1).for_each(|d| *d = size))
            }
            4 => all.iter_mut().for_each(|ones| ones.dtype = dtype),
            5 => self.offsets = Some((0..at).map(|_| bytes.pick(&sizes)).collect()),
            6 => self.chunk_len = Some(bytes.pick(&sizes)),
            _ => self.out_dtype = Some(dtype),
        }
    }

    fn scan(&self) -> Result<Scan> {
        let mut scan = Scan::new().reverse(self.reverse);
        if let Some(h0) = &self.h0 {
            scan = scan.initial_state(&h0.tensor()?);
        }
        if let Some(offsets) = &self.offsets {
            scan = scan.cu_seqlens(offsets);
        }
        if let Some(steps) = self.chunk_len {
            scan = scan.chunk_len(steps);
        }
        Ok(match self.out_dtype {
            Some(dtype) => scan.out_dtype(dtype),
            None => scan,
        })
    }

    /// `B, L, D` and the number of sequences, where everything is right.
    fn right(&self, columns: usize) -> Option<((usize, usize, usize), usize)> {
        let first = &self.inputs[0];
        let &[batch, len, width] = &first.dims[..] else { return None };
        let channels = width / columns;
        let sequences = match &self.offsets {
            None => batch,
            Some(offsets) => {
                let cut = batch == 1 && offsets.first() == Some(&0) && offsets.last() == Some(&len);
                if !(cut && offsets.is_sorted()) {
                    return None;
                }
                offsets.len() - 1
            }
        };
        let state = |ones: &Ones, dims: &[usize]| {
            ones.dims == dims && [first.dtype, accumulation_dtype(first.dtype)].contains(&ones.dtype)
        };
        let right = width % columns == 0
            && is_float(first.dtype)
            && has_room(&first.dims)
            && has_room(&[sequences, channels])
            && self.inputs.iter().all(|ones| ones == first)
            && self.chunk_len != Some(0)
            && self.out_dtype.is_none_or(is_float)
            && self.bias.as_ref().is_none_or(|bias| state(bias, &[channels]))
            && self.h0.as_ref().is_none_or(|h0| state(h0, &[sequences, channels]));
        right.then_some(((batch, len, channels), sequences))
    }

    /// The plain scan of these gates, inputs and readouts, the same ones everywhere.
    fn numbers(&self, dims: (usize, usize, usize), sequences: usize, [gate, input, readout]: [f64; 3]) -> Numbers {
        let (count, states) = (dims.0 * dims.1 * dims.2, sequences * dims.2);
        Numbers {
            dims,
            offsets: self.offsets.clone(),
            reverse: self.reverse,
            x: vec![1.; count],
            a: vec![gate; count],
            b: vec![input; count],
            c: vec![readout; count],
            h0: vec![if self.h0.is_some() { 1. } else { 0. }; states],
            grad_y: vec![1.; count],
            grad_last: vec![0.; states],
        }
    }
}

/// Asserts that a result is there if and only if it should be, with these elements, to a relative tolerance.
fn check<T>(what: &str, result: Result<T>, right: bool, check: impl FnOnce(T) -> Result<()>) -> Result<()> {
    match (result, right) {
        (Ok(results), true) => check(results),
        (Err(_), false) => Ok(()),
        (Ok(_), false) => panic!("{what}: accepted"),
        (Err(error), true) => panic!("{what}: refused, {error}"),
    }
}

fn assert_close(what: &str, got: &Tensor, want: &[f64], tolerance: f64) -> Result<()> {
    let got = values(got)?;
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance * want.abs(), "{what}: {got}, not {want}");
    }
    Ok(())
}

fn any_arguments(bytes: &mut Bytes) -> Result<()> {
    let arguments = Arguments::draw(bytes, 4, 1);
    let (scan, grad_y) = (arguments.scan()?, arguments.grad_y.tensor()?);
    let inputs = arguments.inputs.iter().map(Ones::tensor).collect::<Result<Vec<_>>>()?;
    let [x, a, b, c] = &inputs[..] else { panic!("four arguments") };
    let right = arguments.right(1);
    // small numbers of ones: exact in every dtype
    let truth = right.map(|(dims, sequences)| arguments.numbers(dims, sequences, [1.; 3]).outcome());
    let close = |name: &str, got: &Tensor| {
        let truth = truth.as_ref().expect("only what is right is compared");
        assert_close(&format!("{name} of {arguments:?}"), got, &truth[name], 0.)
    };
    let what = format!("{arguments:?}");
    check(&what, scan.apply(x, a, b, c), right.is_some(), |y| close("y", &y))?;
    check(&what, scan.apply_with_state(x, a, b, c), right.is_some(), |(y, last)| {
        close("y", &y)?;
        close("last", &last)
    })?;
    let out = arguments.out_dtype.unwrap_or(x.dtype());
    let right = right.is_some() && arguments.grad_y == Ones { dims: x.dims().to_vec(), dtype: out };
    check(&what, scan.gradients(x, a, b, c, &grad_y), right, |grads| {
        ["dx", "da", "db", "dc"].into_iter().zip(&grads).try_for_each(|(name, grad)| close(name, grad))
    })?;
    // without the readout, which may be what was wrong
    let mut arguments = arguments;
    arguments.inputs.truncate(3);
    let right = arguments.right(1);
    let truth = right.map(|(dims, sequences)| arguments.numbers(dims, sequences, [1.; 3]).outcome());
    check(&what, scan.states(x, a, b), right.is_some(), |h| {
        assert_close(&what, &h, &truth.expect("it is right")["y"], 0.)
    })
}

fn any_gated_arguments(bytes: &mut Bytes) -> Result<()> {
    let arguments = Arguments::draw(bytes, 1, 5);
    let scan = arguments.scan()?;
    let (p, bias) = (arguments.inputs[0].tensor()?, arguments.bias.as_ref().map(Ones::tensor).transpose()?);
    let right = arguments.right(5);
    let gate = sigmoid(if bias.is_some() { 2. } else { 1. });
    let truth = right.map(|(dims, n)| arguments.numbers(dims, n, [gate, sigmoid(1.), sigmoid(1.)]).outcome());
    let close = |name: &str, got: &Tensor| {
        let truth = truth.as_ref().expect("only what is right is compared");
        // that of the coarsest dtype; the numbers themselves are compared elsewhere
        assert_close(&format!("{name} of {arguments:?}"), got, &truth[name], 1e-2)
    };
    let what = format!("{arguments:?}");
    check(&what, scan.apply_gated(&p, bias.as_ref()), right.is_some(), |y| close("y", &y))?;
    check(&what, scan.apply_gated_with_state(&p, bias.as_ref()), right.is_some(), |(y, last)| {
        close("y", &y)?;
        close("last", &last)
    })
}
