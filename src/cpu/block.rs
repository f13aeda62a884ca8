//! Rows of elements at a constant distance from one another, to be read or to be written.

use std::marker::PhantomData;

use super::pointer::{Pointer, Raw};
use super::simd::{Element, Isa, LINE};

/// Rows of elements that pointers of one kind reach.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, P: Raw> {
    first: Pointer<P>,
    stride: isize,
    ahead: Ahead,
    memory: PhantomData<&'a ()>,
    #[cfg(debug_assertions)]
    size: (usize, usize),
}

/// How far ahead of a channel that is which is fetched.
#[derive(Clone, Copy)]
struct Ahead {
    /// Elements to it, from channels below `next`.
    here: isize,
    /// Elements to it from all others, which is a row further on.
    beyond: isize,
    /// The first channel of which that lies in a row further on.
    next: usize,
}

/// Rows that are read.
pub(crate) type Block<'a, T> = Strided<'a, *const T>;

/// Rows that are written, for as long as who has made them vouches for.
pub(crate) type BlockMut<T> = Strided<'static, *mut T>;

impl<P: Raw> Strided<'_, P> {
    pub fn new(first: Pointer<P>, stride: isize, rows: usize, width: usize) -> Self {
        #[cfg(debug_assertions)]
        if let Some(last) = rows.checked_sub(1) {
            first.reach(width);
            first.offset(last as isize * stride).reach(width);
        }
        let _ = (rows, width);
        Self {
            first,
            stride,
            ahead: half_page_ahead::<P::Element>(stride),
            memory: PhantomData,
            #[cfg(debug_assertions)]
            size: (rows, width),
        }
    }

    /// The same, which looks so many channels [ahead](Self::ahead), over the end of a row of so many into the next one.
    pub fn fetching(self, channels: usize, width: usize) -> Self {
        let (rows, channels) = (channels / width.max(1), channels % width.max(1));
        let here = rows as isize * self.stride + channels as isize;
        Self { ahead: Ahead { here, beyond: here + self.stride - width as isize, next: width - channels }, ..self }
    }

    /// The rows from this one on, of those that there are.
    #[inline(always)]
    pub fn at_row(&self, row: isize) -> Self {
        Self {
            first: self.first.offset(row * self.stride),
            #[cfg(debug_assertions)]
            size: (self.size.0.saturating_sub(row as usize), self.size.1),
            ..*self
        }
    }

    /// Where a channel of a row is.
    #[inline(always)]
    pub fn at(&self, row: isize, channel: usize) -> Pointer<P> {
        let row_start = self.first.offset(row * self.stride);
        #[cfg(debug_assertions)]
        let row_start = within(row_start, row, self.size);
        row_start.add(channel)
    }

    /// Where that is which is computed some time after the channel `at` of a row, about a page further on where nothing else
    /// [is said](Self::fetching), or another channel as far from it: to be fetched, not to be accessed.
    #[inline(always)]
    pub fn ahead(&self, row: isize, at: usize, channel: usize) -> *const P::Element {
        let Ahead { here, beyond, next } = self.ahead;
        let ahead = if at < next { here } else { beyond };
        self.first.offset(row * self.stride + ahead).add(channel).address()
    }
}

impl<'a, T: Element> Block<'a, T> {
    /// Adjacent rows from the last one to the first.
    pub fn backward(elements: &'a [T], width: usize) -> Self {
        let last = elements.len() - width.min(elements.len());
        Self::new(Pointer::to(elements).add(last), -(width as isize), elements.len() / width.max(1), width)
    }

    /// Asks for a channel of a row to be brought into the second-level cache, once for each cache line.
    #[inline(always)]
    pub fn fetch<I: Isa>(&self, row: isize, channel: usize) {
        if begins_line::<T>(channel) {
            I::prefetch_l2(self.first.offset(row * self.stride).add(channel).address());
        }
    }
}

impl<T: Element> BlockMut<T> {
    /// Adjacent rows in their order.
    pub fn adjacent(elements: &mut [T], width: usize) -> Self {
        let rows = elements.len() / width.max(1);
        Self::new(Pointer::to_mut(elements), width as isize, rows, width)
    }

    /// Asks for memory [ahead](Self::ahead) of a channel of a row, once for each cache line: a write to memory that no cache
    /// holds waits until it is there.
    #[inline(always)]
    pub fn fetch_ahead<I: Isa>(&self, row: isize, channel: usize) {
        if begins_line::<T>(channel) {
            I::prefetch_for_write(self.ahead(row, channel, channel));
        }
    }
}

/// Whether a channel is the first one of a cache line, counted from the start of its row.
#[inline(always)]
fn begins_line<T>(channel: usize) -> bool {
    channel.is_multiple_of(LINE / size_of::<T>())
}

/// The fewest whole rows that are more than half a page.
fn half_page_ahead<T>(stride: isize) -> Ahead {
    /// Bytes.
    const HALF_PAGE: isize = 2048;
    let here = ((HALF_PAGE / size_of::<T>() as isize) / stride.abs().max(1) + 1) * stride;
    Ahead { here, beyond: here, next: 0 }
}

/// The start of a row, from which on its width can be reached, of so many rows.
#[cfg(debug_assertions)]
fn within<P: Raw>(start: Pointer<P>, row: isize, (rows, width): (usize, usize)) -> Pointer<P> {
    if row < 0 || rows as isize <= row {
        no_row(row, rows);
    }
    start.limit(width)
}

#[cfg(debug_assertions)]
#[cold]
#[inline(never)]
fn no_row(row: isize, rows: usize) -> ! {
    panic!("row {row} of {rows}")
}
