//! Every wrong input is an error that names the argument, what was expected and what came.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{fails, real_devices};
use quick_ssm::{reference, scan, Scan};

fn ones(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::ones(dims, DType::F32, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("ones")
}

fn good() -> Tensor {
    ones(&[2, 3, 4], DType::F32)
}

/// Every entry point, with `wrong` in place of one of `x, a, b, c`.
fn entry_points(scan: &Scan, place: usize, wrong: &Tensor, good: &Tensor) -> Vec<Result<()>> {
    let arg = |n: usize| if n == place { wrong } else { good };
    let (x, a, b, c) = (arg(0), arg(1), arg(2), arg(3));
    let mut all = vec![
        scan.apply(x, a, b, c).map(drop),
        scan.apply_with_state(x, a, b, c).map(drop),
        scan.gradients(x, a, b, c, good).map(drop),
    ];
    if place < 3 {
        all.push(scan.states(x, a, b).map(drop));
    }
    all
}

const ARGUMENTS: [&str; 4] = ["x", "a", "b", "c"];

#[test]
fn rank() {
    for dims in [vec![], vec![3], vec![2, 3], vec![2, 3, 4, 1]] {
        let wrong = ones(&dims, DType::F32);
        for result in entry_points(&Scan::new(), 0, &wrong, &good()) {
            fails(result, "x", &["[B, L, D]", &format!("rank {}", dims.len()), &format!("{dims:?}")]);
        }
        for (place, name) in ARGUMENTS.into_iter().enumerate().skip(1) {
            for result in entry_points(&Scan::new(), place, &wrong, &good()) {
                fails(result, name, &["[2, 3, 4]", &format!("{dims:?}")]);
            }
        }
    }
}

#[test]
fn shape() {
    // of the same size, of sizes that would broadcast, and of empty ones
    for dims in
        [[2, 4, 3], [4, 3, 2], [3, 2, 4], [1, 3, 4], [2, 1, 4], [2, 3, 1], [1, 1, 1], [2, 3, 5], [0, 3, 4], [2, 0, 4]]
    {
        let wrong = ones(&dims, DType::F32);
        for (place, name) in ARGUMENTS.into_iter().enumerate().skip(1) {
            for result in entry_points(&Scan::new(), place, &wrong, &good()) {
                fails(result, name, &["[2, 3, 4]", &format!("{dims:?}")]);
            }
        }
        // against another x it is the next argument that is wrong
        for result in entry_points(&Scan::new(), 0, &wrong, &good()) {
            fails(result, "a", &[&format!("{dims:?}"), "[2, 3, 4]"]);
        }
    }
}

#[test]
fn dtype() {
    for dtype in [DType::F64, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64] {
        let wrong = ones(&[2, 3, 4], dtype);
        for (place, name) in ARGUMENTS.into_iter().enumerate().skip(1) {
            for result in entry_points(&Scan::new(), place, &wrong, &good()) {
                fails(result, name, &["F32", &format!("{dtype:?}")]);
            }
        }
    }
}

#[test]
fn integers() {
    for dtype in [DType::U8, DType::U32, DType::I64] {
        let t = ones(&[2, 3, 4], dtype);
        for result in entry_points(&Scan::new(), 0, &t, &t) {
            fails(result, "x", &["f16", "bf16", "f32", "f64", &format!("{dtype:?}")]);
        }
        fails(
            Scan::new().out_dtype(dtype).apply(&good(), &good(), &good(), &good()),
            "out_dtype",
            &[&format!("{dtype:?}")],
        );
        fails(Scan::new().out_dtype(dtype).states(&good(), &good(), &good()), "out_dtype", &[&format!("{dtype:?}")]);
        let h0 = ones(&[2, 4], dtype);
        fails(Scan::new().initial_state(&h0).states(&good(), &good(), &good()), "h0", &["F32", &format!("{dtype:?}")]);
    }
}

#[test]
fn initial_state() {
    let (t, half) = (good(), ones(&[2, 3, 4], DType::BF16));
    for dims in [vec![], vec![4], vec![2], vec![4, 2], vec![1, 4], vec![2, 1], vec![3, 4], vec![2, 1, 4], vec![0, 4]] {
        let scan = Scan::new().initial_state(&ones(&dims, DType::F32));
        for result in entry_points(&scan, 0, &t, &t) {
            fails(result, "h0", &["[2, 4]", "[B, D]", &format!("{dims:?}")]);
        }
    }
    for (x, dtype, wanted) in
        [(&t, DType::F64, "F32"), (&t, DType::BF16, "F32"), (&half, DType::F64, "F32"), (&half, DType::F16, "BF16")]
    {
        let scan = Scan::new().initial_state(&ones(&[2, 4], dtype));
        for result in entry_points(&scan, 0, x, x) {
            fails(result, "h0", &[wanted, &format!("{dtype:?}")]);
        }
    }
    let packed = Scan::new().cu_seqlens(&[0, 1, 3]).initial_state(&ones(&[1, 4], DType::F32));
    let x = ones(&[1, 3, 4], DType::F32);
    fails(packed.apply(&x, &x, &x, &x), "h0", &["[2, 4]", "[N, D]", "[1, 4]"]);
}

#[test]
fn gradient_of_y() {
    let t = good();
    for dims in [vec![2, 3], vec![2, 4, 3], vec![1, 3, 4], vec![2, 3, 1], vec![]] {
        let grad = ones(&dims, DType::F32);
        fails(Scan::new().gradients(&t, &t, &t, &t, &grad), "grad_y", &["[2, 3, 4]", &format!("{dims:?}")]);
    }
    for dtype in [DType::F64, DType::BF16, DType::I64] {
        let grad = ones(&[2, 3, 4], dtype);
        fails(Scan::new().gradients(&t, &t, &t, &t, &grad), "grad_y", &["F32", &format!("{dtype:?}")]);
    }
    // it has the dtype of y, not that of x
    fails(Scan::new().out_dtype(DType::F64).gradients(&t, &t, &t, &t, &t), "grad_y", &["F64", "F32"]);
}

#[test]
fn offsets() {
    let t = ones(&[1, 5, 4], DType::F32);
    for (offsets, argument, parts) in [
        (&[][..], "cu_seqlens", &["5", "none"][..]),
        (&[1, 5], "cu_seqlens", &["0", "1"]),
        (&[5], "cu_seqlens", &["0", "5"]),
        (&[0], "cu_seqlens", &["5", "0"]),
        (&[0, 4], "cu_seqlens", &["5", "4"]),
        (&[0, 6], "cu_seqlens", &["5", "6"]),
        (&[0, 3, 2, 5], "cu_seqlens", &["decrease", "2", "3", "index 2"]),
        (&[0, 7, 5], "cu_seqlens", &["decrease", "5", "7", "index 2"]),
        (&[0, usize::MAX, 5], "cu_seqlens", &["decrease"]),
    ] {
        for result in entry_points(&Scan::new().cu_seqlens(offsets), 0, &t, &t) {
            fails(result, argument, parts);
        }
    }
    for (dims, got) in [([2, 3, 4], "[2, 3, 4]"), ([0, 3, 4], "[0, 3, 4]")] {
        let t = ones(&dims, DType::F32);
        for result in entry_points(&Scan::new().cu_seqlens(&[0, 3]), 0, &t, &t) {
            fails(result, "x", &["[1, T, ..]", got]);
        }
    }
}

#[test]
fn chunk_length() {
    let t = good();
    for result in entry_points(&Scan::new().chunk_len(0), 0, &t, &t) {
        fails(result, "chunk_len", &["1", "0"]);
    }
    // with nothing to cut it is as wrong
    let empty = ones(&[2, 0, 4], DType::F32);
    fails(Scan::new().chunk_len(0).apply(&empty, &empty, &empty, &empty), "chunk_len", &["0"]);
}

#[test]
fn device() -> Result<()> {
    let [Device::Cpu, rest @ ..] = real_devices() else { panic!("the CPU is the first device") };
    for device in rest {
        let (here, there) = (good(), good().to_device(device)?);
        for (place, name) in ARGUMENTS.into_iter().enumerate().skip(1) {
            for result in entry_points(&Scan::new(), place, &there, &here) {
                fails(result, name, &["Cpu", "Cuda"]);
            }
        }
        let h0 = ones(&[2, 4], DType::F32).to_device(device)?;
        fails(Scan::new().initial_state(&h0).apply(&here, &here, &here, &here), "h0", &["Cpu", "Cuda"]);
        fails(Scan::new().gradients(&here, &here, &here, &here, &there), "grad_y", &["Cpu", "Cuda"]);
    }
    Ok(())
}

/// Broadcast tensors have as many elements as one likes, and empty ones as large a dimension.
#[test]
fn sizes_that_cannot_be() -> Result<()> {
    let of = |dims: [usize; 3]| {
        let base = dims.map(|size| usize::from(size > 0));
        Tensor::ones(&base[..], DType::F32, &Device::Cpu)?.broadcast_as(&dims[..])
    };
    let (huge, half) = (usize::MAX, 1 << 62);
    for dims in [[huge, 1, 1], [1, huge, 1], [1, 1, huge], [huge, huge, huge], [half, 4, 1], [1 << 31, 1 << 31, 2]] {
        let x = of(dims)?;
        for result in entry_points(&Scan::new(), 0, &x, &x) {
            fails(result, "x", &["addressed", &format!("{dims:?}")]);
        }
        fails(scan(&x, &x, &x, &x), "x", &["addressed"]);
        fails(reference::scan(&x, &x, &x, &x), "x", &["addressed"]);
    }
    for dims in [[huge, 1, 5], [1, huge, 5], [1, 1, huge]] {
        fails(Scan::new().apply_gated(&of(dims)?, None), "p", &["addressed", &format!("{dims:?}")]);
    }
    // empty, but with strides that cannot be
    let x = of([0, half, half])?;
    fails(scan(&x, &x, &x, &x), "x", &["addressed"]);
    // no elements, but as many states
    for dims in [[half, 0, 4], [1, 0, half]] {
        let x = of(dims)?;
        fails(Scan::new().apply_with_state(&x, &x, &x, &x), "x", &["addressed"]);
    }
    Ok(())
}

/// Nothing is computed of nothing, however large the other dimensions are.
#[test]
fn large_and_empty() -> Result<()> {
    let huge = usize::MAX >> 4;
    for dims in [[huge, 0, 0], [0, huge, 3], [0, 0, huge], [huge, 1, 0]] {
        let x = Tensor::zeros(&dims[..], DType::F32, &Device::Cpu)?;
        let (y, last) = Scan::new().apply_with_state(&x, &x, &x, &x)?;
        assert_eq!((y.dims(), last.dims()), (&dims[..], &[dims[0], dims[2]][..]));
        assert_eq!(Scan::new().states(&x, &x, &x)?.dims(), dims);
        let grads = Scan::new().gradients(&x, &x, &x, &x, &x)?;
        assert!(grads.iter().all(|grad| grad.dims() == dims));
        assert_eq!(reference::scan(&x, &x, &x, &x)?.dims(), dims);
    }
    Ok(())
}

/// What can be addressed is still more than there is memory for.
#[test]
fn more_than_there_is_memory_for() -> Result<()> {
    let ones = |dims: [usize; 3]| Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu)?.broadcast_as(&dims[..]);
    let no_memory = |result: Result<()>| {
        let message = result.expect_err("more than there is").to_string();
        assert!(message.contains("expected memory"), "{message}");
    };
    for dims in [[1 << 50, 1, 1], [1, 1 << 50, 1], [1, 1, 1 << 50]] {
        let x = ones(dims)?;
        entry_points(&Scan::new(), 0, &x, &x).into_iter().for_each(no_memory);
    }
    no_memory(Scan::new().apply_gated(&ones([1, 1, 5 << 48])?, None).map(drop));
    no_memory(Scan::new().apply_gated(&ones([1 << 48, 1, 5])?, None).map(drop));
    // a copy of every other channel, of states without a step
    let strided = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?.narrow(3, 0, 1)?.squeeze(3)?;
    let x = strided.broadcast_as((1 << 50, 1, 2))?;
    no_memory(scan(&x, &x, &x, &x).map(drop));
    let x = Tensor::zeros((1 << 50, 0, 1), DType::F32, &Device::Cpu)?;
    no_memory(Scan::new().apply_with_state(&x, &x, &x, &x).map(drop));
    assert_eq!(scan(&x, &x, &x, &x)?.dims(), [1 << 50, 0, 1]);
    Ok(())
}

#[test]
fn the_functions() {
    let (good, wide, flat) = (good(), ones(&[2, 3, 4], DType::F64), ones(&[2, 3], DType::F32));
    for op in [scan, reference::scan] {
        fails(op(&flat, &good, &good, &good), "x", &["rank 2"]);
        fails(op(&good, &flat, &good, &good), "a", &["[2, 3]"]);
        fails(op(&good, &good, &wide, &good), "b", &["F64"]);
        fails(op(&good, &good, &good, &flat), "c", &["[2, 3]"]);
    }
}

/// An error leaves nothing behind: the same variables serve the next call.
#[test]
fn after_an_error() -> Result<()> {
    let x = Var::ones((2, 3, 4), DType::F32, &Device::Cpu)?;
    fails(scan(&x, &x, &x, &ones(&[2, 3, 5], DType::F32)), "c", &[]);
    let y = scan(&x, &x, &x, &x)?;
    assert!(y.sum_all()?.backward()?.get(&x).is_some());
    Ok(())
}
