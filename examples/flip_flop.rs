//! Trains a model to remember one bit, and tests for how long it does.
//!
//! Flip-flop language modelling (Liu et al. 2023, "Exposing Attention Glitches with Flip-Flop Language Modeling"): pairs of an
//! instruction and a bit, of which `w` writes the bit, `i` is to be ignored with its bit, and `r` reads, that is, repeats the bit
//! that was last written. The model is trained on short strings to predict the bits of the reads, the only symbols that can be
//! known, and tested on them in strings of up to 256 times the length, and also in ones that hardly ever write.
//!
//! ```text
//! cargo run --release --example flip_flop -- --plot flip_flop.svg
//! ```

mod common;

use std::path::PathBuf;

use anyhow::ensure;
use candle_core::{DType, Device, Result, Tensor, D};
use candle_nn::loss::cross_entropy;
use candle_nn::VarBuilder;
use clap::Parser;
use common::model::{ModelConfig, SequenceModel};
use common::report::{self, Chart, Progress};
use common::train::{self, scalar, Options};
use rand::{rngs::StdRng, Rng, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a model to remember one bit at a short length, and tells how well it does at longer ones.
#[derive(Parser)]
struct Args {
    /// Batches to train on.
    #[arg(long, default_value_t = 1500)]
    steps: usize,
    /// Symbols in a string, an even number.
    #[arg(long, default_value_t = 64)]
    seq_len: usize,
    /// Symbols in the longest string of the test.
    #[arg(long, default_value_t = 16384)]
    longest: usize,
    /// Symbols to test on at each length.
    #[arg(long, default_value_t = 1 << 19)]
    test_size: usize,
    /// Strings in a batch.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Channels between the layers.
    #[arg(long, default_value_t = 64)]
    hidden: usize,
    /// Channels of a layer's state for each of those.
    #[arg(long, default_value_t = 1.)]
    state_size_mult: f64,
    /// Layers.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// The highest learning rate.
    #[arg(long, default_value_t = 4e-3)]
    lr: f64,
    /// Draw the accuracy of reads over the length into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// The seed of the initial values and the strings.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The symbols: two bits, then the instructions.
const WRITE: u32 = 2;
const IGNORE: u32 = 3;
const READ: u32 = 4;
const SYMBOLS: usize = 5;

/// The share of instructions to ignore in training, and where next to nothing is written; half of the others write.
const DENSE: f64 = 0.8;
const SPARSE: f64 = 0.98;

/// The highest initial bias of the decay: 0.95, which halves a state in 14 symbols. A state that lasts from the beginning
/// would collect what is to be ignored, at lengths that the training never shows; one that has learned to last has learned
/// to ignore as well.
const SLOWEST: f32 = 3.;

fn main() -> anyhow::Result<()> {
    common::share_cores();
    let args = Args::parse();
    ensure!(args.seq_len >= 4 && args.seq_len % 2 == 0, "--seq-len: expected an even number of at least 4");
    ensure!(args.longest >= args.seq_len, "--longest: expected at least the length of the training");
    ensure!(args.steps > 0 && args.batch_size > 0, "--steps, --batch-size: expected at least 1");
    let device = common::device(args.cpu)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let Args { layers, hidden, state_size_mult, .. } = args;
    let cfg = ModelConfig { symbols: SYMBOLS, outputs: SYMBOLS, layers, hidden, state_size_mult, mlp_mult: None };
    let options = Options { rate: args.lr, weight_decay: 0., steps: args.steps, slowest: SLOWEST };
    let (model, mut trainer) = train::start(&cfg, options, &mut rng, &device)?;

    let progress = Progress::new(args.steps, 0)?;
    let mut last = 0.;
    for step in 1..=args.steps {
        let strings = strings(&mut rng, args.batch_size, args.seq_len, DENSE, &device)?;
        let loss = read_loss(&model, &strings)?;
        trainer.step(&loss)?;
        last = scalar(&loss)?;
        progress.step(step, format!("loss {last:.4} read-acc {:.4}", read_accuracy(&model, &strings)?));
    }
    drop(progress);

    // the model with the trained values, without a graph
    let model = SequenceModel::new(&cfg, VarBuilder::from_tensors(trainer.values()?, DType::F32, &device))?;
    let mut lines = [("as in training", vec![]), ("hardly any writes", vec![])];
    println!("length  accuracy of reads  where {:.0} % are to be ignored", 100. * SPARSE);
    for len in std::iter::successors(Some(args.seq_len), |len| Some(len * 2)).take_while(|&len| len <= args.longest) {
        for ((_, points), ignored) in lines.iter_mut().zip([DENSE, SPARSE]) {
            let count = args.test_size.div_ceil(len);
            let accuracy = read_accuracy(&model, &strings(&mut rng, count, len, ignored, &device)?)?;
            points.push((len as f64, accuracy));
        }
        println!("{len:6}  {:17.5}  {:.5}", lines[0].1[lines[0].1.len() - 1].1, lines[1].1[lines[1].1.len() - 1].1);
    }
    if let Some(path) = &args.plot {
        // one of two bits: half of them are right by chance
        let (title, x, range) = ("accuracy of reads", "length", (0.45, 1.025));
        report::plot(path, &[Chart { title, x, logarithmic: true, range, lines: &lines }])?;
    }
    let (trained, longest) = (lines[0].1[0].1, lines[0].1[lines[0].1.len() - 1].1);
    println!("final loss {last:.6} read-acc {trained:.4} longest-read-acc {longest:.4}");
    Ok(())
}

/// Random strings, `[count, len]`, that write first and read last.
fn strings(rng: &mut StdRng, count: usize, len: usize, ignored: f64, device: &Device) -> Result<Tensor> {
    let mut symbols = Vec::with_capacity(count * len);
    for _ in 0..count {
        let mut written = 0;
        for pair in 0..len / 2 {
            let instruction = match rng.random::<f64>() {
                _ if pair == 0 => WRITE,
                _ if pair == len / 2 - 1 => READ,
                share if share < ignored => IGNORE,
                share if share < (1. + ignored) / 2. => WRITE,
                _ => READ,
            };
            let bit = if instruction == READ { written } else { rng.random_range(0..2) };
            if instruction == WRITE {
                written = bit;
            }
            symbols.extend([instruction, bit]);
        }
    }
    Tensor::from_vec(symbols, (count, len), device)
}

/// The scores of all symbols but the first of `strings`, `[B, L - 1, SYMBOLS]`.
fn predict(model: &SequenceModel, strings: &Tensor) -> Result<Tensor> {
    let len = strings.dim(1)? - 1;
    model.last_logits(&strings.narrow(1, 0, len)?, len)
}

/// The mean loss of the reads' bits in `strings`, `[B, L]`.
fn read_loss(model: &SequenceModel, strings: &Tensor) -> Result<Tensor> {
    let symbols = strings.flatten_all()?.to_vec1::<u32>()?;
    let len = strings.dim(1)?;
    // of a string's symbols the first is not predicted
    let reads = (0..symbols.len()).filter(|&at| symbols[at] == READ);
    let (places, bits): (Vec<u32>, Vec<u32>) = reads.map(|at| ((at - at / len) as u32, symbols[at + 1])).unzip();
    let (places, bits) = (Tensor::new(places, strings.device())?, Tensor::new(bits, strings.device())?);
    cross_entropy(&predict(model, strings)?.flatten_to(1)?.index_select(&places, 0)?, &bits)
}

/// The share of the reads' bits in `strings`, `[B, L]`, that the model predicts.
fn read_accuracy(model: &SequenceModel, strings: &Tensor) -> Result<f64> {
    let (count, len) = strings.dims2()?;
    let (mut reads, mut right) = (0., 0.);
    // so many at once that their states fit into memory
    let at_once = (1usize << 16).div_ceil(len);
    for from in (0..count).step_by(at_once) {
        let strings = strings.narrow(0, from, at_once.min(count - from))?;
        let read = strings.narrow(1, 0, len - 1)?.eq(READ)?.to_dtype(DType::F32)?;
        let predicted = predict(model, &strings)?.argmax(D::Minus1)?;
        let same = predicted.eq(&strings.narrow(1, 1, len - 1)?)?.to_dtype(DType::F32)?;
        reads += scalar(&read.sum_all()?)?;
        right += scalar(&(read * same)?.sum_all()?)?;
    }
    Ok(right / reads)
}
