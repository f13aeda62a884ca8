//! A layer's parameters in a safetensors file.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::safetensors::Load;
use candle_core::{bail, DType, Device, Error, Result, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::params::Params;
use super::QuickSsmConfig;
use crate::problem::check_float;

/// Reads the parameters of a layer, and nothing else, from the file at `path`.
pub(super) fn load(path: &Path, cfg: &QuickSsmConfig, dtype: DType, device: &Device) -> Result<Params> {
    check_float("dtype", dtype)?;
    let at = path.display();
    // a mapped file would change under our feet where someone writes to it
    let bytes = fs::read(path).map_err(|e| Error::Msg(format!("{at}: cannot be read: {e}")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::Msg(format!("{at}: not a complete safetensors file: {e}")))?;
    let mut names = Vec::new();
    let params = Params::build(cfg, |name, shape, _| {
        names.push(name);
        tensor(&file, name, shape, dtype)
            .and_then(|t| t.to_device(device))
            .map_err(|e| Error::Msg(format!("{at}: {name}: {e}")))
    })?;
    let mut unknown: Vec<_> = file.names().into_iter().filter(|name| !names.contains(name)).collect();
    unknown.sort_unstable();
    if let Some(name) = unknown.first() {
        bail!("{at}: {name}: unknown tensor, expected no others than {}", names.join(", "))
    }
    Ok(params)
}

/// One parameter of `file`, on the CPU, checked.
fn tensor(file: &SafeTensors, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let Ok(view) = file.tensor(name) else {
        bail!("missing, expected a tensor of shape {shape:?}; there are {:?}", {
            let mut names = file.names();
            names.sort_unstable();
            names
        })
    };
    if !matches!(view.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
        bail!("expected dtype f16, bf16, f32 or f64, got {:?}", view.dtype())
    }
    if view.shape() != shape {
        bail!("expected shape {shape:?}, got {:?}", view.shape())
    }
    let stored = view.load(&Device::Cpu)?;
    if let Some((index, value)) = not_finite(&stored)? {
        bail!("expected finite values, got {value} at index {index}")
    }
    let t = stored.to_dtype(dtype)?;
    if let Some((index, _)) = not_finite(&t)? {
        bail!("the value at index {index} is out of the range of {dtype:?}")
    }
    Ok(t)
}

/// The first value that is NaN or infinite, and its index in memory order.
fn not_finite(t: &Tensor) -> Result<Option<(usize, f64)>> {
    let values = t.flatten_all()?;
    let first = match t.dtype() {
        DType::F64 => find(values.to_vec1::<f64>()?),
        _ => find(values.to_dtype(DType::F32)?.to_vec1::<f32>()?),
    };
    Ok(first)
}

fn find<T: Into<f64>>(values: Vec<T>) -> Option<(usize, f64)> {
    values.into_iter().map(Into::into).enumerate().find(|(_, value)| !value.is_finite())
}

/// Writes `params` to the file at `path`, which appears complete or not at all.
pub(super) fn save(path: &Path, params: &Params) -> Result<()> {
    let named = params
        .named()
        .into_iter()
        .map(|(name, t)| Ok((name, t.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(named.iter().map(|(name, t)| (*name, t)), None)?;
    let (beside, file) = create_beside(path)?;
    write(file, &bytes).and_then(|()| fs::rename(&beside, path)).and_then(|()| sync_folder(path)).map_err(|e| {
        // nothing is left to be done where this fails too
        let _ = fs::remove_file(&beside);
        not_written(path, &e)
    })
}

fn not_written(path: &Path, e: &std::io::Error) -> Error {
    Error::Msg(format!("{}: cannot be written: {e}", path.display()))
}

/// A new file in the folder of `path`.
///
/// A process that was killed while it saved has left one behind, and in a container the next one has the same number.
fn create_beside(path: &Path) -> Result<(PathBuf, File)> {
    loop {
        let beside = beside(path)?;
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(not_written(path, &e)),
        }
    }
}

fn write(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name in the folder of `path` that no other call of this process uses.
fn beside(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let Some(name) = path.file_name() else { bail!("path: expected the name of a file, got {:?}", path.display()) };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(beside))
}

/// Makes a rename last: on Unix it is the folder's content that changes.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}
