//! The yardstick on the CPU: plain element-wise kernels that move as many tensors as the scan and compute next to nothing.
//!
//! They run on all of rayon's threads and allocate their outputs without initialising them. f32 and f64 are loops that
//! the compiler vectorises; bf16 is converted by integer shifts and f16 by F16C, a vector at a time, because a yardstick
//! that is bound by its conversions would flatter what is measured against it. Without F16C the f16 kernels XOR the words.

mod kernels;

use rayon::prelude::*;

pub use kernels::Element;

/// Elements per task: small enough to share the work evenly, large enough for long runs of memory.
const CHUNK: usize = 1 << 15;

/// Parts of a row of pre-activations.
pub const PARTS: usize = 5;

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
    let len = ins[0].len();
    let mut out = pages.allocate(len);
    out.spare_capacity_mut()[..len].par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        let n = out.len();
        T::one_out(out, ins.map(|s| &s[i * CHUNK..][..n]));
    });
    // SAFETY: the chunks cover the `len` elements, and `one_out` has written every element of its chunk
    unsafe { out.set_len(len) };
    out
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

/// Five parts of every row in, where they lie in it, and a row of one part out: the traffic of a gated forward pass.
pub fn stream6<T: Element>(p: &[T], part: usize, pages: Pages) -> Vec<T> {
    let (chunk, len) = (whole_rows(part), p.len() / PARTS);
    let mut out = pages.allocate(len);
    out.spare_capacity_mut()[..len].par_chunks_mut(chunk).zip(p.par_chunks(PARTS * chunk)).for_each(|(out, p)| {
        for (out, p) in out.chunks_exact_mut(part).zip(p.chunks_exact(PARTS * part)) {
            T::one_of_five(out, parts(p, part));
        }
    });
    // SAFETY: the rows cover the `len` elements, and `one_of_five` has written every element of its row
    unsafe { out.set_len(len) };
    out
}

/// The same parts and a row of another tensor in, five parts of a row out: the traffic of a gated backward pass.
pub fn stream11<T: Element>([g, p]: [&[T]; 2], part: usize, pages: Pages) -> Vec<T> {
    let (chunk, len) = (whole_rows(part), p.len());
    let mut out = pages.allocate(len);
    let tasks = out.spare_capacity_mut()[..len].par_chunks_mut(PARTS * chunk).zip(p.par_chunks(PARTS * chunk));
    tasks.zip(g.par_chunks(chunk)).for_each(|((out, p), g)| {
        let rows = out.chunks_exact_mut(PARTS * part).zip(p.chunks_exact(PARTS * part));
        for ((out, p), g) in rows.zip(g.chunks_exact(part)) {
            let [a, d, u, ca, cb] = parts(p, part);
            let mut outs = out.chunks_exact_mut(part);
            let outs = std::array::from_fn(|_| outs.next().expect("a row has all parts"));
            T::five_out(outs, [g, a, d, u, ca, cb]);
        }
    });
    // SAFETY: the rows cover the `len` elements, and `five_out` has written every element of its row
    unsafe { out.set_len(len) };
    out
}

/// The parts of a row.
fn parts<T>(row: &[T], part: usize) -> [&[T]; PARTS] {
    std::array::from_fn(|n| &row[n * part..][..part])
}

/// Elements per task, in rows of so many.
fn whole_rows(part: usize) -> usize {
    (CHUNK / part).max(1) * part
}
