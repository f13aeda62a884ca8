//! What a training promises: it resumes as if never stopped, and a checkpoint survives the end of the program.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap};
use quick_ssm::QuickSsm;
use rand::{rngs::StdRng, Rng, SeedableRng};
use tempfile::tempdir;

use crate::common::adamw::AdamW;
use crate::common::checkpoint;
use crate::common::griffin::Griffin;
use crate::common::model::{Mixer, ModelConfig};
use crate::common::train;
use crate::generate::{generate, Sampling};
use crate::text::{self, Text};
use crate::training::{self, MixerKind, Options, Training};

const CPU: Device = Device::Cpu;

fn text() -> Result<Text> {
    let sources: String = text::sources().chars().take(4000).collect();
    Text::new(&sources)
}

fn small() -> Options {
    Options {
        steps: 12,
        seq_len: 20,
        batch_size: 3,
        layers: 2,
        mixer: MixerKind::QuickSsm,
        hidden: 12,
        state_size_mult: 1.5,
        mlp_mult: 2.,
        lr: 1e-2,
        weight_decay: 0.1,
        every: 4,
        seed: 3,
    }
}

/// Steps until `steps` have been made, with evaluations between.
fn advance<M: Mixer>(training: &mut Training<M>, steps: usize) -> Result<()> {
    while training.steps() < steps {
        training.step()?;
        if training.steps().is_multiple_of(training.description().options.every) {
            training.evaluate()?;
        }
    }
    Ok(())
}

/// All tensors of a checkpoint, as bits, and its description.
fn content(path: &Path) -> Result<(serde_json::Value, HashMap<String, Vec<u32>>)> {
    let (description, tensors) = checkpoint::load(path, &CPU)?;
    let bits = |t: Tensor| -> Result<Vec<u32>> {
        Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    let tensors = tensors.into_iter().map(|(name, t)| Ok((name, bits(t)?))).collect::<Result<_>>()?;
    Ok((description, tensors))
}

#[test]
fn a_resumed_training_ends_as_one_that_never_stopped() -> Result<()> {
    resumes::<QuickSsm>(small())?;
    resumes::<Griffin>(Options { mixer: MixerKind::RgLru, ..small() })
}

fn resumes<M: Mixer>(options: Options) -> Result<()> {
    let folder = tempdir()?;
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let mut training = Training::<M>::new(options.clone(), text()?, &CPU)?;
    advance(&mut training, 12)?;
    training.save(&whole)?;
    let expected = content(&whole)?;
    assert!(expected.1.keys().any(|name| name.starts_with("adamw.second.blocks.1.mixer.")));

    // stopped in the warm-up, between two evaluations, and after one
    let mut training = Training::<M>::new(options.clone(), text()?, &CPU)?;
    for stop in [3, 8, 9] {
        advance(&mut training, stop)?;
        training.save(&parts)?;
        assert_ne!(content(&parts)?, expected);
        training = Training::resume(&parts, text()?, &CPU)?;
        assert_eq!(training.steps(), stop);
    }
    advance(&mut training, 12)?;
    training.save(&parts)?;
    assert_eq!(content(&parts)?, expected);
    Ok(())
}

#[test]
fn another_text_or_file_is_refused() -> Result<()> {
    let folder = tempdir()?;
    let path = folder.path().join("checkpoint");
    Training::<QuickSsm>::new(small(), text()?, &CPU)?.save(&path)?;
    let other = Text::new(&text::sources().chars().take(4001).collect::<String>())?;
    let error = Training::<QuickSsm>::resume(&path, other, &CPU).err().expect("another text").to_string();
    assert!(error.contains("another text"), "{error}");

    std::fs::write(&path, &std::fs::read(&path)?[..5000])?;
    let error = Training::<QuickSsm>::resume(&path, text()?, &CPU).err().expect("half a file").to_string();
    assert!(error.contains("checkpoint: cannot be loaded"), "{error}");
    Ok(())
}

/// Where the process that is to be killed saves.
const SAVE_TO: &str = "QUICK_SSM_TEST_SAVE_TO";

#[test]
fn a_checkpoint_is_whole_whenever_the_process_is_killed() -> Result<()> {
    // wide enough that most kills come while it is written
    let options = Options { hidden: 64, ..small() };
    if let Some(path) = std::env::var_os(SAVE_TO) {
        let training = Training::<QuickSsm>::new(options, text()?, &CPU)?;
        loop {
            training.save(Path::new(&path))?;
        }
    }
    let folder = tempdir()?;
    let path = folder.path().join("checkpoint");
    let name = "tests::a_checkpoint_is_whole_whenever_the_process_is_killed";
    let mut rng = StdRng::seed_from_u64(1);
    let mut interrupted = 0;
    for _ in 0..25 {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", name])
            .env(SAVE_TO, &path)
            .stdout(Stdio::null())
            .spawn()?;
        while !path.exists() {
            ensure!(child.try_wait()?.is_none(), "the process that saves has ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..40_000)));
        child.kill()?;
        child.wait()?;
        let beside = folder.path().join("checkpoint.part");
        interrupted += usize::from(beside.exists());
        let _ = std::fs::remove_file(beside);
        Training::<QuickSsm>::resume(&path, text()?, &CPU)?;
        training::load::<QuickSsm>(&path, &CPU)?;
        // the next one starts from nothing, or its kill might come before its first save
        std::fs::remove_file(&path)?;
    }
    // or the test would not have tested anything
    assert!(interrupted > 0, "no kill came while a file was written");
    Ok(())
}

#[test]
fn adamw_is_that_of_candle() -> Result<()> {
    let mut rng = StdRng::seed_from_u64(2);
    let mut random = |shape: (usize, usize)| {
        let values = (0..shape.0 * shape.1).map(|_| rng.random_range(-1f32..1.)).collect();
        Tensor::from_vec(values, shape, &CPU)
    };
    let options = ParamsAdamW { lr: 0.03, beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.2 };
    let (shapes, target) = ([(3, 7), (7, 5)], random((3, 5))?);
    let start = [random(shapes[0])?, random(shapes[1])?];
    let vars = || start.iter().map(|t| Var::from_tensor(&t.copy()?)).collect::<candle_core::Result<Vec<_>>>();
    let loss = |vars: &[Var]| (vars[0].matmul(&vars[1])?.tanh()? - &target)?.sqr()?.mean_all();

    let (ours, candles) = (vars()?, vars()?);
    let named = ["first", "second"].map(String::from).into_iter().zip(ours.clone()).collect();
    let mut adamw = AdamW::new(named, options.clone())?;
    let mut candle = candle_nn::AdamW::new(candles.clone(), options.clone())?;
    for step in 1..=30 {
        let rate = options.lr / step as f64;
        adamw.step(&loss(&ours)?.backward()?, rate)?;
        candle.set_learning_rate(rate);
        candle.step(&loss(&candles)?.backward()?)?;
        for ((ours, candles), start) in ours.iter().zip(&candles).zip(&start) {
            let value = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
            let (ours, candles, start) = (value(ours)?, value(candles)?, value(start)?);
            for ((ours, candles), start) in ours.iter().zip(candles).zip(start) {
                assert!((ours - candles).abs() <= 4. * f32::EPSILON * candles.abs().max(0.1), "{ours} {candles}");
                assert_ne!(candles, start);
            }
        }
    }
    assert_eq!(adamw.steps(), 30);
    // they would hold the graphs of all steps
    assert!(adamw.moments().all(|(_, moment)| !moment.track_op()));
    Ok(())
}

#[test]
fn moments_are_in_f32_next_to_variables_in_half_precision() -> Result<()> {
    let var = Var::from_tensor(&Tensor::ones(4, DType::BF16, &CPU)?)?;
    let mut adamw = AdamW::new([("w".to_string(), var.clone())].into(), ParamsAdamW::default())?;
    adamw.step(&var.sqr()?.sum_all()?.backward()?, 0.1)?;
    assert_eq!(var.dtype(), DType::BF16);
    for (name, moment) in adamw.moments() {
        assert_eq!(moment.dtype(), DType::F32, "{name}");
    }
    // one step of the rate against the sign of the gradient, besides the decay
    let value = var.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    assert!(value.iter().all(|v| (v - 0.899).abs() < 4e-3), "{value:?}");
    Ok(())
}

#[test]
fn generation_goes_on_from_the_prompt_as_step_by_step() -> Result<()> {
    generates::<QuickSsm>()?;
    generates::<Griffin>()
}

fn generates<M: Mixer>() -> Result<()> {
    let mut training = Training::<M>::new(small(), text()?, &CPU)?;
    advance(&mut training, 12)?;
    let (model, vocabulary) = (training.best_model()?, &training.text().vocabulary);
    let greedy = Sampling { temperature: 0., top_p: 1. };
    let write = |prompt: &str, count| -> Result<String> {
        let mut written = String::new();
        generate(&model, vocabulary, prompt, count, (&greedy, 0), &CPU, |c| written.push(c))?;
        Ok(written)
    };
    let written = write("impl ", 12)?;
    assert_eq!(written.chars().count(), 12);
    // what has been written, read as a prompt in one parallel pass
    let (first, rest) = written.split_at(written.char_indices().nth(7).expect("12 characters").0);
    assert_eq!(write(&format!("impl {first}"), 5)?, rest);
    assert!(write("", 1).is_err() && write("\u{1F980}", 1).is_err());
    Ok(())
}

/// A block of its own, with initial values as in a training.
fn griffin(seed: u64) -> Result<(Griffin, VarMap)> {
    let (varmap, mlp_mult) = (VarMap::new(), None);
    let cfg = ModelConfig { symbols: 2, outputs: 2, layers: 1, hidden: 6, state_size_mult: 2., mlp_mult };
    let block = Griffin::new(&cfg, VarBuilder::from_varmap(&varmap, DType::F32, &CPU))?;
    train::initialise(&varmap, train::LASTING, &mut StdRng::seed_from_u64(seed))?;
    Ok((block, varmap))
}

fn largest(t: &Tensor) -> Result<f64> {
    Ok(train::scalar(&t.abs()?.max_all()?)?)
}

#[test]
fn a_griffin_block_is_the_same_in_one_pass_in_parts_and_step_by_step() -> Result<()> {
    let (block, varmap) = griffin(1)?;
    let mut rng = StdRng::seed_from_u64(2);
    let values = (0..2 * 9 * 6).map(|_| rng.random_range(-2f32..2.)).collect();
    let xs = Tensor::from_vec(values, (2, 9, 6), &CPU)?;
    let whole = block.forward(&xs)?;
    for cut in [1, 2, 3, 4, 8] {
        let (first, state) = block.forward_with_state(&xs.narrow(1, 0, cut)?, &block.zero_state(2)?)?;
        let (second, _) = block.forward_with_state(&xs.narrow(1, cut, 9 - cut)?, &state)?;
        let difference = largest(&(Tensor::cat(&[first, second], 1)? - &whole)?)?;
        assert!(difference < 1e-5, "cut after {cut} steps: {difference}");
    }
    let mut state = block.zero_state(2)?;
    for t in 0..9 {
        let (ys, after) = block.step(&xs.narrow(1, t, 1)?.squeeze(1)?, &state)?;
        state = after;
        let difference = largest(&(ys - whole.narrow(1, t, 1)?.squeeze(1)?)?)?;
        assert!(difference < 1e-5, "step {t}: {difference}");
    }
    // a step reaches itself and later ones, the convolution's last included
    let changed = Tensor::cat(&[&xs.narrow(1, 0, 5)?, &(xs.narrow(1, 5, 1)? + 1.)?, &xs.narrow(1, 6, 3)?], 1)?;
    let difference = (block.forward(&changed)? - &whole)?;
    assert_eq!(largest(&difference.narrow(1, 0, 5)?)?, 0.);
    for t in 5..9 {
        assert!(largest(&difference.narrow(1, t, 1)?)? > 1e-4, "step {t}");
    }
    let grads = whole.sqr()?.sum_all()?.backward()?;
    for (name, var) in train::variables(&varmap) {
        let grad = grads.get(&var).with_context(|| format!("{name}: no gradient"))?;
        assert!(largest(grad)? > 0., "{name}");
    }
    Ok(())
}

#[test]
fn a_seed_decides_the_initial_values_and_the_decays_are_those_of_the_paper() -> Result<()> {
    let values = |seed| -> Result<Vec<Vec<f32>>> {
        let variables = train::variables(&griffin(seed)?.1);
        variables.values().map(|var| Ok(var.flatten_all()?.to_vec1()?)).collect()
    };
    assert_eq!(values(1)?, values(1)?);
    assert_ne!(values(1)?, values(2)?);
    let mut decays = vec![];
    for seed in 0..100 {
        let recurrent_param = train::variables(&griffin(seed)?.1)["rg_lru.recurrent_param"].to_vec1::<f32>()?;
        decays.extend(recurrent_param.iter().map(|&lambda| (-8. * f64::from(lambda).exp().ln_1p()).exp()));
    }
    assert!(decays.iter().all(|decay| (0.8999..0.9991).contains(decay)));
    // uniform between them: the mean is in the middle, a quarter of the values in each quarter
    for quarter in 1..4 {
        let below = 0.9 + 0.099 * f64::from(quarter) / 4.;
        let share = decays.iter().filter(|&&decay| decay < below).count() as f64 / decays.len() as f64;
        assert!((share - f64::from(quarter) / 4.).abs() < 0.06, "{share} below {below}");
    }
    Ok(())
}

#[test]
fn sampling_keeps_to_the_nucleus_and_to_the_likelihoods() -> Result<()> {
    let likelihoods = [0.1f32, 0.45, 0.05, 0.3, 0.1];
    let logits = Tensor::new(&[likelihoods.map(f32::ln)], &CPU)?;
    let mut rng = StdRng::seed_from_u64(5);
    let mut counts = |temperature, top_p| -> Result<[f64; 5]> {
        let mut counts = [0.; 5];
        for _ in 0..4000 {
            counts[Sampling { temperature, top_p }.choose(&logits, &mut rng)? as usize] += 1. / 4000.;
        }
        Ok(counts)
    };
    // 0.45 and 0.3 are the fewest that make 0.7
    let [a, b, c, d, e] = counts(1., 0.7)?;
    assert!((b - 0.6).abs() < 0.04 && (d - 0.4).abs() < 0.04 && a + c + e == 0.);
    for (got, expected) in counts(1., 1.)?.into_iter().zip(likelihoods) {
        assert!((got - f64::from(expected)).abs() < 0.04, "{got} {expected}");
    }
    // half the temperature squares the likelihoods
    let [_, b, _, d, _] = counts(0.5, 1.)?;
    assert!((b / d - 2.25).abs() < 0.3, "{b} {d}");
    assert!(counts(0., 1.)?[1] > 0.999);
    Ok(())
}
