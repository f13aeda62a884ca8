//! The yardstick on the CPU: plain element-wise kernels that move as many tensors as the scan and compute next to nothing.
//!
//! They run on all of rayon's threads and allocate their outputs without initialising them. f32 and f64 are loops that
//! the compiler vectorises; bf16 is converted by integer shifts and f16 by F16C, a vector at a time, because a yardstick
//! that is bound by its conversions would flatter what is measured against it. Without F16C the f16 kernels XOR the words.

mod kernels;

use std::mem::MaybeUninit;

use rayon::prelude::*;

pub use kernels::Element;

/// Elements per task: small enough to share the work evenly, large enough for long runs of memory.
const CHUNK: usize = 1 << 15;

/// The pages under the outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pages {
    /// What the allocator has.
    Any,
    /// Huge ones where Linux has them, which the scan asks for too.
    Huge,
}

impl Pages {
    fn allocate<T>(self, len: usize) -> Vec<T> {
        let memory: Vec<T> = Vec::with_capacity(len);
        #[cfg(target_os = "linux")]
        if self == Self::Huge {
            const HUGE: usize = 2 << 20;
            let start = memory.as_ptr().cast::<u8>();
            let before = start.align_offset(HUGE);
            let whole = (len * size_of::<T>()).saturating_sub(before) / HUGE * HUGE;
            // SAFETY: the range lies within the allocation, and the advice leaves its contents alone
            unsafe { libc::madvise(start.wrapping_add(before).cast_mut().cast(), whole, libc::MADV_HUGEPAGE) };
        }
        memory
    }
}

/// Four tensors in, one out: the traffic of a forward pass.
pub fn stream5<T: Element>(ins: [&[T]; 4], pages: Pages) -> Vec<T> {
    // SAFETY: the kernel writes every element of its output
    unsafe { one_output(ins, pages, T::one_out) }
}

/// Five tensors in, four out: the traffic of a backward pass.
pub fn stream9<T: Element>(ins: [&[T]; 5], pages: Pages) -> [Vec<T>; 4] {
    let len = ins[0].len();
    let mut outs: [Vec<T>; 4] = std::array::from_fn(|_| pages.allocate(len));
    let [o0, o1, o2, o3] = outs.each_mut().map(|out| out.spare_capacity_mut()[..len].par_chunks_mut(CHUNK));
    o0.zip(o1).zip(o2.zip(o3)).enumerate().for_each(|(i, ((o0, o1), (o2, o3)))| {
        let n = o0.len();
        T::four_out([o0, o1, o2, o3], ins.map(|s| &s[i * CHUNK..][..n]));
    });
    for out in &mut outs {
        // SAFETY: the chunks cover the `len` elements, and `four_out` has written every element of its chunks
        unsafe { out.set_len(len) };
    }
    outs
}

/// Five tensors in, one out: the traffic of a gated forward pass.
pub fn stream6<T: Element>(ins: [&[T]; 5], pages: Pages) -> Vec<T> {
    // SAFETY: the kernel writes every element of its output
    unsafe { one_output(ins, pages, T::one_of_five) }
}

/// Six tensors in, five out, in one allocation: the traffic of a gated backward pass.
pub fn stream11<T: Element>(ins: [&[T]; 6], pages: Pages) -> Vec<T> {
    let len = ins[0].len();
    let mut out = pages.allocate(5 * len);
    let (o0, rest) = out.spare_capacity_mut()[..5 * len].split_at_mut(len);
    let (o1, rest) = rest.split_at_mut(len);
    let (o2, rest) = rest.split_at_mut(len);
    let (o3, o4) = rest.split_at_mut(len);
    let [o0, o1, o2, o3, o4] = [o0, o1, o2, o3, o4].map(|out| out.par_chunks_mut(CHUNK));
    o0.zip(o1).zip(o2.zip(o3)).zip(o4).enumerate().for_each(|(i, (((o0, o1), (o2, o3)), o4))| {
        let n = o0.len();
        T::five_out([o0, o1, o2, o3, o4], ins.map(|s| &s[i * CHUNK..][..n]));
    });
    // SAFETY: the chunks cover the five times `len` elements, and `five_out` has written every element of its chunks
    unsafe { out.set_len(5 * len) };
    out
}

/// One output of a kernel that runs on chunks.
///
/// # Safety
/// The kernel must write every element of its output.
unsafe fn one_output<T: Element, const N: usize>(
    ins: [&[T]; N],
    pages: Pages,
    kernel: fn(&mut [MaybeUninit<T>], [&[T]; N]),
) -> Vec<T> {
    let len = ins[0].len();
    let mut out = pages.allocate(len);
    out.spare_capacity_mut()[..len].par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        let n = out.len();
        kernel(out, ins.map(|s| &s[i * CHUNK..][..n]));
    });
    // SAFETY: the chunks cover the `len` elements, and the kernel has written every element of its chunk, says the caller
    unsafe { out.set_len(len) };
    out
}
