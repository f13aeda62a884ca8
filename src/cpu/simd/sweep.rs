//! Recurrences, and the order in which one runs over the rows and channels of a block.

use super::{Accumulator, Isa, Lanes, Scalar};

/// A recurrence over the rows of a block, on `LEN` channels at a time.
pub(crate) trait Recurrence {
    type Acc: Accumulator;
    /// What a row hands to the next one.
    type Carry<V: Copy>: Copy;
    /// Whether a row is so long a chain of operations that the processor does not see its end while it waits for the start, and
    /// its elements are so small that two vectors are better computed at once.
    const LONG: bool = false;

    /// The carry into the first row, of the channels `at .. at + LEN`.
    ///
    /// # Safety
    /// The channels must lie within the rows, and the processor must have the instruction set.
    unsafe fn load<I: Isa>(&self, at: usize) -> Self::Carry<I::V<Self::Acc>>;

    /// Computes a row.
    ///
    /// # Safety
    /// As for [`load`](Self::load), and the row must lie within the block.
    unsafe fn row<I: Isa>(
        &self,
        row: isize,
        at: usize,
        carry: Self::Carry<I::V<Self::Acc>>,
    ) -> Self::Carry<I::V<Self::Acc>>;

    /// Computes a row of so many vectors, each with the carry that [`load`](Self::load) finds.
    ///
    /// # Safety
    /// As for [`row`](Self::row).
    #[inline(always)]
    unsafe fn whole_row<I: Isa>(&self, row: isize, vectors: usize)
    where
        Self: Sized,
    {
        // SAFETY: passed on to the caller.
        unsafe { whole_row::<I, _>(self, row, vectors) };
    }

    /// Puts the carry out of the last row where [`load`](Self::load) found it.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn store<I: Isa>(&self, at: usize, carry: Self::Carry<I::V<Self::Acc>>);
}

/// Runs a recurrence over `rows` rows of `width` channels.
///
/// Wide rows are taken one after another, which is the order that memory likes. The carry of a few vectors stays in
/// registers all the way.
///
/// # Safety
/// The recurrence must have rows and channels as many, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn sweep<I: Isa, K: Recurrence>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    let (vectors, size) = (width / lanes, (rows, width));
    // SAFETY: passed on to the caller; the channels are below `width`.
    unsafe {
        match vectors {
            0 => {}
            1 => sweep_columns::<I, K, 1, 1>(kernel, size, 0),
            2 => sweep_columns::<I, K, 2, 1>(kernel, size, 0),
            4 => sweep_columns::<I, K, 4, 1>(kernel, size, 0),
            _ => whole_rows::<I, K>(kernel, rows, vectors),
        }
        sweep_rest::<K, 1>(kernel, size, vectors * lanes);
    }
}

/// Runs a recurrence over `rows` rows of `width` channels, one row after another.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
pub(crate) unsafe fn sweep_rows<I: Isa, K: Recurrence>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    // SAFETY: passed on to the caller.
    unsafe {
        whole_rows::<I, K>(kernel, rows, width / lanes);
        sweep_rest::<K, 1>(kernel, (rows, width), width / lanes * lanes);
    }
}

/// Runs a recurrence over `S` strands side by side: the rows and the carries of one lie after those of another. Rows have one
/// or two vectors, and are taken a vector at a time.
///
/// # Safety
/// The recurrence must have `S` times as many rows and carries, and the processor must have the instruction set.
#[inline(always)]
pub(crate) unsafe fn sweep_narrow<I: Isa, K: Recurrence, const S: usize>(kernel: &K, rows: usize, width: usize) {
    let lanes = <I::V<K::Acc>>::LEN;
    let whole = width / lanes * lanes;
    // SAFETY: passed on to the caller.
    unsafe {
        match whole == lanes {
            // at a place that the compiler knows
            true => sweep_columns::<I, K, 1, S>(kernel, (rows, width), 0),
            false => {
                for at in (0..whole).step_by(lanes) {
                    sweep_columns::<I, K, 1, S>(kernel, (rows, width), at);
                }
            }
        }
        sweep_rest::<K, S>(kernel, (rows, width), whole);
    }
}

/// Runs `rows` rows of a recurrence one after another, each over so many vectors.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
unsafe fn whole_rows<I: Isa, K: Recurrence>(kernel: &K, rows: usize, vectors: usize) {
    for row in 0..rows as isize {
        // SAFETY: passed on to the caller.
        unsafe { kernel.whole_row::<I>(row, vectors) };
    }
}

/// Runs a recurrence over the channels from `first` on, one at a time.
///
/// # Safety
/// As for [`sweep`] or [`sweep_narrow`], on any processor.
#[inline(always)]
unsafe fn sweep_rest<K: Recurrence, const S: usize>(kernel: &K, size: (usize, usize), first: usize) {
    for at in first..size.1 {
        // SAFETY: passed on to the caller; the scalar set is on every processor.
        unsafe { sweep_columns::<Scalar, K, 1, S>(kernel, size, at) };
    }
}

/// Runs one row of a recurrence, over so many vectors.
///
/// # Safety
/// As for [`Recurrence::row`].
#[inline(always)]
pub(crate) unsafe fn whole_row<I: Isa, K: Recurrence>(kernel: &K, row: isize, vectors: usize) {
    let (lanes, long) = (<I::V<K::Acc>>::LEN, <<I::Long as Isa>::V<K::Acc>>::LEN);
    let paired = if K::LONG { vectors * lanes / long * long } else { 0 };
    for at in (0..paired).step_by(long) {
        // SAFETY: passed on to the caller.
        unsafe { kernel.store::<I::Long>(at, kernel.row::<I::Long>(row, at, kernel.load::<I::Long>(at))) };
    }
    for at in (paired..vectors * lanes).step_by(lanes) {
        // SAFETY: passed on to the caller.
        unsafe { kernel.store::<I>(at, kernel.row::<I>(row, at, kernel.load::<I>(at))) };
    }
}

/// Runs a recurrence over the `N` vectors of channels from `at` on, in `S` strands.
///
/// # Safety
/// As for [`sweep`], or [`sweep_narrow`].
#[inline(always)]
unsafe fn sweep_columns<I: Isa, K: Recurrence, const N: usize, const S: usize>(
    kernel: &K,
    (rows, width): (usize, usize),
    at: usize,
) {
    let lanes = <I::V<K::Acc>>::LEN;
    // SAFETY: passed on to the caller.
    unsafe {
        // no closures here: they are compiled without the instruction set where they are not inlined
        let mut carries = [[kernel.load::<I>(at); N]; S];
        for (strand, carries) in carries.iter_mut().enumerate() {
            for (i, carry) in carries.iter_mut().enumerate() {
                *carry = kernel.load::<I>(strand * width + at + i * lanes);
            }
        }
        for row in 0..rows {
            for (strand, carries) in carries.iter_mut().enumerate() {
                let row = (strand * rows + row) as isize;
                for (i, carry) in carries.iter_mut().enumerate() {
                    *carry = kernel.row::<I>(row, at + i * lanes, *carry);
                }
            }
        }
        for (strand, carries) in carries.into_iter().enumerate() {
            for (i, carry) in carries.into_iter().enumerate() {
                kernel.store::<I>(strand * width + at + i * lanes, carry);
            }
        }
    }
}
