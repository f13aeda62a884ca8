//! A model that Torch trained gives Torch's scores.

mod layer_support;

use candle_core::{DType, Device, Result, D};
use candle_nn::{embedding, linear, Module, VarBuilder};
use layer_support::{fixture, values};
use quick_ssm::{QuickSsm, QuickSsmConfig};

#[test]
fn a_torch_model_loads_and_gives_its_scores() -> Result<()> {
    let tensors = fixture("copy_model")?;
    let (tokens, logits) = (tensors["tokens"].clone(), tensors["logits"].clone());
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu).pp("param");
    let symbols = logits.dim(D::Minus1)?;
    for checkpoint in [true, false] {
        let cfg = QuickSsmConfig { state_size_mult: 4., checkpoint, ..QuickSsmConfig::new(48) };
        let embedding = embedding(symbols, cfg.hidden_size, vb.pp("embed"))?;
        let layer = QuickSsm::new(&cfg, vb.pp("ssm"))?;
        let head = linear(cfg.hidden_size, symbols, vb.pp("head"))?;
        let got = head.forward(&layer.forward(&embedding.forward(&tokens)?)?)?;
        for (got, expected) in values(&got)?.into_iter().zip(values(&logits)?) {
            assert!((got - expected).abs() < 1e-4, "{got} instead of {expected}");
        }
    }
    Ok(())
}
