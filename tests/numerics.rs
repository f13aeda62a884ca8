//! Values at the limits: non-finite, overflowing, vanishing; and very long sequences.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::judge::{accumulation_dtype, Tolerance};
use common::truth::Numbers;
use common::{bits, by_the_cpu, devices, in_reach, random, random_inputs, tensor, values, DTYPES};
use quick_ssm::{scan, Scan};

/// `B, L, D` for rows in time order, groups of channels, and, from a million elements on, tiles of time.
const SHAPES: [(usize, usize, usize); 5] =
    [(2, 70, 9), (1, 40, 1_100), (1, 66_000, 3), (1, 1_050_000, 1), (1, 8_193, 129)];

/// Replaces one element.
fn with(t: &Tensor, index: usize, value: f64) -> Result<Tensor> {
    let mut all = values(t)?;
    all[index] = value;
    tensor(&all, t.dims(), t.dtype(), t.device())
}

/// Asserts that two results have the same bits wherever `inside` does not hold.
fn assert_equal_outside(
    what: &str,
    got: &Tensor,
    want: &Tensor,
    inside: impl Fn(usize, usize, usize) -> bool,
) -> Result<()> {
    let (_, len, channels) = got.dims3()?;
    for (k, (got, want)) in bits(got)?.into_iter().zip(bits(want)?).enumerate() {
        let (batch, t, channel) = (k / (len * channels), k / channels % len, k % channels);
        assert!(got == want || inside(batch, t, channel), "{what}: [{batch}, {t}, {channel}] has changed");
    }
    Ok(())
}

#[test]
fn non_finite_values_stay_in_their_channel_and_do_not_reach_earlier_times() -> Result<()> {
    for device in devices() {
        for (batch, len, channels) in SHAPES {
            if !in_reach((batch, len, channels)) {
                continue;
            }
            let inputs = random_inputs(1, (batch, len, channels), DType::F32, device)?;
            let run =
                |i: &[Tensor; 4], reverse| Scan::new().reverse(reverse).apply_with_state(&i[0], &i[1], &i[2], &i[3]);
            for (n, value) in
                [(0, f64::NAN), (1, f64::INFINITY), (2, f64::NEG_INFINITY), (3, f64::NAN), (0, f64::INFINITY)]
            {
                for (t, reverse) in [(len / 3, false), (len - 1, false), (2 * len / 3, true)] {
                    let what = format!("{value} in argument {n} of {batch}x{len}x{channels}, reverse: {reverse}");
                    let (sick, ill) = (batch - 1, channels / 2);
                    let mut spoilt = inputs.clone();
                    spoilt[n] = with(&inputs[n], (sick * len + t) * channels + ill, value)?;
                    let ((got, got_last), (want, want_last)) = (run(&spoilt, reverse)?, run(&inputs, reverse)?);
                    assert_equal_outside(&what, &got, &want, |b, s, channel| {
                        let later = if reverse { s <= t } else { s >= t };
                        // c is a factor of its own time alone
                        (b, channel) == (sick, ill) && later && (n != 3 || s == t)
                    })?;
                    let at = (sick * len + t) * channels + ill;
                    assert!(!values(&got)?[at].is_finite(), "{what}: it is lost");
                    let last = |t: &Tensor| t.unsqueeze(1);
                    assert_equal_outside(&what, &last(&got_last)?, &last(&want_last)?, |b, _, channel| {
                        (b, channel) == (sick, ill) && n != 3
                    })?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn non_finite_values_stay_in_the_gradients_of_their_channel() -> Result<()> {
    for device in devices() {
        for (batch, len, channels) in SHAPES {
            if !in_reach((batch, len, channels)) {
                continue;
            }
            let inputs = random_inputs(2, (batch, len, channels), DType::F32, device)?;
            let grad_y = random(3, &[batch, len, channels], -1., 1., DType::F32, device)?;
            let run = |i: &[Tensor; 4], g: &Tensor| Scan::new().gradients(&i[0], &i[1], &i[2], &i[3], g);
            let want = run(&inputs, &grad_y)?;
            let (sick, ill, t) = (batch - 1, channels / 2, len / 2);
            let at = (sick * len + t) * channels + ill;
            for n in 0..5 {
                let (mut spoilt, mut grad) = (inputs.clone(), grad_y.clone());
                match n {
                    4 => grad = with(&grad_y, at, f64::NAN)?,
                    _ => spoilt[n] = with(&inputs[n], at, f64::INFINITY)?,
                }
                for (got, want) in run(&spoilt, &grad)?.iter().zip(&want) {
                    let what = format!("argument {n} of {batch}x{len}x{channels}");
                    assert_equal_outside(&what, got, want, |b, _, channel| (b, channel) == (sick, ill))?;
                }
                if n == 4 {
                    // the gradient of y flows to earlier times only
                    for got in run(&spoilt, &grad)?.iter().zip(&want) {
                        assert_equal_outside("grad_y", got.0, got.1, |b, s, channel| {
                            (b, channel) == (sick, ill) && s <= t
                        })?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn non_finite_values_stay_in_their_packed_sequence() -> Result<()> {
    for device in devices() {
        for (len, channels, cuts) in [(60, 9, [20, 40]), (1_080_000, 1, [2_000, 1_070_000]), (1_000, 33, [100, 800])] {
            if !in_reach((1, len, channels)) {
                continue;
            }
            let inputs = random_inputs(4, (1, len, channels), DType::F32, device)?;
            for reverse in [false, true] {
                let scan = Scan::new().cu_seqlens(&[0, cuts[0], cuts[1], len]).reverse(reverse);
                let run = |i: &[Tensor; 4]| scan.apply(&i[0], &i[1], &i[2], &i[3]);
                for t in [cuts[0], cuts[1] - 1] {
                    let mut spoilt = inputs.clone();
                    spoilt[0] = with(&inputs[0], t * channels, f64::NAN)?;
                    assert_equal_outside("packed", &run(&spoilt)?, &run(&inputs)?, |_, s, channel| {
                        channel == 0 && (cuts[0]..cuts[1]).contains(&s)
                    })?;
                    let (got, want) = (gradients(&scan, &spoilt)?, gradients(&scan, &inputs)?);
                    for (got, want) in got.iter().zip(&want) {
                        assert_equal_outside("packed gradients", got, want, |_, s, channel| {
                            channel == 0 && (cuts[0]..cuts[1]).contains(&s)
                        })?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn gradients(scan: &Scan, i: &[Tensor; 4]) -> Result<[Tensor; 4]> {
    scan.gradients(&i[0], &i[1], &i[2], &i[3], &i[0].ones_like()?)
}

/// Gates above 1 while the state is zero: their product overflows, the recurrence does not.
///
/// The middle of the sequence is as usual. Before it nothing has come in, and after it, behind a gate of 0,
/// nothing is left, so the recurrence and its gradients are finite everywhere.
#[test]
fn gates_above_one_on_a_state_of_zero() -> Result<()> {
    for device in devices() {
        for (dims, reverse) in SHAPES.into_iter().flat_map(|dims| [(dims, false), (dims, true)]) {
            if !in_reach(dims) {
                continue;
            }
            for dtype in [DType::F32, DType::BF16, DType::F64] {
                let (batch, len, channels) = dims;
                let shape = [batch, len, channels];
                let inputs = random_inputs(5, dims, dtype, device)?;
                let [mut x, mut a, b, c] =
                    [values(&inputs[0])?, values(&inputs[1])?, values(&inputs[2])?, values(&inputs[3])?];
                let mut grad_y = values(&random(6, &shape, -1., 1., dtype, device)?)?;
                for k in 0..x.len() {
                    let t = k / channels % len;
                    let (start, end) = (len / 2 - 3 - k % channels % 3, len / 2 + 5);
                    // behind the middle in the direction of the run, before it in that of the gradients
                    let closed = if reverse { [end - 1, start - 1] } else { [start, end] };
                    if t < start || t >= end {
                        (x[k], grad_y[k], a[k]) = (0., 0., 2.5);
                    }
                    if closed.contains(&t) {
                        a[k] = 0.;
                    }
                }
                let t = |v: &[f64]| tensor(v, &shape, dtype, device);
                let scan = Scan::new().reverse(reverse);
                let (y, last) = scan.apply_with_state(&t(&x)?, &t(&a)?, &t(&b)?, &t(&c)?)?;
                let grads = scan.gradients(&t(&x)?, &t(&a)?, &t(&b)?, &t(&c)?, &t(&grad_y)?)?;
                let states = vec![0.; batch * channels];
                let (h0, grad_last) = (states.clone(), states);
                let numbers = Numbers { dims, offsets: None, reverse, x, a, b, c, h0, grad_y, grad_last };
                let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
                let results = [
                    ("y", &y),
                    ("last", &last),
                    ("dx", &grads[0]),
                    ("da", &grads[1]),
                    ("db", &grads[2]),
                    ("dc", &grads[3]),
                ];
                for (name, got) in results {
                    let tolerance = Tolerance::new(accumulation_dtype(dtype), got.dtype(), name.starts_with('d'));
                    let what = format!("{name} of {dims:?} in {dtype:?}, reverse: {reverse}");
                    tolerance.check(&what, &values(got)?, &truth[name], &magnitudes[name]);
                }
            }
        }
    }
    Ok(())
}

/// The product of the gates overflows though the state does not, and a gate of zero ends it, behind which it does not count:
/// over and over.
#[test]
fn resets_after_an_overflowing_product() -> Result<()> {
    for device in devices() {
        resets(device, false)?;
    }
    // a device that combines tiles before it knows what enters them may take a tiny state for infinite here
    resets(&Device::Cpu, true)
}

/// Where the product of gates overflows between two resets, with a state that is zero meanwhile, or one that has `grown` then.
fn resets(device: &Device, grown: bool) -> Result<()> {
    for (dims, reverse) in SHAPES.into_iter().flat_map(|dims| [(dims, false), (dims, true)]) {
        if !in_reach(dims) {
            continue;
        }
        let (batch, len, channels) = dims;
        let shape = [batch, len, channels];
        let count = batch * len * channels;
        // 2.5^100 is infinite in f32; the state is kept for some steps, grows for a hundred, and is reset
        let phase = |k: usize| (k / channels % len + 7 * (k % channels)) % 190;
        let a = (0..count).map(|k| match phase(k) {
            0 => 0.,
            1..=40 | 141.. => 1.,
            _ => 2.5,
        });
        let mut numbers = Numbers {
            dims,
            offsets: None,
            reverse,
            x: vec![0.; count],
            a: a.collect(),
            b: vec![1.; count],
            c: vec![1.; count],
            h0: vec![0.; batch * channels],
            grad_y: vec![0.; count],
            grad_last: vec![0.; batch * channels],
        };
        // what enters after the reset and what is asked for before the next are tiny, so that nothing overflows; or what
        // enters after the growth and what is asked for before it
        let (first, last) = if grown { (1, 189) } else { (141, 40) };
        let (first, last) = if reverse { (last, first) } else { (first, last) };
        for k in (0..count).filter(|&k| phase(k) == first) {
            numbers.x[k] = 1e-30f32 as f64;
        }
        for k in (0..count).filter(|&k| phase(k) == last) {
            numbers.grad_y[k] = 1e-30f32 as f64;
        }
        let t = |v: &[f64]| tensor(v, &shape, DType::F32, device);
        let (x, a, b, c) = (t(&numbers.x)?, t(&numbers.a)?, t(&numbers.b)?, t(&numbers.c)?);
        let scan = Scan::new().reverse(reverse);
        let y = scan.apply(&x, &a, &b, &c)?;
        let grads = scan.gradients(&x, &a, &b, &c, &t(&numbers.grad_y)?)?;
        let (truth, magnitudes) = (numbers.outcome(), numbers.magnitudes());
        let results = [("y", &y), ("dx", &grads[0]), ("da", &grads[1]), ("db", &grads[2]), ("dc", &grads[3])];
        for (name, got) in results {
            // a hundred gates are multiplied one by one, each with a rounding
            let tolerance = Tolerance { relative: 2e-5, ..Tolerance::new(DType::F32, DType::F32, true) };
            let what = format!("{name} of {dims:?}, reverse: {reverse}");
            tolerance.check(&what, &values(got)?, &truth[name], &magnitudes[name]);
        }
    }
    Ok(())
}

/// Nothing closes the gate: a late input meets a product of gates that overflowed long before.
#[test]
fn a_late_first_input() -> Result<()> {
    for device in devices() {
        for (batch, len, channels) in SHAPES {
            if !in_reach((batch, len, channels)) {
                continue;
            }
            let shape = [batch, len, channels];
            let mut a = vec![3.; batch * len * channels];
            let mut x = vec![0.; a.len()];
            let start = len - 20;
            for k in (0..a.len()).filter(|k| k / channels % len >= start) {
                (a[k], x[k]) = (0.5, if k / channels % len == start { 1. } else { 0. });
            }
            let (x, a) = (tensor(&x, &shape, DType::F32, device)?, tensor(&a, &shape, DType::F32, device)?);
            let one = x.ones_like()?;
            for (k, y) in values(&scan(&x, &a, &one, &one)?)?.into_iter().enumerate() {
                let t = k / channels % len;
                let want = if t < start { 0. } else { 0.5f64.powi((t - start) as i32) };
                assert_eq!(y, want, "step {t} of {shape:?}");
            }
        }
    }
    Ok(())
}

/// The smallest state under growth: exact in time order, right or infinite where tiles of time are combined.
#[test]
fn a_tiny_state_that_grows() -> Result<()> {
    for device in devices() {
        for (len, channels, start, tiled) in
            [(1_024, 300, 0, false), (1_024, 16, 0, false), (1_050_000, 1, 70_000, true)]
        {
            if !in_reach((1, len, channels)) {
                continue;
            }
            let steps = 1_024.min(len - start);
            let at = |t: usize| start < t && t < start + steps;
            let a: Vec<f64> = (0..len * channels).map(|k| if at(k / channels) { 1.1f32 as f64 } else { 1. }).collect();
            let x: Vec<f64> = (0..len * channels).map(|k| if k / channels == start { 1e-30 } else { 0. }).collect();
            let shape = [1, len, channels];
            let (x, a) = (tensor(&x, &shape, DType::F32, device)?, tensor(&a, &shape, DType::F32, device)?);
            let one = x.ones_like()?;
            let y = values(&scan(&x, &a, &one, &one)?)?;
            let last = *y.last().expect("a last step");
            let want = 1e-30f32 as f64 * (1.1f32 as f64).powi(steps as i32 - 1);
            let right = (last / want - 1.).abs() < 1e-4;
            let tiled = tiled || !by_the_cpu(device);
            assert!(right || tiled && last == f64::INFINITY, "{last:e} after {steps} steps, not {want:e}");
        }
    }
    Ok(())
}

/// An impulse and a state that decays below the smallest normal number, which may be flushed to zero.
#[test]
fn a_decaying_state() -> Result<()> {
    for device in devices() {
        for dims in SHAPES {
            if !in_reach(dims) {
                continue;
            }
            for dtype in DTYPES {
                let (batch, len, channels) = dims;
                let shape = [batch, len, channels];
                let gate = tensor(&[0.9], &[1, 1, 1], dtype, device)?;
                let n = batch * len * channels;
                let impulse =
                    |t: usize| (0..n).map(|k| if k / channels % len == t { 1. } else { 0. }).collect::<Vec<_>>();
                let (x, grad_y) = (impulse(0), impulse(len - 1));
                let a = vec![values(&gate)?[0]; n];
                let (b, c) = (vec![1.; n], vec![1.; n]);
                let t = |v: &[f64]| tensor(v, &shape, dtype, device);
                let y = scan(&t(&x)?, &t(&a)?, &t(&b)?, &t(&c)?)?;
                let grads = Scan::new().gradients(&t(&x)?, &t(&a)?, &t(&b)?, &t(&c)?, &t(&grad_y)?)?;
                let states = vec![0.; batch * channels];
                let (h0, grad_last) = (states.clone(), states);
                let numbers = Numbers { dims, offsets: None, reverse: false, x, a, b, c, h0, grad_y, grad_last };
                let truth = numbers.outcome();
                let results = [("y", &y), ("dx", &grads[0]), ("da", &grads[1]), ("db", &grads[2]), ("dc", &grads[3])];
                for (name, got) in results {
                    let mut tolerance = Tolerance::new(accumulation_dtype(dtype), dtype, true);
                    // a product of n gates has n roundings, of which a hundred and more are above the smallest numbers
                    tolerance.relative *= 10.;
                    let what = format!("{name} of {dims:?} in {dtype:?}");
                    tolerance.check(&what, &values(got)?, &truth[name], &truth[name]);
                }
            }
        }
    }
    Ok(())
}

/// A long sequence is one operation: neither its backward pass nor dropping its graph recurses over time.
#[test]
fn a_long_sequence_on_a_default_stack() -> Result<()> {
    for device in devices() {
        let walk = || -> Result<()> {
            for (len, channels) in [(300_000, 1), (300_000, 4)] {
                if !in_reach((1, len, channels)) {
                    continue;
                }
                let inputs = random_inputs(7, (1, len, channels), DType::F32, device)?;
                let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
                let h0 = Var::from_tensor(&random(8, &[1, channels], -1., 1., DType::F32, device)?)?;
                let scan = Scan::new().initial_state(&h0);
                let (y, last) = scan.apply_with_state(&vars[0], &vars[1], &vars[2], &vars[3])?;
                let grads = (y.sum_all()? + last.sum_all()?)?.backward()?;
                for var in vars.iter().chain([&h0]) {
                    assert!(values(grads.get(var).expect("a gradient"))?.iter().all(|g| g.is_finite()));
                }
            }
            Ok(())
        };
        // what std gives a thread
        let stack = 2 << 20;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, walk);
            thread.expect("a thread").join().expect("no overflow")
        })?;
    }
    Ok(())
}

/// Many steps of a gate close to 1 in f64, where every rounding would show.
#[test]
fn a_long_memory() -> Result<()> {
    let (len, device) = (200_000, Device::Cpu);
    let x = Tensor::ones((1, len, 1), DType::F64, &device)?;
    let a = x.affine(0., 1. - 1e-5)?;
    let y = values(&scan(&x, &a, &x, &x)?)?;
    let gate = 1. - 1e-5f64;
    for t in [0, 1, 1_000, 99_999, len - 1] {
        // the geometric series
        let want = (1. - ((t + 1) as f64 * gate.ln()).exp()) / (1. - gate);
        assert!((y[t] / want - 1.).abs() < 1e-10, "{} at {t}, not {want}", y[t]);
    }
    Ok(())
}
