//! The recurrence and its gradients in f64, in loops as plain as the formula.

use std::collections::BTreeMap;
use std::ops::Range;

/// Named results: `y`, `last`, and the gradients `dx`, `da`, `db`, `dc`, `dh0`.
pub type Outcome = BTreeMap<&'static str, Vec<f64>>;

/// A scan and the gradients of its outputs, all of them rows of numbers.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// `B, L, D`.
    pub dims: (usize, usize, usize),
    /// The offsets of packed sequences.
    pub offsets: Option<Vec<usize>>,
    pub reverse: bool,
    pub x: Vec<f64>,
    pub a: Vec<f64>,
    pub b: Vec<f64>,
    /// Ones where the states themselves are the output.
    pub c: Vec<f64>,
    pub h0: Vec<f64>,
    pub grad_y: Vec<f64>,
    pub grad_last: Vec<f64>,
}

impl Numbers {
    /// The rows, of all `B * L` of them, that each sequence consists of.
    fn sequences(&self) -> Vec<Range<usize>> {
        let (batch, len, _) = self.dims;
        match &self.offsets {
            None => (0..batch).map(|n| n * len..(n + 1) * len).collect(),
            Some(offsets) => offsets.windows(2).map(|w| w[0]..w[1]).collect(),
        }
    }

    /// What the scan and its backward pass compute.
    pub fn outcome(&self) -> Outcome {
        let channels = self.dims.2;
        let n = self.x.len();
        let [mut y, mut dx, mut da, mut db, mut dc] = [(); 5].map(|()| vec![0.; n]);
        let [mut last, mut dh0] = [(); 2].map(|()| vec![0.; self.h0.len()]);
        for (sequence, rows) in self.sequences().into_iter().enumerate() {
            let mut order: Vec<usize> = rows.collect();
            if self.reverse {
                order.reverse();
            }
            for channel in 0..channels {
                let state = sequence * channels + channel;
                let at = |row: &usize| row * channels + channel;
                let mut h = self.h0[state];
                let mut before = Vec::with_capacity(order.len());
                for k in order.iter().map(at) {
                    before.push(h);
                    h = self.a[k] * h + self.b[k] * self.x[k];
                    y[k] = self.c[k] * h;
                    dc[k] = self.grad_y[k] * h;
                }
                last[state] = h;
                let mut dh = self.grad_last[state];
                for (k, h) in order.iter().map(at).zip(before).rev() {
                    dh += self.c[k] * self.grad_y[k];
                    dx[k] = dh * self.b[k];
                    da[k] = dh * h;
                    db[k] = dh * self.x[k];
                    dh *= self.a[k];
                }
                dh0[state] = dh;
            }
        }
        [("y", y), ("last", last), ("dx", dx), ("da", da), ("db", db), ("dc", dc), ("dh0", dh0)].into_iter().collect()
    }

    /// The magnitudes that are added up on the way to each result: what its rounding errors are relative to.
    ///
    /// A result near zero, the difference of large terms, has their rounding errors. The same recurrence over
    /// absolute values is the sum of the absolute values of all terms.
    pub fn magnitudes(&self) -> Outcome {
        let abs = |v: &[f64]| v.iter().map(|v| v.abs()).collect();
        Self {
            dims: self.dims,
            offsets: self.offsets.clone(),
            reverse: self.reverse,
            x: abs(&self.x),
            a: abs(&self.a),
            b: abs(&self.b),
            c: abs(&self.c),
            h0: abs(&self.h0),
            grad_y: abs(&self.grad_y),
            grad_last: abs(&self.grad_last),
        }
        .outcome()
    }
}
