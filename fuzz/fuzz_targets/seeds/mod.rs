//! The corpus that the fuzzer starts from.

use std::fs;
use std::path::Path;

/// Writes the seeds of a target into its corpus, each under a name of its own.
pub fn write(target: &str, seeds: Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the folder of the corpus can be made");
    for (n, seed) in seeds.into_iter().enumerate() {
        fs::write(folder.join(format!("seed-{n:02}")), seed).expect("a seed can be written");
    }
}
