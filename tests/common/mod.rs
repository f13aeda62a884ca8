//! What the tests of the scan share.
//!
//! A [`Case`] is a problem in plain numbers. An [`Executor`] computes it, [`truth`] says in f64 what it should have
//! computed, and [`judge`] compares the two. A test body that takes an executor runs on every device there is.

#![allow(dead_code, unused_imports)] // every test file uses a part of it

pub mod case;
pub mod executor;
pub mod gated;
pub mod judge;
pub mod truth;
pub mod view;

use std::io::Write;
use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use case::{Case, Gate, Output, Spec};
pub use executor::{executors, Autograd, Direct, Executor};
pub use gated::{GatedCase, GatedSpec};
pub use judge::judge;
pub use view::View;

pub const DTYPES: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];

/// Those to test sequences of `L, D` with: all of them, or f32 where that would take long.
pub fn dtypes((len, channels): (usize, usize)) -> &'static [DType] {
    if len * channels < 40_000 {
        &DTYPES
    } else {
        &DTYPES[..1]
    }
}

/// Where the tests run: on the CPU, on a CUDA device where there is one, and, with the feature `simt`, on the CPU with
/// the CUDA kernels in its place, from one step of the iterator to the next.
#[derive(Default)]
pub struct Devices {
    given: usize,
    #[cfg(feature = "simt")]
    emulating: Option<quick_ssm::simt::Emulating>,
}

impl Iterator for Devices {
    type Item = &'static Device;

    fn next(&mut self) -> Option<&'static Device> {
        self.given += 1;
        real_devices().get(self.given - 1).or_else(|| self.next_emulated())
    }
}

impl Devices {
    #[cfg(feature = "simt")]
    fn next_emulated(&mut self) -> Option<&'static Device> {
        use quick_ssm::simt::{emulate, Emulation};
        let tiles = executor::EMULATED.get(self.given - 1 - real_devices().len())?;
        self.emulating = None;
        self.emulating = Some(emulate(Emulation::new(*tiles)));
        Some(&Device::Cpu)
    }

    #[cfg(not(feature = "simt"))]
    fn next_emulated(&mut self) -> Option<&'static Device> {
        None
    }
}

pub fn devices() -> Devices {
    Devices::default()
}

/// Whether the crate's kernels for the CPU compute on this device, now.
pub fn by_the_cpu(device: &Device) -> bool {
    #[cfg(feature = "simt")]
    if quick_ssm::simt::current(device).is_some() {
        return false;
    }
    device.is_cpu()
}

/// Whether a problem can be computed in seconds; under emulation, which computes channels by the dozen, few are.
pub fn in_reach((batch, len, channels): (usize, usize, usize)) -> bool {
    #[cfg(feature = "simt")]
    if quick_ssm::simt::current(&Device::Cpu).is_some() {
        return batch * len * channels.max(16) <= 300_000;
    }
    let _ = (batch, len, channels);
    true
}

/// The CPU, and a CUDA device where there is one.
///
/// Without one it says so on standard error, past the capture of the test harness; with `QUICK_SSM_REQUIRE_CUDA=1` in
/// the environment it fails instead.
pub fn real_devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| match Device::new_cuda(0) {
        Ok(cuda) => vec![Device::Cpu, cuda],
        Err(error) => {
            let required = std::env::var("QUICK_SSM_REQUIRE_CUDA").is_ok_and(|v| v == "1");
            assert!(!required, "QUICK_SSM_REQUIRE_CUDA=1, but there is no CUDA device: {error}");
            // a test binary without standard error has nobody to tell
            let message = format!("CUDA half skipped, no CUDA device: {error}\n");
            let _ = std::io::stderr().write_all(message.as_bytes());
            vec![Device::Cpu]
        }
    })
}

pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// `count` numbers between `low` and `high` that `dtype` represents exactly.
pub fn uniform(rng: &mut SmallRng, count: usize, low: f64, high: f64, dtype: DType) -> Vec<f64> {
    (0..count).map(|_| judge::round(dtype, rng.random_range(low..high))).collect()
}

/// A tensor of `values`, rounded to `dtype`.
pub fn tensor(values: &[f64], dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    // rounded on the CPU, so that every device gets the same values
    Tensor::from_slice(values, dims, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// A tensor of random numbers between `low` and `high`.
pub fn random(seed: u64, dims: &[usize], low: f64, high: f64, dtype: DType, device: &Device) -> Result<Tensor> {
    tensor(&uniform(&mut rng(seed), dims.iter().product(), low, high, dtype), dims, dtype, device)
}

/// `x, a, b, c` of one shape, with gates that let a state last.
pub fn random_inputs(seed: u64, dims: (usize, usize, usize), dtype: DType, device: &Device) -> Result<[Tensor; 4]> {
    let dims = [dims.0, dims.1, dims.2];
    let t = |n: u64| random(seed * 4 + n, &dims, -1.5, 1.5, dtype, device);
    let gates = Gate::Lasting.draw(&mut rng(seed * 4 + 1), dims.iter().product(), dtype);
    Ok([t(0)?, tensor(&gates, &dims, dtype, device)?, t(2)?, t(3)?])
}

/// The elements of a tensor in row-major order, exactly.
pub fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The bits of the elements: unlike their values, these tell zeros of different sign and NaNs apart.
///
/// A conversion to f64 keeps the order and the sign of every narrower value, and a NaN a NaN.
pub fn bits(t: &Tensor) -> Result<Vec<u64>> {
    Ok(values(t)?.into_iter().map(f64::to_bits).collect())
}

/// Asserts that two tensors have the same dtype, shape and bits.
#[track_caller]
pub fn assert_same_bits(what: &str, got: &Tensor, want: &Tensor) -> Result<()> {
    assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{what}");
    let differ = bits(got)?.into_iter().zip(bits(want)?).position(|(g, w)| g != w);
    assert_eq!(differ, None, "{what}: the element at this index differs");
    Ok(())
}

/// Asserts it of several results, by their names.
#[track_caller]
pub fn assert_all_same_bits(what: &str, names: &[&str], got: &[Tensor], want: &[Tensor]) -> Result<()> {
    assert_eq!((got.len(), want.len()), (names.len(), names.len()), "{what}");
    names.iter().zip(got.iter().zip(want)).try_for_each(|(n, (g, w))| assert_same_bits(&format!("{what}: {n}"), g, w))
}

/// Asserts that `compute` gives the same results in pools of one and of more threads.
pub fn assert_same_with_any_threads(
    what: &str,
    names: &[&str],
    compute: impl Fn() -> Result<Vec<Tensor>> + Sync,
) -> Result<()> {
    let run = |threads: usize| -> Result<Vec<Tensor>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(&compute)
    };
    let one = run(1)?;
    for threads in [2, 3, 8] {
        assert_all_same_bits(&format!("{what} with {threads} threads"), names, &run(threads)?, &one)?;
    }
    Ok(())
}

/// Asserts that it fails, with a message that begins with the argument's name and has these parts.
#[track_caller]
pub fn fails<T>(result: Result<T>, argument: &str, parts: &[&str]) {
    let Err(error) = result else { panic!("{argument}: accepted, though it is not {parts:?}") };
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    assert!(first.starts_with(&format!("{argument}: ")), "it does not name {argument}: {first}");
    assert!(first.contains("expected") && first.contains("got"), "{first}");
    for part in parts {
        assert!(first.contains(part), "no {part:?} in: {first}");
    }
}
