//! The RG-LRU among candle's recurrent networks.

use candle_core::{bail, DType, Result, Tensor};
use candle_nn::RNN;

use super::{RgLru, RgLruState};
use crate::backend::zeros;
use crate::problem::{accumulation_dtype, check_addressable};

/// Step by step, or many steps at once; both give the same to the accuracy of the dtype.
impl RNN for RgLru {
    type State = RgLruState;

    /// The state before the first step, zeros, as if the layer's input had the dtype of its parameters.
    fn zero_state(&self, batch_dim: usize) -> Result<RgLruState> {
        let param = &self.params.recurrent_param;
        let (dtype, device) = (accumulation_dtype(param.dtype()), param.device());
        let dims = [batch_dim, self.cfg.lru_width];
        check_addressable("batch_dim", &dims)?;
        let h = zeros(&dims, dtype, device)?;
        Ok(RgLruState::with_start(h, Tensor::ones(batch_dim, DType::U8, device)?))
    }

    /// One step: `input` is `[B, W]`, and the output is the new state's [`h`](RgLruState::h), in the accumulation dtype.
    fn step(&self, input: &Tensor, state: &RgLruState) -> Result<RgLruState> {
        let batch = self.input().check_step("input", input)?;
        self.check_state("state", state, batch, input)?;
        let h = self.dense(&input.unsqueeze(1)?, state, accumulation_dtype(input.dtype()))?;
        RgLruState::new(h.squeeze(1)?)
    }

    /// The state after every step of `input`, `[B, L, W]`, computed by one scan.
    fn seq_init(&self, input: &Tensor, init_state: &RgLruState) -> Result<Vec<RgLruState>> {
        let (batch, len) = self.input().check_sequence("input", input)?;
        self.check_state("init_state", init_state, batch, input)?;
        let h = self.dense(input, init_state, accumulation_dtype(input.dtype()))?;
        (0..len).map(|step| RgLruState::new(h.narrow(1, step, 1)?.squeeze(1)?)).collect()
    }

    /// The outputs of all states, `[B, L, W]` in the accumulation dtype.
    fn states_to_tensor(&self, states: &[RgLruState]) -> Result<Tensor> {
        if states.is_empty() {
            bail!("states: expected at least one state, got none")
        }
        Tensor::stack(&states.iter().map(RgLruState::h).collect::<Vec<_>>(), 1)
    }
}
