//! Compares models with PyTorch: loss and the gradient of every parameter, from committed fixtures (this test needs no
//! Python). tests/fixtures/bert4rec.py makes those of BERT4Rec and is written for it. tests/fixtures/peers.py makes
//! those of the models that benches/peers times, from their own classes: the timed models compute the same as those of
//! this project.

use mipgpu::{
    backend::{Cpu, Reference},
    layers::{HostInput, NormPlace},
    mem::Planner,
    ops::Backend,
    train::{Engine, Freeze, Patching, Settings, settings::List},
};
use safetensors::SafeTensors;

fn bert4rec(norm: NormPlace) -> Settings {
    Settings { heads: 2, mask: 0.5, norm, projection: norm == NormPlace::Pre, ..small() }
}

fn small() -> Settings {
    Settings { width: 16, blocks: 2, length: 12, batch: 4, dropout: 0.0, ..Settings::default() }
}

fn check<B: Backend>(file: &str, settings: Settings, open: impl Fn(&Planner) -> B, tolerance: f32) {
    let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let ids = |name: &str| -> Vec<u32> { four(name).into_iter().map(u32::from_le_bytes).collect() };
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
    assert!((loss - want).abs() <= tolerance.min(1e-5) * want, "loss {loss}, PyTorch {want}");
    let trained: Vec<_> = params.iter().filter(|p| !p.frozen).collect();
    let gradients = fixture.names().into_iter().filter(|n| n.starts_with("grad.")).count();
    assert_eq!(trained.len(), gradients, "the same parameters are trained");
    for p in trained {
        let (mut have, want) = (vec![0.0; p.w.len()], floats(&format!("grad.{}", p.name)));
        engine.backend.read(p.dw.raw(), &mut have);
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in have.iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "d {}[{i}] is {h}, PyTorch {w}", p.name);
        }
    }
}

fn both(file: &str, settings: Settings) {
    // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of f32.
    check(file, settings.clone(), Reference::<f64>::new, 1e-6);
    check(file, settings, Cpu::new, 2e-5);
}

#[test]
fn post_norm_agrees_with_pytorch() {
    both("bert4rec-post.safetensors", bert4rec(NormPlace::Post));
}

#[test]
fn pre_norm_with_projection_agrees_with_pytorch() {
    both("bert4rec-pre.safetensors", bert4rec(NormPlace::Pre));
}

/// Convolutions that predict the next item.
fn next_item(model: &str) -> Settings {
    let (window, horizontal, vertical, dilations) = (5, 6, 4, List(vec![1, 4]));
    let (model, task) = (model.to_string(), "next-item".to_string());
    Settings { model, task, window, horizontal, vertical, dilations, ..small() }
}

#[test]
fn the_caser_that_is_timed_in_pytorch_is_ours() {
    both("peer-caser.safetensors", next_item("caser"));
}

#[test]
fn the_nextitnet_that_is_timed_in_pytorch_is_ours() {
    both("peer-nextitnet.safetensors", next_item("peterrec"));
}

#[test]
fn the_patches_that_are_timed_in_pytorch_are_ours() {
    let settings = Settings { patch: Patching::Serial, patch_width: 5, freeze: Freeze::ALL, ..next_item("peterrec") };
    both("peer-peterrec.safetensors", settings);
}
