use candle_core::{DType, Device, Result, Var};
use quick_ssm::Scan;

#[test]
fn gradients_reach_every_argument() -> Result<()> {
    let v = |s: &[usize]| Var::randn(0f64, 1f64, s, &Device::Cpu);
    let (x, a, b, c, h0) = (v(&[2, 5, 3])?, v(&[2, 5, 3])?, v(&[2, 5, 3])?, v(&[2, 5, 3])?, v(&[2, 3])?);
    let (y, last) = Scan::new().initial_state(&h0).apply_with_state(&x, &a, &b, &c)?;
    let loss = (y.sum_all()? + last.sqr()?.sum_all()?)?;
    for _ in 0..2 {
        let grads = loss.backward()?;
        for t in [&x, &a, &b, &c, &h0] {
            assert_eq!(grads.get(t).unwrap().dims(), t.dims());
        }
    }
    assert_eq!(Scan::new().apply(&x, &x, &x, &x)?.sum_all()?.backward()?.get(&x).unwrap().dtype(), DType::F64);
    Ok(())
}
