//! BERT4Rec beside PyTorch: loss and the gradient of every parameter, from committed fixtures (tests/fixtures/bert4rec.py
//! makes them; this test needs no Python).

use mipgpu::{
    backend::{Cpu, Reference},
    layers::{HostInput, NormPlace},
    mem::Planner,
    ops::Backend,
    train::{Engine, Settings},
};
use safetensors::SafeTensors;

fn check<B: Backend>(file: &str, norm: NormPlace, open: impl Fn(&Planner) -> B, tolerance: f32) {
    let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let ids = |name: &str| -> Vec<u32> { four(name).into_iter().map(u32::from_le_bytes).collect() };
    let settings = Settings {
        width: 16,
        heads: 2,
        blocks: 2,
        length: 12,
        batch: 4,
        mask: 0.5,
        dropout: 0.0,
        norm,
        projection: norm == NormPlace::Pre,
        ..Settings::default()
    };
    let mut engine = Engine::<B>::new(&settings, &[1; 37], |p| Ok(open(p))).unwrap();
    let params = engine.params().to_vec();
    let weights = fixture.names().into_iter().filter(|n| !n.starts_with("grad.") && !n.starts_with("batch.")).count();
    assert_eq!(params.len(), weights - 1, "the fixture has the model's parameters and the loss");
    for p in &params {
        assert_eq!(fixture.tensor(&p.name).unwrap().shape(), p.shape, "{}", p.name);
        engine.backend.write(p.w.raw(), &floats(&p.name));
    }
    let (item, pos, cu, row) = (ids("batch.item"), ids("batch.pos"), ids("batch.cu"), ids("batch.row"));
    let loss = engine.gradients_of(&HostInput { item, pos, cu, row, ..HostInput::default() }, &ids("batch.target"), 1);
    let want = floats("loss")[0];
    assert!((loss - want).abs() <= tolerance * want, "loss {loss}, PyTorch {want}");
    for p in &params {
        let (mut have, want) = (vec![0.0; p.w.len()], floats(&format!("grad.{}", p.name)));
        engine.backend.read(p.dw.raw(), &mut have);
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in have.iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "d {}[{i}] is {h}, PyTorch {w}", p.name);
        }
    }
}

#[test]
fn post_norm_agrees_with_pytorch() {
    // The fixture holds f32 roundings of an f64 computation: the oracle is right to f32's last place or two.
    check("bert4rec-post.safetensors", NormPlace::Post, Reference::<f64>::new, 1e-6);
    check("bert4rec-post.safetensors", NormPlace::Post, Cpu::new, 2e-5);
}

#[test]
fn pre_norm_with_projection_agrees_with_pytorch() {
    check("bert4rec-pre.safetensors", NormPlace::Pre, Reference::<f64>::new, 1e-6);
    check("bert4rec-pre.safetensors", NormPlace::Pre, Cpu::new, 2e-5);
}
