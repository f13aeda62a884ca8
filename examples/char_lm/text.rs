//! The text that a model is trained on, as numbers.

use anyhow::{ensure, Context, Result};
use candle_core::{Device, Tensor};
use include_dir::{include_dir, Dir};
use rand::{rngs::StdRng, Rng};
use serde::{Deserialize, Serialize};

static SOURCES: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");

/// The sources of this crate, one after another in the order of their paths.
pub fn sources() -> String {
    let mut files = vec![];
    let mut folders = vec![&SOURCES];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        files.extend(folder.files().filter(|file| file.path().extension().is_some_and(|ext| ext == "rs")));
    }
    files.sort_by_key(|file| file.path());
    files.into_iter().filter_map(|file| file.contents_utf8()).collect::<Vec<_>>().join("\n")
}

/// The characters that occur in a text, sorted: each one's number is its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vocabulary(Vec<char>);

impl Vocabulary {
    fn of(text: &str) -> Self {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        Self(characters)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let number = |c: char| {
            let place = self.0.binary_search(&c).ok().map(|place| place as u32);
            place.with_context(|| format!("{c:?}: not among the characters of the training's text"))
        };
        text.chars().map(number).collect()
    }

    pub fn decode(&self, token: u32) -> Result<char> {
        self.0.get(token as usize).copied().with_context(|| format!("{token}: not the number of a character"))
    }
}

/// A text of which the last tenth is held out from the training.
pub struct Text {
    pub vocabulary: Vocabulary,
    tokens: Vec<u32>,
}

impl Text {
    pub fn new(text: &str) -> Result<Self> {
        let vocabulary = Vocabulary::of(text);
        let tokens = vocabulary.encode(text)?;
        // the held-out part has a first character and one to predict
        ensure!(tokens.len() >= 20, "the text: expected at least 20 characters, got {}", tokens.len());
        Ok(Self { vocabulary, tokens })
    }

    pub fn train(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - self.tokens.len() / 10]
    }

    pub fn held_out(&self) -> &[u32] {
        &self.tokens[self.train().len()..]
    }

    /// Tells texts apart (FNV-1a over characters).
    pub fn fingerprint(&self) -> u64 {
        let characters = self.tokens.iter().map(|&token| u64::from(self.vocabulary.0[token as usize]));
        characters.fold(0xcbf29ce484222325, |hash, c| (hash ^ c).wrapping_mul(0x100000001b3))
    }

    /// Random windows of the part that is trained on, `[count, len]`.
    pub fn batch(&self, rng: &mut StdRng, count: usize, len: usize, device: &Device) -> Result<Tensor> {
        let train = self.train();
        ensure!(len <= train.len(), "windows: expected at most {} characters, got {len}", train.len());
        let mut windows = Vec::with_capacity(count * len);
        for _ in 0..count {
            let start = rng.random_range(0..=train.len() - len);
            windows.extend_from_slice(&train[start..start + len]);
        }
        Ok(Tensor::from_vec(windows, (count, len), device)?)
    }
}
