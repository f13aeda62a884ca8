//! What a launch reads and writes: checked tensors, and their addresses.

use candle_core::{bail, DType, Layout, Result, Storage, StorageRef, Tensor};

use super::params::{Operand, Params};
use super::passes::{states, Machine, Terms};
use crate::backend::{GatedInputs, Inputs};
use crate::gated::PARTS;
use crate::problem::Problem;

/// A tensor's storage, held for reading.
pub(super) struct Held<'a>(StorageRef<'a>, &'a Layout);

impl<'a> Held<'a> {
    pub fn new(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self(storage, layout)
    }
}

/// What both passes read.
pub(super) struct Arguments<'a> {
    tensors: Tensors<'a>,
    h0: Option<Held<'a>>,
    /// Of packed sequences, in the device's memory.
    offsets: Option<Held<'a>>,
}

enum Tensors<'a> {
    Plain { x: Held<'a>, a: Held<'a>, b: Held<'a>, c: Option<Held<'a>> },
    Gated { p: Held<'a>, a_bias: Option<Held<'a>> },
}

impl<'a> Arguments<'a> {
    pub fn new(terms: Terms<'a>, offsets: Option<&'a Tensor>) -> Self {
        let tensors = match terms {
            Terms::Plain(Inputs { x, a, b, c, .. }) => {
                Tensors::Plain { x: Held::new(x), a: Held::new(a), b: Held::new(b), c: c.as_ref().map(Held::new) }
            }
            Terms::Gated(GatedInputs { p, a_bias, .. }) => {
                Tensors::Gated { p: Held::new(p), a_bias: a_bias.as_ref().map(Held::new) }
            }
        };
        Self { tensors, h0: terms.h0().map(Held::new), offsets: offsets.map(Held::new) }
    }

    pub fn fill<'s, M: Machine>(&'s self, params: &mut Params, p: &Problem, access: &mut Access<'s, M>) -> Result<()> {
        match &self.tensors {
            Tensors::Plain { x, a, b, c } => {
                params.x = access.operand(Some(x), p, p.channels, p.dtype)?;
                params.a = access.operand(Some(a), p, p.channels, p.dtype)?;
                params.b = access.operand(Some(b), p, p.channels, p.dtype)?;
                params.c = access.operand(c.as_ref(), p, p.channels, p.dtype)?;
            }
            Tensors::Gated { p: parts, a_bias } => {
                let first = access.operand(Some(parts), p, PARTS * p.channels, p.dtype)?;
                let part = |n: usize| first.offset((n * p.channels) as u64, p.dtype);
                [params.a, params.b, params.x, params.c, params.cb] = std::array::from_fn(part);
                let dtype = a_bias.as_ref().map_or(p.acc, |bias| bias.0.dtype());
                let bias = access.contiguous(a_bias.as_ref(), p.channels, dtype)?;
                params.a_bias = Operand::new(bias, [1, 1, p.channels], [0, 0, 1], dtype)?;
            }
        }
        params.initial_state = access.contiguous(self.h0.as_ref(), states(p), p.acc)?;
        params.offsets = access.contiguous(self.offsets.as_ref(), p.num_sequences() + 1, DType::I64)?;
        params.reverse = p.reverse.into();
        params.sequences = match u32::try_from(p.num_sequences()) {
            Ok(sequences) if sequences < i32::MAX as u32 => sequences,
            _ => bail!("cu_seqlens: expected fewer than 2^31 sequences, got {}", p.num_sequences()),
        };
        Ok(())
    }
}

/// The addresses that one launch uses.
///
/// It has to live until everything is launched.
pub(super) struct Access<'a, M: Machine> {
    machine: &'a M,
    guards: Vec<M::Guard<'a>>,
}

impl<'a, M: Machine> Access<'a, M> {
    pub fn new(machine: &'a M) -> Self {
        Self { machine, guards: Vec::new() }
    }

    /// The first element of a tensor that is read, which has to be of `dtype`.
    fn first(&mut self, t: &'a Held, dtype: DType) -> Result<u64> {
        let got = t.0.dtype();
        if got != dtype {
            bail!("scan: expected dtype {dtype:?}, got {got:?}")
        }
        let (address, guard) = self.machine.address(&t.0)?;
        self.guards.push(guard);
        Ok(address + (t.1.start_offset() * dtype.size_in_bytes()) as u64)
    }

    /// A tensor of so many channels that is read; null for none.
    pub fn operand(&mut self, t: Option<&'a Held>, p: &Problem, channels: usize, dtype: DType) -> Result<Operand> {
        let dims = [p.batch, p.len, channels];
        let operand = match t {
            Some(t) => self.strided(t, dims, dtype)?,
            None => Operand::new(0, dims, [0; 3], dtype)?,
        };
        Ok(if p.reverse { operand.reversed(p.len, dtype) } else { operand })
    }

    /// A tensor of `dims` that is read, in the order of memory.
    pub fn strided(&mut self, t: &'a Held, dims: [usize; 3], dtype: DType) -> Result<Operand> {
        let &[batch, time, channel] = t.1.stride() else {
            bail!("scan: expected three dimensions, got {:?}", t.1.dims())
        };
        if t.1.dims() != dims {
            bail!("scan: expected shape {dims:?}, got {:?}", t.1.dims())
        }
        Operand::new(self.first(t, dtype)?, dims, [batch, time, channel], dtype)
    }

    /// Contiguous states or offsets that are read; null for none.
    pub fn contiguous(&mut self, t: Option<&'a Held>, elements: usize, dtype: DType) -> Result<u64> {
        let Some(t) = t else { return Ok(0) };
        if !t.1.is_contiguous() || t.1.shape().elem_count() != elements {
            bail!("scan: expected {elements} contiguous elements, got {:?} with strides {:?}", t.1.dims(), t.1.stride())
        }
        self.first(t, dtype)
    }

    /// A result that is written; null for none.
    pub fn result(&mut self, storage: Option<&'a mut Storage>) -> Result<u64> {
        let Some(storage) = storage else { return Ok(0) };
        let (address, guard) = self.machine.address_mut(storage)?;
        self.guards.push(guard);
        Ok(address)
    }
}
