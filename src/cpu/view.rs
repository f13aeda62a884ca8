//! Rows of tensors, read in place.

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
            Some((start, end)) => Ok(&self.elements()?[start..end]),
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

    /// Some columns of one batch element.
    pub fn rows(&self, batch: usize, columns: Range<usize>) -> Rows<'a, T> {
        let start = self.start + batch * self.batch;
        let (start, repeated) = match self.broadcast {
            true => (start, Some(Repeated { at: None, row: Vec::with_capacity(columns.len()) })),
            false => (start + columns.start, None),
        };
        Rows { data: self.data, start, time: self.time, width: columns.len(), repeated }
    }
}

/// The rows of some columns of one batch element.
pub(crate) struct Rows<'a, T> {
    data: &'a [T],
    start: usize,
    time: usize,
    width: usize,
    repeated: Option<Repeated<T>>,
}

/// A row that repeats the element `at`.
struct Repeated<T> {
    at: Option<usize>,
    row: Vec<T>,
}

impl<T: Element> Rows<'_, T> {
    /// The row at time `t`.
    #[inline(always)]
    pub fn get(&mut self, t: usize) -> &[T] {
        let at = self.start + t * self.time;
        match &mut self.repeated {
            None => &self.data[at..at + self.width],
            Some(repeated) => {
                if repeated.at != Some(at) {
                    repeated.at = Some(at);
                    repeated.row.clear();
                    repeated.row.resize(self.width, self.data[at]);
                }
                &repeated.row
            }
        }
    }
}
