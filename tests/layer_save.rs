//! A layer that is saved while its process is killed leaves a complete file.

mod layer_support;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use candle_core::{DType, Device, Result};
use layer_support::layer;
use quick_ssm::{QuickSsm, QuickSsmConfig};
use tempfile::TempDir;

/// Where the test, as a child of itself, saves until it is killed.
const SAVE_TO: &str = "QUICK_SSM_TEST_SAVE_TO";

const READY: &str = "the first file is saved";

/// Large enough that writing it takes longer than everything between two times.
fn config() -> QuickSsmConfig {
    QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(64) }
}

fn layers() -> Result<[QuickSsm; 2]> {
    Ok([layer(&config(), DType::F32, 1)?.0, layer(&config(), DType::F32, 2)?.0])
}

fn save_until_killed(path: &OsStr) -> Result<()> {
    let layers = layers()?;
    layers[0].save(path)?;
    writeln!(std::io::stdout(), "{READY}")?;
    for layer in layers.iter().cycle() {
        layer.save(path)?;
    }
    Ok(())
}

/// Files in the folder of `path` that are beside it.
fn left_over(path: &Path) -> usize {
    fs::read_dir(path.parent().unwrap()).unwrap().count() - 1
}

#[test]
fn killed_while_it_saves() -> Result<()> {
    if let Some(path) = std::env::var_os(SAVE_TO) {
        return save_until_killed(&path);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("layer.safetensors");
    let layers = layers()?;
    let complete = layers.each_ref().map(|layer| {
        layer.save(&path).unwrap();
        fs::read(&path).unwrap()
    });
    assert_ne!(complete[0], complete[1]);
    let mut rounds = 0;
    // until it was killed between the beginning and the end of a save, too
    while rounds < 30 || left_over(&path) == 0 {
        assert!(rounds < 300, "it was never killed while it saved");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_while_it_saves", "--exact", "--nocapture"])
            .env(SAVE_TO, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(output.any(|line| line.unwrap().contains(READY)), "round {rounds}: the child has not saved");
        std::thread::sleep(Duration::from_micros(rounds * 173 % 5_000));
        // SIGKILL on Unix
        child.kill().unwrap();
        child.wait().unwrap();
        QuickSsm::load(&path, &config(), DType::F32, &Device::Cpu)?;
        assert!(
            complete.contains(&fs::read(&path).unwrap()),
            "round {rounds}: the file is neither the old nor the new one"
        );
        rounds += 1;
    }
    // what it has left behind is in nobody's way
    layers[1].save(&path)?;
    assert_eq!(fs::read(&path).unwrap(), complete[1]);
    Ok(())
}

/// Those of a process that had the same number.
#[test]
fn names_that_are_taken_beside_the_file() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("layer.safetensors");
    let taken = |n: usize| folder.path().join(format!(".layer.safetensors.{}-{n}", std::process::id()));
    for n in 0..64 {
        fs::write(taken(n), "someone else's").unwrap();
    }
    layers()?[0].save(&path)?;
    QuickSsm::load(&path, &config(), DType::F32, &Device::Cpu)?;
    assert_eq!(left_over(&path), 64);
    assert!((0..64).all(|n| fs::read(taken(n)).unwrap() == b"someone else's"));
    Ok(())
}
