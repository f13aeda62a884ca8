//! Rows of tensors, read in place.

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{bail, Layout, Result, Storage, StorageRef, Tensor};

use super::pointer::Pointer;
#[cfg(debug_assertions)]
use super::pointer::Raw;
use super::simd::{Element, Isa, LINE};

/// A tensor's storage, held for reading.
pub(crate) struct Held<'a>(StorageRef<'a>, &'a Layout);

impl<'a> Held<'a> {
    pub fn new(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self(storage, layout)
    }

    /// The elements of a `[B, L, D]` tensor with a channel stride of 1 or 0.
    pub fn view<T: Element>(&self) -> Result<View<'_, T>> {
        let (dims, stride) = (self.1.dims(), self.1.stride());
        let (&[_, _, channels], &[batch, time, channel]) = (dims, stride) else {
            bail!("scan: expected three dimensions, got {dims:?}")
        };
        let (data, broadcast) = (self.elements()?, channel == 0 && channels > 1);
        Ok(View { data, start: self.1.start_offset(), batch, time, broadcast })
    }

    /// The elements of a contiguous tensor.
    pub fn contiguous<T: Element>(&self) -> Result<&[T]> {
        match self.1.contiguous_offsets() {
            Some((start, end)) if start < end => Ok(&self.elements()?[start..end]),
            Some(_) => Ok(&[]),
            None => bail!("scan: expected a contiguous state, got strides {:?}", self.1.stride()),
        }
    }

    fn elements<T: Element>(&self) -> Result<&[T]> {
        match &*self.0 {
            Storage::Cpu(storage) => storage.as_slice(),
            _ => bail!("scan: expected a tensor on the CPU"),
        }
    }
}

/// The elements of a `[B, L, D]` tensor: `D` adjacent ones, or one for all, per batch and time.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    data: &'a [T],
    start: usize,
    batch: usize,
    time: usize,
    broadcast: bool,
}

impl<'a, T: Element> View<'a, T> {
    /// A tensor of one value.
    pub fn constant(value: &'a T) -> Self {
        Self { data: std::slice::from_ref(value), start: 0, batch: 0, time: 0, broadcast: true }
    }

    /// The columns after the first `count`.
    pub fn skip_columns(self, count: usize) -> Self {
        Self { start: self.start + count, ..self }
    }

    fn at(&self, place: &Place, time: usize) -> usize {
        self.start + place.batch * self.batch + time * self.time
    }

    /// The rows of a place, the last first where its run of times is `reverse`; `scratch` takes what is not adjacent in
    /// memory.
    pub fn block<'s>(&self, place: &Place, scratch: &'s mut Vec<T>) -> Block<'s, T>
    where
        'a: 's,
    {
        if !self.broadcast {
            return self.adjacent(place);
        }
        let (rows, width) = (place.rows(), place.width());
        let rows = if self.time == 0 { rows.min(1) } else { rows };
        scratch.clear();
        for row in 0..rows {
            scratch.resize((row + 1) * width, self.data[self.at(place, place.times.time(row))]);
        }
        let stride = if self.time == 0 { 0 } else { width as isize };
        Block::new(Pointer::to(scratch), stride, place.rows(), width)
    }

    /// The same of a tensor whose columns are adjacent.
    pub fn adjacent(&self, place: &Place) -> Block<'a, T> {
        let Place { times, columns, .. } = place;
        let span = if place.rows() == 0 || place.width() == 0 {
            0..0
        } else {
            self.at(place, times.start) + columns.start..self.at(place, times.end - 1) + columns.end
        };
        let elements = &self.data[span];
        let (first, stride) = match times.reverse {
            false => (0, self.time as isize),
            true => (elements.len() - place.width().min(elements.len()), -(self.time as isize)),
        };
        Block::new(Pointer::to(elements).add(first), stride, place.rows(), place.width())
    }
}

/// A run of times, forward or backward.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub start: usize,
    pub end: usize,
    pub reverse: bool,
}

impl Run {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    fn time(&self, row: usize) -> usize {
        match self.reverse {
            false => self.start + row,
            true => self.end - 1 - row,
        }
    }
}

/// Some columns of a run of times of one batch element.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub batch: usize,
    pub times: Run,
    pub columns: Range<usize>,
}

impl Place {
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The same with its times in the other order.
    pub fn backward(&self) -> Self {
        let times = Run { reverse: !self.times.reverse, ..self.times.clone() };
        Self { times, columns: self.columns.clone(), ..*self }
    }
}

/// Rows of elements at a constant distance from one another.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a, T> {
    first: Pointer<*const T>,
    stride: isize,
    /// Elements of some whole rows, about a page.
    ahead: isize,
    shared: PhantomData<&'a [T]>,
    #[cfg(debug_assertions)]
    size: (usize, usize),
}

impl<'a, T> Block<'a, T> {
    fn new(first: Pointer<*const T>, stride: isize, rows: usize, width: usize) -> Self {
        let _ = (rows, width);
        Self {
            first,
            stride,
            ahead: rows_ahead::<T>(stride),
            shared: PhantomData,
            #[cfg(debug_assertions)]
            size: (rows, width),
        }
    }

    /// Adjacent rows from the last one to the first.
    pub fn backward(elements: &'a [T], width: usize) -> Self {
        let last = elements.len() - width.min(elements.len());
        Self::new(Pointer::to(elements).add(last), -(width as isize), elements.len() / width.max(1), width)
    }

    /// The rows from this one on.
    #[inline(always)]
    pub fn at_row(&self, row: isize) -> Self {
        Self {
            first: self.first.offset(row * self.stride),
            #[cfg(debug_assertions)]
            size: (self.size.0 - row as usize, self.size.1),
            ..*self
        }
    }

    /// Where a channel of a row is.
    #[inline(always)]
    pub fn at(&self, row: isize, channel: usize) -> Pointer<*const T> {
        let row_start = self.first.offset(row * self.stride);
        #[cfg(debug_assertions)]
        let row_start = within(row_start, row, self.size);
        row_start.add(channel)
    }

    /// Asks for a channel of a row to be brought into the second-level cache, once for each cache line.
    #[inline(always)]
    pub fn fetch<I: Isa>(&self, row: isize, channel: usize) {
        if channel.is_multiple_of(LINE / size_of::<T>()) {
            I::prefetch_for_later(self.first.offset(row * self.stride).add(channel).address());
        }
    }

    /// Where a channel of a row is that lies about a page ahead: to be fetched, not to be accessed.
    #[inline(always)]
    pub fn ahead(&self, row: isize, channel: usize) -> *const T {
        self.first.offset(row * self.stride + self.ahead).add(channel).address()
    }
}

/// The start of a row, from which on its width can be reached, of so many rows.
#[cfg(debug_assertions)]
pub(crate) fn within<P: Raw>(start: Pointer<P>, row: isize, (rows, width): (usize, usize)) -> Pointer<P> {
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

/// Elements of the fewest whole rows that are more than half a page.
pub(crate) fn rows_ahead<T>(stride: isize) -> isize {
    /// Bytes.
    const HALF_PAGE: isize = 2048;
    ((HALF_PAGE / size_of::<T>() as isize) / stride.abs().max(1) + 1) * stride
}
