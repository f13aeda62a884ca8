//! Criterion's statistics over the public calls; `examples/bandwidth` puts such times in proportion to the memory.

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use quick_ssm::Scan;
use rand::{rngs::StdRng, Rng, SeedableRng};

// what is measured should be the scan, not the kernel clearing fresh pages
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DTYPES: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];
const SHAPES: [(usize, usize, usize); 3] = [(4, 2048, 256), (1, 4096, 512), (1, 65536, 16)];

/// Uniform in `[low, 1)`.
fn uniform(shape: (usize, usize, usize), low: f32, dtype: DType, rng: &mut StdRng) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.0 * shape.1 * shape.2).map(|_| rng.random_range(low..1.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// `x`, `a`, `b`, `c` and the gradient of `y`.
fn data(shape: (usize, usize, usize), dtype: DType) -> Result<[Tensor; 5]> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut t = |low| uniform(shape, low, dtype, &mut rng);
    Ok([t(-1.)?, t(0.)?, t(-1.)?, t(-1.)?, t(-1.)?])
}

/// Measures `f` on every dtype and shape; the throughput is that of `tensors` tensors, the fewest that must be moved.
///
/// The arguments of `f` are those of `data`, variables if `tracked`.
fn each(criterion: &mut Criterion, name: &str, tensors: usize, tracked: bool, f: fn(&[Tensor; 5]) -> Result<()>) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    for dtype in DTYPES {
        for shape in SHAPES {
            let mut data = data(shape, dtype).expect("tensors of a valid shape");
            if tracked {
                data = data.map(|t| Var::from_tensor(&t).expect("a copy of a tensor").into_inner());
            }
            let bytes = data[0].elem_count() * dtype.size_in_bytes() * tensors;
            group.throughput(Throughput::Bytes(bytes as u64));
            let id = BenchmarkId::from_parameter(format!("{}/{shape:?}", dtype.as_str()));
            group.bench_function(id, |b| b.iter(|| f(&data).expect("a scan of valid arguments")));
        }
    }
    group.finish();
}

fn forward(criterion: &mut Criterion) {
    each(criterion, "forward", 5, false, |[x, a, b, c, _]| quick_ssm::scan(x, a, b, c).map(drop));
}

fn gradients(criterion: &mut Criterion) {
    each(criterion, "gradients", 9, false, |[x, a, b, c, grad_y]| Scan::new().gradients(x, a, b, c, grad_y).map(drop));
}

/// Both outputs, and candle's backward pass through them with its own additions.
fn training(criterion: &mut Criterion) {
    each(criterion, "training", 5 + 9, true, |[x, a, b, c, _]| {
        let h0 = x.narrow(1, 0, 1)?.squeeze(1)?;
        let (y, last) = Scan::new().initial_state(&h0).apply_with_state(x, a, b, c)?;
        let last = last.to_dtype(y.dtype())?;
        (y.sum_all()? + last.sum_all()?)?.backward().map(drop)
    });
}

criterion_group!(benches, forward, gradients, training);
criterion_main!(benches);
