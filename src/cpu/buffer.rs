//! Memory for results, filled row by row from several threads.

use std::mem::MaybeUninit;

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

impl<T: Copy> Buffer<T> {
    pub fn new(len: usize) -> Self {
        let mut memory = Vec::with_capacity(len);
        Self { start: memory.as_mut_ptr(), len, memory }
    }

    /// The elements `at .. at + width`.
    ///
    /// # Safety
    /// No other row that overlaps them may be in use.
    #[allow(clippy::mut_from_ref)] // that is what the caller vouches for
    #[inline(always)]
    pub unsafe fn row(&self, at: usize, width: usize) -> &mut [MaybeUninit<T>] {
        assert!(at <= self.len && width <= self.len - at, "{at} + {width} elements of {}", self.len);
        // SAFETY: within the memory, as just checked, and not in use elsewhere, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at).cast(), width) }
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
