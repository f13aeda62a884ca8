//! Loads a model that was trained in Torch, and copies a string with it.
//!
//! The file has the tensors of an embedding, a [`QuickSsm`] layer and a linear head under the names of their state
//! dicts, and the scores that Torch computed for a few strings.
//!
//! ```text
//! cargo run --release --example load_torch -- --text "Hello42"
//! ```

use std::path::PathBuf;

use anyhow::{ensure, Context};
use candle_core::{safetensors, DType, Device, Tensor, D};
use candle_nn::{embedding, linear, Module, VarBuilder};
use clap::Parser;
use quick_ssm::{QuickSsm, QuickSsmConfig};
use rand::{rngs::StdRng, Rng, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Copies a string with a model that was trained in Torch.
#[derive(Parser)]
struct Args {
    /// The model, a safetensors file.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/copy_model.safetensors"))]
    model: PathBuf,
    /// The letters and digits to copy; the default is a random string.
    #[arg(long)]
    text: Option<String>,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// The seed of the random string.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const SYMBOLS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available(0)? };
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut random = || (0..24).map(|_| SYMBOLS[rng.random_range(0..SYMBOLS.len())] as char).collect();
    let text: String = args.text.unwrap_or_else(&mut random);
    let symbol = |c: char| SYMBOLS.iter().position(|&s| s as char == c).map(|n| n as u32);
    let symbols: Option<Vec<u32>> = text.chars().map(symbol).collect();
    let symbols = symbols.context("--text: expected letters and digits")?;
    ensure!(!symbols.is_empty(), "--text: expected at least one letter or digit");

    let tensors = safetensors::load(&args.model, &device)?;
    let known = (tensors.get("tokens").cloned()).zip(tensors.get("logits").cloned());
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &device).pp("param");
    let cfg = QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(48) };
    let embedding = embedding(SYMBOLS.len(), cfg.hidden_size, vb.pp("embed"))?;
    let layer = QuickSsm::new(&cfg, vb.pp("ssm"))?;
    let head = linear(cfg.hidden_size, SYMBOLS.len(), vb.pp("head"))?;
    let model = |tokens: &Tensor| head.forward(&layer.forward(&embedding.forward(tokens)?)?);

    if let Some((tokens, logits)) = known {
        let difference = (model(&tokens)? - &logits)?.abs()?.max_all()?.to_scalar::<f32>()?;
        println!("largest difference from Torch's scores {difference:e}");
    }
    let tokens = Tensor::from_vec(symbols, (1, text.len()), &device)?;
    let copied = model(&tokens)?.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?;
    let copied: String = copied.into_iter().map(|n| SYMBOLS[n as usize] as char).collect();
    println!("{text}\n{copied}");
    Ok(())
}
