//! The scan as a part of candle's graphs.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::judge::Tolerance;
use common::{assert_same_bits, devices, random, random_inputs, values};
use quick_ssm::{bench, reference, scan, Scan};

const DIMS: (usize, usize, usize) = (2, 21, 5);

fn vars(seed: u64, dtype: DType, device: &Device) -> Result<Vec<Var>> {
    vars_of(DIMS, seed, dtype, device)
}

fn vars_of(dims: (usize, usize, usize), seed: u64, dtype: DType, device: &Device) -> Result<Vec<Var>> {
    let h0 = random(seed + 50, &[dims.0, dims.2], -1.5, 1.5, dtype, device)?;
    random_inputs(seed, dims, dtype, device)?.iter().chain([&h0]).map(Var::from_tensor).collect()
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, want: &Tensor) -> Result<()> {
    let (got, want) = (values(got)?, values(want)?);
    let magnitude = want.iter().fold(0f64, |m, w| m.max(w.abs()));
    Tolerance::new(DType::F64, DType::F64, true).check(what, &got, &want, &vec![magnitude; want.len()]);
    Ok(())
}

/// Every subset of the arguments tracked, and every use of the outputs: the gradients are those with all tracked. Rows are
/// shorter than a vector, or longer than some.
#[test]
fn only_some_arguments_tracked() -> Result<()> {
    for (device, dims) in devices().flat_map(|device| [(device, DIMS), (device, (1, 5, 26))]) {
        let vars = vars_of(dims, 1, DType::F64, device)?;
        for outputs in ["y", "last", "both", "y alone", "states"] {
            let run = |subset: u32| -> Result<Vec<Option<Tensor>>> {
                let arg = |n: usize| match subset & (1 << n) {
                    0 => vars[n].as_tensor().detach(),
                    _ => vars[n].as_tensor().clone(),
                };
                let scan = Scan::new().initial_state(&arg(4));
                let squares = |t: Tensor| t.sqr()?.sum_all();
                let two = || scan.apply_with_state(&arg(0), &arg(1), &arg(2), &arg(3));
                let loss = match outputs {
                    "y" => squares(two()?.0)?,
                    "last" => squares(two()?.1)?,
                    "both" => two().and_then(|(y, last)| squares(y)? + squares(last)?)?,
                    "y alone" => squares(scan.apply(&arg(0), &arg(1), &arg(2), &arg(3))?)?,
                    _ => squares(scan.states(&arg(0), &arg(1), &arg(2))?)?,
                };
                let grads = loss.backward()?;
                Ok(vars.iter().map(|v| grads.get(v).cloned()).collect())
            };
            let all = run(31)?;
            for subset in 0..32 {
                for (n, (got, want)) in run(subset)?.iter().zip(&all).enumerate() {
                    let what = format!("argument {n} of the subset {subset:05b} from {outputs}");
                    match (subset & (1 << n), got, want) {
                        (0, got, _) => assert!(got.is_none(), "{what} is not tracked"),
                        (_, Some(got), Some(want)) => assert_close(&what, got, want)?,
                        // c has no part in the states
                        (_, got, want) => assert!(n == 3 && got.is_none() && want.is_none(), "{what}: no gradient"),
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn arguments_that_are_results() -> Result<()> {
    for device in devices() {
        let vars = vars(2, DType::F64, device)?;
        let [x, a, b, c, h0] = &vars[..] else { panic!("five variables") };
        let loss = |op: fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>| {
            let first = op(&x.affine(2., 0.)?, &a.tanh()?, &b.sqr()?, &c.affine(0.5, 1.)?)?;
            let second = op(&first, &a.sin()?, &first, c)?;
            op(&second, a, &b.add(&first)?, &second.tanh()?)?.sum_all()
        };
        let (got, want) = (loss(scan)?.backward()?, loss(reference::scan)?.backward()?);
        for (n, var) in vars[..4].iter().enumerate() {
            assert_close(&format!("argument {n}"), got.get(var).expect("got"), want.get(var).expect("want"))?;
        }
        // one sequence after another: the last state of one is the first of the next
        let chain = |steps: usize| -> Result<Tensor> {
            let mut state = h0.copy()?;
            let mut loss = Tensor::zeros((), DType::F64, device)?;
            for _ in 0..steps {
                let (y, last) = Scan::new().initial_state(&state).apply_with_state(x, a, b, c)?;
                (state, loss) = (last, (loss + y.sum_all()?)?);
            }
            state.sqr()?.sum_all()? + loss
        };
        let repeat = |t: &Tensor| Tensor::cat(&[t, t, t], 1);
        let (y, last) =
            Scan::new().initial_state(h0).apply_with_state(&repeat(x)?, &repeat(a)?, &repeat(b)?, &repeat(c)?)?;
        let want = (y.sum_all()? + last.sqr()?.sum_all()?)?.backward()?;
        let got = chain(3)?.backward()?;
        for (n, var) in vars.iter().enumerate() {
            assert_close(&format!("chained, {n}"), got.get(var).expect("got"), want.get(var).expect("want"))?;
        }
    }
    Ok(())
}

/// Every way in which one tensor can stand for several arguments.
#[test]
fn one_tensor_for_several_arguments() -> Result<()> {
    for device in devices() {
        let vars = vars(3, DType::F64, device)?;
        for pattern in 0..256usize {
            let pick = |n: usize| vars[(pattern >> (2 * n)) & 3].as_tensor();
            let (x, a, b, c) = (pick(0), pick(1), pick(2), pick(3));
            let got = scan(x, a, b, c)?.sum_all()?.backward()?;
            let want = reference::scan(x, a, b, c)?.sum_all()?.backward()?;
            for (n, var) in vars[..4].iter().enumerate() {
                match (got.get(var), want.get(var)) {
                    (Some(got), Some(want)) => assert_close(&format!("{n} in pattern {pattern}"), got, want)?,
                    (got, want) => assert!(got.is_none() && want.is_none(), "{n} in pattern {pattern}"),
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_state_is_the_input_too() -> Result<()> {
    for device in devices() {
        let one = Var::from_tensor(&random(1, &[3, 4], -1., 1., DType::F64, device)?)?;
        let x = one.unsqueeze(1)?;
        // h = t * t + t * t, y = t * h = 2 t^3
        let (y, last) = Scan::new().initial_state(&one).apply_with_state(&x, &x, &x, &x)?;
        let grads = (y.sum_all()? + last.sum_all()?)?.backward()?;
        let want = ((one.sqr()? * 6.)? + (one.as_tensor() * 4.)?)?;
        assert_close("6 t^2 + 4 t", grads.get(&one).expect("a gradient"), &want)?;
    }
    Ok(())
}

#[test]
fn backward_twice_gives_the_same() -> Result<()> {
    for device in devices() {
        let vars = vars(4, DType::F32, device)?;
        let (y, last) = Scan::new().initial_state(&vars[4]).apply_with_state(&vars[0], &vars[1], &vars[2], &vars[3])?;
        let (y, last) = (y.sqr()?.sum_all()?, last.sum_all()?);
        let both = (&y + &last)?;
        let first = both.backward()?;
        // walks of parts of the graph in between leave nothing behind
        y.backward()?;
        last.backward()?;
        let second = both.backward()?;
        for var in &vars {
            assert_same_bits("again", second.get(var).expect("second"), first.get(var).expect("first"))?;
        }
    }
    Ok(())
}

/// An output that has no part in the loss adds nothing, whichever was used before.
#[test]
fn outputs_that_are_not_used() -> Result<()> {
    for device in devices() {
        let vars = vars(5, DType::F64, device)?;
        let [x, a, b, c, h0] = &vars[..] else { panic!("five variables") };
        let scan = Scan::new().initial_state(h0);
        let (y, last) = scan.apply_with_state(x, a, b, c)?;
        let (y, last) = (y.sum_all()?, last.sum_all()?);
        let (of_y, of_last, of_both) = (y.backward()?, last.backward()?, (&y + &last)?.backward()?);
        let alone = scan.apply(x, a, b, c)?.sum_all()?.backward()?;
        for (n, var) in vars.iter().enumerate() {
            let (of_y, of_last) = (of_y.get(var).expect("from y"), of_last.get(var).expect("from the last state"));
            assert_close(&format!("{n}: y alone"), alone.get(var).expect("alone"), of_y)?;
            assert_close(&format!("{n}: the sum"), of_both.get(var).expect("from both"), &(of_y + of_last)?)?;
        }
        assert!(values(of_last.get(c).expect("zeros"))?.iter().all(|&g| g == 0.));
    }
    Ok(())
}

#[test]
fn two_threads_walk_one_graph() -> Result<()> {
    for device in devices() {
        let vars = vars(6, DType::F32, device)?;
        let [x, a, b, c, h0] = &vars[..] else { panic!("five variables") };
        let (y, last) = Scan::new().initial_state(h0).apply_with_state(x, a, b, c)?;
        let deep = scan(&y, a, b, c)?;
        let losses = [(deep.sum_all()? + last.sqr()?.sum_all()?)?, deep.sqr()?.sum_all()?];
        let want = losses.iter().map(Tensor::backward).collect::<Result<Vec<_>>>()?;
        std::thread::scope(|threads| {
            let walks: Vec<_> = (0..4)
                .map(|n| {
                    let (loss, want, vars) = (&losses[n % 2], &want[n % 2], &vars);
                    threads.spawn(move || -> Result<()> {
                        for _ in 0..50 {
                            let got = loss.backward()?;
                            for var in vars {
                                assert_same_bits(
                                    "a gradient",
                                    got.get(var).expect("got"),
                                    want.get(var).expect("want"),
                                )?;
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            walks.into_iter().try_for_each(|walk| walk.join().expect("no panic"))
        })?;
    }
    Ok(())
}

/// A graph made in one thread, walked in another, dropped in a third.
#[test]
fn a_graph_moves_between_threads() -> Result<()> {
    let vars = vars(7, DType::F32, &Device::Cpu)?;
    let y = std::thread::scope(|t| t.spawn(|| scan(&vars[0], &vars[1], &vars[2], &vars[3])).join().expect("no panic"))?;
    let (loss, n) = (y.sum_all()?, vars[0].elem_count());
    let grads = std::thread::spawn(move || loss.backward()).join().expect("no panic")?;
    assert_eq!(grads.get(&vars[0]).expect("a gradient").elem_count(), n);
    Ok(())
}

#[test]
fn nothing_tracked_makes_no_graph() -> Result<()> {
    for device in devices() {
        let [x, a, b, c] = random_inputs(8, DIMS, DType::F32, device)?;
        let (y, last) = Scan::new().apply_with_state(&x, &a, &b, &c)?;
        assert!(!y.track_op() && !last.track_op() && !Scan::new().states(&x, &a, &b)?.track_op());
        let [x, ..] = &vars(8, DType::F32, device)?[..] else { panic!("five variables") };
        assert!(scan(x, &a, &b, &c)?.track_op());
        // gradients() is outside of any graph, whatever its arguments are
        let grads = Scan::new().gradients(x, &a, &b, &c, x)?;
        assert!(grads.iter().all(|g| !g.track_op()));
    }
    Ok(())
}

/// What the benchmark times is the backward pass of the graph.
#[test]
fn backward_passes_by_themselves() -> Result<()> {
    for device in devices() {
        let (batch, len, channels) = DIMS;
        let vars = vars(9, DType::F32, device)?;
        let [x, a, b, c, _] = &vars[..] else { panic!("five variables") };
        let p = Var::from_tensor(&random(90, &[batch, len, 5 * channels], -2., 2., DType::F32, device)?)?;
        let bias = Var::from_tensor(&random(91, &[channels], -1., 1., DType::F32, device)?)?;
        let ones = Tensor::ones(DIMS, DType::F32, device)?;
        let plain = (scan(x, a, b, c)?, bench::scan(x, a, b, c)?, vec![x, a, b, c]);
        let gated = (Scan::new().apply_gated(&p, Some(&bias))?, bench::gated(&p, &bias)?, vec![&p, &bias]);
        for (y, pass, args) in [plain, gated] {
            let graph = y.sum_all()?.backward()?;
            let gradients = pass.run(&ones)?;
            assert_eq!(gradients.len(), args.len());
            for (n, (got, arg)) in gradients.iter().zip(args).enumerate() {
                let (Some(got), Some(want)) = (got, graph.get(arg)) else { panic!("argument {n} has no gradient") };
                // candle adds it to zeros, after which no zero is negative
                assert_same_bits(&format!("argument {n}"), &(got + got.zeros_like()?)?, want)?;
            }
        }
    }
    Ok(())
}
