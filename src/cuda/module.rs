//! The compiled kernels, loaded on demand.

use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, DriverError};
use candle_core::cuda_backend::CudaError;
use candle_core::{bail, CudaDevice, Error, Result};

// The kernels in `cuda/` as PTX, each with its name.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The compute capability that the kernels are compiled for, 90 for 9.0.
const COMPUTE_CAP: &str = env!("QUICK_SSM_COMPUTE_CAP");

/// A kernel by the name of its entry point; the driver compiles it at its first call on a device.
pub(super) fn function(device: &CudaDevice, entry: &str) -> Result<CudaFunction> {
    let Some((_, ptx)) = KERNELS.iter().find(|(name, _)| *name == entry) else {
        bail!("scan: there is no kernel {entry}")
    };
    // candle knows the modules of all crates by their names
    let module = format!("{entry}_{}", env!("CARGO_PKG_VERSION"));
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
