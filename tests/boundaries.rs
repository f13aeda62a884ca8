//! Sizes around every place where a kernel changes its way: vector widths, tiles of channels and time, chunks.

mod common;

use candle_core::{DType, Result};
use common::{executors, Gate, Output, Spec, DTYPES};

/// Around the vector widths and the groups of channels.
const CHANNELS: [usize; 27] = [
    1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 2047, 2048,
    2049,
];

/// Around the lengths of chunks and tiles.
const LENGTHS: [usize; 21] = [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];

fn check(spec: Spec) -> Result<()> {
    let case = spec.draw()?;
    assert!(case.is_exact(), "{:?}: the truth would be of other numbers", case.spec);
    executors().iter().try_for_each(|executor| executor.check(&case))
}

/// The plain scan, and one with both states against time; gates of several kinds, and lasting ones in long sequences.
fn variants(dims: (usize, usize, usize), dtype: DType) -> [Spec; 2] {
    let seed = (dims.0 + 3 * dims.1 + 7 * dims.2) as u64;
    let gate = |n: u64| if dims.1 > 1_000 { Gate::Lasting } else { Gate::ALL[((seed + n) % 4) as usize] };
    let plain = Spec { seed, gate: gate(0), ..Spec::new(dims, dtype) };
    let full = Spec { gate: gate(1), output: Output::YAndLast, h0: Some(dtype), reverse: true, ..plain.clone() };
    [plain, full]
}

#[test]
fn channels() -> Result<()> {
    for channels in CHANNELS {
        for dtype in DTYPES {
            let (batch, len) = if dtype == DType::F32 { (2, 33) } else { (1, 5) };
            variants((batch, len, channels), dtype).into_iter().try_for_each(check)?;
        }
    }
    Ok(())
}

#[test]
fn lengths() -> Result<()> {
    for len in LENGTHS {
        for channels in [1, 8, 65] {
            for dtype in DTYPES {
                variants((2, len, channels), dtype).into_iter().try_for_each(check)?;
            }
        }
    }
    Ok(())
}

#[test]
fn chunks_of_wide_rows() -> Result<()> {
    for len in [63, 64, 65, 511, 512, 513, 1000] {
        for channels in [65, 257, 520] {
            variants((1, len, channels), DType::F32).into_iter().try_for_each(check)?;
            variants((2, len, channels), DType::BF16).into_iter().try_for_each(check)?;
        }
    }
    Ok(())
}

/// Gradients of more bytes than caches have may be written in another way.
#[test]
fn large() -> Result<()> {
    let dims = (2, 1026, 1024);
    assert!(dims.0 * dims.1 * 4 * dims.2 * size_of::<f32>() > 32 << 20);
    let [_, of_everything] = variants(dims, DType::F32);
    check(of_everything)
}

#[test]
fn few_batches_and_more_batches_than_cores() -> Result<()> {
    for batch in [1, 2, 3, 4, 5, 8, 9, 17, 64] {
        for (len, channels) in [(7, 3), (20, 17), (3, 130)] {
            for dtype in DTYPES {
                variants((batch, len, channels), dtype).into_iter().try_for_each(check)?;
            }
        }
    }
    Ok(())
}

#[test]
fn narrow_and_long() -> Result<()> {
    for dims in [(1, 70_000, 3), (2, 40_000, 2), (1, 16_385, 8)] {
        variants(dims, DType::F32).into_iter().try_for_each(check)?;
    }
    // from a million elements on, time may be tiled
    for dims in [(1, 1_050_000, 1), (1, 350_000, 3), (1, 70_000, 16), (1, 70_000, 17), (2, 8_193, 129)] {
        variants(dims, DType::F32).into_iter().try_for_each(check)?;
    }
    for dims in [(2, 5_001, 15), (1, 8_192, 128)] {
        for dtype in DTYPES {
            variants(dims, dtype).into_iter().try_for_each(check)?;
        }
    }
    Ok(())
}

#[test]
fn narrow_and_long_packed() -> Result<()> {
    for (channels, scale) in [(3, 10), (65, 1), (130, 4)] {
        // long ones, short ones, an empty one, and one of a single step
        let offsets: Vec<_> = [0, 1, 2_100, 2_100, 4_190, 4_200].map(|o| o * scale).to_vec();
        for dtype in if scale == 1 { &DTYPES[..] } else { &DTYPES[..1] } {
            for spec in variants((1, offsets[5], channels), *dtype) {
                check(Spec { offsets: Some(offsets.clone()), ..spec })?;
            }
        }
    }
    Ok(())
}

#[test]
fn many_short_packed_sequences() -> Result<()> {
    // every length from 0 to 20, several times
    let mut offsets = vec![0];
    (0..100).for_each(|n| offsets.push(offsets[n] + (n * 13) % 21));
    for dtype in DTYPES {
        for channels in [1, 9, 64] {
            for spec in variants((1, offsets[100], channels), dtype) {
                check(Spec { offsets: Some(offsets.clone()), ..spec })?;
            }
        }
    }
    Ok(())
}
