//! Trains a model to copy random strings.
//!
//! The model reads the letters of a string, a start symbol, and the string again without its last letter; after each
//! of the latter it has to name the next one. What it has to remember is in the states of its layers alone.
//!
//! ```text
//! cargo run --release --example copy_task
//! cargo run --release --example copy_task -- --plot curves.svg --save copy.safetensors
//! ```

mod common;

use std::path::PathBuf;

use anyhow::ensure;
use candle_core::{DType, Device, Result, Tensor, D};
use candle_nn::loss::cross_entropy;
use clap::Parser;
use common::checkpoint;
use common::model::{ModelConfig, SequenceModel};
use common::report::{self, after_each_step, from_zero, Chart, Progress};
use common::train::{self, scalar, Options};
use rand::{rngs::StdRng, Rng, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a model to copy random strings, and tells how well it copies strings it has never seen.
#[derive(Parser)]
struct Args {
    /// Batches to train on.
    #[arg(long, default_value_t = 1600)]
    steps: usize,
    /// Letters in a string.
    #[arg(long, default_value_t = 8)]
    seq_len: usize,
    /// Strings in a batch.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Channels between the layers.
    #[arg(long, default_value_t = 64)]
    hidden: usize,
    /// Channels of a layer's state for each of those.
    #[arg(long, default_value_t = 4.)]
    state_size_mult: f64,
    /// Layers.
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// The highest learning rate.
    #[arg(long, default_value_t = 4e-3)]
    lr: f64,
    /// Draw loss and accuracy into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Save the model in this safetensors file.
    #[arg(long, value_name = "FILE.safetensors")]
    save: Option<PathBuf>,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// The seed of the initial values and the strings.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const LETTERS: u32 = 26;
const START: u32 = LETTERS;

fn main() -> anyhow::Result<()> {
    common::share_cores();
    let args = Args::parse();
    ensure!(args.steps > 0 && args.seq_len > 0 && args.batch_size > 0, "--steps, --seq-len, --batch-size: at least 1");
    let device = common::device(args.cpu)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let Args { layers, hidden, state_size_mult, .. } = args;
    let outputs = LETTERS as usize;
    let cfg = ModelConfig { symbols: outputs + 1, outputs, layers, hidden, state_size_mult, mlp_mult: None };
    let options = Options { rate: args.lr, weight_decay: 0., steps: args.steps, slowest: train::LASTING };
    let (model, mut trainer) = train::start(&cfg, options, &mut rng, &device)?;

    let progress = Progress::new(args.steps, 0)?;
    let (mut losses, mut accuracies) = (vec![], vec![]);
    for step in 1..=args.steps {
        let strings = strings(&mut rng, args.batch_size, args.seq_len, false, &device)?;
        let (loss, accuracy) = evaluate(&model, &strings)?;
        trainer.step(&loss)?;
        losses.push(scalar(&loss)?);
        accuracies.push(accuracy);
        progress.step(step, format!("loss {:.4} token-acc {accuracy:.3}", losses[step - 1]));
    }
    drop(progress);

    let unseen = strings(&mut rng, 512, args.seq_len, true, &device)?;
    let (loss, accuracy) = evaluate(&model, &unseen)?;
    if let Some(path) = &args.plot {
        let chart = |title, range, lines| Chart { title, x: "step", logarithmic: false, range, lines };
        let lines = [[("", after_each_step(&losses))], [("", after_each_step(&accuracies))]];
        let charts = [chart("loss", from_zero(&losses), &lines[0]), chart("token accuracy", (0., 1.05), &lines[1])];
        report::plot(path, &charts)?;
    }
    if let Some(path) = &args.save {
        checkpoint::save(path, &cfg, trainer.values()?)?;
    }
    println!("final loss {:.6} token-acc {accuracy:.4}", scalar(&loss)?);
    Ok(())
}

/// Random strings, `[count, len]`: those kept for the end, or only others.
fn strings(rng: &mut StdRng, count: usize, len: usize, unseen: bool, device: &Device) -> Result<Tensor> {
    // one string in 17 is never trained on
    let kept = |string: &[u32]| string.iter().fold(1, |hash, &letter| (hash * 31 + letter) % 17) == 0;
    let mut letters = Vec::with_capacity(count * len);
    while letters.len() < count * len {
        let string: Vec<u32> = (0..len).map(|_| rng.random_range(0..LETTERS)).collect();
        if kept(&string) == unseen {
            letters.extend(string);
        }
    }
    Tensor::from_vec(letters, (count, len), device)
}

/// The loss on the copies of `strings`, `[B, L]`, and the share of their letters that is right.
fn evaluate(model: &SequenceModel, strings: &Tensor) -> Result<(Tensor, f64)> {
    let (batch, len) = strings.dims2()?;
    let start = Tensor::full(START, (batch, 1), strings.device())?;
    let input = Tensor::cat(&[strings, &start, &strings.narrow(1, 0, len - 1)?], 1)?;
    let logits = model.last_logits(&input, len)?.flatten_to(1)?;
    let targets = strings.flatten_all()?;
    let right = logits.argmax(D::Minus1)?.eq(&targets)?.to_dtype(DType::F32)?.mean_all()?;
    Ok((cross_entropy(&logits, &targets)?, scalar(&right)?))
}
