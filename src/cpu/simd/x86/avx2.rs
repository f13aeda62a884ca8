//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::super::{Lanes, Vectorised};

/// The AVX2 instruction set, with the fused arithmetic of FMA and the conversions of F16C.
pub(crate) struct Avx2;

/// Whether this processor has all of it.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// The processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn run<F: Vectorised>(f: F) -> F::Output {
    // SAFETY: the caller vouches for the processor.
    unsafe { f.run::<Avx2>() }
}

isa!(Avx2: Avx2, read_avx2, write_avx2, write_line, Avx2);

/// # Safety
/// As for [`Isa::write_line`](super::super::Isa::write_line).
#[inline(always)]
unsafe fn write_line(from: *const u8, to: *mut u8) {
    let (from, to): (*const __m256i, *mut __m256i) = (from.cast(), to.cast());
    // SAFETY: valid for a line, which is two vectors, and aligned to one, says the caller.
    unsafe {
        _mm256_stream_si256(to, _mm256_loadu_si256(from));
        _mm256_stream_si256(to.add(1), _mm256_loadu_si256(from.add(1)));
    }
}

macro_rules! lanes {
    ($name:ident, $acc:ident, $vector:ident, $len:literal, $load:ident, $store:ident, $read:ident, $write:ident,
     $set1:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fmadd:ident, $fnmadd:ident, $max:ident, $min:ident,
     $and:ident, $andnot:ident, $cmp:ident, $blend:ident, $to_bits:ident, $from_bits:ident, $shift:ident) => {
        /// Two registers, together a cache line: rows that lie at the same place in their pages share one set of the
        /// first-level cache, and a line that is not used up at once is gone before its second half is.
        #[derive(Clone, Copy)]
        pub(crate) struct $name([$vector; 2]);

        // SAFETY of every block: `Isa`'s callers vouch for the processor, and only its functions make these vectors.
        impl Lanes<$acc> for $name {
            const LEN: usize = $len;

            #[inline(always)]
            fn splat(value: $acc) -> Self {
                // SAFETY: see above.
                unsafe { Self([$set1(value); 2]) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$add(v0, w0), $add(v1, w1)]) }
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$sub(v0, w0), $sub(v1, w1)]) }
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$mul(v0, w0), $mul(v1, w1)]) }
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$div(v0, w0), $div(v1, w1)]) }
            }

            #[inline(always)]
            fn add_product(self, factor: Self, other: Self) -> Self {
                let ([s0, s1], [v0, v1], [w0, w1]) = (self.0, factor.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$fmadd(v0, w0, s0), $fmadd(v1, w1, s1)]) }
            }

            #[inline(always)]
            fn sub_product(self, factor: Self, other: Self) -> Self {
                let ([s0, s1], [v0, v1], [w0, w1]) = (self.0, factor.0, other.0);
                // SAFETY: see above.
                unsafe { Self([$fnmadd(v0, w0, s0), $fnmadd(v1, w1, s1)]) }
            }

            #[inline(always)]
            fn flush(self) -> Self {
                let [v0, v1] = self.0;
                // SAFETY: see above.
                unsafe {
                    let (sign, least) = ($set1(-0.), $set1($acc::MIN_POSITIVE));
                    // "not less than" keeps NaN
                    let large0 = $cmp::<_CMP_NLT_UQ>($andnot(sign, v0), least);
                    let large1 = $cmp::<_CMP_NLT_UQ>($andnot(sign, v1), least);
                    Self([$and(v0, large0), $and(v1, large1)])
                }
            }

            #[inline(always)]
            fn keep_zero(self, value: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, value.0);
                // SAFETY: see above.
                unsafe {
                    let zero = $set1(0.);
                    Self([$and(w0, $cmp::<_CMP_NEQ_UQ>(v0, zero)), $and(w1, $cmp::<_CMP_NEQ_UQ>(v1, zero))])
                }
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, least.0);
                // SAFETY: see above. The maximum of NaN and a number is the second of them.
                unsafe { Self([$max(w0, v0), $max(w1, v1)]) }
            }

            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                let ([v0, v1], [w0, w1]) = (self.0, most.0);
                // SAFETY: see above. The minimum, too.
                unsafe { Self([$min(w0, v0), $min(w1, v1)]) }
            }

            #[inline(always)]
            fn abs(self) -> Self {
                let [v0, v1] = self.0;
                // SAFETY: see above.
                unsafe { Self([$andnot($set1(-0.), v0), $andnot($set1(-0.), v1)]) }
            }

            #[inline(always)]
            fn by_sign(self, negative: Self, positive: Self) -> Self {
                let ([v0, v1], [n0, n1], [p0, p1]) = (self.0, negative.0, positive.0);
                // SAFETY: see above.
                unsafe { Self([$blend(p0, n0, v0), $blend(p1, n1, v1)]) }
            }

            #[inline(always)]
            fn as_exponent(self) -> Self {
                const FRACTION: i32 = $acc::MANTISSA_DIGITS as i32 - 1;
                let [v0, v1] = self.0;
                // SAFETY: see above.
                unsafe {
                    let (bits0, bits1) = ($shift::<FRACTION>($to_bits(v0)), $shift::<FRACTION>($to_bits(v1)));
                    Self([$from_bits(bits0), $from_bits(bits1)])
                }
            }
        }

        /// # Safety
        /// As for [`Element::read_avx2`].
        #[inline(always)]
        pub(crate) unsafe fn $read(from: *const $acc) -> $name {
            // SAFETY: valid for reads of `LEN` elements, says the caller; no alignment is needed.
            unsafe { $name([$load(from), $load(from.add($len / 2))]) }
        }

        /// # Safety
        /// As for [`Element::write_avx2`].
        #[inline(always)]
        pub(crate) unsafe fn $write(value: $name, to: *mut $acc) {
            // SAFETY: valid for writes of `LEN` elements, says the caller; no alignment is needed.
            unsafe {
                $store(to, value.0[0]);
                $store(to.add($len / 2), value.0[1]);
            }
        }
    };
}
lanes!(
    F32x16,
    f32,
    __m256,
    16,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    read_f32,
    write_f32,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_fmadd_ps,
    _mm256_fnmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    _mm256_and_ps,
    _mm256_andnot_ps,
    _mm256_cmp_ps,
    _mm256_blendv_ps,
    _mm256_castps_si256,
    _mm256_castsi256_ps,
    _mm256_slli_epi32
);
lanes!(
    F64x8,
    f64,
    __m256d,
    8,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    read_f64,
    write_f64,
    _mm256_set1_pd,
    _mm256_add_pd,
    _mm256_sub_pd,
    _mm256_mul_pd,
    _mm256_div_pd,
    _mm256_fmadd_pd,
    _mm256_fnmadd_pd,
    _mm256_max_pd,
    _mm256_min_pd,
    _mm256_and_pd,
    _mm256_andnot_pd,
    _mm256_cmp_pd,
    _mm256_blendv_pd,
    _mm256_castpd_si256,
    _mm256_castsi256_pd,
    _mm256_slli_epi64
);

/// # Safety
/// As for [`Element::read_avx2`].
#[inline(always)]
pub(crate) unsafe fn read_f16(from: *const f16) -> F32x16 {
    // SAFETY: valid for reads of 16 elements, says the caller; no alignment is needed.
    unsafe {
        let from = from.cast::<__m128i>();
        F32x16([_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))])
    }
}

/// # Safety
/// As for [`Element::write_avx2`].
#[inline(always)]
pub(crate) unsafe fn write_f16(value: F32x16, to: *mut f16) {
    // SAFETY: valid for writes of 16 elements, says the caller; no alignment is needed.
    unsafe {
        let [low, high] = value.0;
        let to = to.cast::<__m128i>();
        _mm_storeu_si128(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low));
        _mm_storeu_si128(to.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high));
    }
}

/// # Safety
/// As for [`Element::read_avx2`].
#[inline(always)]
pub(crate) unsafe fn read_bf16(from: *const bf16) -> F32x16 {
    // SAFETY: valid for reads of 16 elements, says the caller; no alignment is needed.
    unsafe {
        let from = from.cast::<__m128i>();
        F32x16([widen_bf16(_mm_loadu_si128(from)), widen_bf16(_mm_loadu_si128(from.add(1)))])
    }
}

/// Eight bf16s, which are the upper halves of as many f32s.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn widen_bf16(bits: __m128i) -> __m256 {
    // SAFETY: the processor has AVX2, says the caller.
    unsafe {
        // where the bytes of each f32 come from; 0x80 is a zero
        let places = _mm256_setr_epi32(
            0x0100_8080,
            0x0302_8080,
            0x0504_8080,
            0x0706_8080,
            0x0908_8080,
            0x0b0a_8080,
            0x0d0c_8080,
            0x0f0e_8080,
        );
        _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bits), places))
    }
}

/// # Safety
/// As for [`Element::write_avx2`].
#[inline(always)]
pub(crate) unsafe fn write_bf16(value: F32x16, to: *mut bf16) {
    let [low, high] = value.0;
    // SAFETY: valid for writes of 16 elements, says the caller; no alignment is needed.
    unsafe {
        let mut rounded = [round_to_bf16(low), round_to_bf16(high)];
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(low, high)) != 0 {
            rounded = [keep_nan(low, rounded[0]), keep_nan(high, rounded[1])];
        }
        let [low, high] = rounded;
        // packs within 128-bit halves: low 0..4, high 0..4, low 4..8, high 4..8
        let packed = _mm256_packus_epi32(_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high));
        _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
    }
}

/// The bits of numbers whose upper halves are the nearest bf16s, ties to even; of a NaN they may be those of a number.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn round_to_bf16(value: __m256) -> __m256i {
    // SAFETY: the processor has AVX2, says the caller.
    unsafe {
        let bits = _mm256_castps_si256(value);
        // a carry out of the lower half where that is more than a half, or a half of an odd number
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd)
    }
}

/// Puts the NaNs of a vector, quiet ones, into others.
///
/// # Safety
/// The processor must have AVX2.
#[cold]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn keep_nan(value: __m256, others: __m256i) -> __m256i {
    let quiet = _mm256_or_si256(_mm256_castps_si256(value), _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
    _mm256_blendv_epi8(others, quiet, nan)
}
