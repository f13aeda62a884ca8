//! The operation and its gradients.
//!
//! ```text
//! cargo run --release --example scan
//! ```

use candle_core::{Device, Tensor, Var};
use clap::Parser;
use quick_ssm::Scan;
use rand::{rngs::StdRng, Rng, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Scans random sequences, twice at once and in two parts, and differentiates the result.
#[derive(Parser)]
struct Args {
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// The seed of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = if args.cpu { Device::Cpu } else { Device::cuda_if_available(0)? };
    let mut rng = StdRng::seed_from_u64(args.seed);
    let (batch, len, channels) = (2, 1000, 64);
    let mut random = |low: f32, high: f32| {
        let values = (0..batch * len * channels).map(|_| rng.random_range(low..high)).collect();
        Var::from_tensor(&Tensor::from_vec(values, (batch, len, channels), &device)?)
    };
    // h_t = a_t h_{t-1} + b_t x_t and y_t = c_t h_t, in every channel for itself
    let (x, a, b, c) = (random(-1., 1.)?, random(0., 1.)?, random(-1., 1.)?, random(-1., 1.)?);
    let (y, last) = Scan::new().apply_with_state(&x, &a, &b, &c)?;
    println!("y {:?}, last state {:?}, mean of y^2 {:.6}", y.shape(), last.shape(), scalar(&y.sqr()?.mean_all()?)?);

    let grads = y.sqr()?.mean_all()?.backward()?;
    for (name, var) in [("x", &x), ("a", &a), ("b", &b), ("c", &c)] {
        let grad = grads.get(var).expect("every argument has a gradient");
        println!("gradient of {name} {:?}, norm {:.6}", grad.shape(), scalar(&grad.sqr()?.sum_all()?.sqrt()?)?);
    }

    // the second half, started from the state after the first, continues the sequence
    let part = |t: &Tensor, from| t.narrow(1, from, len / 2);
    let half = |from, scan: &Scan| {
        scan.apply_with_state(&part(&x, from)?, &part(&a, from)?, &part(&b, from)?, &part(&c, from)?)
    };
    let (first, state) = half(0, &Scan::new())?;
    let (second, _) = half(len / 2, &Scan::new().initial_state(&state))?;
    let difference = (Tensor::cat(&[first, second], 1)? - y)?.abs()?.max_all()?;
    println!("in two parts: largest difference {:e}", scalar(&difference)?);
    Ok(())
}

fn scalar(t: &Tensor) -> candle_core::Result<f32> {
    t.to_scalar::<f32>()
}
