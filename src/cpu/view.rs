//! Rows of tensors, read in place.

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{bail, Layout, Result, Storage, StorageRef, Tensor};

use super::simd::Element;

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

    /// Some columns of a run of times of one batch element, in place; `scratch` takes what is not adjacent there.
    ///
    /// Row `i` of the block is that of time `times.start + i`, or counted from the end where the run is `reverse`.
    pub fn block<'s>(&self, batch: usize, times: &Run, columns: &Range<usize>, scratch: &'s mut Vec<T>) -> Block<'s, T>
    where
        'a: 's,
    {
        let at = |time: usize| self.start + batch * self.batch + time * self.time;
        let (rows, width) = (times.len(), columns.len());
        if self.broadcast {
            let rows = if self.time == 0 { rows.min(1) } else { rows };
            scratch.clear();
            for row in 0..rows {
                scratch.resize((row + 1) * width, self.data[at(times.time(row))]);
            }
            let stride = if self.time == 0 { 0 } else { width as isize };
            return Block { first: scratch.as_ptr(), stride, shared: PhantomData };
        }
        let span = if rows == 0 || width == 0 {
            0..0
        } else {
            at(times.start) + columns.start..at(times.end - 1) + columns.end
        };
        let elements = &self.data[span];
        let (first, stride) = match times.reverse {
            false => (0, self.time as isize),
            true => (elements.len() - width.min(elements.len()), -(self.time as isize)),
        };
        Block { first: elements[first..].as_ptr(), stride, shared: PhantomData }
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

    /// The same times in the other order.
    pub fn backward(&self) -> Self {
        Self { reverse: !self.reverse, ..self.clone() }
    }
}

/// Rows of elements at a constant distance from one another.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a, T> {
    first: *const T,
    stride: isize,
    shared: PhantomData<&'a [T]>,
}

impl<'a, T> Block<'a, T> {
    /// Adjacent rows from the last one to the first.
    pub fn backward(elements: &'a [T], width: usize) -> Self {
        let last = elements.len() - width.min(elements.len());
        Self { first: elements[last..].as_ptr(), stride: -(width as isize), shared: PhantomData }
    }

    /// Where a channel of a row is.
    ///
    /// # Safety
    /// The row and the channel must lie within the block.
    #[inline(always)]
    pub unsafe fn at(&self, row: isize, channel: usize) -> *const T {
        // SAFETY: within the elements that the block was made of, says the caller.
        unsafe { self.first.offset(row * self.stride).add(channel) }
    }
}
