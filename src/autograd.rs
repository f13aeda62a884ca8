//! Operations of any number of inputs and outputs in candle's autograd.
//!
//! A node of candle's graph has at most three arguments and one result. One-element tensors that only carry the order
//! of the graph lift both limits:
//!
//! ```text
//!   more than three inputs                 more than one output
//!
//!   t1 --------+                           t1 --+          +--> output 0
//!   t2 --------+--> node --> output        t2 --+--> node -+
//!   t3 --+     |                           t3 --+          +--> output 1
//!        +--> link
//!   t4 --+
//! ```
//!
//! * The node computes the gradients of all inputs at once and leaves those of the link's in a slot; candle visits the
//!   link afterwards, which hands them on.
//! * Each of several outputs leaves its gradient in a slot; candle visits the node after all of them, which then has
//!   every gradient at hand.
//!
//! Two threads may walk one graph at the same time, so a slot keeps a value per thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::backend::BackendDevice;
use candle_core::op::BackpropOp;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage,
    Tensor,
};

/// The backward pass of an operation whose outputs have been computed.
pub(crate) trait Backward: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The gradient of each of `inputs` from those of the outputs (`None`: that output has no part in the loss).
    ///
    /// `res` is the output where there is only one. Every input with `track_op()` must get a gradient.
    fn bwd(&self, inputs: &[Tensor], res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>>;
}

/// What a forward pass has computed: a contiguous storage and its shape.
pub(crate) type Output = (Storage, Shape);

/// What has been computed of some inputs, and the operation that differentiates it.
pub(crate) struct Computed<'a, B> {
    pub op: B,
    pub inputs: Vec<&'a Tensor>,
    pub outputs: Vec<Output>,
}

impl<B: Backward> Computed<'_, B> {
    /// The outputs as tensors, by [`attach`].
    pub fn tensors<const N: usize>(self) -> Result<[Tensor; N]> {
        let tensors = attach(self.op, &self.inputs, self.outputs)?;
        tensors.try_into().map_err(|_| candle_core::Error::msg("scan: an output is missing"))
    }
}

/// A tensor for each of `outputs`, which `op` differentiates where one of `inputs` is tracked.
pub(crate) fn attach<B: Backward>(op: B, inputs: &[&Tensor], mut outputs: Vec<Output>) -> Result<Vec<Tensor>> {
    if !inputs.iter().any(|t| t.track_op()) {
        let untracked = |(storage, shape)| Tensor::from_storage(storage, shape, BackpropOp::none(), false);
        return Ok(outputs.into_iter().map(untracked).collect());
    }
    match outputs.pop() {
        Some(output) if outputs.is_empty() => Ok(vec![node(op, inputs, output)?]),
        last => {
            outputs.extend(last);
            let grads = Arc::new(Slot::default());
            let op = Join { op, grads: grads.clone(), outputs: outputs.len() };
            let root = node(op, inputs, order_only(inputs[0].device())?)?;
            let child = |(index, output)| node(Child { grads: grads.clone(), index }, &[&root], output);
            outputs.into_iter().enumerate().map(child).collect()
        }
    }
}

/// Puts one output and its `op` into the graph.
fn node<B: Backward>(op: B, inputs: &[&Tensor], (storage, shape): Output) -> Result<Tensor> {
    match inputs {
        [] => bail!("{}: an operation needs an input", op.name()),
        [t] => t.apply_op1(Node::new(op, storage, shape)),
        [t1, t2] => t1.apply_op2(t2, Node::new(op, storage, shape)),
        [t1, t2, t3] => t1.apply_op3(t2, t3, Node::new(op, storage, shape)),
        [t1, t2, linked @ ..] => {
            let grads = Arc::new(Slot::default());
            let link = node(Link { grads: grads.clone() }, linked, order_only(t1.device())?)?;
            let op = Linked { op, grads, linked: linked.iter().map(|&t| t.clone()).collect() };
            t1.apply_op3(t2, &link, Node::new(op, storage, shape))
        }
    }
}

/// A value per thread.
struct Slot<T>(Mutex<HashMap<ThreadId, T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<T: Default> Slot<T> {
    fn update(&self, f: impl FnOnce(&mut T)) {
        f(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(thread::current().id()).or_default())
    }

    fn take(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&thread::current().id()).unwrap_or_default()
    }
}

type Grads = Vec<Option<Tensor>>;

/// An operation of which all inputs from the third on come through a link.
struct Linked<B> {
    op: B,
    grads: Arc<Slot<Grads>>,
    linked: Vec<Tensor>,
}

impl<B: Backward> Backward for Linked<B> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn bwd(&self, inputs: &[Tensor], res: &Tensor, grads: Grads) -> Result<Grads> {
        let [direct @ .., link] = inputs else { bail!("{}: an operation needs an input", self.name()) };
        let all: Vec<Tensor> = direct.iter().chain(&self.linked).cloned().collect();
        let mut all_grads = self.op.bwd(&all, res, grads)?;
        let linked_grads = all_grads.split_off(direct.len());
        // an untracked link is never visited: what is left for it would stay there
        all_grads.push(link.track_op().then(|| link.zeros_like()).transpose()?);
        if link.track_op() {
            self.grads.update(|slot| *slot = linked_grads);
        }
        Ok(all_grads)
    }
}

/// The tensor that stands for the linked inputs in the graph.
struct Link {
    grads: Arc<Slot<Grads>>,
}

impl Backward for Link {
    fn name(&self) -> &'static str {
        "link"
    }

    fn bwd(&self, _inputs: &[Tensor], _res: &Tensor, _grads: Grads) -> Result<Grads> {
        Ok(self.grads.take())
    }
}

/// An operation of several outputs, each of which leaves its gradient in `grads`.
struct Join<B> {
    op: B,
    grads: Arc<Slot<Grads>>,
    outputs: usize,
}

impl<B: Backward> Backward for Join<B> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn bwd(&self, inputs: &[Tensor], res: &Tensor, _grads: Grads) -> Result<Grads> {
        let mut grads = self.grads.take();
        grads.resize(self.outputs, None);
        self.op.bwd(inputs, res, grads)
    }
}

/// One of several outputs.
struct Child {
    grads: Arc<Slot<Grads>>,
    index: usize,
}

impl Backward for Child {
    fn name(&self) -> &'static str {
        "output"
    }

    fn bwd(&self, inputs: &[Tensor], _res: &Tensor, mut grads: Grads) -> Result<Grads> {
        self.grads.update(|slot| {
            slot.resize(slot.len().max(self.index + 1), None);
            slot[self.index] = grads.pop().flatten();
        });
        Ok(vec![Some(inputs[0].zeros_like()?)])
    }
}

/// A one-element output whose value means nothing.
fn order_only(device: &Device) -> Result<Output> {
    let shape = Shape::from(());
    let storage = match device {
        Device::Cpu => Storage::Cpu(CpuStorage::F32(vec![0.])),
        Device::Cuda(device) => Storage::Cuda(device.zeros_impl(&shape, DType::F32)?),
        Device::Metal(device) => Storage::Metal(device.zeros_impl(&shape, DType::F32)?),
    };
    Ok((storage, shape))
}

/// Hands a computed output to candle as if it were computed there.
struct Node<B> {
    op: B,
    storage: Mutex<Option<Storage>>,
    shape: Shape,
}

impl<B: Backward> Node<B> {
    fn new(op: B, storage: Storage, shape: Shape) -> Self {
        Self { op, storage: Mutex::new(Some(storage)), shape }
    }

    fn storage(&self) -> Option<Storage> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.storage() {
            Some(Storage::Cpu(storage)) => Ok((storage, self.shape.clone())),
            _ => bail!("{}: the output is not on the CPU, where the arguments are", self.op.name()),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.storage() {
            Some(Storage::Cuda(storage)) => Ok((storage, self.shape.clone())),
            _ => bail!("{}: the output is not on the CUDA device, where the arguments are", self.op.name()),
        }
    }

    fn gradients<const N: usize>(
        &self,
        args: [&Tensor; N],
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let grads = self.op.bwd(&args.map(Tensor::clone), res, vec![Some(grad.clone())])?;
        grads.try_into().map_err(|grads: Grads| {
            candle_core::Error::Msg(format!("{}: {N} arguments, but {} gradients", self.op.name(), grads.len()))
        })
    }
}

type L<'a> = &'a Layout;

impl<B: Backward> CustomOp1 for Node<B> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: L) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: L) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, t: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradients([t], res, grad).map(|[g]| g)
    }
}

impl<B: Backward> CustomOp2 for Node<B> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: L, _: &CpuStorage, _: L) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: L, _: &CudaStorage, _: L) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, t1: &Tensor, t2: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients([t1, t2], res, grad).map(|[g1, g2]| (g1, g2))
    }
}

impl<B: Backward> CustomOp3 for Node<B> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: L, _: &CpuStorage, _: L, _: &CpuStorage, _: L) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: L,
        _: &CudaStorage,
        _: L,
        _: &CudaStorage,
        _: L,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        t1: &Tensor,
        t2: &Tensor,
        t3: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.gradients([t1, t2, t3], res, grad).map(|[g1, g2, g3]| (g1, g2, g3))
    }
}
