//! What the layer holds between its forward and its backward pass, and from step to step, counted by the allocator of the process.
//!
//! A file of its own, with a single test: the counts are those of all threads.

mod layer_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::SeqCst};

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Module, RNN};
use layer_support::{frozen, layer, random, rng};
use quick_ssm::QuickSsmConfig;

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, SeqCst);
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, SeqCst);
        System.alloc_zeroed(layout)
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size as isize - layout.size() as isize, SeqCst);
        System.realloc(p, layout, size)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, SeqCst);
        System.dealloc(p, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the results of `f` hold, and those results.
fn held<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, isize)> {
    let before = LIVE.load(SeqCst);
    let result = f()?;
    Ok((result, LIVE.load(SeqCst) - before))
}

#[test]
fn what_a_layer_holds() -> Result<()> {
    between_its_passes_the_input_and_the_states_of_chunks()?;
    from_step_to_step_its_state()
}

fn from_step_to_step_its_state() -> Result<()> {
    let cfg = QuickSsmConfig { state_size_mult: 4., ..QuickSsmConfig::new(32) };
    let (layer, variables) = layer(&cfg, DType::F32, 3)?;
    let frozen = frozen(&cfg, &variables)?;
    let input = random(&mut rng(4), (2, 32))?;
    for (layer, detach) in [(&frozen, false), (&layer, true)] {
        let mut state = layer.zero_state(2)?;
        let mut run = |steps: usize| {
            for _ in 0..steps {
                state = layer.step(&input, &state)?;
                if detach {
                    state = state.detach();
                }
            }
            Ok(())
        };
        run(3)?;
        let ((), bytes) = held(|| run(500))?;
        assert_eq!(bytes, 0);
    }
    Ok(())
}

fn between_its_passes_the_input_and_the_states_of_chunks() -> Result<()> {
    let (batch, len, hidden) = (2, 320, 16);
    for (state, compute_dtype) in
        [(64, DType::F32), (1024, DType::F32), (2560, DType::F32), (320, DType::BF16), (2560, DType::F16)]
    {
        let cfg = QuickSsmConfig {
            state_size_mult: state as f64 / hidden as f64,
            compute_dtype: Some(compute_dtype),
            ..QuickSsmConfig::new(hidden)
        };
        let xs = Var::from_tensor(&random(&mut rng(1), (batch, len, hidden))?)?;
        let output = (batch * len * hidden * 4) as isize;
        let projection = (batch * len * 5 * state * compute_dtype.size_in_bytes()) as isize;
        for checkpoint in [true, false] {
            let (layer, variables) = layer(&QuickSsmConfig { checkpoint, ..cfg.clone() }, DType::F32, 2)?;
            let check = |what: &str, ys: Tensor, bytes: isize| {
                let share = (bytes - output) as f64 / projection as f64;
                let what = format!("{what}, state {state}, {compute_dtype:?}: {:.2} % of a projection", 100. * share);
                // the states of the chunks and the words around tensors cannot be nothing
                assert!(share > 0., "{what}, so the count is wrong");
                // the pre-activations and what is read out of them
                assert_eq!(share < 0.03, checkpoint, "{what}");
                assert!(share < 1.5, "{what}");
                let grads = ys.sum_all()?.backward()?;
                assert!(variables.values().all(|var| grads.get(var).is_some()));
                Ok::<_, candle_core::Error>(())
            };
            // threads, their buffers and what else is made once
            layer.forward(&xs)?.sum_all()?.backward()?;
            let (ys, bytes) = held(|| layer.forward(&xs))?;
            check("forward", ys, bytes)?;
            let start = layer.zero_state(batch)?;
            let (ys, bytes) = held(|| layer.forward_with_state(&xs, &start).map(|(ys, _)| ys))?;
            check("forward with state", ys, bytes)?;
        }
    }
    Ok(())
}
