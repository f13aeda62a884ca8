//! Files of tensors that are complete at any time, whenever the program ends.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{safetensors::load_buffer, Device, Tensor};
use safetensors::SafeTensors;
use serde::{de::DeserializeOwned, Serialize};

/// Under which name the description is among the file's metadata.
const DESCRIPTION: &str = "description";

/// Writes a safetensors file of `tensors` with a `description`: at `path` is the old file or the complete new one.
pub fn save(path: &Path, description: &impl Serialize, tensors: HashMap<String, Tensor>) -> Result<()> {
    let named = tensors.into_iter().map(|(name, t)| Ok((name, t.to_device(&Device::Cpu)?.contiguous()?)));
    let tensors = named.collect::<Result<HashMap<_, _>>>()?;
    let metadata = HashMap::from([(DESCRIPTION.to_string(), serde_json::to_string(description)?)]);
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    replace(path, &bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = OsString::from(path);
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    // the new name must not be on the disk before the content is
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// The description and the tensors of a file.
pub fn load<D: DeserializeOwned>(path: &Path, device: &Device) -> Result<(D, HashMap<String, Tensor>)> {
    read(path, |bytes| Ok((description_of(bytes)?, load_buffer(bytes, device)?)))
}

/// The description alone.
pub fn description<D: DeserializeOwned>(path: &Path) -> Result<D> {
    read(path, description_of)
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let read = || parse(&fs::read(path)?);
    read().with_context(|| format!("{}: cannot be loaded", path.display()))
}

fn description_of<D: DeserializeOwned>(bytes: &[u8]) -> Result<D> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let description = metadata.metadata().as_ref().and_then(|metadata| metadata.get(DESCRIPTION));
    Ok(serde_json::from_str(description.context("it has no description")?)?)
}
