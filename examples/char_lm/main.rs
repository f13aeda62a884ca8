//! Trains a model of the characters of a text, and writes with it.
//!
//! The model reads a text character by character, and scores after each which is the next. It consists of blocks of a
//! `QuickSsm` layer, or with `--mixer rg-lru` of Griffin's recurrent block around an `RgLru`, and a gated MLP. Of the text a
//! tenth is held out; the model that does best on it is kept.
//!
//! ```text
//! cargo run --release --example char_lm -- --save char_lm.safetensors --plot curves.svg
//! cargo run --release --example char_lm -- --mixer rg-lru --save rg_lru.safetensors
//! cargo run --release --example char_lm -- --resume char_lm.safetensors
//! cargo run --release --example char_lm -- generate --model char_lm.safetensors --prompt "impl "
//! ```

#[path = "../common/mod.rs"]
mod common;
mod generate;
#[cfg(test)]
mod tests;
mod text;
mod training;

use std::fs;
use std::io::{stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Parser, Subcommand};
use common::checkpoint;
use common::griffin::Griffin;
use common::model::Mixer;
use common::report::{self, after_each_step, from_zero, Chart, Progress};
use generate::{generate, Sampling};
use quick_ssm::QuickSsm;
use text::Text;
use training::{Description, MixerKind, Options, Training};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a model of the characters of a text.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Writes on from a prompt with a model that was saved.
    Generate(GenerateArgs),
}

#[derive(clap::Args)]
struct TrainArgs {
    /// The text file; the default is the source code of this crate.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Draw the loss and the bits per character into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Save the training, with its best model, in this safetensors file.
    #[arg(long, value_name = "FILE.safetensors")]
    save: Option<PathBuf>,
    /// Go on with a training that was saved, with its options and in its file unless --save names another.
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "Options")]
    resume: Option<PathBuf>,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// The safetensors file of a training.
    #[arg(long, value_name = "FILE.safetensors")]
    model: PathBuf,
    /// The text to go on from.
    #[arg(long, default_value = "fn ")]
    prompt: String,
    /// Characters to write.
    #[arg(long, default_value_t = 1000)]
    tokens: usize,
    #[command(flatten)]
    sampling: Sampling,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// The seed of the choices.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<()> {
    common::share_cores();
    let cli = Cli::parse();
    // a checkpoint says what its model is made of
    let saved = match &cli.command {
        Some(Command::Generate(args)) => Some(&args.model),
        None => cli.train.resume.as_ref(),
    };
    let mixer = match saved {
        Some(path) => checkpoint::description::<Description>(path)?.options.mixer,
        None => cli.train.options.mixer,
    };
    match mixer {
        MixerKind::QuickSsm => run::<QuickSsm>(&cli),
        MixerKind::RgLru => run::<Griffin>(&cli),
    }
}

fn run<M: Mixer>(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Generate(args)) => write::<M>(args),
        None => train::<M>(&cli.train),
    }
}

fn train<M: Mixer>(args: &TrainArgs) -> Result<()> {
    let device = common::device(args.cpu)?;
    let text = match &args.text {
        Some(path) => fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?,
        None => text::sources(),
    };
    let text = Text::new(&text)?;
    let mut training = match &args.resume {
        Some(path) => Training::<M>::resume(path, text, &device)?,
        None => Training::new(args.options.clone(), text, &device)?,
    };
    let save = args.save.as_ref().or(args.resume.as_ref());
    let Options { steps, every, .. } = training.description().options;
    let (characters, held_out) = (training.text().train().len(), training.text().held_out().len());
    println!("{characters} characters to train on, {held_out} held out, {} parameters", training.parameters());

    let progress = Progress::new(steps, training.steps())?;
    while training.steps() < steps {
        let loss = training.step()?;
        let step = training.steps();
        let best = training.description().best().map(|(_, bits)| format!(", best held out {bits:.3} bits"));
        progress.step(step, format!("loss {loss:.4}{}", best.unwrap_or_default()));
        if step.is_multiple_of(every) || step == steps {
            let bits = training.evaluate()?;
            progress.print(&format!(
                "step {step}: held out {bits:.4} bits per character\n{}\n",
                sample(&training, &device)?
            ));
            if let Some(path) = save {
                training.save(path)?;
            }
        }
    }
    drop(progress);

    if let Some(path) = &args.plot {
        plot(path, &training)?;
    }
    let (step, bits) = training.description().best().context("no step has been made")?;
    println!("best step {step} held-out bits per character {bits:.4}");
    Ok(())
}

/// A few lines of the model that is best so far.
fn sample<M: Mixer>(training: &Training<M>, device: &Device) -> Result<String> {
    let text = training.text();
    let first = text.vocabulary.decode(text.held_out()[0])?;
    let mut sample = String::new();
    let how = (&Sampling { temperature: 0.8, top_p: 0.95 }, training.steps() as u64);
    generate(&training.best_model()?, &text.vocabulary, &first.to_string(), 300, how, device, |c| sample.push(c))?;
    Ok(sample)
}

fn plot<M: Mixer>(path: &Path, training: &Training<M>) -> Result<()> {
    let description = training.description();
    let bits: Vec<_> = description.losses.iter().map(|loss| loss / std::f64::consts::LN_2).collect();
    let held_out = description.held_out.iter().map(|&(step, bits)| (step as f64, bits)).collect();
    let lines = [("training", after_each_step(&bits)), ("held out", held_out)];
    let (title, x, range) = ("bits per character", "step", from_zero(&bits));
    report::plot(path, &[Chart { title, x, logarithmic: false, range, lines: &lines }])
}

fn write<M: Mixer>(args: &GenerateArgs) -> Result<()> {
    let device = common::device(args.cpu)?;
    let (model, description) = training::load::<M>(&args.model, &device)?;
    print!("{}", args.prompt);
    let times = generate(
        &model,
        &description.vocabulary,
        &args.prompt,
        args.tokens,
        (&args.sampling, args.seed),
        &device,
        |c| {
            print!("{c}");
            // what is not shown at once is shown later
            let _ = stdout().flush();
        },
    )?;
    let rate = args.tokens as f64 / times.tokens.as_secs_f64();
    let prompt = args.prompt.chars().count();
    println!(
        "\n\nprompt of {prompt} tokens in {:.1?}, {} tokens at {rate:.0} tokens per second",
        times.prompt, args.tokens
    );
    Ok(())
}
