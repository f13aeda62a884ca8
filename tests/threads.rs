//! Many threads at once: the same tensors, graphs and layers used by all give the bits that one thread gets.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap, RNN};
use common::{assert_same_bits, dtypes, random, random_inputs};
use quick_ssm::{QuickSsm, QuickSsmConfig, Scan};

const THREADS: usize = 4;
const ROUNDS: usize = 2;

/// `L, D`: of one job, of several groups of columns, of chunks, of wide rows, of tiles of time.
const SEQUENCES: [(usize, usize); 5] = [(33, 5), (20, 600), (600, 17), (9, 2_049), (8_193, 129)];

/// Asserts that whatever `compute` makes, it makes the same in many threads at once.
fn assert_same_in_threads(what: &str, compute: impl Fn() -> Result<Vec<Tensor>> + Sync) -> Result<()> {
    let want = compute()?;
    assert!(!want.is_empty());
    std::thread::scope(|threads| {
        let run = || -> Result<()> {
            for _ in 0..ROUNDS {
                let got = compute()?;
                assert_eq!(got.len(), want.len());
                for (n, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_same_bits(&format!("{what}: result {n}"), got, want)?;
                }
            }
            Ok(())
        };
        let running: Vec<_> = (0..THREADS).map(|_| threads.spawn(run)).collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// A sum of the outputs in which every element counts otherwise.
fn loss(outputs: &[&Tensor]) -> Result<Tensor> {
    let mut loss = Tensor::zeros((), DType::F64, &Device::Cpu)?;
    for (n, t) in outputs.iter().enumerate() {
        let weights = random(n as u64, t.dims(), -1., 1., t.dtype(), &Device::Cpu)?;
        loss = (loss + (*t * weights)?.sum_all()?.to_dtype(DType::F64)?)?;
    }
    Ok(loss)
}

fn gradients(loss: &Tensor, vars: &[Var]) -> Result<Vec<Tensor>> {
    let grads = loss.backward()?;
    Ok(vars.iter().map(|var| grads.get(var).cloned().expect("a gradient")).collect())
}

fn vars<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<Var>> {
    tensors.into_iter().map(Var::from_tensor).collect()
}

/// The variables of a plain scan, `x, a, b, c, h0`, and those of a gated one, `p, a_bias, h0`.
fn arguments((len, channels): (usize, usize), dtype: DType) -> Result<(Vec<Var>, Vec<Var>)> {
    let h0 = random(9, &[2, channels], -1., 1., dtype, &Device::Cpu)?;
    let inputs = random_inputs(4, (2, len, channels), dtype, &Device::Cpu)?;
    let p = random(5, &[2, len, 5 * channels], -1.5, 1.5, dtype, &Device::Cpu)?;
    let bias = random(6, &[channels], 0., 6., dtype, &Device::Cpu)?;
    Ok((vars(inputs.iter().chain([&h0]))?, vars([&p, &bias, &h0])?))
}

fn plain(scan: &Scan, v: &[Var]) -> Result<(Tensor, Tensor)> {
    scan.clone().initial_state(&v[4]).apply_with_state(&v[0], &v[1], &v[2], &v[3])
}

fn gated(scan: &Scan, v: &[Var]) -> Result<(Tensor, Tensor)> {
    scan.clone().initial_state(&v[2]).apply_gated_with_state(&v[0], Some(&v[1]))
}

#[test]
fn scans_of_shared_tensors() -> Result<()> {
    for sequence in SEQUENCES {
        for &dtype in dtypes(sequence) {
            let (of_plain, of_gated) = arguments(sequence, dtype)?;
            for scan in [Scan::new(), Scan::new().reverse(true).chunk_len(8)] {
                assert_same_in_threads(&format!("{sequence:?} {dtype:?}"), || {
                    let (y, last) = plain(&scan, &of_plain)?;
                    let (gated_y, gated_last) = gated(&scan, &of_gated)?;
                    let states = scan.states(&of_plain[0], &of_plain[1], &of_plain[2])?;
                    let [x, a, b, c, _] = &of_plain[..] else { panic!("five variables") };
                    let direct = scan.gradients(x, a, b, c, &y)?;
                    Ok([y, last, gated_y, gated_last, states].into_iter().chain(direct).collect())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn one_graph_walked_by_all() -> Result<()> {
    for sequence in SEQUENCES {
        for &dtype in dtypes(sequence) {
            let (of_plain, of_gated) = arguments(sequence, dtype)?;
            let (y, last) = plain(&Scan::new(), &of_plain)?;
            let (gated_y, gated_last) = gated(&Scan::new(), &of_gated)?;
            let (plain, gated) = (loss(&[&y, &last])?, loss(&[&gated_y, &gated_last])?);
            assert_same_in_threads(&format!("{sequence:?} {dtype:?}"), || {
                Ok([gradients(&plain, &of_plain)?, gradients(&gated, &of_gated)?].concat())
            })?;
        }
    }
    Ok(())
}

/// On variables and frozen, with what the backward pass needs held or computed again, forward, backward and step by step.
#[test]
fn a_layer() -> Result<()> {
    let xs = Var::from_tensor(&random(1, &[2, 70, 24], -1., 1., DType::F32, &Device::Cpu)?)?;
    for checkpoint in [true, false] {
        for compute_dtype in [None, Some(DType::BF16)] {
            let cfg = QuickSsmConfig { state_size_mult: 1.5, checkpoint, compute_dtype, ..QuickSsmConfig::new(24) };
            let varmap = VarMap::new();
            let layer = QuickSsm::new(&cfg, VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
            let mut named: Vec<_> = varmap.data().lock().expect("no panic").clone().into_iter().collect();
            named.sort_by(|(one, _), (other, _)| one.cmp(other));
            let tensors = named.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
            let frozen = QuickSsm::new(&cfg, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?;
            let mut all: Vec<Var> = named.into_iter().map(|(_, var)| var).collect();
            all.push(xs.clone());

            let what = format!("checkpoint {checkpoint}, {compute_dtype:?}");
            let (ys, state) = layer.forward_with_state(&xs, &layer.zero_state(2)?)?;
            let shared = loss(&[&ys, state.h()])?;
            assert_same_in_threads(&format!("the graph, {what}"), || gradients(&shared, &all))?;
            assert_same_in_threads(&format!("a training step, {what}"), || {
                let (ys, state) = layer.forward_with_state(&xs, &layer.zero_state(2)?)?;
                let mut results = gradients(&loss(&[&ys, state.h()])?, &all)?;
                results.extend([ys, state.h().clone()]);
                Ok(results)
            })?;
            // its weights are laid out at the first use, here by several threads at once
            let fresh = frozen.clone();
            assert_same_in_threads(&format!("inference, {what}"), || {
                let step = fresh.step(&xs.narrow(1, 0, 1)?.squeeze(1)?, &fresh.zero_state(2)?)?;
                Ok(vec![fresh.forward(&xs)?, step.y().clone(), step.h().clone()])
            })?;
        }
    }
    Ok(())
}
