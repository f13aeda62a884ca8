//! Criterion's statistics over the layer: a training step against the same layer from candle's operations, and a step of
//! generation against its products alone.
//!
//! `RAYON_NUM_THREADS=2 taskset -c 0,1 cargo bench --bench layer -- training` measures on two cores; with `--features cuda` a
//! training step is measured on a GPU, where there is one, besides.

#[path = "../tests/layer_support/composed.rs"]
mod composed;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap, RNN};
use criterion::{criterion_group, criterion_main, Criterion};
use quick_ssm::{QuickSsm, QuickSsmConfig};

// what is measured should be the layer, not the kernel clearing fresh pages
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CPU: Device = Device::Cpu;

/// A layer, and its variables in f32.
fn layer(cfg: &QuickSsmConfig, device: &Device) -> Result<(QuickSsm, BTreeMap<String, Var>)> {
    let varmap = VarMap::new();
    let layer = QuickSsm::new(cfg, VarBuilder::from_varmap(&varmap, DType::F32, device))?;
    let variables = varmap.data().lock().expect("no other thread").clone().into_iter().collect();
    Ok((layer, variables))
}

/// Forward and backward: at `[4, 1024, 512]` with a state of 1024 in f32 on the CPU, and at `[8, 2048, 1024]` with a state of
/// 4096 in bf16 on a GPU.
fn training(criterion: &mut Criterion) {
    train(criterion, "training", &CPU, DType::F32, ((4, 1024, 512), 1024)).expect("steps on the CPU");
    if let Ok(gpu) = Device::new_cuda(0) {
        train(criterion, "training on a GPU", &gpu, DType::BF16, ((8, 2048, 1024), 4096)).expect("steps on the GPU");
    }
}

fn train(
    criterion: &mut Criterion,
    name: &str,
    device: &Device,
    dtype: DType,
    (shape, state): ((usize, usize, usize), usize),
) -> Result<()> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let state_size_mult = state as f64 / shape.2 as f64;
    let cfg = |checkpoint| QuickSsmConfig { state_size_mult, checkpoint, ..QuickSsmConfig::new(shape.2) };
    let (_, variables) = layer(&cfg(false), device)?;
    let xs = Var::from_tensor(&Tensor::randn(0f32, 1., shape, device)?.to_dtype(dtype)?)?;
    let step = |ys: Tensor| {
        let grads = ys.sum_all()?.backward()?;
        device.synchronize()?;
        Ok(grads)
    };
    group.bench_function("composed", |b| {
        b.iter(|| composed::forward(&cfg(false), &variables, &xs, None).and_then(|(ys, _)| step(ys)).expect("a step"))
    });
    for checkpoint in [false, true] {
        let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let layer = QuickSsm::new(&cfg(checkpoint), VarBuilder::from_tensors(tensors, DType::F32, device))?;
        group.bench_function(format!("checkpoint {checkpoint}"), |b| {
            b.iter(|| layer.forward(&xs).and_then(step).expect("a step"))
        });
    }
    group.finish();
    Ok(())
}

/// One step of one sequence, with 128 channels and a state of 512.
fn generation(criterion: &mut Criterion) {
    let (hidden, state) = (128, 512);
    let cfg = QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(hidden) };
    let (_, variables) = layer(&cfg, &CPU).expect("a layer");
    let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let layer = QuickSsm::new(&cfg, VarBuilder::from_tensors(tensors, DType::F32, &CPU)).expect("a layer of tensors");
    let random = |shape: (usize, usize)| Tensor::randn(0f32, 1., shape, &CPU).expect("a matrix");
    let (x, ch) = (random((1, hidden)), random((1, state)));
    // each in the layout in which it is faster
    let (projection, out) = (random((hidden, 5 * state)), random((hidden, state)).t().expect("a matrix"));

    let mut group = criterion.benchmark_group("generation");
    group.bench_function("products", |b| {
        b.iter(|| x.matmul(&projection).and_then(|p| Ok((p, ch.matmul(&out)?))).expect("two products"))
    });
    let mut last = layer.zero_state(1).expect("a state");
    group.bench_function("step", |b| b.iter(|| last = layer.step(&x, &last).expect("a step")));
    group.finish();
}

criterion_group!(benches, training, generation);
criterion_main!(benches);
