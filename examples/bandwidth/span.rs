//! The time between two large allocations.
//!
//! On the CPU that is what tells how long a backward pass takes inside candle's `backward`, which spends several times as
//! long on additions around it: a pass allocates its gradients when it begins, and candle the zeros to add the first of
//! them to when it has ended.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{ensure, Result};

/// The most allocations that are watched.
const MOST: usize = 32;

/// Bytes of an allocation that counts as large.
static LARGE: AtomicUsize = AtomicUsize::new(usize::MAX);
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// When they came, in nanoseconds.
static TIMES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static START: OnceLock<Instant> = OnceLock::new();

struct Watching;

fn watch(bytes: usize) {
    if bytes < LARGE.load(SeqCst) {
        return;
    }
    let now = START.get().map_or(0, |start| start.elapsed().as_nanos() as u64);
    if let Some(time) = TIMES.get(COUNT.fetch_add(1, SeqCst)) {
        time.store(now, SeqCst);
    }
}

// SAFETY: the system's allocator does the work; watching allocates nothing.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        System.alloc_zeroed(layout)
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        System.realloc(p, layout, size)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        System.dealloc(p, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// From one large allocation to another, of those that a function makes, counted from 0.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

impl Span {
    /// Runs `f`, on the only thread that makes large allocations meanwhile. Returns the seconds of the span.
    pub fn time<R>(self, f: impl FnOnce() -> candle_core::Result<R>) -> Result<f64> {
        START.get_or_init(Instant::now);
        COUNT.store(0, SeqCst);
        LARGE.store(self.bytes, SeqCst);
        let result = f();
        LARGE.store(usize::MAX, SeqCst);
        result?;
        let count = COUNT.load(SeqCst).min(MOST);
        ensure!(self.last < count, "expected {} allocations of {} bytes, got {count}", self.last + 1, self.bytes);
        let nanoseconds = TIMES[self.last].load(SeqCst) - TIMES[self.first].load(SeqCst);
        Ok(nanoseconds as f64 * 1e-9)
    }
}
