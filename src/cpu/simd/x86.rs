//! AVX2 with F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Accumulator, Element, Isa, Lanes, Vectorised};

/// The AVX2 instruction set, with the conversions of F16C.
pub(crate) struct Avx2;

/// Whether this processor has both.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// The processor must have AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(crate) unsafe fn run<F: Vectorised>(f: F) -> F::Output {
    // SAFETY: the caller vouches for the processor.
    unsafe { f.run::<Avx2>() }
}

impl Isa for Avx2 {
    type V<A: Accumulator> = A::Avx2;

    #[inline(always)]
    unsafe fn read<E: Element>(from: *const E) -> <E::Acc as Accumulator>::Avx2 {
        // SAFETY: passed on to the caller.
        unsafe { E::read_avx2(from) }
    }

    #[inline(always)]
    unsafe fn write<E: Element>(value: <E::Acc as Accumulator>::Avx2, to: *mut E) {
        // SAFETY: passed on to the caller.
        unsafe { E::write_avx2(value, to) }
    }

    #[inline(always)]
    fn prefetch_for_write<E>(at: *const E) {
        // SAFETY: a prefetch reads nothing and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
    }
}

macro_rules! lanes {
    ($name:ident, $acc:ident, $vector:ident, $len:literal,
     $set1:ident, $add:ident, $mul:ident, $and:ident, $andnot:ident, $cmp:ident) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($vector);

        // SAFETY of every block: `Isa`'s callers vouch for the processor, and only its functions make these vectors.
        impl Lanes<$acc> for $name {
            const LEN: usize = $len;

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see above.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: see above.
                Self(unsafe { $mul(self.0, other.0) })
            }

            #[inline(always)]
            fn flush(self) -> Self {
                // SAFETY: see above.
                unsafe {
                    let magnitude = $andnot($set1(-0.), self.0);
                    // "not less than" keeps NaN
                    Self($and(self.0, $cmp::<_CMP_NLT_UQ>(magnitude, $set1($acc::MIN_POSITIVE))))
                }
            }

            #[inline(always)]
            fn keep_zero(self, value: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($and(value.0, $cmp::<_CMP_NEQ_UQ>(self.0, $set1(0.)))) }
            }
        }
    };
}
lanes!(
    F32x8,
    f32,
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_and_ps,
    _mm256_andnot_ps,
    _mm256_cmp_ps
);
lanes!(
    F64x4,
    f64,
    __m256d,
    4,
    _mm256_set1_pd,
    _mm256_add_pd,
    _mm256_mul_pd,
    _mm256_and_pd,
    _mm256_andnot_pd,
    _mm256_cmp_pd
);

// SAFETY of the functions below: valid for reads or writes of a vector's worth of elements, on a processor with AVX2
// and F16C, as `Element` demands; none of them needs alignment.

#[inline(always)]
pub(super) unsafe fn read_f32(from: *const f32) -> F32x8 {
    // SAFETY: see above.
    F32x8(unsafe { _mm256_loadu_ps(from) })
}

#[inline(always)]
pub(super) unsafe fn write_f32(value: F32x8, to: *mut f32) {
    // SAFETY: see above.
    unsafe { _mm256_storeu_ps(to, value.0) }
}

#[inline(always)]
pub(super) unsafe fn read_f64(from: *const f64) -> F64x4 {
    // SAFETY: see above.
    F64x4(unsafe { _mm256_loadu_pd(from) })
}

#[inline(always)]
pub(super) unsafe fn write_f64(value: F64x4, to: *mut f64) {
    // SAFETY: see above.
    unsafe { _mm256_storeu_pd(to, value.0) }
}

#[inline(always)]
pub(super) unsafe fn read_f16(from: *const f16) -> F32x8 {
    // SAFETY: see above.
    unsafe { F32x8(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
}

#[inline(always)]
pub(super) unsafe fn write_f16(value: F32x8, to: *mut f16) {
    // SAFETY: see above.
    unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value.0)) }
}

#[inline(always)]
pub(super) unsafe fn read_bf16(from: *const bf16) -> F32x8 {
    // SAFETY: see above.
    unsafe {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
    }
}

#[inline(always)]
pub(super) unsafe fn write_bf16(value: F32x8, to: *mut bf16) {
    // SAFETY: see above.
    unsafe {
        let bits = _mm256_castps_si256(value.0);
        // the upper half, plus a carry out of the lower one where that is more than a half, or a half of an odd number
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        // a carry could turn a NaN into infinity
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value.0, value.0));
        let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
        // packs within 128-bit halves: the four quarters are wanted in the order 0, 2
        let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(upper, upper));
        _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
    }
}
