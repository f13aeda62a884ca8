//! The instruction sets of x86-64 processors. Vectors are a cache line of accumulators in all of them.

pub(super) mod avx2;
pub(super) mod avx512;

use std::arch::x86_64::*;

/// Asks for the cache line at `at`, soon to be read.
#[inline(always)]
fn prefetch<E>(at: *const E) {
    // SAFETY: a prefetch reads nothing and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

/// Asks for the cache line at `at` to be brought into the second-level cache.
#[inline(always)]
fn prefetch_for_later<E>(at: *const E) {
    // SAFETY: a prefetch reads nothing and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// Asks for the cache line at `at`, soon to be overwritten.
#[inline(always)]
fn prefetch_for_write<E>(at: *const E) {
    // SAFETY: a prefetch reads nothing and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
}
