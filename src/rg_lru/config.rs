//! The configuration of the RG-LRU.

use candle_core::{bail, Result};
use serde::{Deserialize, Serialize};

/// The sizes of an [`RgLru`](crate::RgLru) layer.
///
/// It serialises with serde; unknown fields are an error. A value that cannot be is an error where the layer is built.
///
/// ```
/// use quick_ssm::RgLruConfig;
///
/// let cfg = RgLruConfig::new(2560, 10);
/// assert_eq!(cfg.block_width(), 256);
/// let json = serde_json::to_string(&cfg).unwrap();
/// assert_eq!(json, r#"{"lru_width":2560,"num_heads":10}"#);
/// assert_eq!(serde_json::from_str::<RgLruConfig>(&json).unwrap(), cfg);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RgLruConfig {
    /// `W`, the channels of input, state and output.
    pub lru_width: usize,
    /// `N`, the diagonal blocks of the gates' weights, a divisor of `W`; RecurrentGemma's `num_attention_heads`.
    pub num_heads: usize,
}

impl RgLruConfig {
    /// `lru_width` channels, whose gates have weights of `num_heads` blocks.
    pub fn new(lru_width: usize, num_heads: usize) -> Self {
        Self { lru_width, num_heads }
    }

    /// The channels of a block, `W / N`; 0 where there is none.
    pub fn block_width(&self) -> usize {
        self.lru_width.checked_div(self.num_heads).unwrap_or(0)
    }

    /// Checks every field that has impossible values.
    pub(super) fn check(&self) -> Result<()> {
        let Self { lru_width, num_heads } = *self;
        if lru_width == 0 {
            bail!("lru_width: expected at least 1, got 0")
        }
        if num_heads == 0 || !lru_width.is_multiple_of(num_heads) {
            bail!("num_heads: expected a divisor of the lru_width {lru_width}, got {num_heads}")
        }
        // a weight of 8 bytes an element has to be addressable
        let bytes = lru_width.checked_mul(self.block_width()).and_then(|n| n.checked_mul(8));
        if bytes.is_none_or(|n| n > isize::MAX as usize) {
            bail!("lru_width: expected blocks that fit in memory, got {lru_width} channels in {num_heads} blocks")
        }
        Ok(())
    }
}
