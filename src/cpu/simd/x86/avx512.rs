//! AVX-512 with its conversions to bf16 and its shuffles of bytes, as processors have it since Sapphire Rapids and Zen 4.

use std::arch::{asm, x86_64::*};

use half::{bf16, f16};

use super::super::{Lanes, Vectorised, LINE};
use super::paired::Paired;

/// The AVX-512 instruction set.
pub(crate) struct Avx512;

/// Whether this processor has all of it that is used here.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512vbmi")
}

/// # Safety
/// The processor must have AVX-512 F, DQ, BW, BF16 and VBMI.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx512vbmi")]
pub(crate) unsafe fn run<F: Vectorised>(f: F) -> F::Output {
    // SAFETY: the caller vouches for the processor.
    unsafe { f.run::<Avx512>() }
}

isa!(Avx512: Avx512, read_avx512, write_avx512, write_line, Paired<Avx512>, write_pairs_avx512);

/// # Safety
/// As for [`Isa::write_line`](super::super::Isa::write_line).
#[inline(always)]
unsafe fn write_line(from: *const u8, to: *mut u8) {
    // SAFETY: valid for a line, and aligned to one, says the caller.
    unsafe { _mm512_stream_si512(to.cast(), _mm512_loadu_si512(from.cast())) }
}

/// The class of what lies between zero and the smallest normal number.
const SUBNORMAL: i32 = 0x20;

macro_rules! lanes {
    ($name:ident, $acc:ident, $vector:ident, $len:literal, $load:ident, $store:ident, $read:ident, $write:ident,
     $set1:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fmadd:ident, $fnmadd:ident, $max:ident, $min:ident,
     $abs:ident, $test:ident, $set1_bits:ident, $cmp:ident, $maskz_mov:ident, $blend:ident, $signs:ident,
     $to_bits:ident, $from_bits:ident, $shift:ident) => {
        /// A register, which is a cache line.
        #[derive(Clone, Copy)]
        pub(crate) struct $name($vector);

        // SAFETY of every block: `Isa`'s callers vouch for the processor, and only its functions make these vectors.
        impl Lanes<$acc> for $name {
            const LEN: usize = $len;

            #[inline(always)]
            fn splat(value: $acc) -> Self {
                // SAFETY: see above.
                unsafe { Self($set1(value)) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($add(self.0, other.0)) }
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($sub(self.0, other.0)) }
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($mul(self.0, other.0)) }
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($div(self.0, other.0)) }
            }

            #[inline(always)]
            fn add_product(self, factor: Self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($fmadd(factor.0, other.0, self.0)) }
            }

            #[inline(always)]
            fn sub_product(self, factor: Self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($fnmadd(factor.0, other.0, self.0)) }
            }

            #[inline(always)]
            fn flush(self) -> Self {
                const EXPONENT: $acc = $acc::INFINITY;
                // SAFETY: see above. The exponent of what is kept has a bit that is set.
                unsafe { Self($maskz_mov($test($to_bits(self.0), $set1_bits(EXPONENT.to_bits() as _)), self.0)) }
            }

            #[inline(always)]
            fn keep_zero(self, value: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($maskz_mov($cmp::<_CMP_NEQ_UQ>(self.0, $set1(0.)), value.0)) }
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                // SAFETY: see above. The maximum of NaN and a number is the second of them.
                unsafe { Self($max(least.0, self.0)) }
            }

            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                // SAFETY: see above. The minimum, too.
                unsafe { Self($min(most.0, self.0)) }
            }

            #[inline(always)]
            fn abs(self) -> Self {
                // SAFETY: see above.
                unsafe { Self($abs(self.0)) }
            }

            #[inline(always)]
            fn by_sign(self, negative: Self, positive: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($blend($signs($to_bits(self.0)), positive.0, negative.0)) }
            }

            #[inline(always)]
            fn as_exponent(self) -> Self {
                const FRACTION: u32 = $acc::MANTISSA_DIGITS - 1;
                // SAFETY: see above.
                unsafe { Self($from_bits($shift::<FRACTION>($to_bits(self.0)))) }
            }
        }

        /// # Safety
        /// As for [`Element::read_avx512`].
        #[inline(always)]
        pub(crate) unsafe fn $read(from: *const $acc) -> $name {
            // SAFETY: valid for reads of `LEN` elements, says the caller; no alignment is needed.
            unsafe { $name($load(from)) }
        }

        /// # Safety
        /// As for [`Element::write_avx512`].
        #[inline(always)]
        pub(crate) unsafe fn $write(value: $name, to: *mut $acc) {
            // SAFETY: valid for writes of `LEN` elements, says the caller; no alignment is needed.
            unsafe { $store(to, value.0) }
        }
    };
}
lanes!(
    F32x16,
    f32,
    __m512,
    16,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    read_f32,
    write_f32,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_fmadd_ps,
    _mm512_fnmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps,
    _mm512_abs_ps,
    _mm512_test_epi32_mask,
    _mm512_set1_epi32,
    _mm512_cmp_ps_mask,
    _mm512_maskz_mov_ps,
    _mm512_mask_blend_ps,
    _mm512_movepi32_mask,
    _mm512_castps_si512,
    _mm512_castsi512_ps,
    _mm512_slli_epi32
);
lanes!(
    F64x8,
    f64,
    __m512d,
    8,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    read_f64,
    write_f64,
    _mm512_set1_pd,
    _mm512_add_pd,
    _mm512_sub_pd,
    _mm512_mul_pd,
    _mm512_div_pd,
    _mm512_fmadd_pd,
    _mm512_fnmadd_pd,
    _mm512_max_pd,
    _mm512_min_pd,
    _mm512_abs_pd,
    _mm512_test_epi64_mask,
    _mm512_set1_epi64,
    _mm512_cmp_pd_mask,
    _mm512_maskz_mov_pd,
    _mm512_mask_blend_pd,
    _mm512_movepi64_mask,
    _mm512_castpd_si512,
    _mm512_castsi512_pd,
    _mm512_slli_epi64
);

/// # Safety
/// As for [`Element::read_avx512`].
#[inline(always)]
pub(crate) unsafe fn read_f16(from: *const f16) -> F32x16 {
    // SAFETY: valid for reads of 16 elements, says the caller; no alignment is needed.
    unsafe { F32x16(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
}

/// # Safety
/// As for [`Element::write_avx512`].
#[inline(always)]
pub(crate) unsafe fn write_f16(value: F32x16, to: *mut f16) {
    // SAFETY: valid for writes of 16 elements, says the caller; no alignment is needed.
    unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value.0)) }
}

/// # Safety
/// As for [`Element::read_avx512`].
#[inline(always)]
pub(crate) unsafe fn read_bf16(from: *const bf16) -> F32x16 {
    /// Which byte goes where: those of an element into the upper half of its accumulator, and into the lower one such as are
    /// zero, being behind all elements.
    const BYTES: [u8; LINE] = {
        let mut bytes = [LINE as u8 - 1; LINE];
        let mut at = 0;
        while at < LINE {
            if at % 4 >= 2 {
                bytes[at] = (at / 4 * 2 + at % 2) as u8;
            }
            at += 1;
        }
        bytes
    };
    // SAFETY: valid for reads of 16 elements, says the caller, as the constant is for a vector; no alignment is needed.
    unsafe {
        let bytes = _mm512_loadu_si512(BYTES.as_ptr().cast());
        F32x16(shuffle(bytes, _mm512_zextsi256_si512(_mm256_loadu_si256(from.cast()))))
    }
}

/// The given bytes of some bits. As an intrinsic, of constant bytes, the compiler makes two operations of it.
///
/// # Safety
/// The processor must have AVX-512 F, DQ, BW, BF16 and VBMI.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx512vbmi")]
unsafe fn shuffle(bytes: __m512i, bits: __m512i) -> __m512 {
    let to;
    // SAFETY: an instruction of AVX-512 VBMI, which changes its output alone.
    unsafe {
        asm!(
            "vpermb {to}, {bytes}, {bits}",
            to = lateout(zmm_reg) to,
            bytes = in(zmm_reg) bytes,
            bits = in(zmm_reg) bits,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    to
}

/// # Safety
/// As for [`Element::write_avx512`].
#[inline(always)]
pub(crate) unsafe fn write_bf16(value: F32x16, to: *mut bf16) {
    // SAFETY: valid for writes of 16 elements, says the caller; no alignment is needed.
    unsafe {
        let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(value.0));
        // the conversion takes these for zero
        let subnormal = _mm512_fpclass_ps_mask::<SUBNORMAL>(value.0);
        let rounded = if subnormal == 0 { rounded } else { round_subnormal(value.0, subnormal, rounded) };
        _mm256_storeu_si256(to.cast(), rounded);
    }
}

/// # Safety
/// As for [`Element::write_pairs_avx512`].
#[inline(always)]
pub(crate) unsafe fn write_pairs_bf16<const N: usize>(pairs: [[F32x16; 2]; N], to: [*mut bf16; N]) {
    // SAFETY: valid for writes of 32 elements each, says the caller; no alignment is needed.
    unsafe {
        let but_sign = _mm512_set1_epi16(i16::MAX);
        let (mut rounded, mut none_zero) = ([but_sign; N], u32::MAX);
        for (rounded, [first, second]) in rounded.iter_mut().zip(pairs) {
            *rounded = round_two(first.0, second.0);
            none_zero = _mm512_mask_test_epi16_mask(none_zero, *rounded, but_sign);
        }
        // one branch for all: what is before it is computed for all at once
        if none_zero == u32::MAX {
            for (rounded, to) in rounded.into_iter().zip(to) {
                _mm512_storeu_si512(to.cast(), rounded);
            }
        } else {
            // zeros, or subnormal numbers, which the conversion takes for zero
            for ((rounded, [first, second]), to) in rounded.into_iter().zip(pairs).zip(to) {
                let in_first = _mm512_fpclass_ps_mask::<SUBNORMAL>(first.0);
                if in_first | _mm512_fpclass_ps_mask::<SUBNORMAL>(second.0) == 0 {
                    _mm512_storeu_si512(to.cast(), rounded);
                } else {
                    write_bf16(first, to);
                    write_bf16(second, to.add(F32x16::LEN));
                }
            }
        }
    }
}

/// The nearest bf16s, ties to even, of two vectors of numbers that are not subnormal. As an intrinsic the compiler knows them to be
/// bf16s, and makes comparisons of them, one at a time, of a test of their bits.
///
/// # Safety
/// The processor must have AVX-512 F, DQ, BW, BF16 and VBMI.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx512vbmi")]
unsafe fn round_two(first: __m512, second: __m512) -> __m512i {
    let to;
    // SAFETY: an instruction of AVX-512 BF16, which changes its output alone.
    unsafe {
        asm!(
            "vcvtne2ps2bf16 {to}, {second}, {first}",
            to = lateout(zmm_reg) to,
            second = in(zmm_reg) second,
            first = in(zmm_reg) first,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    to
}

/// Puts the bf16s nearest to subnormal numbers, ties to even, into a vector of others.
///
/// # Safety
/// The processor must have AVX-512 F, DQ, BW, BF16 and VBMI.
#[cold]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx512vbmi")]
unsafe fn round_subnormal(value: __m512, subnormal: __mmask16, others: __m256i) -> __m256i {
    let bits = _mm512_castps_si512(value);
    // a carry out of the lower half where that is more than a half, or a half of an odd number
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    let others = _mm512_cvtepu16_epi32(others);
    let all = _mm512_mask_mov_epi32(others, subnormal, _mm512_srli_epi32::<16>(rounded));
    _mm512_cvtepi32_epi16(all)
}
