//! The instruction sets of x86-64 processors. Vectors are a cache line of accumulators in all of them.

/// An instruction set, by the vectors that an accumulator has there and what elements read and write them with.
macro_rules! isa {
    ($isa:ident: $vector:ident, $read:ident, $write:ident, $write_line:ident, $long:ty $(, $write_pairs:ident)?) => {
        impl crate::cpu::simd::Isa for $isa {
            type V<A: crate::cpu::simd::Accumulator> = A::$vector;
            type Long = $long;
            const STREAMS: bool = true;

            #[inline(always)]
            unsafe fn read_at<E: crate::cpu::simd::Element>(from: *const E) -> Self::V<E::Acc> {
                // SAFETY: passed on to the caller.
                unsafe { E::$read(from) }
            }

            #[inline(always)]
            unsafe fn write_at<E: crate::cpu::simd::Element>(value: Self::V<E::Acc>, to: *mut E) {
                // SAFETY: passed on to the caller.
                unsafe { E::$write(value, to) }
            }

            $(
                #[inline(always)]
                unsafe fn write_pairs_at<E: crate::cpu::simd::Element, const N: usize>(
                    pairs: [[Self::V<E::Acc>; 2]; N],
                    to: [*mut E; N],
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { E::$write_pairs(pairs, to) }
                }
            )?

            #[inline(always)]
            unsafe fn write_line(from: *const u8, to: *mut u8) {
                // SAFETY: passed on to the caller.
                unsafe { $write_line(from, to) }
            }

            #[inline(always)]
            fn settle() {
                // SAFETY: the baseline of x86-64 has SSE.
                unsafe { _mm_sfence() }
            }

            #[inline(always)]
            fn prefetch_l1<E: crate::cpu::simd::Element>(at: *const E) {
                // SAFETY: a prefetch reads nothing and faults on no address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
            }

            #[inline(always)]
            fn prefetch_l2<E: crate::cpu::simd::Element>(at: *const E) {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
            }

            #[inline(always)]
            fn prefetch_for_write<E: crate::cpu::simd::Element>(at: *const E) {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
            }
        }
    };
}

pub(super) mod avx2;
pub(super) mod avx512;
mod paired;
