//! candle's missing four-argument operation.

use candle_core::{bail, CpuStorage, CudaStorage, Error, Layout, Result, Shape, Storage, Tensor};

use crate::autograd::{attach, Backward};

/// An operation of four tensors with one result, defined outside of candle: what
/// [`CustomOp3`](candle_core::CustomOp3) is for three.
///
/// [`apply_op4`] runs it and puts it into the graph. The gradients that [`bwd`](Self::bwd) returns are final: candle
/// does not differentiate them again.
pub trait CustomOp4 {
    /// The name of the operation, for error messages.
    fn name(&self) -> &'static str;

    /// The forward pass on the CPU. The storages can have any strides and offsets: read them through the layouts.
    #[allow(clippy::too_many_arguments)] // the form of candle's CustomOp3
    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
        s4: &CpuStorage,
        l4: &Layout,
    ) -> Result<(CpuStorage, Shape)>;

    /// The forward pass on a CUDA device; an error where it is not implemented.
    #[allow(clippy::too_many_arguments)] // the form of candle's CustomOp3
    fn cuda_fwd(
        &self,
        _s1: &CudaStorage,
        _l1: &Layout,
        _s2: &CudaStorage,
        _l2: &Layout,
        _s3: &CudaStorage,
        _l3: &Layout,
        _s4: &CudaStorage,
        _l4: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Err(Error::Cuda(format!("no cuda implementation for {}", self.name()).into()))
    }

    /// The gradients of the four arguments, from them, the result `res` and its gradient `grad_res`.
    ///
    /// `None` is for arguments without [`track_op`](Tensor::track_op) alone: candle panics where a tracked one gets
    /// no gradient.
    #[allow(clippy::type_complexity)] // the form of candle's CustomOp3
    fn bwd(
        &self,
        _arg1: &Tensor,
        _arg2: &Tensor,
        _arg3: &Tensor,
        _arg4: &Tensor,
        _res: &Tensor,
        _grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Err(Error::BackwardNotSupported { op: self.name() })
    }
}

/// Applies a four-argument operation, with its gradients to all four tensors.
///
/// ```
/// use candle_core::{CpuStorage, Device, Layout, Result, Shape, Tensor, Var};
/// use quick_ssm::{apply_op4, CustomOp4};
///
/// fn values(storage: &CpuStorage) -> Result<&[f32]> {
///     storage.as_slice()
/// }
///
/// struct SumOfProducts; // t1 t2 + t3 t4, of contiguous f32 tensors
///
/// impl CustomOp4 for SumOfProducts {
///     fn name(&self) -> &'static str {
///         "sum-of-products"
///     }
///
///     fn cpu_fwd(
///         &self,
///         s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, _: &Layout,
///         s3: &CpuStorage, _: &Layout, s4: &CpuStorage, _: &Layout,
///     ) -> Result<(CpuStorage, Shape)> {
///         let (t1, t2, t3, t4) = (values(s1)?, values(s2)?, values(s3)?, values(s4)?);
///         let sum = |i: usize| t1[i] * t2[i] + t3[i] * t4[i];
///         Ok((CpuStorage::F32((0..t1.len()).map(sum).collect()), l1.shape().clone()))
///     }
///
///     fn bwd(
///         &self, t1: &Tensor, t2: &Tensor, t3: &Tensor, t4: &Tensor, _res: &Tensor, grad: &Tensor,
///     ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
///         Ok((Some((grad * t2)?), Some((grad * t1)?), Some((grad * t4)?), Some((grad * t3)?)))
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let t = |v: f32| Var::new(&[v], &Device::Cpu);
/// let (t1, t2, t3, t4) = (t(2.)?, t(3.)?, t(5.)?, t(7.)?);
/// let sum = apply_op4(&t1, &t2, &t3, &t4, SumOfProducts)?;
/// assert_eq!(sum.to_vec1::<f32>()?, [41.]);
/// assert_eq!(sum.backward()?.get(&t3).unwrap().to_vec1::<f32>()?, [7.]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where the tensors are not on one device that the operation implements, and where the operation fails.
pub fn apply_op4<C: CustomOp4 + Send + Sync + 'static>(
    t1: &Tensor,
    t2: &Tensor,
    t3: &Tensor,
    t4: &Tensor,
    op: C,
) -> Result<Tensor> {
    if [t2, t3, t4].iter().any(|t| !t.device().same_device(t1.device())) {
        let [d1, d2, d3, d4] = [t1, t2, t3, t4].map(|t| t.device().location());
        bail!("{}: the arguments must be on one device; they are on {d1:?}, {d2:?}, {d3:?} and {d4:?}", op.name());
    }
    let output = {
        let ((s1, l1), (s2, l2)) = (t1.storage_and_layout(), t2.storage_and_layout());
        let ((s3, l3), (s4, l4)) = (t3.storage_and_layout(), t4.storage_and_layout());
        match (&*s1, &*s2, &*s3, &*s4) {
            (Storage::Cpu(s1), Storage::Cpu(s2), Storage::Cpu(s3), Storage::Cpu(s4)) => {
                let (storage, shape) = op.cpu_fwd(s1, l1, s2, l2, s3, l3, s4, l4)?;
                (Storage::Cpu(storage), shape)
            }
            (Storage::Cuda(s1), Storage::Cuda(s2), Storage::Cuda(s3), Storage::Cuda(s4)) => {
                let (storage, shape) = op.cuda_fwd(s1, l1, s2, l2, s3, l3, s4, l4)?;
                (Storage::Cuda(storage), shape)
            }
            _ => bail!("{}: no implementation for the device {:?}", op.name(), t1.device().location()),
        }
    };
    attach(FourArguments(op), &[t1, t2, t3, t4], vec![output])?.pop().ok_or_else(|| Error::msg("no output"))
}

struct FourArguments<C>(C);

impl<C: CustomOp4 + Send + Sync + 'static> Backward for FourArguments<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn bwd(&self, inputs: &[Tensor], res: &Tensor, grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let ([t1, t2, t3, t4], [Some(grad)]) = (inputs, grads.as_slice()) else {
            bail!("{}: four arguments and one gradient, but {} and {}", self.name(), inputs.len(), grads.len())
        };
        let (g1, g2, g3, g4) = self.0.bwd(t1, t2, t3, t4, res, grad)?;
        Ok(vec![g1, g2, g3, g4])
    }
}
