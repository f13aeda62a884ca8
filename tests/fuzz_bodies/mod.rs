//! What the fuzz targets in `fuzz/` do with their bytes. `tests/fuzz.rs` does the same with the seeds.
#![allow(dead_code)] // every target uses a part

pub mod load;
pub mod scan;

/// Bytes to be made into choices; zeros follow the last one.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `count`, of one byte, or of two where it needs them.
    pub fn below(&mut self, count: usize) -> usize {
        let high = if count > 1 << 8 { usize::from(self.byte()) << 8 } else { 0 };
        (high + usize::from(self.byte())) % count
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR").trim_end_matches("/fuzz"));
    std::fs::read(path).expect("a fixture")
}
