use candle_core::Tensor;

use super::*;
use crate::cuda::passes;
use crate::problem::accumulation_dtype;

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];
const FORMS: [Form; 2] = [Form::Plain, Form::Gated];

/// Numbers of channels of a narrow and a wide tensor, whichever the tiles.
const CHANNELS: [usize; 2] = [1, 1 << 10];
/// Enough sequences for kernels that count them.
const BATCH: usize = 8;

/// Every form, direction, dtype and width.
fn kinds() -> impl Iterator<Item = (Form, Direction, DType, usize)> {
    FORMS.into_iter().flat_map(|form| {
        DIRECTIONS.into_iter().flat_map(move |direction| {
            DTYPES.into_iter().flat_map(move |dtype| CHANNELS.map(|channels| (form, direction, dtype, channels)))
        })
    })
}

#[test]
fn tiles_are_those_of_the_kernels() -> Result<()> {
    for (form, direction, dtype, channels) in kinds() {
        let width = if channels == 1 { Width::Narrow } else { Width::Wide };
        let kernel = Kernel::of_width(form, direction, dtype, width)?;
        for entry in ["vector", "element", "vector_packed", "element_packed"] {
            let name = format!("{}_{entry}", kernel.entries());
            for tiles in [Tiles::Real, Tiles::Tiny] {
                let found = ffi::describe(tiles as u32, &name)?.expect("a kernel");
                assert_eq!(found.params_bytes as usize, size_of::<Params>());
                let kernel = tiles.kernel(form, direction, dtype, BATCH, channels)?;
                let tile = kernel.tile();
                assert_eq!(found.tile(), tile, "{name} {tiles:?}");
                assert_eq!(
                    (found.threads, found.channels, found.length),
                    (tile.threads(), tile.channels(), tile.len())
                );
                assert_eq!(found.access, kernel.access(), "{name} {tiles:?}");
                let offsets = u64::from(entry.ends_with("packed"));
                let params = Params { offsets, ..Params::default() };
                assert_eq!(found.shared_bytes, kernel.shared_bytes(&params), "{name} {tiles:?}");
            }
        }
        assert_eq!(Tiles::Real.tile(kernel)?, kernel.tile());
        let Some(large) = kernel.larger() else { continue };
        for tiles in [Tiles::Real, Tiles::Tiny] {
            let found = ffi::describe(tiles as u32, &format!("{}_vector", large.entries()))?.expect("a kernel");
            let (wide, tile) = (tiles.tile(kernel)?, found.tile());
            assert_eq!((tile.steps, tile.segments, tile.channels()), (wide.steps, wide.segments, 2 * wide.channels()));
            let large = large.with_tile(tile, wide.len());
            assert_eq!(found.access, large.access());
            assert_eq!(found.shared_bytes, large.shared_bytes(&Params::default()));
        }
        assert_eq!(Tiles::Real.tile(large)?, large.tile());
    }
    for dtype in DTYPES {
        for tiles in [Tiles::Real, Tiles::Tiny] {
            let kernel = tiles.kernel(Form::Plain, Direction::Sum, dtype, 1, 1)?;
            let found = ffi::describe(tiles as u32, &kernel.entry(&Params::default()))?.expect("a kernel");
            assert_eq!((found.tile(), found.params_bytes as usize), (kernel.tile(), size_of::<Params>()));
            assert_eq!(found.shared_bytes, kernel.shared_bytes(&Params::default()));
            if tiles == Tiles::Real {
                assert_eq!(kernel.tile(), Kernel::of_width(Form::Plain, Direction::Sum, dtype, Width::Wide)?.tile());
            }
        }
    }
    assert_eq!(ffi::describe(0, "quick_ssm_forward_u8_vector")?, None);
    Ok(())
}

#[test]
fn saved_states_lie_where_the_backward_pass_looks_for_them() -> Result<()> {
    for tiles in [Tiles::Real, Tiles::Tiny] {
        for (form, _, dtype, channels) in kinds() {
            let [forward, backward] = DIRECTIONS.map(|direction| tiles.kernel(form, direction, dtype, BATCH, channels));
            let (forward, backward) = (forward?, backward?);
            for len in [1usize, 31, 32, 33, 1000] {
                let rows = len.div_ceil(backward.tile().len() as usize);
                assert_eq!((forward.saved_rows(len), backward.saved_rows(len)), (rows, rows));
                for kernel in [forward, backward] {
                    assert_eq!(1 << kernel.params([BATCH, len, channels])?.saved_shift, backward.tile().len());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn plans_and_workspaces_are_those_of_the_kernels() -> Result<()> {
    for (form, direction, dtype, channels) in kinds() {
        for tiles in [Tiles::Real, Tiles::Tiny] {
            let kernel = tiles.kernel(form, direction, dtype, BATCH, channels)?;
            let tile = kernel.tile();
            let acc_bytes = if dtype == DType::F64 { 8 } else { 4 };
            for chunks in [1, 2, 7, 8, 15, 16, 17, 63, 64, 127, 128, 255, 256, 4_000, 1 << 20] {
                for channel_tiles in [1, 7, 8, 9, 48] {
                    for batch in [1, 3] {
                        let len = (chunks * tile.len()) as usize;
                        let params = kernel.params([batch, len, (channel_tiles * tile.channels()) as usize])?;
                        let plan = params.look_back;
                        let words = [plan.shift, plan.begin].concat();
                        let (want, bytes) = ffi::plan(chunks, channel_tiles, batch as u32, tile.channels(), acc_bytes);
                        assert_eq!(words, want, "{chunks} chunks, {channel_tiles} tiles of channels");
                        assert_eq!(kernel.workspace_bytes(&params), bytes);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Half the distance of 1 to the next number.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.,
        DType::F32 => f64::from(f32::EPSILON) / 2.,
        DType::F16 => f16::EPSILON.to_f64() / 2.,
        _ => bf16::EPSILON.to_f64() / 2.,
    }
}

/// Few rows, and so many that the sums of chunks are summed in turn, in the dtype of the rows and that of accumulation.
#[test]
fn sums_of_rows() -> Result<()> {
    for dtype in DTYPES {
        for tiles in [Tiles::Real, Tiles::Tiny] {
            let tile = tiles.kernel(Form::Plain, Direction::Sum, dtype, 1, 1)?.tile();
            let (len, wide) = (tile.len() as usize, tile.channels() as usize);
            let most = if tiles == Tiles::Tiny { len * len + 1 } else { 2 * len + 1 };
            for rows in [1, 2, len - 1, len, len + 1, most] {
                for channels in [1, wide - 1, wide, wide + 1] {
                    let numbers = (0..rows * channels).map(|n| (n * 7 % 31) as f64 / 16. - 0.9);
                    let t = Tensor::from_iter(numbers, &Device::Cpu)?.reshape((rows, channels))?.to_dtype(dtype)?;
                    let exact = t.to_dtype(DType::F64)?;
                    let (sum, magnitude) = (exact.sum(0)?, exact.abs()?.sum(0)?.max_all()?.to_scalar::<f64>()?);
                    let largest = sum.abs()?.max_all()?.to_scalar::<f64>()?;
                    let acc = accumulation_dtype(dtype);
                    // what a thread adds up, what its block adds up of threads, and both once more
                    let additions = f64::from(2 * (tile.steps + tile.segments));
                    for out in [dtype, acc] {
                        let got = passes::sum_of_rows(&Emulation::new(tiles), &t, out)?;
                        assert_eq!((got.dims(), got.dtype()), (&[channels][..], out));
                        let error = (got.to_dtype(DType::F64)? - &sum)?.abs()?.max_all()?.to_scalar::<f64>()?;
                        // candle adds up one row after the other, in f64
                        let of_exact = rows as f64 * rounding(DType::F64);
                        let limit = rounding(out) * largest + (additions * rounding(acc) + of_exact) * magnitude;
                        assert!(error <= limit, "{dtype:?} {tiles:?} [{rows}, {channels}]: {error:e} of {limit:e}");
                    }
                }
            }
        }
    }
    Ok(())
}
