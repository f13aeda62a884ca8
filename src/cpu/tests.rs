//! Whole scans on every instruction set, with results that go past the caches and such that do not: the same bits.
//! `scripts/valgrind.sh` runs them under memcheck.

use std::sync::atomic::Ordering;

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::simd::{run_on, Isa, Vectorised, ISAS, MOST, WIDEST};
use super::stream::LARGE;
use crate::gated::PARTS;
use crate::Scan;

/// Sizes, options and dtype of a scan.
#[derive(Debug, Clone)]
struct Shape {
    dims: (usize, usize, usize),
    dtype: DType,
    reverse: bool,
    offsets: Option<Vec<usize>>,
    chunk_len: Option<usize>,
}

impl Shape {
    fn new(dims: (usize, usize, usize), dtype: DType) -> Self {
        Self { dims, dtype, reverse: false, offsets: None, chunk_len: Some(16) }
    }

    fn scan(&self, h0: &Tensor) -> Scan {
        let scan = Scan::new().initial_state(h0).reverse(self.reverse);
        let scan = self.chunk_len.into_iter().fold(scan, Scan::chunk_len);
        self.offsets.iter().fold(scan, |scan, offsets| scan.cu_seqlens(offsets))
    }

    fn states(&self) -> (usize, usize) {
        (self.offsets.as_ref().map_or(self.dims.0, |offsets| offsets.len() - 1), self.dims.2)
    }
}

/// A variable of these sizes within `low .. high`.
fn draw(rng: &mut SmallRng, dims: &[usize], (low, high): (f64, f64), dtype: DType) -> Result<Var> {
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| rng.random_range(low..high)).collect();
    Var::from_tensor(&Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)?)
}

/// The bits of a result, every one of which is looked at.
fn bits(t: &Tensor) -> Result<Vec<u64>> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?.into_iter().map(f64::to_bits).collect())
}

/// `y`, the last states, and the gradients of `vars` for gradients of both.
fn results(rng: &mut SmallRng, (y, last): (Tensor, Tensor), vars: &[&Var]) -> Result<Vec<Vec<u64>>> {
    let weighted = |rng: &mut SmallRng, t: &Tensor| -> Result<Tensor> {
        let weights = draw(rng, t.dims(), (-1., 1.), t.dtype())?;
        (t * weights.as_detached_tensor())?.to_dtype(DType::F64)?.sum_all()
    };
    let grads = (weighted(rng, &y)? + weighted(rng, &last)?)?.backward()?;
    let grads = vars.iter().map(|var| grads.get(var).expect("every variable has a gradient"));
    [&y, &last].into_iter().chain(grads).map(bits).collect()
}

fn plain(shape: &Shape) -> Result<Vec<Vec<u64>>> {
    let mut rng = SmallRng::seed_from_u64(1);
    let (batch, len, channels) = shape.dims;
    // the last columns of wider rows, so that nothing lies behind the last element
    let wider = [batch, len, channels + 1];
    let inputs = [(-1., 1.), (0., 1.), (-1., 1.), (-1., 1.)]
        .into_iter()
        .map(|range| draw(&mut rng, &wider, range, shape.dtype))
        .collect::<Result<Vec<_>>>()?;
    let (n, d) = shape.states();
    let h0 = draw(&mut rng, &[n, d], (-1., 1.), shape.dtype)?;
    let views = inputs.iter().map(|t| t.narrow(2, 1, channels)).collect::<Result<Vec<_>>>()?;
    let outputs = shape.scan(&h0).apply_with_state(&views[0], &views[1], &views[2], &views[3])?;
    let vars: Vec<_> = inputs.iter().chain([&h0]).collect();
    results(&mut rng, outputs, &vars)
}

fn gated(shape: &Shape) -> Result<Vec<Vec<u64>>> {
    let mut rng = SmallRng::seed_from_u64(2);
    let (batch, len, channels) = shape.dims;
    let p = draw(&mut rng, &[batch, len, PARTS * channels], (-3., 3.), shape.dtype)?;
    let bias = draw(&mut rng, &[channels], (0., 3.), shape.dtype)?;
    let (n, d) = shape.states();
    let h0 = draw(&mut rng, &[n, d], (-1., 1.), shape.dtype)?;
    let outputs = shape.scan(&h0).apply_gated_with_state(&p, Some(&bias))?;
    results(&mut rng, outputs, &[&p, &bias, &h0])
}

struct Nothing;

impl Vectorised for Nothing {
    type Output = ();

    unsafe fn run<I: Isa>(self) {}
}

/// Sizes around the boundaries of vectors, chunks, groups of columns and tiles of time.
fn shapes() -> Vec<Shape> {
    let dtypes = [DType::F32, DType::BF16, DType::F16, DType::F64];
    let channels = [1, 7, 8, 15, 16, 17, 31, 33, 64];
    let lens = [1, 2, 15, 16, 17, 33];
    let mut shapes: Vec<_> = channels
        .into_iter()
        .enumerate()
        .flat_map(|(n, channels)| {
            let of = move |at: usize| Shape::new((1 + n % 2, lens[at % lens.len()], channels), dtypes[(n + at) % 4]);
            [of(n), Shape { reverse: true, ..of(n + 1) }, of(n + 2), Shape { chunk_len: None, ..of(n + 3) }]
        })
        .collect();
    for dtype in dtypes {
        let offsets = Some(vec![0, 0, 1, 18, 34, 40]);
        shapes.push(Shape { offsets: offsets.clone(), ..Shape::new((1, 40, 19), dtype) });
        shapes.push(Shape { offsets, reverse: true, ..Shape::new((1, 40, 16), dtype) });
    }
    // enough elements for two threads, and columns for two groups
    shapes.push(Shape::new((1, 130, 257), DType::F32));
    shapes.push(Shape::new((1, 130, 257), DType::BF16));
    // pairs of vectors, a vector and a part of one
    shapes.extend(dtypes.map(|dtype| Shape::new((2, 17, 125), dtype)));
    // tiles of time, the last of them not whole, of one strand and of two
    for (len, channels, dtype) in [(1 << 13, 128, DType::F32), (1 << 16, 16, DType::BF16), (70_000, 15, DType::F64)] {
        shapes.push(Shape { chunk_len: None, ..Shape::new((1, len + 1, channels), dtype) });
    }
    // which two threads go through
    shapes.push(Shape { chunk_len: None, ..Shape::new((2, (1 << 13) + 1, 128), DType::F32) });
    shapes
}

#[test]
fn whole_scans_are_the_same_on_every_instruction_set() -> Result<()> {
    // the first two are both plain Rust
    let isas: Vec<_> = (1..ISAS).filter(|&isa| run_on(isa, Nothing).is_some()).collect();
    eprintln!("instruction sets {isas:?}");
    for shape in shapes() {
        for (name, compute) in [("plain", plain as fn(&Shape) -> _), ("gated", gated)] {
            let mut expected = None;
            for (isa, large) in isas.iter().flat_map(|&isa| [(isa, usize::MAX), (isa, 0)]) {
                // results of half precision never go past the caches, and long scans write as short ones do
                if large == 0 && (matches!(shape.dtype, DType::BF16 | DType::F16) || shape.dims.1 > 1000) {
                    continue;
                }
                WIDEST.store(isa, Ordering::Relaxed);
                let otherwise = LARGE.swap(large, Ordering::Relaxed);
                let got = compute(&shape);
                WIDEST.store(MOST, Ordering::Relaxed);
                LARGE.store(otherwise, Ordering::Relaxed);
                let got = got?;
                let expected = expected.get_or_insert_with(|| got.clone());
                for (n, (got, expected)) in got.iter().zip(expected.iter()).enumerate() {
                    let differ = got.iter().zip(expected).filter(|(got, expected)| got != expected).count();
                    assert_eq!(
                        differ, 0,
                        "{name} {shape:?}: result {n}, instruction set {isa}, large from {large} bytes on"
                    );
                }
            }
        }
    }
    Ok(())
}
