//! Memory for results, filled row by row from several threads.

use std::mem::MaybeUninit;

use candle_core::{bail, Result};

use super::block::BlockMut;
use super::pointer::Pointer;
use super::view::Place;

/// Elements that nobody has written yet. Clearing them first would cost a pass over memory.
pub(crate) struct Buffer<T> {
    start: *mut T,
    len: usize,
    /// Owns the memory; its length stays zero until all elements are written.
    memory: Vec<T>,
}

// SAFETY: the elements are reached only through `row`, whose callers keep threads apart.
unsafe impl<T: Send> Sync for Buffer<T> {}
// SAFETY: `start` points into `memory`, which moves along.
unsafe impl<T: Send> Send for Buffer<T> {}

/// Room for so many elements, or an error where there is none.
pub(crate) fn memory<T>(len: usize) -> Result<Vec<T>> {
    let mut memory = Vec::new();
    match memory.try_reserve_exact(len) {
        Ok(()) => Ok(memory),
        Err(_) => bail!("quick-ssm: expected memory for {len} elements of {} bytes, got none", size_of::<T>()),
    }
}

impl<T: Copy> Buffer<T> {
    pub fn new(len: usize) -> Result<Self> {
        let mut memory = memory(len)?;
        ask_for_huge_pages(&mut memory);
        Ok(Self { start: memory.as_mut_ptr(), len, memory })
    }

    /// The elements `at .. at + width`.
    ///
    /// # Safety
    /// No other row or block that overlaps them may be in use.
    #[allow(clippy::mut_from_ref)] // that is what the caller vouches for
    pub unsafe fn row(&self, at: usize, width: usize) -> &mut [MaybeUninit<T>] {
        assert!(at <= self.len && width <= self.len - at, "{at} + {width} elements of {}", self.len);
        // SAFETY: within the memory, as just checked, and not in use elsewhere, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at).cast(), width) }
    }

    /// The rows of a place, of which each is `stride` elements after the one before, and the first one of the batch element
    /// begins at `start`.
    ///
    /// # Safety
    /// No other row or block that overlaps them may be in use.
    pub unsafe fn block(&self, start: usize, stride: usize, place: &Place) -> BlockMut<T> {
        let Place { times, columns, .. } = place;
        let at = |time: usize| start + time * stride + columns.start;
        if place.rows() > 0 {
            let (first, end) = (at(times.start), at(times.end - 1) + columns.len());
            assert!(first <= end && end <= self.len, "elements {first} .. {end} of {}", self.len);
        }
        let (first, stride) = match times.reverse {
            false => (times.start, stride as isize),
            true => (times.end.saturating_sub(1), -(stride as isize)),
        };
        BlockMut::new(Pointer::to_raw(self.start, self.len).add(at(first)), stride, place.rows(), place.width())
    }

    /// The elements.
    ///
    /// # Safety
    /// All of them must have been written.
    pub unsafe fn into_vec(mut self) -> Vec<T> {
        // SAFETY: the capacity is at least `len`, and all elements are written, says the caller.
        unsafe { self.memory.set_len(self.len) };
        self.memory
    }
}

/// Asks Linux for huge pages under a large allocation.
///
/// The first touch of a small page costs more than filling it does. The advice changes nothing but that, so that its
/// outcome does not matter.
fn ask_for_huge_pages<T>(memory: &mut Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let bytes = memory.capacity() * size_of::<T>();
        let start = memory.as_mut_ptr().cast::<u8>();
        let before = start.align_offset(HUGE_PAGE);
        let whole = bytes.saturating_sub(before) / HUGE_PAGE * HUGE_PAGE;
        if whole > 0 {
            // SAFETY: the range lies within the allocation, and the advice leaves its contents alone.
            unsafe { libc::madvise(start.wrapping_add(before).cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
