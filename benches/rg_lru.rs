//! Criterion's statistics over RecurrentGemma of one recurrent layer: candle-transformers' own, whose recurrence goes step by
//! step, and the same model around `RgLru`; the logits after the last step, and a training step on them.
//!
//! `RAYON_NUM_THREADS=2 cargo bench --bench rg_lru -- --warm-up-time 1 --measurement-time 3` gave the table in
//! `BENCHMARKS.md`.

#[path = "../tests/recurrent_gemma/mod.rs"]
mod recurrent_gemma;

use candle_core::{Device, Result, Tensor};
use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkId, Criterion};
use recurrent_gemma::{builder, config, variables, Model, Rebuilt};

// what is measured should be the models, not the kernel clearing fresh pages
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LENGTHS: [usize; 3] = [128, 512, 2048];

/// A batch of 2 with 256 channels in 4 blocks, in f32.
fn models(criterion: &mut Criterion) {
    run(criterion, "inference", false, |_| Ok(())).expect("logits");
    run(criterion, "training", true, |logits| logits.sqr()?.sum_all()?.backward().map(drop)).expect("steps");
}

fn run(criterion: &mut Criterion, name: &str, tracked: bool, finish: impl Fn(Tensor) -> Result<()>) -> Result<()> {
    let cfg = config(1, 256, 256, 4);
    let variables = variables(&cfg, 1)?;
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    for len in LENGTHS {
        let tokens = (Tensor::rand(0f32, 32., (2, len), &Device::Cpu)?).to_dtype(candle_core::DType::U32)?;
        // a model keeps its last state, and the graph behind it: each call has a new one
        let model = || Model::new(&cfg, builder(&variables, tracked)).expect("a model");
        group.bench_function(BenchmarkId::new("candle-transformers", len), |b| {
            let forward = |mut model: Model| model.forward(&tokens, 0).and_then(&finish).expect("logits");
            b.iter_batched(model, forward, BatchSize::SmallInput)
        });
        let model = || Rebuilt::new(&cfg, builder(&variables, tracked)).expect("a model");
        group.bench_function(BenchmarkId::new("RgLru", len), |b| {
            let forward = |model: Rebuilt| model.forward_last(&tokens).and_then(&finish).expect("logits");
            b.iter_batched(model, forward, BatchSize::SmallInput)
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, models);
criterion_main!(benches);
