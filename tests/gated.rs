//! The scan with its gates inside: values and gradients against f64, for every dtype and option.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::judge::accumulation_dtype;
use common::{devices, in_reach, GatedSpec, View, DTYPES};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};

fn check(spec: GatedSpec) -> Result<()> {
    let case = spec.draw()?;
    let (batch, len, channels) = case.spec.dims;
    devices().filter(|_| in_reach((batch, len, 5 * channels))).try_for_each(|device| case.check(device))
}

/// A case of everything, and the plain one.
fn variants(dims: (usize, usize, usize), dtype: DType) -> [GatedSpec; 2] {
    let seed = (dims.0 + 3 * dims.1 + 7 * dims.2) as u64;
    let plain = GatedSpec { seed, ..GatedSpec::new(dims, dtype) };
    [plain.clone(), GatedSpec { h0: Some(dtype), with_state: true, reverse: true, ..plain }]
}

#[test]
fn channels() -> Result<()> {
    for channels in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 512, 513, 1024, 1025] {
        for dtype in DTYPES {
            let (batch, len) = if dtype == DType::F32 { (2, 33) } else { (1, 5) };
            variants((batch, len, channels), dtype).into_iter().try_for_each(check)?;
        }
    }
    Ok(())
}

#[test]
fn lengths() -> Result<()> {
    for len in [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 513] {
        for channels in [1, 8, 65] {
            for dtype in DTYPES {
                variants((2, len, channels), dtype).into_iter().try_for_each(check)?;
            }
        }
    }
    Ok(())
}

/// Devices may compute tensors of many channels in another way.
#[test]
fn wide_rows() -> Result<()> {
    for (len, channels) in [(300, 520), (33, 514)] {
        for dtype in DTYPES {
            variants((2, len, channels), dtype).into_iter().try_for_each(check)?;
        }
    }
    Ok(())
}

/// From a million elements and some thousands of steps on, time may be tiled.
#[test]
fn narrow_and_long() -> Result<()> {
    for dims in [(1, 8_192, 128), (1, 8_193, 129), (2, 70_000, 16)] {
        for spec in variants(dims, DType::F32) {
            check(spec)?;
        }
    }
    check(GatedSpec::new((1, 8_200, 128), DType::BF16))
}

/// Gradients of more bytes than caches have may be written in another way.
#[test]
fn large() -> Result<()> {
    let dims = (2, 821, 1024);
    assert!(dims.0 * dims.1 * 5 * dims.2 * size_of::<f32>() > 32 << 20);
    let [_, of_everything] = variants(dims, DType::F32);
    check(of_everything)
}

#[test]
fn options() -> Result<()> {
    let dims = (2, 45, 7);
    for dtype in DTYPES {
        let acc = accumulation_dtype(dtype);
        for bias in [None, Some(dtype), Some(acc)] {
            for h0 in [None, Some(dtype), Some(acc)] {
                let spec = GatedSpec { bias, h0, with_state: h0.is_some(), ..GatedSpec::new(dims, dtype) };
                check(GatedSpec { reverse: bias.is_some(), ..spec.clone() })?;
                let offsets = Some(vec![0, 0, 1, 12, 12, 33, 45, 45]);
                check(GatedSpec { dims: (1, 45, 7), offsets, ..spec })?;
            }
        }
        for out in DTYPES {
            check(GatedSpec { out_dtype: Some(out), ..GatedSpec::new(dims, dtype) })?;
        }
        for steps in [1, 7, 16, 45, usize::MAX] {
            let spec = GatedSpec { h0: Some(acc), chunk_len: Some(steps), ..GatedSpec::new((1, 300, 33), dtype) };
            check(spec)?;
        }
        for dims in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
            check(GatedSpec { h0: Some(dtype), with_state: true, ..GatedSpec::new(dims, dtype) })?;
        }
    }
    Ok(())
}

#[test]
fn any_layout() -> Result<()> {
    for dtype in DTYPES {
        for view in View::ALL {
            for channels in [8, 13] {
                let spec = GatedSpec::new((2, 19, channels), dtype);
                check(GatedSpec { views: [view, View::Contiguous], ..spec.clone() })?;
                check(GatedSpec { views: [View::Contiguous, view], reverse: true, ..spec })?;
            }
        }
    }
    Ok(())
}

/// Every option at once.
fn spec() -> impl Strategy<Value = GatedSpec> {
    let size = |sizes: &'static [usize]| (select(sizes), 0..3usize).prop_map(|(n, k)| (n + k).saturating_sub(1));
    let sizes = (0..4usize, size(&[1, 4, 16, 64, 128]), size(&[1, 8, 16, 64, 256]), prop::bool::weighted(0.3));
    let sizes = sizes.prop_flat_map(|(batch, len, channels, packed)| {
        let cuts = prop::collection::vec(0..=len, 0..6).prop_map(move |mut cuts| {
            cuts.extend([0, len]);
            cuts.sort_unstable();
            packed.then_some(cuts)
        });
        (Just((if packed { 1 } else { batch }, len, channels)), cuts)
    });
    let dtype = (select(&DTYPES[..]), prop::option::weighted(0.3, select(&DTYPES[..])));
    let states = (prop::option::of(prop::bool::ANY), prop::option::of(prop::bool::ANY), prop::bool::ANY);
    let others = (prop::bool::ANY, prop::option::of(1..70usize), select(&View::ALL[..]), select(&View::ALL[..]));
    (sizes, dtype, states, others, any::<u64>()).prop_map(
        |((dims, offsets), (dtype, out_dtype), (bias, h0, with_state), (reverse, chunk_len, p, grad), seed)| {
            let of = |wide: bool| if wide { accumulation_dtype(dtype) } else { dtype };
            let (bias, h0, views) = (bias.map(of), h0.map(of), [p, grad]);
            GatedSpec { dims, dtype, seed, bias, h0, with_state, reverse, offsets, chunk_len, out_dtype, views }
        },
    )
}

#[test]
fn anything() {
    let config = Config {
        cases: 300,
        rng_seed: RngSeed::Fixed(11),
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Config::default()
    };
    proptest!(config, |(spec in spec())| {
        let (batch, len, channels) = spec.dims;
        // candle's own sum of the gradient of an empty broadcast tensor divides by zero on CUDA
        prop_assume!(batch * len * channels > 0 || !spec.views[0].broadcasts());
        check(spec).map_err(|error| TestCaseError::fail(error.to_string()))?;
    });
}

/// Gates at their limits are exactly 0 or 1, and their gradients are finite.
#[test]
fn saturated_gates() -> Result<()> {
    for device in devices() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for extreme in [30., 90., 1e4, 1e30, f64::INFINITY] {
                let row = |a: f64, d: f64, ca: f64| [a, d, 3., ca, 1.];
                let steps = [row(extreme, extreme, 1.), row(extreme, -extreme, 1.), row(-extreme, -extreme, 1.)];
                let p =
                    Tensor::from_vec(steps.concat(), (1, 3, 5), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
                let p = candle_core::Var::from_tensor(&p)?;
                let (y, last) = quick_ssm::Scan::new().apply_gated_with_state(&p, None)?;
                let got = common::values(&y)?;
                let one = common::gated::sigmoid(1.);
                for (got, want) in got.iter().zip([3. * one, 3. * one, 0.]) {
                    assert!((got - want).abs() <= 0.02, "{dtype:?} {extreme}: {got} not {want}");
                }
                let grads = (y.sum_all()?.to_dtype(DType::F64)? + last.sum_all()?.to_dtype(DType::F64)?)?.backward()?;
                let grads = common::values(grads.get(&p).expect("a gradient"))?;
                assert!(grads.iter().all(|g| g.is_finite()), "{dtype:?} {extreme}: {grads:?}");
            }
        }
    }
    Ok(())
}

/// What is not finite reaches later steps of its own channel only.
#[test]
fn non_finite_values_stay_in_their_channel() -> Result<()> {
    let dims = (1, 150, 20);
    for device in devices() {
        for part in 0..5 {
            for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let clean = common::random(5, &[1, dims.1, 5 * dims.2], -1., 1., DType::F32, device)?;
                let mut values = common::values(&clean)?;
                values[77 * 5 * dims.2 + part * dims.2 + 9] = poison;
                let p = common::tensor(&values, clean.dims(), DType::F32, device)?;
                let scan = quick_ssm::Scan::new();
                let (got, want) = (scan.apply_gated(&p, None)?, scan.apply_gated(&clean, None)?);
                let (got, want) = (common::bits(&got)?, common::bits(&want)?);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (step, channel) = (i / dims.2, i % dims.2);
                    assert!(got == want || step >= 77 && channel == 9, "part {part}, {poison}: at {step}, {channel}");
                }
            }
        }
    }
    Ok(())
}
