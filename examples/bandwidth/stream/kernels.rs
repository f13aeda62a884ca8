//! The loops of the plain kernels, for every dtype.

use std::mem::MaybeUninit;

use candle_core::WithDType;
use half::{bf16, f16};

/// A dtype with element-wise kernels over equally long slices.
pub trait Element: WithDType + Send + Sync {
    /// One output from four inputs.
    fn one_out(out: &mut [MaybeUninit<Self>], ins: [&[Self]; 4]);
    /// Four outputs from five inputs.
    fn four_out(outs: [&mut [MaybeUninit<Self>]; 4], ins: [&[Self]; 5]);
    /// One output from five inputs.
    fn one_of_five(out: &mut [MaybeUninit<Self>], ins: [&[Self]; 5]);
    /// Five outputs from six inputs.
    fn five_out(outs: [&mut [MaybeUninit<Self>]; 5], ins: [&[Self]; 6]);
}

/// `(x a + b) c` in the arithmetic of `F`.
///
/// A parameter for each slice, here and in `four`: only so does the compiler know that they do not overlap.
#[inline(always)]
fn one<T: Copy, F: Float>(
    out: &mut [MaybeUninit<T>],
    x: &[T],
    a: &[T],
    b: &[T],
    c: &[T],
    load: impl Fn(T) -> F,
    store: impl Fn(F) -> T,
) {
    let n = out.len();
    let (x, a, b, c) = (&x[..n], &a[..n], &b[..n], &c[..n]);
    for i in 0..n {
        out[i].write(store((load(x[i]) * load(a[i]) + load(b[i])) * load(c[i])));
    }
}

/// `g x`, `g a`, `g b` and `g c` in the arithmetic of `F`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn four<T: Copy, F: Float>(
    o0: &mut [MaybeUninit<T>],
    o1: &mut [MaybeUninit<T>],
    o2: &mut [MaybeUninit<T>],
    o3: &mut [MaybeUninit<T>],
    g: &[T],
    x: &[T],
    a: &[T],
    b: &[T],
    c: &[T],
    load: impl Fn(T) -> F,
    store: impl Fn(F) -> T,
) {
    let n = g.len();
    let (o0, o1, o2, o3) = (&mut o0[..n], &mut o1[..n], &mut o2[..n], &mut o3[..n]);
    let (x, a, b, c) = (&x[..n], &a[..n], &b[..n], &c[..n]);
    for i in 0..n {
        let g = load(g[i]);
        o0[i].write(store(g * load(x[i])));
        o1[i].write(store(g * load(a[i])));
        o2[i].write(store(g * load(b[i])));
        o3[i].write(store(g * load(c[i])));
    }
}

/// `(x a + b) c + d` in the arithmetic of `F`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn one_of_five<T: Copy, F: Float>(
    out: &mut [MaybeUninit<T>],
    x: &[T],
    a: &[T],
    b: &[T],
    c: &[T],
    d: &[T],
    load: impl Fn(T) -> F,
    store: impl Fn(F) -> T,
) {
    let n = out.len();
    let (x, a, b, c, d) = (&x[..n], &a[..n], &b[..n], &c[..n], &d[..n]);
    for i in 0..n {
        out[i].write(store((load(x[i]) * load(a[i]) + load(b[i])) * load(c[i]) + load(d[i])));
    }
}

/// `g x`, `g a`, `g b`, `g c` and `g d` in the arithmetic of `F`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn five<T: Copy, F: Float>(
    o0: &mut [MaybeUninit<T>],
    o1: &mut [MaybeUninit<T>],
    o2: &mut [MaybeUninit<T>],
    o3: &mut [MaybeUninit<T>],
    o4: &mut [MaybeUninit<T>],
    g: &[T],
    x: &[T],
    a: &[T],
    b: &[T],
    c: &[T],
    d: &[T],
    load: impl Fn(T) -> F,
    store: impl Fn(F) -> T,
) {
    let n = g.len();
    let (o0, o1, o2, o3, o4) = (&mut o0[..n], &mut o1[..n], &mut o2[..n], &mut o3[..n], &mut o4[..n]);
    let (x, a, b, c, d) = (&x[..n], &a[..n], &b[..n], &c[..n], &d[..n]);
    for i in 0..n {
        let g = load(g[i]);
        o0[i].write(store(g * load(x[i])));
        o1[i].write(store(g * load(a[i])));
        o2[i].write(store(g * load(b[i])));
        o3[i].write(store(g * load(c[i])));
        o4[i].write(store(g * load(d[i])));
    }
}

/// What the loops compute with.
trait Float: Copy + std::ops::Mul<Output = Self> + std::ops::Add<Output = Self> {}
impl Float for f32 {}
impl Float for f64 {}

/// Compiles the loops for the target's baseline, and for AVX2 where the processor has it.
macro_rules! element {
    ($t:ty, $load:expr, $store:expr) => {
        impl Element for $t {
            fn one_out(out: &mut [MaybeUninit<Self>], [x, a, b, c]: [&[Self]; 4]) {
                compiled_for_avx2!(
                    fn kernel(out: &mut [MaybeUninit<$t>], x: &[$t], a: &[$t], b: &[$t], c: &[$t]) {
                        one(out, x, a, b, c, $load, $store)
                    }
                )
            }

            fn four_out([o0, o1, o2, o3]: [&mut [MaybeUninit<Self>]; 4], [g, x, a, b, c]: [&[Self]; 5]) {
                compiled_for_avx2!(
                    fn kernel(
                        o0: &mut [MaybeUninit<$t>],
                        o1: &mut [MaybeUninit<$t>],
                        o2: &mut [MaybeUninit<$t>],
                        o3: &mut [MaybeUninit<$t>],
                        g: &[$t],
                        x: &[$t],
                        a: &[$t],
                        b: &[$t],
                        c: &[$t],
                    ) {
                        four(o0, o1, o2, o3, g, x, a, b, c, $load, $store)
                    }
                )
            }

            fn one_of_five(out: &mut [MaybeUninit<Self>], [x, a, b, c, d]: [&[Self]; 5]) {
                compiled_for_avx2!(
                    fn kernel(out: &mut [MaybeUninit<$t>], x: &[$t], a: &[$t], b: &[$t], c: &[$t], d: &[$t]) {
                        one_of_five(out, x, a, b, c, d, $load, $store)
                    }
                )
            }

            fn five_out([o0, o1, o2, o3, o4]: [&mut [MaybeUninit<Self>]; 5], [g, x, a, b, c, d]: [&[Self]; 6]) {
                compiled_for_avx2!(
                    fn kernel(
                        o0: &mut [MaybeUninit<$t>],
                        o1: &mut [MaybeUninit<$t>],
                        o2: &mut [MaybeUninit<$t>],
                        o3: &mut [MaybeUninit<$t>],
                        o4: &mut [MaybeUninit<$t>],
                        g: &[$t],
                        x: &[$t],
                        a: &[$t],
                        b: &[$t],
                        c: &[$t],
                        d: &[$t],
                    ) {
                        five(o0, o1, o2, o3, o4, g, x, a, b, c, d, $load, $store)
                    }
                )
            }
        }
    };
}

/// Calls a function with the variables of its parameters' names, in its AVX2 version where the processor has it.
macro_rules! compiled_for_avx2 {
    (fn $name:ident($($arg:ident: $t:ty),* $(,)?) $body:block) => {{
        #[allow(clippy::too_many_arguments)]
        fn $name($($arg: $t),*) $body
        #[cfg(target_arch = "x86_64")]
        {
            #[allow(clippy::too_many_arguments)]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $t),*) $body
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2
                return unsafe { avx2($($arg),*) };
            }
        }
        $name($($arg),*)
    }};
}

element!(f32, |v| v, |v: f32| v);
element!(f64, |v| v, |v: f64| v);
element!(bf16, widen, narrow);

#[inline(always)]
fn widen(v: bf16) -> f32 {
    f32::from_bits((v.to_bits() as u32) << 16)
}

/// Rounds to nearest, ties to even; the data has no NaN.
#[inline(always)]
fn narrow(v: f32) -> bf16 {
    let bits = v.to_bits();
    bf16::from_bits(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
}

impl Element for f16 {
    fn one_out(out: &mut [MaybeUninit<Self>], ins: [&[Self]; 4]) {
        #[cfg(target_arch = "x86_64")]
        if f16c::detected() {
            // SAFETY: the processor has AVX and F16C
            return unsafe { f16c::one_out(out, ins) };
        }
        let [x, a, b, c] = ins;
        for (i, out) in out.iter_mut().enumerate() {
            out.write(f16::from_bits(x[i].to_bits() ^ a[i].to_bits() ^ b[i].to_bits() ^ c[i].to_bits()));
        }
    }

    fn four_out(outs: [&mut [MaybeUninit<Self>]; 4], ins: [&[Self]; 5]) {
        #[cfg(target_arch = "x86_64")]
        if f16c::detected() {
            // SAFETY: the processor has AVX and F16C
            return unsafe { f16c::many_out(outs, ins[0], [ins[1], ins[2], ins[3], ins[4]]) };
        }
        let [g, rest @ ..] = ins;
        for (out, other) in outs.into_iter().zip(rest) {
            for (i, out) in out.iter_mut().enumerate() {
                out.write(f16::from_bits(g[i].to_bits() ^ other[i].to_bits()));
            }
        }
    }

    fn one_of_five(out: &mut [MaybeUninit<Self>], ins: [&[Self]; 5]) {
        #[cfg(target_arch = "x86_64")]
        if f16c::detected() {
            // SAFETY: the processor has AVX and F16C
            return unsafe { f16c::one_of_five(out, ins) };
        }
        for (i, out) in out.iter_mut().enumerate() {
            out.write(f16::from_bits(ins.iter().fold(0, |bits, s| bits ^ s[i].to_bits())));
        }
    }

    fn five_out(outs: [&mut [MaybeUninit<Self>]; 5], ins: [&[Self]; 6]) {
        #[cfg(target_arch = "x86_64")]
        if f16c::detected() {
            // SAFETY: the processor has AVX and F16C
            return unsafe { f16c::many_out(outs, ins[0], [ins[1], ins[2], ins[3], ins[4], ins[5]]) };
        }
        let [g, rest @ ..] = ins;
        for (out, other) in outs.into_iter().zip(rest) {
            for (i, out) in out.iter_mut().enumerate() {
                out.write(f16::from_bits(g[i].to_bits() ^ other[i].to_bits()));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use half::f16;

    const WIDTH: usize = 8;

    pub fn detected() -> bool {
        is_x86_feature_detected!("avx") && is_x86_feature_detected!("f16c")
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn one_out(out: &mut [MaybeUninit<f16>], ins: [&[f16]; 4]) {
        let [x, a, b, c] = ins;
        let whole = out.len() / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            let [x, a, b, c] = [x, a, b, c].map(|s| load(&s[i..i + WIDTH]));
            store(&mut out[i..i + WIDTH], _mm256_mul_ps(_mm256_add_ps(_mm256_mul_ps(x, a), b), c));
        }
        for i in whole..out.len() {
            let [x, a, b, c] = [x, a, b, c].map(|s| s[i].to_f32());
            out[i].write(f16::from_f32((x * a + b) * c));
        }
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn one_of_five(out: &mut [MaybeUninit<f16>], ins: [&[f16]; 5]) {
        let [x, a, b, c, d] = ins;
        let whole = out.len() / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            let [x, a, b, c, d] = [x, a, b, c, d].map(|s| load(&s[i..i + WIDTH]));
            let product = _mm256_mul_ps(_mm256_add_ps(_mm256_mul_ps(x, a), b), c);
            store(&mut out[i..i + WIDTH], _mm256_add_ps(product, d));
        }
        for i in whole..out.len() {
            let [x, a, b, c, d] = [x, a, b, c, d].map(|s| s[i].to_f32());
            out[i].write(f16::from_f32((x * a + b) * c + d));
        }
    }

    /// The products of `g` and each of the others.
    #[target_feature(enable = "avx,f16c")]
    pub fn many_out<const N: usize>(mut outs: [&mut [MaybeUninit<f16>]; N], g: &[f16], others: [&[f16]; N]) {
        let whole = g.len() / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            let g = load(&g[i..i + WIDTH]);
            for (out, other) in outs.iter_mut().zip(others) {
                store(&mut out[i..i + WIDTH], _mm256_mul_ps(g, load(&other[i..i + WIDTH])));
            }
        }
        for i in whole..g.len() {
            for (out, other) in outs.iter_mut().zip(others) {
                out[i].write(f16::from_f32(g[i].to_f32() * other[i].to_f32()));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    fn load(values: &[f16]) -> __m256 {
        assert_eq!(values.len(), WIDTH);
        // SAFETY: 8 values of 16 bits are the 128 bits that are read; the load needs no alignment
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx,f16c")]
    fn store(out: &mut [MaybeUninit<f16>], v: __m256) {
        assert_eq!(out.len(), WIDTH);
        // SAFETY: 8 values of 16 bits are the 128 bits that are written; the store needs no alignment
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
}
