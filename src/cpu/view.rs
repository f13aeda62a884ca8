//! Rows of tensors, read in place.

use std::ops::Range;

use candle_core::{bail, Layout, Result, Storage, StorageRef, Tensor};

use super::block::Block;
use super::pointer::Pointer;
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
