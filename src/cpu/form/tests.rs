use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::{Forward, GatedGradients, GatedInputs, GatedWanted, Given};
use crate::cpu::gated::Gated;
use crate::cpu::plan::Plan;
use crate::cpu::{bias_of, run_forward, typed_backward_gated, HeldGated};
use crate::gated::PARTS;
use crate::problem::Problem;
use crate::Scan;

/// A form that computes its terms wherever they are needed.
struct Recomputed<F>(F);

impl<F: Form> Form for Recomputed<F> {
    type Acc = F::Acc;
    const KEEP: bool = false;
    type Rows = F::Rows;
    type Terms<'s>
        = F::Terms<'s>
    where
        Self: 's;

    fn terms<'s>(&'s self, place: &Place, rows: &'s mut F::Rows) -> F::Terms<'s> {
        self.0.terms(place, rows)
    }
}

fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run)
}

/// Pre-activations of a sequence, which are the same at every step where `constant`.
fn draw(rng: &mut SmallRng, (len, channels): (usize, usize), constant: bool, dtype: DType) -> Result<Tensor> {
    let (rows, columns) = (if constant { 1 } else { len }, PARTS * channels);
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-4f32..4.)).collect();
    Tensor::from_vec(values, (1, rows, columns), &Device::Cpu)?.to_dtype(dtype)?.broadcast_as((1, len, columns))
}

/// The results of a forward pass that computed all of them: `y`, the last and the saved states.
fn outputs(p: &Problem, forward: Forward) -> [Tensor; 3] {
    let tensor = |storage: Option<Storage>, dims: &[usize]| {
        Tensor::from_storage(storage.expect("it was wanted"), dims, BackpropOp::none(), false)
    };
    let y = tensor(forward.y, &[p.batch, p.len, p.channels]);
    let last = tensor(forward.last, &[p.num_sequences(), p.channels]);
    [y, last, forward.saved.expect("they were wanted")]
}

/// The gradients of the pre-activations, the bias and the initial states, and `y`.
fn gradients(gradients: GatedGradients) -> [Tensor; 4] {
    let GatedGradients { p, a_bias, h0, y } = gradients;
    [p, a_bias, h0, y].map(|t| t.expect("it was wanted"))
}

/// The bits of a result. All NaN are one: which of two a sum takes its own bits from is up to the instruction set, and a test next
/// to this one sets that for the whole process.
fn bits(t: &Tensor) -> Result<Vec<u64>> {
    let values = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(values.into_iter().map(|value| if value.is_nan() { f64::NAN } else { value }.to_bits()).collect())
}

fn assert_same_bits(what: &str, names: &[&str], got: &[Tensor], expected: &[Tensor]) -> Result<()> {
    for (name, (got, expected)) in names.iter().zip(got.iter().zip(expected)) {
        let (got, expected) = (bits(got)?, bits(expected)?);
        let differ = got.iter().zip(&expected).filter(|(got, expected)| got != expected).count();
        assert_eq!((differ, got.len()), (0, expected.len()), "{name} of {what}");
    }
    Ok(())
}

/// Checks that a scan whose sequences have at most so many tiles gives the same bits with kept and recomputed terms, and where
/// threads go through the tiles of a sequence. One alone does, and so do two by halves of many columns; three, with sequences as few
/// or unequal, share out the tiles.
fn assert_same<T: Element>(scan: &Scan, p: &Tensor, tiles: usize) -> Result<()> {
    const { assert!(Gated::<T>::KEEP && !Recomputed::<Gated<T>>::KEEP) };
    let problem = scan.gated_problem(p, None)?;
    let h0 = Tensor::full(0.5f32, problem.state_dims(), &Device::Cpu)?.to_dtype(problem.acc)?;
    let inputs = GatedInputs::new(&problem, p, None, Some(&h0))?;
    let what = format!("{:?} of {:?}, {scan:?}", p.dtype(), p.dims());
    assert_eq!(Plan::new(&problem)?.tiles, tiles, "{what}");
    let bias = bias_of(&problem, &inputs)?;
    let (held, h0) = (HeldGated::<T::Acc>::new(&problem, &inputs, bias.as_ref()), inputs.h0.as_ref());
    let kept = || run_forward::<_, T>(&problem, held.form::<T>()?, h0, true, true, true);
    let recomputed = || run_forward::<_, T>(&problem, Recomputed(held.form::<T>()?), h0, true, true, true);
    let names = ["y", "last", "saved"];
    let expected = outputs(&problem, with_threads(3, kept)?);
    let got = outputs(&problem, with_threads(3, recomputed)?);
    assert_same_bits(&format!("{what}, recomputed"), &names, &got, &expected)?;
    // two do as three where there are no halves wide enough
    for threads in if problem.channels < 1024 { 1..=1 } else { 1..=2 } {
        let got = outputs(&problem, with_threads(threads, kept)?);
        assert_same_bits(&format!("{what}, {threads} threads"), &names, &got, &expected)?;
    }
    Ok(())
}

/// Checks that the gradients of a scan are the same bits where threads go through the tiles of a sequence, as above.
fn assert_same_gradients<T: Element>(scan: &Scan, p: &Tensor) -> Result<()> {
    let problem = scan.gated_problem(p, None)?;
    let states = Tensor::full(0.5f32, problem.state_dims(), &Device::Cpu)?.to_dtype(problem.acc)?;
    let inputs = GatedInputs::new(&problem, p, None, Some(&states))?;
    let bias = bias_of(&problem, &inputs)?;
    let held = HeldGated::<T::Acc>::new(&problem, &inputs, bias.as_ref());
    let forward = || run_forward::<_, T>(&problem, held.form::<T>()?, inputs.h0.as_ref(), true, true, true);
    let [y, last, saved] = outputs(&problem, with_threads(3, forward)?);
    let backward = || {
        let from = Given { saved: Some(&saved), grad_y: Some(&y), grad_last: Some(&last) };
        let wanted = GatedWanted { p: true, a_bias: true, h0: true, y: true };
        typed_backward_gated::<T, T>(&problem, &inputs, from, wanted)
    };
    let expected = gradients(with_threads(3, backward)?);
    for threads in [1, 2] {
        let what = format!("{:?} of {:?}, {scan:?}, {threads} threads", p.dtype(), p.dims());
        let got = gradients(with_threads(threads, backward)?);
        assert_same_bits(&what, &["dp", "d_bias", "dh0", "y"], &got, &expected)?;
    }
    Ok(())
}

/// On both sides of each of the boundaries from which on time is tiled, and so on terms are kept.
fn kept_terms_change_nothing<T: Element + WithDType>() -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(3);
    let scan = Scan::new();
    for (len, channels, constant, tiles) in [
        // steps, with a last tile of one step
        (8191, 129, false, 1),
        (8192, 129, false, 32),
        (8193, 129, false, 33),
        // elements
        (8192, 127, false, 1),
        (8192, 128, false, 32),
        // channels
        (8192, 1024, true, 256),
        (8192, 1025, true, 1),
        // strands
        (65_537, 16, false, 33),
        (65_537, 17, false, 33),
    ] {
        assert_same::<T>(&scan, &draw(&mut rng, (len, channels), constant, T::DTYPE)?, tiles)?;
    }
    // several saved states of a tile, the other direction, and sequences that are tiled next to one that is not
    let p = draw(&mut rng, (70_000, 16), false, T::DTYPE)?;
    assert_same::<T>(&scan.clone().chunk_len(64), &p, 35)?;
    assert_same::<T>(&scan.clone().reverse(true), &p, 35)?;
    let p = draw(&mut rng, (16_392, 128), false, T::DTYPE)?;
    assert_same::<T>(&scan.clone().chunk_len(64), &p, 65)?;
    assert_same::<T>(&scan.clone().reverse(true), &p, 65)?;
    assert_same::<T>(&scan.clone().cu_seqlens(&[0, 8192, 8199, 16_392]), &p, 33)?;
    // a gate that is no number has its tile composed twice
    let nan = Tensor::full(f32::NAN, (1, 1, 1), &Device::Cpu)?.to_dtype(T::DTYPE)?;
    let p = p.slice_assign(&[0..1, 5000..5001, 3..4], &nan)?;
    assert_same::<T>(&scan, &p, 65)
}

/// Tiles of a narrow sequence and of one whose columns two threads share, the last one not whole, several saved states of a tile,
/// the other direction, sequences that are tiled next to one that is not, and a gate that is no number.
fn going_through_changes_no_gradient<T: Element + WithDType>() -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(4);
    let scan = Scan::new();
    let p = draw(&mut rng, (8193, 129), false, T::DTYPE)?;
    assert_same_gradients::<T>(&scan, &p)?;
    assert_same_gradients::<T>(&scan.clone().chunk_len(64).reverse(true), &p)?;
    assert_same_gradients::<T>(&scan, &draw(&mut rng, (8192, 1024), true, T::DTYPE)?)?;
    let p = draw(&mut rng, (16_392, 128), false, T::DTYPE)?;
    let nan = Tensor::full(f32::NAN, (1, 1, 1), &Device::Cpu)?.to_dtype(T::DTYPE)?;
    let p = p.slice_assign(&[0..1, 5000..5001, 3..4], &nan)?;
    assert_same_gradients::<T>(&scan.clone().cu_seqlens(&[0, 8192, 8199, 16_392]), &p)
}

macro_rules! tests {
    ($($t:ident: $kept:ident, $gradients:ident;)*) => {$(
        #[test]
        fn $kept() -> Result<()> {
            kept_terms_change_nothing::<$t>()
        }

        #[test]
        fn $gradients() -> Result<()> {
            going_through_changes_no_gradient::<$t>()
        }
    )*};
}
tests! {
    f32: kept_terms_change_nothing_in_f32, going_through_changes_no_gradient_in_f32;
    f64: kept_terms_change_nothing_in_f64, going_through_changes_no_gradient_in_f64;
    bf16: kept_terms_change_nothing_in_bf16, going_through_changes_no_gradient_in_bf16;
    f16: kept_terms_change_nothing_in_f16, going_through_changes_no_gradient_in_f16;
}
