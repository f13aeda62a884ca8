//! The layer among candle's recurrent networks.

use candle_core::{bail, DType, Result, Tensor};
use candle_nn::RNN;

use super::{QuickSsm, QuickSsmState};
use crate::backend::zeros;
use crate::problem::check_addressable;

/// Step by step, or many steps at once; both give the same to the accuracy of the dtype.
impl RNN for QuickSsm {
    type State = QuickSsmState;

    /// A state of zeros, as if the layer's input had the dtype of its parameters.
    fn zero_state(&self, batch_dim: usize) -> Result<QuickSsmState> {
        let weight = &self.params.out;
        let (dtype, device) = (weight.dtype(), weight.device());
        let zeros = |channels: usize, dtype: DType| {
            check_addressable("batch_dim", &[batch_dim, channels])?;
            zeros(&[batch_dim, channels], dtype, device)
        };
        let h = zeros(self.cfg.state_size(), self.compute().state_dtype(dtype))?;
        QuickSsmState::new(zeros(self.cfg.hidden_size, dtype)?, h)
    }

    /// One step: `input` is `[B, H]`, and the output is the new state's [`y`](QuickSsmState::y).
    fn step(&self, input: &Tensor, state: &QuickSsmState) -> Result<QuickSsmState> {
        let batch = self.input().check_step("input", input)?;
        self.check_state("state", state, batch, input)?;
        let (y, h) = self.run(&input.unsqueeze(1)?, Some(state.h()), true)?;
        match h {
            Some(h) => QuickSsmState::new(y.squeeze(1)?, h),
            None => bail!("quick-ssm: the state is missing"),
        }
    }

    /// The state after every step of `input`, `[B, L, H]`, computed by one scan.
    fn seq_init(&self, input: &Tensor, init_state: &QuickSsmState) -> Result<Vec<QuickSsmState>> {
        let (batch, len) = self.input().check_sequence("input", input)?;
        self.check_state("init_state", init_state, batch, input)?;
        if len == 0 {
            return Ok(vec![]);
        }
        let (y, h) = self.compute().forward_with_states(input, Some(init_state.h()))?;
        let at = |t: &Tensor, step: usize| t.narrow(1, step, 1)?.squeeze(1);
        (0..len).map(|step| QuickSsmState::new(at(&y, step)?, at(&h, step)?)).collect()
    }

    /// The outputs of all states, `[B, L, H]`.
    fn states_to_tensor(&self, states: &[QuickSsmState]) -> Result<Tensor> {
        if states.is_empty() {
            bail!("states: expected at least one state, got none")
        }
        Tensor::stack(&states.iter().map(QuickSsmState::y).collect::<Vec<_>>(), 1)
    }
}
