//! Whole models: the directional gradient of all parameters at f64, and overfitting one batch. Every model of the list
//! is tested; a new model needs no change here.

use clap::ValueEnum;
use mipgpu::{
    backend::{Cpu, Reference},
    base::rng::{Purpose, Stream},
    layers::{DataSummary, Join, NormPlace, RatingScale},
    mem::Param,
    models,
    ops::{BagLists, Memory},
    tasks::{self, LossKind, SamplerKind, Sequence},
    train::{
        Engine, Freeze, Patching, Settings,
        check::gradient::{Slope, slopes},
    },
};

const ITEMS: usize = 23;

/// Returns small settings that together enable every optional part.
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
    let small = Settings { blocks: 1, dropout: 0.1, attention_dropout: 0.0, ..base.clone() };
    let mut all = vec![
        base.clone(),
        Settings { norm: NormPlace::Pre, projection: true, ..base.clone() },
        Settings { loss: LossKind::SampledUniform, log_q: false, ..base.clone() },
        Settings { loss: LossKind::SampledPopularity, projection: true, blocks: 1, exclude_seen: true, ..base.clone() },
        Settings {
            loss: LossKind::SampledSoftmax,
            sampler: SamplerKind::LogUniform,
            per_position: true,
            exclude_seen: true,
            ..small.clone()
        },
        Settings { loss: LossKind::SampledSoftmax, sampler: SamplerKind::InBatch, ..small.clone() },
        Settings { loss: LossKind::SampledSoftmax, unique_negatives: true, ..small.clone() },
        Settings { loss: LossKind::Bce, negatives: 1, ..small.clone() },
        Settings { loss: LossKind::Gbce, sampler: SamplerKind::Popularity, ..small.clone() },
        Settings { loss: LossKind::Bpr, exclude_seen: true, ..small.clone() },
    ];
    for s in [
        Settings { loss: LossKind::SampledSoftmax, sampler: SamplerKind::InBatch, mask_last: 0.5, ..small.clone() },
        Settings { loss: LossKind::Bpr, exclude_seen: true, projection: true, ..small.clone() },
        Settings { user_width: 3, fields: "all".into(), field_width: 2, ..small.clone() },
    ] {
        all.push(Settings { task: "next-basket".into(), ..s });
    }
    for loss in LossKind::value_variants() {
        if all.iter().all(|s| s.loss != *loss) {
            all.push(Settings { loss: *loss, ..small.clone() });
        }
    }
    // Every model with every task that it supports, and a pairwise loss in addition for the first one.
    for model in models::ALL {
        for (i, task) in tasks::ALL.iter().filter(|task| task.suits(model)).enumerate() {
            let user_width = if model.users { 3 } else { 0 };
            let s = Settings { model: model.name.into(), task: task.name.into(), user_width, ..base.clone() };
            if i == 0 && model.patches {
                let parallel = Settings { patch: Patching::Parallel, patches: 1, freeze: Freeze::NETWORK, ..s.clone() };
                all.extend([parallel, Settings { patch: Patching::Serial, patch_width: 3, ..s.clone() }]);
                let pre = Settings { norm: NormPlace::Pre, loss: LossKind::Bpr, ..s.clone() };
                all.push(Settings { patch: Patching::Parallel, freeze: Freeze::ALL, ..pre });
            }
            if i == 0 && !task.rated {
                all.push(Settings { loss: LossKind::Gbce, targets: 2, exclude_seen: true, ..s.clone() });
            }
            all.push(s);
        }
        // Next to the items, in both ways.
        let s =
            Settings { model: model.name.into(), user_width: 3, fields: "all".into(), field_width: 2, ..base.clone() };
        if !s.find().unwrap().1.rated && !model.users {
            all.extend([Settings { join: Join::Sum, ..s.clone() }, s]);
        }
    }
    all
}

/// Items with no, one or two values in the first field and the same in the second, one user more than in the batches,
/// and five ratings.
fn summary() -> DataSummary {
    let values: Vec<u32> = (0..6).collect();
    let of = |item: usize, field: usize| match field {
        0 => &values[item % 4..][..item % 3],
        _ => &values[1..2],
    };
    let counts = (0..ITEMS as u64).map(|i| 1 + i % 5).collect();
    let ratings = Some(RatingScale { levels: vec![1.0, 2.0, 3.0, 4.5, 5.0], mean: 3.25 });
    DataSummary { counts, users: 5, fields: BagLists::new(ITEMS, &[6, 3], of).unwrap(), ratings }
}

/// Fills a batch of sequences (or pairs of baskets) of lengths 9 (truncated from 12), 1, 5 and 3.
fn fill<B: mipgpu::ops::Backend>(engine: &mut Engine<B>) {
    fill_with(engine, |items| items);
}

fn fill_with<B: mipgpu::ops::Backend>(engine: &mut Engine<B>, of: impl Fn(Vec<u32>) -> Vec<u32>) {
    let (levels, task) = (summary().ratings.unwrap().levels, engine.task());
    let mut draw = Stream::new(2, Purpose::Test, 0);
    engine.begin(1);
    for (user, len) in [12, 1, 5, 3].into_iter().enumerate() {
        let items = of((0..len).map(|_| draw.below(ITEMS as u64) as u32).collect());
        let ratings: Vec<f32> = (0..len).map(|i| levels[(user * 3 + i * i) % levels.len()]).collect();
        let (first, second) = items.split_at(items.len().div_ceil(2));
        engine.push(
            user as u64,
            match task {
                _ if task.rated => Sequence::Rated { items: &items, ratings: &ratings },
                _ if task.baskets && second.is_empty() => Sequence::Baskets { first, second: first, next: false },
                _ if task.baskets => Sequence::Baskets { first, second, next: user % 2 == 0 },
                _ => Sequence::Items(&items),
            },
        );
    }
}

fn directional(s: &Settings) {
    let slopes = slopes::<f64>(s, summary(), fill).unwrap();
    // The side inputs must reach the network; otherwise these gradients would be zeros, and no difference of losses
    // would show it.
    for (asked, table) in [(s.user_width > 0, "user.weight"), (s.fields != "none", "field.weight")] {
        let found = slopes.iter().find(|slope| slope.names == [table]);
        assert_eq!(found.is_some(), asked, "{} and its {table}", s.model);
        assert!(found.is_none_or(|slope| slope.norm != 0.0), "{}: nothing reaches {table}", s.model);
    }
    for slope in slopes {
        assert!(slope.error() < Slope::ALLOWED, "{}: {slope:?}", s.model);
    }
}

#[test]
fn the_gradient_of_every_parameter_is_right() {
    variants().iter().for_each(directional);
}

/// 150 steps on one batch without dropout must reduce the loss to almost nothing. Losses that score each negative
/// separately must see most of the catalogue first, and get twice as many steps. This detects gradients with the right
/// direction that are lost on the way to the weights.
fn overfit(s: &Settings) {
    let s = Settings { dropout: 0.0, attention_dropout: 0.0, clip: 0.0, init_std: 0.1, width: 32, ..s.clone() };
    let mut e = Engine::<_>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    if e.task().baskets {
        // Two masked items of one basket look alike, so only one of them can be predicted.
        let s = Settings { mask: 0.01, ..s.clone() };
        e = Engine::<_>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    }
    let mut first = None;
    let mut last = 0.0;
    let steps = if s.loss.pairwise() { 300 } else { 150 };
    // A model that knows a sequence by its user alone can predict one item of it.
    let users = models::find(&s.model).unwrap().users;
    let told = |items: Vec<u32>| if users { vec![items[0]; items.len()] } else { items };
    for step in 1..=steps {
        fill_with(&mut e, told);
        last = e.step(step, 3e-3).unwrap().loss;
        first.get_or_insert(last);
    }
    let first = first.unwrap();
    assert!(last < 0.1 * first, "{}: loss {first} only fell to {last}", s.model);
}

#[test]
fn one_batch_can_be_overfitted() {
    variants().iter().filter(|s| s.freeze == Freeze::NONE).for_each(overfit);
}

/// Runs one training step on the CPU backend and on the f64 reference from the same weights: same loss, same new
/// weights.
fn one_step(s: &Settings) {
    let mut cpu = Engine::<_>::new(s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    let mut oracle = Engine::<_>::new(s, summary(), |p| Ok(Reference::<f64>::new(p))).unwrap();
    fill(&mut cpu);
    fill(&mut oracle);
    let (a, b) = (cpu.step(1, 1e-3).unwrap(), oracle.step(1, 1e-3).unwrap());
    assert!((a.loss - b.loss).abs() < 1e-5 * b.loss, "loss {} against {}", a.loss, b.loss);
    assert!((a.norm - b.norm).abs() < 1e-4 * b.norm, "norm {} against {}", a.norm, b.norm);
    for p in cpu.params().to_vec() {
        let (mut x, y) = (vec![0.0; p.dw.len()], oracle.backend.values(p.dw.raw()));
        cpu.backend.read(p.dw.raw(), &mut x);
        let largest = y.iter().fold(1e-4f64, |m, v| m.max(v.abs()));
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            assert!((*x as f64 - y).abs() < 2e-5 * largest, "d {}[{i}]: {x} against {y}", p.name);
        }
    }
}

#[test]
fn a_step_on_the_cpu_is_a_step_on_the_oracle() {
    variants().iter().for_each(one_step);
}

#[test]
fn a_loss_that_is_not_finite_names_op_and_layer_and_keeps_the_weights() {
    let s = &variants()[0];
    let mut e = Engine::<_>::new(s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    let gamma = e.params().iter().find(|p| p.name == "block.1.ffn_norm.gamma").unwrap().clone();
    let mut values = vec![0.0; gamma.w.len()];
    e.backend.read(gamma.w.raw(), &mut values);
    values[3] = f32::NAN;
    e.backend.write(gamma.w.raw(), &values);
    let snapshot = |e: &mut Engine<Cpu>| {
        let mut all = Vec::new();
        for p in e.params().to_vec() {
            let mut x = vec![0.0; p.w.len()];
            e.backend.read(p.w.raw(), &mut x);
            all.extend(x.into_iter().map(f32::to_bits));
        }
        all
    };
    let before = snapshot(&mut e);
    fill(&mut e);
    let error = e.step(17, 1e-3).unwrap_err().to_string();
    assert!(error.contains("step 17") && error.contains("layer_norm_fwd of block.1.ffn_norm"), "{error}");
    assert_eq!(before, snapshot(&mut e), "the weights are as before the step");
}

/// A fault that begins in the backward pass: weights so large that the forward pass stays finite and a gradient does
/// not.
#[test]
fn a_fault_of_the_backward_pass_is_named_as_such() {
    let s = Settings { norm: NormPlace::Pre, dropout: 0.0, attention_dropout: 0.0, ..variants()[0].clone() };
    let mut e = Engine::<_>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    // The last norm shrinks its output by as much as the item table amplifies scores. The logits are small, but the
    // gradient of the norm's scale is 1e30 times a table entry of 1e30.
    for (name, factor) in [("last_norm.gamma", 1e-30), ("item.weight", 1e30)] {
        let p = e.params().iter().find(|p| p.name == name).unwrap().clone();
        let mut values = vec![0.0; p.w.len()];
        e.backend.read(p.w.raw(), &mut values);
        values.iter_mut().for_each(|x| *x *= factor);
        e.backend.write(p.w.raw(), &values);
    }
    fill(&mut e);
    let error = e.step(5, 1e-3).unwrap_err().to_string();
    assert!(error.contains("step 5: loss") && !error.contains("loss NaN") && !error.contains("loss inf"), "{error}");
    assert!(!error.contains("cross_entropy_bwd"), "{error}");
}

/// The loss of a step is that of the weights before it, so damage by the step itself is detected afterwards.
#[test]
fn weights_that_a_step_ruined_are_noticed_before_they_are_saved() {
    let s = Settings { clip: 0.0, ..variants()[0].clone() };
    let mut e = Engine::<_>::new(&s, summary(), |p| Ok(Cpu::new(p))).unwrap();
    fill(&mut e);
    assert!(e.step(1, 1e-3).is_ok() && e.check_weights(1).is_ok());
    fill(&mut e);
    assert!(e.step(2, 1e30).is_ok(), "its own loss is still that of good weights");
    let error = e.check_weights(2).unwrap_err().to_string();
    assert!(error.contains("after step 2") && error.contains(" of "), "{error}");
}

/// Frozen parameters have no gradient and no moments and keep their bits; the others change.
#[test]
fn frozen_weights_stay_and_others_move() {
    for s in variants().iter().filter(|s| s.freeze != Freeze::NONE) {
        let mut e = Engine::<_>::new(s, summary(), |p| Ok(Cpu::new(p))).unwrap();
        let read = |e: &mut Engine<Cpu>, p: &Param| {
            let mut x = vec![0.0; p.w.len()];
            e.backend.read(p.w.raw(), &mut x);
            x
        };
        let params = e.params().to_vec();
        let before: Vec<_> = params.iter().map(|p| read(&mut e, p)).collect();
        for step in 1..=3 {
            fill(&mut e);
            e.step(step, 1e-2).unwrap();
        }
        for (p, before) in params.iter().zip(&before) {
            assert_eq!(p.frozen, p.dw.is_empty() && p.m.is_empty() && p.v.is_empty(), "{}", p.name);
            assert_eq!(p.frozen, read(&mut e, p) == *before, "{} of {}", p.name, s.model);
        }
        let trained: usize = params.iter().filter(|p| !p.frozen).map(|p| p.w.len()).sum();
        assert!(trained > 0 && params.iter().any(|p| p.frozen));
    }
}
