//! The layer's configuration.

use candle_core::{bail, DType, Result};
use serde::{Deserialize, Serialize};

use crate::problem::check_float;

/// The sizes and options of a [`QuickSsm`](crate::QuickSsm) layer.
///
/// It serialises with serde; fields that are absent take the values of [`new`](Self::new), unknown ones are an error,
/// and `compute_dtype` is the dtype's name (`"bf16"`). A value that cannot be is an error where the layer is built.
///
/// ```
/// use candle_core::DType;
/// use quick_ssm::QuickSsmConfig;
///
/// let cfg = QuickSsmConfig { state_size_mult: 1.5, compute_dtype: Some(DType::BF16), ..QuickSsmConfig::new(12) };
/// assert_eq!(cfg.state_size(), 18);
/// let json = serde_json::to_string(&cfg).unwrap();
/// assert!(json.contains(r#""compute_dtype":"bf16""#));
/// assert_eq!(serde_json::from_str::<QuickSsmConfig>(&json).unwrap(), cfg);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuickSsmConfig {
    /// `H`, the channels of the layer's input and output.
    pub hidden_size: usize,
    /// The channels of the state for each of the input's; default 1.
    #[serde(default = "default_state_size_mult")]
    pub state_size_mult: f64,
    /// Added to the mean square in the norm; default 1e-5.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Whether the input is normalised (root mean square over the channels, then a weight); default true.
    #[serde(default = "yes")]
    pub use_norm: bool,
    /// Whether the input is added to the output; default true.
    #[serde(default = "yes")]
    pub use_residual: bool,
    /// The dtype of the projections and of the scan's arguments, a floating one; default that of the input.
    ///
    /// The variables keep their own dtype, and their gradients have it; the norm, the gate functions and the state
    /// are in f32 (f64 where this or the input is f64), and the output has the input's dtype.
    #[serde(default, with = "dtype_name")]
    pub compute_dtype: Option<DType>,
    /// Whether only the input is held for the backward pass, which then computes everything between again; default
    /// true.
    ///
    /// It saves the memory of about six tensors of the state's width for about a quarter more time, and changes no
    /// result: besides the input, one state in 16 steps or more is held. [`RNN::seq`](candle_nn::RNN::seq), which returns
    /// every state anyway, takes no notice of it.
    #[serde(default = "yes")]
    pub checkpoint: bool,
}

fn default_state_size_mult() -> f64 {
    1.
}

fn default_eps() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl QuickSsmConfig {
    /// The defaults for `hidden_size` channels.
    pub fn new(hidden_size: usize) -> Self {
        Self {
            hidden_size,
            state_size_mult: default_state_size_mult(),
            eps: default_eps(),
            use_norm: true,
            use_residual: true,
            compute_dtype: None,
            checkpoint: true,
        }
    }

    /// `S`, the channels of the state: `hidden_size * state_size_mult`, rounded down.
    pub fn state_size(&self) -> usize {
        (self.hidden_size as f64 * self.state_size_mult) as usize
    }

    /// Checks every field that has impossible values.
    pub(super) fn check(&self) -> Result<()> {
        let Self { hidden_size, state_size_mult, eps, .. } = *self;
        if hidden_size == 0 {
            bail!("hidden_size: expected at least 1, got 0")
        }
        if !(state_size_mult.is_finite() && state_size_mult > 0.) {
            bail!("state_size_mult: expected a positive number, got {state_size_mult}")
        }
        if self.state_size() == 0 {
            bail!("state_size_mult: expected a state of at least 1 channel, got {state_size_mult} x {hidden_size}")
        }
        // a matrix of H x S elements of 8 bytes has to be addressable
        let bytes = self.state_size().checked_mul(hidden_size).and_then(|n| n.checked_mul(8));
        if bytes.is_none_or(|n| n > isize::MAX as usize) {
            bail!("hidden_size, state_size_mult: {hidden_size} x {state_size_mult} channels are too many")
        }
        if !(eps.is_finite() && eps >= 0.) {
            bail!("eps: expected a number that is not negative, got {eps}")
        }
        self.compute_dtype.map_or(Ok(()), |dtype| check_float("compute_dtype", dtype))
    }
}

/// Optional dtypes by their names.
mod dtype_name {
    use candle_core::DType;
    use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(dtype: &Option<DType>, serializer: S) -> Result<S::Ok, S::Error> {
        dtype.map(|dtype| dtype.as_str()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DType>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
    }
}
