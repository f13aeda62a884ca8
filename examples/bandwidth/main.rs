//! How close the scan comes to the bandwidth of memory.
//!
//!     cargo run --release --example bandwidth
//!
//! A forward pass has to read four tensors and write one, a backward pass to read five and write four. Each row gives
//! the time of the public call, its outputs allocated and released, the bandwidth on those bytes, and the ratios to a
//! plain element-wise kernel that moves as many tensors, to candle's own `&x * &a` scaled to as many, and of a decaying
//! state to random data. All take turns in one run.

mod measure;
mod report;
mod stream;

use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};
use candle_core::{DType, Device, Storage, Tensor};
use clap::{Parser, ValueEnum};
use half::{bf16, f16};
use rand::{rngs::StdRng, Rng, SeedableRng};
use rayon::prelude::*;

use quick_ssm::Scan;

use measure::{interleaved, Contender, WallClock};
use report::{PassTimes, Report, Row};
use stream::{stream5, stream9, Element};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the scan against the bandwidth of memory.
///
/// Ratios are ratios of times, smaller is better, of medians and in brackets of minima. The program and everything
/// that it measures allocate with mimalloc.
#[derive(Debug, Parser)]
struct Args {
    /// Dtypes to measure (default: all four)
    #[arg(long, value_name = "DTYPE")]
    dtype: Vec<Dtype>,
    /// Shape B,L,D (batch, time, channel), any number of times
    #[arg(long, value_name = "B,L,D", value_parser = parse_shape)]
    shape: Vec<[usize; 3]>,
    /// Timed calls of each kind
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed of the random data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stay on the CPU where there is a CUDA device
    #[arg(long)]
    cpu: bool,
    /// Write the results to a JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the results to an SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const SHAPES: [[usize; 3]; 6] =
    [[4, 2048, 1024], [1, 16384, 1024], [8, 512, 512], [16, 128, 4096], [1, 262144, 64], [1, 1048576, 16]];

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
    F64,
}

impl Dtype {
    const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::F16, Self::F64];
}

fn parse_shape(text: &str) -> Result<[usize; 3]> {
    let sizes = text.split(',').map(|n| n.trim().parse()).collect::<Result<Vec<usize>, _>>();
    let shape: [usize; 3] =
        sizes.ok().and_then(|s| s.try_into().ok()).context("expected three numbers, as 4,2048,1024")?;
    ensure!(!shape.contains(&0), "expected sizes of at least 1");
    Ok(shape)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let shapes = if args.shape.is_empty() { SHAPES.to_vec() } else { args.shape.clone() };
    let dtypes = if args.dtype.is_empty() { Dtype::ALL.to_vec() } else { args.dtype.clone() };
    let threads = rayon::current_num_threads();
    println!(
        "CPU, {threads} threads, {} rounds; GB/s of the fewest bytes: forward 5, gradients 9 tensors",
        args.rounds
    );
    report::print_heading();
    let mut rows = Vec::new();
    for &dtype in &dtypes {
        for &shape in &shapes {
            let new = match dtype {
                Dtype::F32 => measure_cpu::<f32>(shape, &args)?,
                Dtype::Bf16 => measure_cpu::<bf16>(shape, &args)?,
                Dtype::F16 => measure_cpu::<f16>(shape, &args)?,
                Dtype::F64 => measure_cpu::<f64>(shape, &args)?,
            };
            rows.extend(new);
        }
    }
    let report = Report {
        device: format!("CPU, {threads} threads"),
        threads,
        candle_threads: candle_core::utils::get_num_threads(),
        allocator: "mimalloc",
        rounds: args.rounds as usize,
        seed: args.seed,
        rows: &rows,
    };
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
    }
    if let Some(path) = &args.plot {
        report::plot(path, &report)?;
    }
    Ok(())
}

/// Sets of arguments are rotated through until they exceed this, so that no cache holds them from call to call.
const COLD_BYTES: usize = 256 << 20;

/// The arguments of a scan and the gradient of its result.
struct Data {
    x: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad_y: Tensor,
}

impl Data {
    /// a in [0, 1), all others in [-1, 1).
    fn random(shape: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Self> {
        let uniform = |low: f32, k: u64| uniform(shape, low, seed ^ (k << 32))?.to_device(device)?.to_dtype(dtype);
        Ok(Self {
            x: uniform(-1., 1)?,
            a: uniform(0., 2)?,
            b: uniform(-1., 3)?,
            c: uniform(-1., 4)?,
            grad_y: uniform(-1., 5)?,
        })
    }

    /// An impulse under a = 0.9, in the forward and in the backward direction: both states fade to nothing.
    fn decaying(shape: [usize; 3], dtype: DType, device: &Device) -> Result<Self> {
        let [batch, len, channels] = shape;
        let full = |v: f64, len| Tensor::full(v, (batch, len, channels), device)?.to_dtype(dtype);
        let impulse = |first: bool| match first {
            true => Tensor::cat(&[full(1., 1)?, full(0., len - 1)?], 1),
            false => Tensor::cat(&[full(0., len - 1)?, full(1., 1)?], 1),
        };
        let (x, grad_y) = (impulse(true)?, impulse(false)?);
        Ok(Self { x, a: full(0.9, len)?, b: full(1., len)?, c: full(1., len)?, grad_y })
    }

    fn sets(shape: [usize; 3], dtype: DType, seed: u64, device: &Device) -> Result<Vec<Self>> {
        let bytes = 5 * shape.iter().product::<usize>() * dtype.size_in_bytes();
        let sets = COLD_BYTES.div_ceil(bytes).clamp(1, 16) as u64;
        (0..sets).map(|k| Self::random(shape, dtype, seed.wrapping_add(k), device)).collect()
    }

    fn forward(&self) -> Result<()> {
        quick_ssm::scan(&self.x, &self.a, &self.b, &self.c)?;
        Ok(())
    }

    fn gradients(&self) -> Result<()> {
        Scan::new().gradients(&self.x, &self.a, &self.b, &self.c, &self.grad_y)?;
        Ok(())
    }

    fn product(&self) -> Result<()> {
        (&self.x * &self.a)?;
        Ok(())
    }
}

/// The same numbers whatever the number of threads.
fn uniform(shape: [usize; 3], low: f32, seed: u64) -> candle_core::Result<Tensor> {
    let mut values = vec![0f32; shape.iter().product()];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add((i as u64) << 40));
        chunk.fill_with(|| rng.random_range(low..1.));
    });
    Tensor::from_vec(values, &shape[..], &Device::Cpu)
}

fn measure_cpu<T: Element>(shape: [usize; 3], args: &Args) -> Result<Vec<Row>> {
    let device = Device::Cpu;
    let sets = Data::sets(shape, T::DTYPE, args.seed, &device)?;
    let decaying = Data::decaying(shape, T::DTYPE, &device)?;
    let set = |round: usize| &sets[round % sets.len()];
    let mut rows = Vec::new();
    for (pass, tensors) in [("forward", 5), ("gradients", 9)] {
        let forward = tensors == 5;
        let scan = |data: &Data| if forward { data.forward() } else { data.gradients() };
        let contenders: Vec<Contender> = vec![
            Box::new(|round| scan(set(round))),
            Box::new(|round| {
                let Data { x, a, b, c, grad_y } = set(round);
                match forward {
                    true => drop(with_slices([x, a, b, c], stream5::<T>)?),
                    false => drop(with_slices([grad_y, x, a, b, c], stream9::<T>)?),
                }
                Ok(())
            }),
            Box::new(|round| set(round).product()),
            Box::new(|_| scan(&decaying)),
        ];
        let times = interleaved(&WallClock, args.rounds as usize, contenders)?;
        let Ok([scan, yardstick, candle, decaying]) = <[_; 4]>::try_from(times) else {
            bail!("a contender is missing")
        };
        let times = PassTimes { scan, yardstick, candle, decaying };
        let row = Row::new(T::DTYPE, shape, (pass, tensors), if forward { "stream5" } else { "stream9" }, &times);
        report::print_row(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// Calls `f` on the values of contiguous tensors on the CPU.
fn with_slices<T: Element, R, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[T]; N]) -> R) -> Result<R> {
    let guards = tensors.map(|t| t.storage_and_layout().0);
    let mut slices = [&[] as &[T]; N];
    for (slice, guard) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**guard else { bail!("expected a tensor on the CPU") };
        *slice = storage.as_slice()?;
    }
    Ok(f(slices))
}
