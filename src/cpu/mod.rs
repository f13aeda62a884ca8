//! The kernels of the CPU.
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor};

use crate::backend::{Forward, Gradients, Inputs, Saved, Wanted};
use crate::problem::{Problem, Sequences};

fn seqs(p: &Problem) -> Vec<(usize, usize, usize)> {
    match &p.sequences {
        Sequences::Dense => (0..p.batch).map(|b| (b, 0, p.len)).collect(),
        Sequences::Packed(o) => o.windows(2).map(|w| (0, w[0], w[1] - w[0])).collect(),
    }
}
fn vals(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
fn storage(v: Vec<f64>, d: DType) -> Result<(Storage, Tensor)> {
    let n = v.len();
    let t = Tensor::from_vec(v, n, &Device::Cpu)?.to_dtype(d)?;
    let s = match &*t.storage_and_layout().0 {
        Storage::Cpu(s) => s.clone(),
        _ => unreachable!(),
    };
    Ok((Storage::Cpu(s), t))
}
fn states(p: &Problem, i: &Inputs) -> Result<(Vec<f64>, Vec<f64>)> {
    let (x, a, b) = (vals(&i.x)?, vals(&i.a)?, vals(&i.b)?);
    let d = p.channels;
    let mut hs = vec![0.; x.len()];
    let mut last = match &i.h0 {
        Some(h) => vals(h)?,
        None => vec![0.; p.num_sequences() * d],
    };
    for (n, (bi, t0, len)) in seqs(p).into_iter().enumerate() {
        for s in 0..len {
            let t = t0 + if p.reverse { len - 1 - s } else { s };
            for c in 0..d {
                let k = (bi * p.len + t) * d + c;
                let h = a[k] * last[n * d + c] + b[k] * x[k];
                last[n * d + c] = h;
                hs[k] = h;
            }
        }
    }
    Ok((hs, last))
}

pub(crate) fn forward(p: &Problem, i: &Inputs, y: bool, last: bool, save: bool) -> Result<Forward> {
    let (hs, l) = states(p, i)?;
    let c = match &i.c {
        Some(c) => vals(c)?,
        None => vec![1.; hs.len()],
    };
    let ys: Vec<f64> = hs.iter().zip(&c).map(|(h, c)| h * c).collect();
    Ok(Forward {
        y: if y { Some(storage(ys, p.out)?.0) } else { None },
        last: if last { Some(storage(l, p.acc)?.0) } else { None },
        saved: if save { Some(Saved { states: Tensor::zeros(1, p.acc, &p.device)?, chunk_len: 1 }) } else { None },
    })
}

pub(crate) fn backward(
    p: &Problem,
    i: &Inputs,
    _saved: Option<&Saved>,
    grad_y: Option<&Tensor>,
    grad_last: Option<&Tensor>,
    w: Wanted,
) -> Result<Gradients> {
    let (hs, _) = states(p, i)?;
    let d = p.channels;
    let (x, a, b) = (vals(&i.x)?, vals(&i.a)?, vals(&i.b)?);
    let c = match &i.c {
        Some(c) => vals(c)?,
        None => vec![1.; hs.len()],
    };
    let g = match grad_y {
        Some(c) => vals(c)?,
        None => vec![0.; hs.len()],
    };
    let h0 = match &i.h0 {
        Some(h) => vals(h)?,
        None => vec![0.; p.num_sequences() * d],
    };
    let mut z = match grad_last {
        Some(c) => vals(c)?,
        None => vec![0.; p.num_sequences() * d],
    };
    let mut o = vec![vec![0.; hs.len()]; 4];
    for (n, (bi, t0, len)) in seqs(p).into_iter().enumerate() {
        for s in (0..len).rev() {
            let at = |s: usize| t0 + if p.reverse { len - 1 - s } else { s };
            for ch in 0..d {
                let k = (bi * p.len + at(s)) * d + ch;
                let hp = if s == 0 { h0[n * d + ch] } else { hs[(bi * p.len + at(s - 1)) * d + ch] };
                let dh = c[k] * g[k] + z[n * d + ch];
                o[0][k] = dh * b[k];
                o[1][k] = dh * hp;
                o[2][k] = dh * x[k];
                o[3][k] = g[k] * hs[k];
                z[n * d + ch] = dh * a[k];
            }
        }
    }
    let sh = Shape::from(p.dims());
    let mut out = o.into_iter().map(|v| storage(v, p.dtype)?.1.reshape(&sh));
    let mut next = |w: bool| -> Result<Option<Tensor>> {
        let t = out.next().unwrap()?;
        Ok(w.then_some(t))
    };
    let _ = CpuStorage::F32(vec![]);
    Ok(Gradients {
        x: next(w.x)?,
        a: next(w.a)?,
        b: next(w.b)?,
        c: next(w.c)?,
        h0: if w.h0 { Some(storage(z, p.acc)?.1.reshape(p.state_dims())?) } else { None },
    })
}
