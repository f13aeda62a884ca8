//! `apply_op4`: an operation of four arguments from outside of the crate, in candle's graphs.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Tensor, Var};
use common::{assert_same_bits, random, values};
use quick_ssm::{apply_op4, CustomOp4};

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// `t1 t2 + t3 exp(t4)`, of f64 tensors of any strides; counts its backward passes.
#[derive(Default)]
struct Product {
    walks: Arc<AtomicUsize>,
}

fn read(storage: &CpuStorage, layout: &Layout) -> Result<Vec<f64>> {
    let data = storage.as_slice::<f64>()?;
    let offset = |mut index: usize| {
        let mut offset = layout.start_offset();
        for (dim, stride) in layout.dims().iter().zip(layout.stride()).rev() {
            offset += index % dim * stride;
            index /= dim;
        }
        offset
    };
    Ok((0..layout.shape().elem_count()).map(|i| data[offset(i)]).collect())
}

impl CustomOp4 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
        s4: &CpuStorage,
        l4: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (t1, t2, t3, t4) = (read(s1, l1)?, read(s2, l2)?, read(s3, l3)?, read(s4, l4)?);
        let result = (0..t1.len()).map(|i| t1[i] * t2[i] + t3[i] * t4[i].exp()).collect();
        Ok((CpuStorage::F64(result), l1.shape().clone()))
    }

    fn bwd(
        &self,
        t1: &Tensor,
        t2: &Tensor,
        t3: &Tensor,
        t4: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients> {
        self.walks.fetch_add(1, Ordering::Relaxed);
        assert_eq!((res.dims(), grad.dims()), (t1.dims(), t1.dims()));
        // None is for what is not tracked, and only for that
        let wanted = |t: &Tensor, gradient: Result<Tensor>| t.track_op().then_some(gradient).transpose();
        let e = t4.exp()?;
        Ok((wanted(t1, grad * t2)?, wanted(t2, grad * t1)?, wanted(t3, grad * &e)?, wanted(t4, (grad * t3)? * &e)?))
    }
}

/// The same, from candle's operations.
fn composed(t1: &Tensor, t2: &Tensor, t3: &Tensor, t4: &Tensor) -> Result<Tensor> {
    (t1 * t2)? + (t3 * t4.exp()?)?
}

fn product(t1: &Tensor, t2: &Tensor, t3: &Tensor, t4: &Tensor) -> Result<Tensor> {
    apply_op4(t1, t2, t3, t4, Product::default())
}

fn vars() -> Result<Vec<Var>> {
    (0..4).map(|n| Var::from_tensor(&random(n, &[2, 3], -1., 1., DType::F64, &Device::Cpu)?)).collect()
}

#[track_caller]
fn assert_close(what: &str, got: Option<&Tensor>, want: Option<&Tensor>) -> Result<()> {
    match (got, want) {
        (Some(got), Some(want)) => {
            assert_eq!(got.dims(), want.dims(), "{what}");
            for (got, want) in values(got)?.into_iter().zip(values(want)?) {
                assert!((got - want).abs() <= 1e-13 * want.abs().max(1.), "{what}: {got}, not {want}");
            }
        }
        (got, want) => assert_eq!(got.is_some(), want.is_some(), "{what}"),
    }
    Ok(())
}

type Op = fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>;

/// Holds a loss made with the operation to the same loss made with candle's.
fn against_candle(what: &str, vars: &[Var], loss: impl Fn(Op) -> Result<Tensor>) -> Result<()> {
    let (got, want) = (loss(product)?, loss(composed)?);
    assert_close(what, Some(&got), Some(&want))?;
    let (got, want) = (got.backward()?, want.backward()?);
    vars.iter().enumerate().try_for_each(|(n, v)| assert_close(&format!("{what}, {n}"), got.get(v), want.get(v)))
}

#[test]
fn values_and_gradients() -> Result<()> {
    let v = vars()?;
    against_candle("plain", &v, |op| op(&v[0], &v[1], &v[2], &v[3])?.sqr()?.sum_all())
}

#[test]
fn strided_arguments() -> Result<()> {
    let v = vars()?;
    against_candle("strided", &v, |op| {
        let flip = |n: usize| v[n].t();
        let all = op(&flip(0)?, &flip(1)?, &flip(2)?, &flip(3)?)?.sum_all()?;
        let part = |n: usize| v[n].narrow(1, 1, 2);
        op(&part(0)?, &part(1)?, &part(2)?, &part(3)?)?.sqr()?.sum_all()? + all
    })
}

#[test]
fn one_tensor_for_several_arguments() -> Result<()> {
    let v = vars()?;
    for pattern in 0..256usize {
        let pick = |n: usize| v[(pattern >> (2 * n)) & 3].as_tensor();
        against_candle(&format!("pattern {pattern}"), &v, |op| {
            op(pick(0), pick(1), pick(2), pick(3))?.sqr()?.sum_all()
        })?;
    }
    Ok(())
}

#[test]
fn chained() -> Result<()> {
    let v = vars()?;
    against_candle("chained", &v, |op| {
        let first = op(&v[0], &v[1], &v[2], &v[3])?;
        let second = op(&v[3], &first, &first.tanh()?, &v[0])?;
        op(&second, &first, &second, &second.tanh()?)?.sum_all()
    })
}

#[test]
fn untracked_subsets() -> Result<()> {
    let v = vars()?;
    for subset in 0..16u32 {
        let arg = |n: usize| if subset & (1 << n) == 0 { v[n].detach() } else { v[n].as_tensor().clone() };
        let y = product(&arg(0), &arg(1), &arg(2), &arg(3))?;
        assert_eq!(y.track_op(), subset != 0);
        // candle walks a graph of nothing too
        let grads = y.sum_all()?.backward()?;
        let want = composed(&v[0], &v[1], &v[2], &v[3])?.sum_all()?.backward()?;
        for (n, var) in v.iter().enumerate() {
            let want = want.get(var).filter(|_| subset & (1 << n) != 0);
            assert_close(&format!("argument {n} of {subset:04b}"), grads.get(var), want)?;
        }
    }
    Ok(())
}

/// The four gradients are computed once a walk, not once an argument.
#[test]
fn backward_runs_once_a_walk() -> Result<()> {
    let v = vars()?;
    let op = Product::default();
    let walks = op.walks.clone();
    let loss = apply_op4(&v[0], &v[1], &v[2], &v[3], op)?.sum_all()?;
    let first = loss.backward()?;
    let second = loss.backward()?;
    assert_eq!(walks.load(Ordering::Relaxed), 2);
    for var in &v {
        assert_same_bits("again", second.get(var).expect("second"), first.get(var).expect("first"))?;
    }
    Ok(())
}

#[test]
fn two_threads_walk_one_graph() -> Result<()> {
    let v = vars()?;
    let y = product(&v[0], &v[1], &v[2], &v[3])?;
    let losses = [y.sum_all()?, product(&y, &v[0], &y, &v[3])?.sum_all()?];
    let want = [losses[0].backward()?, losses[1].backward()?];
    let walk = |n: usize| -> Result<()> {
        for _ in 0..300 {
            let got = losses[n].backward()?;
            for var in &v {
                assert_same_bits("a gradient", got.get(var).expect("got"), want[n].get(var).expect("want"))?;
            }
        }
        Ok(())
    };
    let walk = &walk;
    std::thread::scope(|threads| {
        let walks = [0, 1, 0, 1].map(|n| threads.spawn(move || walk(n)));
        walks.into_iter().try_for_each(|walk| walk.join().expect("no panic"))
    })
}

/// An operation without gradients, without an implementation for CUDA.
struct Forward;

impl CustomOp4 for Forward {
    fn name(&self) -> &'static str {
        "forward-only"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        l1: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        l3: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if l1.shape() != l3.shape() {
            candle_core::bail!("shapes that do not fit: {:?} and {:?}", l1.shape(), l3.shape())
        }
        Ok((CpuStorage::F64(vec![1.; l1.shape().elem_count()]), l1.shape().clone()))
    }
}

#[test]
fn errors_name_the_operation() -> Result<()> {
    let v = vars()?;
    let error = apply_op4(&v[0], &v[1], &v[2], &v[3], Forward)?.sum_all()?.backward().err();
    assert!(error.expect("no gradient").to_string().contains("forward-only"));
    let error = apply_op4(&v[0], &v[1], &v[2].t()?, &v[3], Forward).err();
    assert!(error.expect("an error of the operation").to_string().contains("shapes that do not fit"));
    for device in common::real_devices().iter().filter(|d| !d.is_cpu()) {
        let there = v[0].to_device(device)?;
        let message = apply_op4(&v[0], &v[1], &v[2], &there, Forward).expect_err("two devices").to_string();
        assert!(message.contains("forward-only") && message.contains("Cuda"), "{message}");
        let message = apply_op4(&there, &there, &there, &there, Forward).expect_err("no kernel").to_string();
        assert!(message.contains("forward-only"), "{message}");
    }
    Ok(())
}

/// It needs no gradient where nothing is tracked.
#[test]
fn without_gradients() -> Result<()> {
    let t = random(1, &[2, 3], -1., 1., DType::F64, &Device::Cpu)?;
    let y = apply_op4(&t, &t, &t, &t, Forward)?;
    assert_eq!(values(&y)?, [1.; 6]);
    assert!(!y.track_op());
    Ok(())
}
