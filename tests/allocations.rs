//! What the scan allocates beyond its results, counted by the allocator of the process.
//!
//! A file of its own, with a single test: the counts are those of all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor, Var};
use quick_ssm::{apply_op4, CustomOp4, Scan};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Bytes of all allocations that are not small.
static LARGE: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(bytes, SeqCst) + bytes, SeqCst);
    if bytes >= 1 << 16 {
        LARGE.fetch_add(bytes, SeqCst);
    }
}

// SAFETY: the system's allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        System.alloc_zeroed(layout)
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        LIVE.fetch_sub(layout.size(), SeqCst);
        System.realloc(p, layout, size)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        System.dealloc(p, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a function allocates.
struct Bytes {
    /// Held at most, beyond what was held before.
    peak: usize,
    /// Held by its result.
    kept: usize,
    /// In all allocations of 64 KiB or more, whether they are given back or not.
    large: usize,
}

fn measure<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Bytes)> {
    let (live, large) = (LIVE.load(SeqCst), LARGE.load(SeqCst));
    PEAK.store(live, SeqCst);
    let result = f()?;
    let peak = PEAK.load(SeqCst) - live;
    Ok((result, Bytes { peak, kept: LIVE.load(SeqCst) - live, large: LARGE.load(SeqCst) - large }))
}

/// An operation whose backward pass allocates its four gradients and nothing else: what is left is candle's.
struct FourCopies;

impl CustomOp4 for FourCopies {
    fn name(&self) -> &'static str {
        "four-copies"
    }

    fn cpu_fwd(
        &self,
        s: &CpuStorage,
        l: &candle_core::Layout,
        _: &CpuStorage,
        _: &candle_core::Layout,
        _: &CpuStorage,
        _: &candle_core::Layout,
        _: &CpuStorage,
        _: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((s.clone(), l.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let copy = || grad.copy().map(Some);
        Ok((copy()?, copy()?, copy()?, copy()?))
    }
}

#[track_caller]
fn assert_little(what: &str, bytes: usize, results: usize, tensor: usize) {
    let extra = bytes as f64 - results as f64;
    assert!(extra >= 0., "{what}: {bytes} bytes are less than the results, so the count is wrong");
    let share = extra / tensor as f64;
    assert!(share < 0.05, "{what}: {:.1} % of a tensor beyond the results", 100. * share);
}

#[test]
fn less_than_a_twentieth_of_a_tensor() -> Result<()> {
    let shape = (4, 2048, 1024);
    let tensor = 4 * 2048 * 1024 * 4;
    let var = |value: f64| Var::from_tensor(&(Tensor::ones(shape, DType::F32, &Device::Cpu)? * value)?);
    let (x, a, b, c) = (var(1.)?, var(0.5)?, var(2.)?, var(3.)?);
    // threads, their buffers and what else is made once
    let warm = |t: &Var| t.narrow(1, 0, 64);
    let (wx, wa, wb, wc) = (warm(&x)?, warm(&a)?, warm(&b)?, warm(&c)?);
    Scan::new().apply(&wx, &wa, &wb, &wc)?.sum_all()?.backward()?;

    let (x0, a0, b0, c0) = (x.detach(), a.detach(), b.detach(), c.detach());
    let (_, bytes) = measure(|| Scan::new().apply(&x0, &a0, &b0, &c0))?;
    assert_little("forward without gradients", bytes.peak, tensor, tensor);

    let (y, bytes) = measure(|| Scan::new().apply(&x, &a, &b, &c))?;
    assert_little("forward", bytes.peak, tensor, tensor);
    assert_little("what the backward pass needs", bytes.kept, tensor, tensor);

    let (_, bytes) = measure(|| Scan::new().states(&x0, &a0, &b0))?;
    assert_little("states", bytes.peak, tensor, tensor);

    let (grads, bytes) = measure(|| Scan::new().gradients(&x0, &a0, &b0, &c0, &y))?;
    assert_little("gradients", bytes.peak, 4 * tensor, tensor);
    drop(grads);

    // candle adds zeros and sums around a backward pass; those of an operation with the least one are the measure
    let y = y.detach();
    let loss = |y: &Tensor| (y * 1.).and_then(|y| y.sum_all());
    let control = apply_op4(&x, &a, &b, &c, FourCopies).and_then(|y| loss(&y))?;
    let (grads, least) = measure(|| control.backward())?;
    drop((grads, control));
    let scanned = Scan::new().apply(&x, &a, &b, &c).and_then(|y| loss(&y))?;
    let (grads, bytes) = measure(|| scanned.backward())?;
    assert_little("the peak of a walk", bytes.peak, least.peak.min(bytes.peak), tensor);
    assert_little("a walk", bytes.large, least.large.min(bytes.large), tensor);
    assert_little("the gradients kept", bytes.kept, 4 * tensor, tensor);
    assert!(grads.get(&x).is_some() && y.elem_count() * 4 == tensor);
    Ok(())
}
