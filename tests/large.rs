//! More than 2^31 elements in one tensor, on a CUDA device.
#![cfg(feature = "cuda")]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use quick_ssm::Scan;

/// Steps after the last reset of the state: what is computed there does not depend on the rest.
const TAIL: usize = 100;

#[test]
#[ignore = "takes 40 GB of the device's memory"]
fn more_elements_than_32_bits_count() -> Result<()> {
    let (len, channels) = ((1 << 20) + 70, 1 << 11);
    assert!(len * channels > 1 << 31);
    for device in common::devices().filter(|device| device.is_cuda()) {
        let x = Tensor::rand(-1f32, 1f32, (1, len, channels), device)?.to_dtype(DType::BF16)?;
        let row = Tensor::rand(0.5f32, 1f32, (1, 1, channels), device)?.to_dtype(DType::BF16)?;
        let rows = row.broadcast_as((1, len, channels))?;
        let start = len - TAIL;
        let gate = |steps: usize| row.broadcast_as((1, steps, channels));
        let a = Tensor::cat(&[&gate(start)?, &row.zeros_like()?, &gate(TAIL - 1)?], 1)?;
        let y = Scan::new().apply(&x, &a, &rows, &rows)?;
        let grads = Scan::new().gradients(&x, &a, &rows, &rows, &x)?;

        let tail = |t: &Tensor| t.narrow(1, start, TAIL)?.to_device(&Device::Cpu);
        let [x, a, rows] = [tail(&x)?, tail(&a)?, tail(&rows)?];
        let expected_y = Scan::new().apply(&x, &a, &rows, &rows)?;
        let expected = Scan::new().gradients(&x, &a, &rows, &rows, &x)?;
        let pairs = [(&y, &expected_y)].into_iter().chain(grads.iter().zip(&expected));
        for (i, (got, expected)) in pairs.enumerate() {
            let (mut got, expected) = (common::values(&tail(got)?)?, common::values(expected)?);
            if i == 2 {
                // the gradient of the gate that resets the state is the one that sees what was before it
                got[..channels].copy_from_slice(&expected[..channels]);
            }
            let error: f64 = got.iter().zip(&expected).map(|(g, e)| (g - e).powi(2)).sum();
            let size: f64 = expected.iter().map(|e| e * e).sum();
            // both round to bf16, from states that differ in the last bits of f32
            assert!(error.sqrt() < 1e-3 * size.sqrt(), "result {i}: {} of {}", error.sqrt(), size.sqrt());
        }
    }
    Ok(())
}
