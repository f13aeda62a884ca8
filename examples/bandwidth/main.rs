//! How close the scan comes to the bandwidth of memory.
//!
//! ```text
//! cargo run --release --example bandwidth
//! cargo run --release --example bandwidth -- --dtype bf16 --shape 4,2048,1024 --pass forward --rounds 31
//! ```
//!
//! A forward pass has to read four tensors and write one, a backward pass to read five and write four. Each row gives
//! the time of the public call, its outputs allocated and released, the bandwidth on those bytes, and the ratios of
//! that time to those of a yardstick that moves as many tensors, of candle's own `&x * &a` scaled to as many, and of the
//! scan of a state that fades away. All take turns in one run.
//!
//! `--table gated` is of the gated scan, whose passes read five tensors and write one, and read six and write five.
//! `--table against` puts the scan beside the recurrence computed step by step, `--table growth` shows how its cost grows
//! with each size, and `--table layer` is of the layer beside the same one of candle's operations.

mod against;
#[cfg(feature = "cuda")]
mod cuda;
mod data;
mod gated;
mod graph;
mod growth;
mod layer;
mod measure;
mod passes;
mod report;
mod stream;
mod table;
mod yardstick;

use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use half::{bf16, f16};

use data::{Data, Pass};
use gated::GatedData;
use report::Report;
use table::Table;

/// Measures the scan against the bandwidth of memory.
///
/// A ratio is one of times, so that less is better: of medians, and in brackets of minima. The yardstick is a plain
/// element-wise kernel on all threads, on a CUDA device a copy. "gradients" is `Scan::gradients`, "backward" the backward
/// pass that candle's autograd calls, without candle's own additions around it. Allocations are timed too, and are the system's: an
/// allocator that keeps memory shifts all times and ratios.
#[derive(Debug, Parser)]
struct Args {
    /// What to put into the table
    #[arg(long, value_name = "TABLE", default_value = "passes")]
    table: Contents,
    /// Dtypes to measure, all four by default
    #[arg(long, value_name = "DTYPE")]
    dtype: Vec<Dtype>,
    /// Shape B,L,D (batch, time, channel), any number of times
    #[arg(long, value_name = "B,L,D", value_parser = parse_shape)]
    shape: Vec<[usize; 3]>,
    /// What to measure, all that there is by default
    #[arg(long)]
    pass: Vec<Pass>,
    /// Rounds, in each of which everything is timed once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed of the random data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ask for huge pages under the results of the plain kernels too, as the scan does on Linux
    #[arg(long)]
    huge_pages: bool,
    /// Stay on the CPU where there is a CUDA device
    #[arg(long)]
    cpu: bool,
    /// Channels of the layer's state for each of its input's
    #[arg(long, default_value_t = 2.)]
    state_size_mult: f64,
    /// GiB of memory that a growing tensor may fill, with all that it needs
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// Write the results to a JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the results to an SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const SHAPES: [[usize; 3]; 6] =
    [[4, 2048, 1024], [1, 16384, 1024], [8, 512, 512], [16, 128, 4096], [1, 262144, 64], [1, 1048576, 16]];

/// What a table is of.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Contents {
    /// The passes of the scan, against the bandwidth of memory
    Passes,
    /// The passes of the gated scan, of shapes B,L,S, against the same
    Gated,
    /// The scan against what else a program could do
    Against,
    /// The cost of an element while a size grows
    Growth,
    /// The layer, of shapes B,L,H: training steps, or where L is 1 steps of generation
    Layer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
    F64,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
            Dtype::F64 => Self::F64,
        }
    }
}

/// Those that were asked for, or all.
fn or_all<T: Clone>(chosen: &[T], all: &[T]) -> Vec<T> {
    if chosen.is_empty() { all } else { chosen }.to_vec()
}

fn parse_shape(text: &str) -> Result<[usize; 3]> {
    let sizes = text.split(',').map(|n| n.trim().parse()).collect::<Result<Vec<usize>, _>>();
    let shape: Option<[usize; 3]> = sizes.ok().and_then(|s| s.try_into().ok());
    let shape = shape.context("expected three numbers, as 4,2048,1024")?;
    ensure!(!shape.contains(&0), "expected sizes of at least 1");
    Ok(shape)
}

/// Calls a generic function of the element type that a [`Dtype`] names.
macro_rules! by_dtype {
    ($dtype:expr, $f:ident$(::<$of:ty>)?($($arg:expr),*)) => {
        match $dtype {
            Dtype::F32 => $f::<f32 $(, $of)?>($($arg),*),
            Dtype::Bf16 => $f::<bf16 $(, $of)?>($($arg),*),
            Dtype::F16 => $f::<f16 $(, $of)?>($($arg),*),
            Dtype::F64 => $f::<f64 $(, $of)?>($($arg),*),
        }
    };
}

fn main() -> Result<()> {
    let args = Args::parse();
    // candle walks the graph of a step-by-step recurrence recursively
    let run = std::thread::Builder::new().stack_size(1 << 30).spawn(move || run(&args))?;
    run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run(args: &Args) -> Result<()> {
    let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available(0)? };
    let threads = rayon::current_num_threads();
    let name = if device.is_cpu() { format!("CPU, {threads} threads") } else { "CUDA device".into() };
    match args.table {
        Contents::Passes | Contents::Gated => passes(args, &device, name),
        Contents::Against => {
            use against::{measure, CONTENDERS, SHAPES};
            let mut table = Table::new(name, CONTENDERS.to_vec());
            table.print_heading();
            for dtype in or_all(&args.dtype, &[Dtype::F32]) {
                for shape in or_all(&args.shape, &SHAPES) {
                    by_dtype!(dtype, measure(shape, &device, args, &mut table))?;
                }
            }
            args.json.as_ref().map_or(Ok(()), |path| table.write_json(path))?;
            args.plot.as_ref().map_or(Ok(()), |path| table.plot(path))
        }
        Contents::Layer => {
            use layer::{measure, CONTENDERS, SHAPES};
            let mut table = Table::new(name, CONTENDERS.to_vec());
            table.print_heading();
            for dtype in or_all(&args.dtype, &[Dtype::F32]) {
                for shape in or_all(&args.shape, &SHAPES) {
                    measure(shape, dtype.into(), &device, args, &mut table)?;
                }
            }
            args.json.as_ref().map_or(Ok(()), |path| table.write_json(path))?;
            args.plot.as_ref().map_or(Ok(()), |path| table.plot(path))
        }
        Contents::Growth => {
            use growth::{measure, plot, write_json};
            let dtype = args.dtype.first().copied().unwrap_or(Dtype::F32);
            println!("{name}, {dtype:?}");
            let points = by_dtype!(dtype, measure(&device, args, (args.memory as usize) << 30))?;
            args.json.as_ref().map_or(Ok(()), |path| write_json(path, &points))?;
            args.plot.as_ref().map_or(Ok(()), |path| plot(path, &points))
        }
    }
}

fn passes(args: &Args, device: &Device, name: String) -> Result<()> {
    use passes::measure;
    println!("{name}, {} rounds; GB/s of the fewest bytes", args.rounds);
    report::print_heading();
    let mut rows = Vec::new();
    for dtype in or_all(&args.dtype, &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F64]) {
        for shape in or_all(&args.shape, &SHAPES) {
            rows.extend(match args.table {
                Contents::Gated => by_dtype!(dtype, measure::<GatedData>(shape, device, args))?,
                _ => by_dtype!(dtype, measure::<Data>(shape, device, args))?,
            });
        }
    }
    let report = Report {
        device: name,
        threads: rayon::current_num_threads(),
        candle_threads: candle_core::utils::get_num_threads(),
        allocator: "system",
        huge_pages: args.huge_pages,
        rounds: args.rounds as usize,
        seed: args.seed,
        rows: &rows,
    };
    args.json.as_ref().map_or(Ok(()), |path| report::write_json(path, &report))?;
    args.plot.as_ref().map_or(Ok(()), |path| report::plot(path, &report))
}
