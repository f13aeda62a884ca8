//! Results that go past the caches.
//!
//! A write to memory that no cache holds reads it first. Results so large that no cache would hold them until they are read need not
//! be read: a row of them is put together in memory that stays in a cache, and copied from there a whole line at a time.

use super::block::BlockMut;
use super::lines::Lines;
use super::pointer::Pointer;
use super::simd::{Element, Isa, LINE};

/// Bytes of the results of a pass from which on they go past the caches.
#[cfg(not(test))]
const LARGE: usize = 32 << 20;

/// The same, for a test to change.
#[cfg(test)]
pub(crate) static LARGE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(32 << 20);

/// Whether results of these elements can go past the caches. The arithmetic of half precision takes longer than memory does, and the
/// copy would be more of it.
pub(crate) const fn is_fast<T: Element>() -> bool {
    size_of::<T>() == size_of::<T::Acc>()
}

/// Whether the results of a pass, of so many elements, go past the caches.
pub(crate) fn goes_past_caches<T: Element>(elements: usize) -> bool {
    #[cfg(not(test))]
    let large = LARGE;
    #[cfg(test)]
    let large = LARGE.load(std::sync::atomic::Ordering::Relaxed);
    is_fast::<T>() && elements.saturating_mul(size_of::<T>()) >= large
}

/// A row of so many elements.
pub(crate) fn row<T: Element>(memory: &mut Lines<T>, width: usize) -> BlockMut<T> {
    memory.resize(width);
    BlockMut::adjacent(memory, width)
}

/// Copies elements past the caches, as far as they are whole lines. Other threads may read them after [`Isa::settle`].
///
/// # Safety
/// Nobody else may access the elements, which must not overlap, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn copy<I: Isa, T: Copy>(from: Pointer<*mut T>, to: Pointer<*mut T>, count: usize) {
    let (from, to) = (from.reach(count).cast::<u8>(), to.reach(count).cast::<u8>());
    let bytes = count * size_of::<T>();
    let first = to.align_offset(LINE).min(bytes);
    let end = first + (bytes - first) / LINE * LINE;
    // SAFETY: within the elements, and the lines are aligned; the rest is passed on to the caller.
    unsafe {
        to.copy_from_nonoverlapping(from, first);
        for at in (first..end).step_by(LINE) {
            I::write_line(from.add(at), to.add(at));
        }
        to.add(end).copy_from_nonoverlapping(from.add(end), bytes - end);
    }
}
