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
//! `--table against` puts the scan beside the recurrence computed step by step, and `--table growth` shows how its cost
//! grows with each size.

mod against;
#[cfg(feature = "cuda")]
mod cuda;
mod data;
mod graph;
mod growth;
mod measure;
mod report;
mod stream;
mod table;

use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};
use candle_core::{Device, Storage, Tensor};
use clap::{Parser, ValueEnum};
use half::{bf16, f16};

use data::{num_sets, Data, Pass};
use measure::{interleaved, Clock, Contender, WallClock};
use report::{PassTimes, Report, Row};
use stream::{stream5, stream9, Element, Pages};
use table::Table;

/// Measures the scan against the bandwidth of memory.
///
/// A ratio is one of times, so that less is better: of medians, and in brackets of minima. The yardstick is a plain
/// element-wise kernel on all threads, on a CUDA device a copy. "gradients" is `Scan::gradients`, "backward" the backward
/// pass of candle's autograd without candle's own additions around it. Allocations are timed too, and are the system's: an
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
    /// What to measure, all three by default
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
    /// The scan against what else a program could do
    Against,
    /// The cost of an element while a size grows
    Growth,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
    F64,
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
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            Dtype::F32 => $f::<f32>($($arg),*),
            Dtype::Bf16 => $f::<bf16>($($arg),*),
            Dtype::F16 => $f::<f16>($($arg),*),
            Dtype::F64 => $f::<f64>($($arg),*),
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
        Contents::Passes => passes(args, &device, name),
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
    println!("{name}, {} rounds; GB/s of the fewest bytes: forward 5, gradients and backward 9 tensors", args.rounds);
    report::print_heading();
    let mut rows = Vec::new();
    for dtype in or_all(&args.dtype, &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F64]) {
        for shape in or_all(&args.shape, &SHAPES) {
            rows.extend(by_dtype!(dtype, measure(shape, device, args))?);
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

/// Moves as many tensors as a pass has to: on a set of arguments, or somewhere else at each call of another number.
type Yardstick<'a> = Box<dyn Fn(&Data, usize) -> Result<()> + 'a>;

fn measure<T: Element>(shape: [usize; 3], device: &Device, args: &Args) -> Result<Vec<Row>> {
    let num_sets = num_sets(shape, T::DTYPE);
    let seeds = (0..num_sets as u64).map(|k| args.seed.wrapping_add(k));
    let sets = seeds.map(|seed| Data::random(shape, T::DTYPE, seed, device)).collect::<Result<Vec<_>>>()?;
    let decaying = (0..num_sets).map(|_| Data::decaying(shape, T::DTYPE, device)).collect::<Result<Vec<_>>>()?;
    let set = |call: usize| &sets[call % num_sets];
    let pages = if args.huge_pages { Pages::Huge } else { Pages::Any };
    let mut rows = Vec::new();
    for pass in or_all(&args.pass, &Pass::ALL) {
        let (clock, name, yardstick) = yardstick::<T>(device, pass, shape, num_sets, pages)?;
        let mut contenders: Vec<Contender> = vec![
            scan(pass, &sets)?,
            Box::new(|call| yardstick(set(call), call)),
            Box::new(|call| set(call).product()),
            scan(pass, &decaying)?,
        ];
        if pass == Pass::Backward {
            contenders.push(backward(sets.iter().map(graph::idle))?);
        }
        let mut times = interleaved(&*clock, args.rounds as usize, contenders)?;
        let around = if pass == Pass::Backward { times.pop() } else { None };
        let Ok([scan, yardstick, candle, decaying]) = <[_; 4]>::try_from(times) else { bail!("a time is missing") };
        let row = Row::new(T::DTYPE, shape, pass, name, &PassTimes { scan, yardstick, candle, decaying, around });
        report::print_row(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// A pass of the scan over one of the sets.
fn scan(pass: Pass, sets: &[Data]) -> Result<Contender<'_>> {
    Ok(match pass {
        Pass::Forward => Box::new(|call| {
            sets[call % sets.len()].scan()?;
            Ok(())
        }),
        Pass::Gradients => Box::new(|call| sets[call % sets.len()].gradients()),
        Pass::Backward => backward(sets.iter().map(graph::scan))?,
    })
}

/// The backward pass of one of the losses, whose forward pass has been.
fn backward<'a>(losses: impl Iterator<Item = candle_core::Result<Tensor>>) -> Result<Contender<'a>> {
    let losses = losses.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Box::new(move |call| {
        losses[call % losses.len()].backward()?;
        Ok(())
    }))
}

/// The clock and the yardstick of a device, with its name.
fn yardstick<T: Element>(
    device: &Device,
    pass: Pass,
    shape: [usize; 3],
    num_sets: usize,
    pages: Pages,
) -> Result<(Box<dyn Clock>, &'static str, Yardstick<'static>)> {
    match device {
        Device::Cpu => Ok(match pass {
            Pass::Forward => (
                Box::new(WallClock),
                "stream5",
                Box::new(move |data, _| {
                    let [x, a, b, c] = &data.args;
                    with_slices([x, a, b, c], |s| drop(stream5::<T>(s, pages)))
                }),
            ),
            Pass::Gradients | Pass::Backward => (
                Box::new(WallClock),
                "stream9",
                Box::new(move |data, _| {
                    let [x, a, b, c] = &data.args;
                    with_slices([&data.grad_y, x, a, b, c], |s| drop(stream9::<T>(s, pages)))
                }),
            ),
        }),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let bytes = shape.iter().product::<usize>() * T::DTYPE.size_in_bytes() * pass.tensors();
            let copies = cuda::Copies::new(device, bytes, num_sets)?;
            Ok((Box::new(cuda::Events::new(device)), "copy", Box::new(move |_, call| copies.run(call))))
        }
        _ => bail!("expected the CPU or a CUDA device, got {:?}, with {shape:?} x {num_sets}", device.location()),
    }
}

/// Calls `f` on the values of contiguous tensors on the CPU.
fn with_slices<T: Element, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[T]; N])) -> Result<()> {
    let guards = tensors.map(|t| t.storage_and_layout().0);
    let mut slices = [&[] as &[T]; N];
    for (slice, guard) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**guard else { bail!("expected a tensor on the CPU") };
        *slice = storage.as_slice()?;
    }
    f(slices);
    Ok(())
}
