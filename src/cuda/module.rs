//! The compiled kernels, loaded on demand.

use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, DriverError};
use candle_core::cuda_backend::CudaError;
use candle_core::{bail, CudaDevice, Error, Result};

use super::kernel::Kernel;

/// A constant per file in `cuda/`.
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

const MODULES: [(&str, &str); 20] = [
    ("forward_f32", ptx::FORWARD_F32),
    ("forward_f16", ptx::FORWARD_F16),
    ("forward_bf16", ptx::FORWARD_BF16),
    ("forward_f64", ptx::FORWARD_F64),
    ("backward_f32", ptx::BACKWARD_F32),
    ("backward_f16", ptx::BACKWARD_F16),
    ("backward_bf16", ptx::BACKWARD_BF16),
    ("backward_f64", ptx::BACKWARD_F64),
    ("gated_forward_f32", ptx::GATED_FORWARD_F32),
    ("gated_forward_f16", ptx::GATED_FORWARD_F16),
    ("gated_forward_bf16", ptx::GATED_FORWARD_BF16),
    ("gated_forward_f64", ptx::GATED_FORWARD_F64),
    ("gated_backward_f32", ptx::GATED_BACKWARD_F32),
    ("gated_backward_f16", ptx::GATED_BACKWARD_F16),
    ("gated_backward_bf16", ptx::GATED_BACKWARD_BF16),
    ("gated_backward_f64", ptx::GATED_BACKWARD_F64),
    ("sum_f32", ptx::SUM_F32),
    ("sum_f16", ptx::SUM_F16),
    ("sum_bf16", ptx::SUM_BF16),
    ("sum_f64", ptx::SUM_F64),
];

/// The compute capability that the kernels are compiled for, 90 for 9.0.
const COMPUTE_CAP: &str = env!("QUICK_SSM_COMPUTE_CAP");

/// An entry point; the driver compiles the kernels of its file at the first call on a device.
pub(super) fn function(device: &CudaDevice, kernel: Kernel, entry: &str) -> Result<CudaFunction> {
    let name = kernel.name();
    let Some((_, ptx)) = MODULES.iter().find(|(module, _)| *module == name) else {
        bail!("scan: there are no kernels {name}")
    };
    // candle knows the modules of all crates by their names
    let module = format!("quick_ssm_{}_{name}", env!("CARGO_PKG_VERSION"));
    let function = device.get_or_load_custom_func(entry, &module, ptx);
    Ok(function.map_err(|error| explain(error, device, entry))?.into_cuda_function())
}

/// What is wrong, and what the user can do about it.
fn explain(error: Error, device: &CudaDevice, entry: &str) -> Error {
    let advice = match driver_error(&error) {
        Some(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION) => {
            "the CUDA driver is older than the toolkit that compiled it: update the driver, or build with a toolkit of the \
             driver's version"
                .into()
        }
        Some(CUresult::CUDA_ERROR_NOT_FOUND) => {
            "it is missing in what was compiled: build again after `cargo clean -p quick-ssm`".into()
        }
        Some(CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND) => {
            "the driver's compiler is missing: install the complete driver, libnvidia-ptxjitcompiler included".into()
        }
        _ => match capability(device) {
            Some(card) if card < 80 => format!("expected a card of compute capability 80 or more, got {card}"),
            Some(card) if COMPUTE_CAP.parse().is_ok_and(|compiled: i32| card < compiled) => {
                format!("it is compiled for compute capability {COMPUTE_CAP}, but the card has {card}: build with CUDA_COMPUTE_CAP={card}")
            }
            _ => format!("it is compiled for compute capability {COMPUTE_CAP}"),
        },
    };
    error.context(format!("scan: cannot load the kernel {entry}: {advice}"))
}

/// The card's compute capability, 90 for 9.0.
fn capability(device: &CudaDevice) -> Option<i32> {
    let (major, minor) = device.cuda_stream().context().compute_capability().ok()?;
    Some(10 * major + minor)
}

fn driver_error(error: &Error) -> Option<CUresult> {
    match error {
        Error::WithBacktrace { inner, .. } => driver_error(inner),
        Error::Cuda(error) => match error.downcast_ref()? {
            CudaError::Cuda(DriverError(code)) | CudaError::Load { cuda: DriverError(code), .. } => Some(*code),
            _ => None,
        },
        _ => None,
    }
}
