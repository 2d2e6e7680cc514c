//! Whole models: the directional gradient of everything at f64, and overfitting one batch. Every model of the list is
//! tested; a new model adds nothing here.

use mipgpu::{
    backend::Reference,
    base::rng::{Purpose, Stream},
    layers::NormPlace,
    mem::Param,
    models::{self, Model},
    tasks::{LossKind, MaskSettings, MaskedItem},
    train::{Engine, Settings},
};

const ITEMS: usize = 23;

/// Small, with every optional part on somewhere.
fn variants() -> Vec<Settings> {
    let base = Settings {
        width: 8,
        heads: 2,
        blocks: 2,
        length: 9,
        batch: 4,
        mask: 0.4,
        dropout: 0.2,
        attention_dropout: 0.3,
        init_std: 0.4,
        negatives: 7,
        ..Settings::default()
    };
    vec![
        base.clone(),
        Settings { norm: NormPlace::Pre, projection: true, ..base.clone() },
        Settings { loss: LossKind::SampledUniform, log_q: false, ..base.clone() },
        Settings { loss: LossKind::SampledPopularity, projection: true, blocks: 1, ..base },
    ]
}

fn counts() -> Vec<u64> {
    (0..ITEMS as u64).map(|i| 1 + i % 5).collect()
}

/// A batch of sequences of lengths 9 (cut from 12), 1, 5 and 3.
fn fill<M: Model, B: mipgpu::ops::Backend>(engine: &mut Engine<M, B>, s: &Settings) -> Vec<u32> {
    let settings = MaskSettings { mask: s.mask, mask_last: s.mask_last, length: s.length, items: ITEMS, seed: s.seed };
    let mut task = MaskedItem::new(settings);
    let mut draw = Stream::new(2, Purpose::Test, 0);
    task.clear(engine.host_input());
    for (user, len) in [12, 1, 5, 3].into_iter().enumerate() {
        let items: Vec<u32> = (0..len).map(|_| draw.below(ITEMS as u64) as u32).collect();
        task.push(engine.host_input(), 1, user as u64, &items);
    }
    task.target.clone()
}

fn directional<M: Model>(s: &Settings) {
    let mut e = Engine::<M, _>::new(s, &counts(), Reference::<f64>::new).unwrap();
    let target = fill(&mut e, s);
    let params: Vec<Param> = e.params().to_vec();
    let start: Vec<Vec<f64>> = params.iter().map(|p| e.backend.values(p.w.raw())).collect();
    e.gradients(&target, 3, true);
    let gradient: Vec<Vec<f64>> = params.iter().map(|p| e.backend.values(p.dw.raw())).collect();
    let direction: Vec<Vec<f64>> = params
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let mut draw = Stream::new(9, Purpose::Test, i as u32);
            (0..p.w.len()).map(|_| draw.normal() as f64).collect()
        })
        .collect();
    let loss = e.loss_span().raw();
    // One parameter at a time, then all at once: an error in a small one cannot hide behind a large one.
    let mut sets: Vec<Vec<usize>> = (0..params.len()).map(|i| vec![i]).collect();
    sets.push((0..params.len()).collect());
    for set in sets {
        let mut at = |k: f64| {
            for i in &set {
                let moved: Vec<f64> = start[*i].iter().zip(&direction[*i]).map(|(w, u)| w + k * u).collect();
                e.backend.set(params[*i].w.raw(), &moved);
            }
            e.gradients(&target, 3, true);
            e.backend.values(loss)[0]
        };
        const STEP: f64 = 1e-5;
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        at(0.0);
        let dot = |i: &usize| gradient[*i].iter().zip(&direction[*i]).map(|(g, u)| g * u).sum::<f64>();
        let analytic: f64 = set.iter().map(dot).sum();
        let norm: f64 = set.iter().map(|i| gradient[*i].iter().map(|g| g * g).sum::<f64>()).sum::<f64>().sqrt();
        let names: Vec<&str> = set.iter().map(|i| params[*i].name.as_str()).collect();
        let error = (analytic - numeric).abs() / analytic.abs().max(numeric.abs()).max(1e-2 * norm).max(1e-7);
        assert!(error < 1e-5, "{} {names:?}: analytic {analytic}, numeric {numeric}", M::NAME);
    }
}

#[test]
fn the_gradient_of_every_parameter_is_right() {
    macro_rules! each {
        ($($model:ident),*) => { $(for s in variants() { directional::<models::$model>(&s); })* };
    }
    mipgpu::for_all_models!(each);
}
