//! Training with an item table updated by rows, compared with training that updates all of it. The curves are the same.
//! Once every row is caught up, the weights are the same too, within the tolerance of catching up
//! (tests/ops/row_adamw.rs measures that op).

use mipgpu::{
    backend::Cpu,
    base::rng::{Purpose, Stream},
    mem::{F32, Span},
    ops::Memory,
    tasks::{LossKind, SamplerKind, Sequence},
    train::{Engine, Settings, TableUpdate},
};

const ITEMS: usize = 2000;
const LR: f32 = 2e-3;

fn settings(loss: LossKind, table_update: TableUpdate) -> Settings {
    Settings {
        width: 16,
        heads: 2,
        blocks: 1,
        length: 10,
        batch: 6,
        mask: 0.3,
        loss,
        negatives: 8,
        table_update,
        weight_decay: 0.05,
        ..Settings::default()
    }
}

/// Returns the losses of `steps` steps, and the weights with every row caught up to the last step.
fn train(s: &Settings, steps: u64) -> (Vec<f32>, Vec<f32>) {
    let counts: Vec<u64> = (0..ITEMS as u64).map(|i| 1 + i % 7).collect();
    let mut engine = Engine::<Cpu>::new(s, &counts, |p| Ok(Cpu::new(p))).unwrap();
    assert_eq!(engine.by_rows(), s.table_update == TableUpdate::Rows);
    let mut losses = Vec::new();
    for step in 1..=steps {
        engine.begin(step as u32);
        let mut draw = Stream::new(4, Purpose::Test, step as u32);
        for user in 0..6u64 {
            // Some items occur often, most after long gaps or never.
            let item = |draw: &mut Stream| (ITEMS as f64 * draw.uniform().powi(4) as f64) as u32;
            let items: Vec<u32> = (0..8).map(|_| item(&mut draw)).collect();
            engine.push(user, Sequence::Items(&items));
        }
        losses.push(engine.step(step, LR * (step as f32 / 50.0).min(1.0)).unwrap().loss);
    }
    engine.settle(steps);
    let mut weights = Vec::new();
    for p in engine.params().to_vec() {
        let mut values = vec![0.0; p.w.len()];
        engine.backend.read(p.w.raw(), &mut values);
        weights.extend(values);
    }
    (losses, weights)
}

#[test]
fn rows_that_catch_up_are_where_dense_updates_would_have_them() {
    for loss in [LossKind::SampledSoftmax, LossKind::Gbce] {
        let steps = 300;
        let (dense_losses, dense) = train(&settings(loss, TableUpdate::Dense), steps);
        let (losses, rows) = train(&settings(loss, TableUpdate::Rows), steps);
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let mean = rows.iter().zip(&dense).map(|(a, b)| (a - b).abs() as f64).sum::<f64>() / rows.len() as f64;
        let moved = worst(&dense, &train(&settings(loss, TableUpdate::Dense), 0).1);
        println!("{loss:?}: losses {:e}, weights {mean:e} of {moved}", worst(&losses, &dense_losses));
        assert!(moved > 20.0 * LR, "the run moves weights far: {moved}");
        assert!(worst(&losses, &dense_losses) < 2e-3, "{losses:?} against {dense_losses:?}");
        // A hundredth of one step's size, after three hundred steps.
        assert!(mean < 0.01 * LR as f64, "weights differ by {mean} on average, a step is {LR}");
    }
}

#[test]
fn large_tables_are_updated_by_rows_and_small_ones_are_not() {
    let auto = settings(LossKind::SampledSoftmax, TableUpdate::Auto);
    assert!(!auto.by_rows(ITEMS, 100) && auto.by_rows(10_000_000, 100_000));
    assert!(!auto.by_rows(10_000_000, 10_000_000), "their gradients would be larger than those of the table");
    assert!(!settings(LossKind::Softmax, TableUpdate::Auto).by_rows(10_000_000, 100));
    let slow = Settings { beta1: 0.9995, beta2: 0.99, ..auto.clone() };
    assert!(slow.check().is_ok() && !slow.by_rows(10_000_000, 100), "dense serves any betas");
    let refused = settings(LossKind::Softmax, TableUpdate::Rows).check().unwrap_err();
    assert!(refused.what.contains("every row") && refused.hint.is_some(), "{refused}");
    let refused = Settings { table_update: TableUpdate::Rows, ..slow }.check().unwrap_err();
    assert!(refused.what.contains("beta1"), "{refused}");
}

/// Rows that no step touches only decay. After more steps than the rings record, with catch-ups on the way, they equal
/// the product of all decays.
#[test]
fn rows_that_are_never_touched_decay_as_the_closed_form_says() {
    let s = Settings {
        width: 8,
        heads: 1,
        length: 3,
        batch: 1,
        ffn_ratio: 1,
        dropout: 0.0,
        negatives: 1,
        // By popularity, items beyond the first are almost never drawn; their moments show which were.
        sampler: SamplerKind::Popularity,
        ..settings(LossKind::SampledSoftmax, TableUpdate::Rows)
    };
    let mut counts = vec![0u64; 600];
    counts[..10].fill(1_000_000);
    let mut engine = Engine::<Cpu>::new(&s, &counts, |p| Ok(Cpu::new(p))).unwrap();
    let item = engine.params().iter().find(|p| p.name == "item.weight").unwrap().clone();
    let read = |e: &mut Engine<Cpu>, span: Span<F32>| {
        let mut values = vec![0.0; span.len()];
        e.backend.read(span.raw(), &mut values);
        values
    };
    let before = read(&mut engine, item.w);
    let (steps, lr) = (8192 + 100, |step: u64| 1e-3 * (1.0 + (step % 100) as f32 * 0.01));
    let mut decay = 1.0;
    for step in 1..=steps {
        engine.begin(step as u32);
        engine.push(0, Sequence::Items(&[(step % 10) as u32, (step * 7 % 10) as u32]));
        engine.launch(step, lr(step)).unwrap();
        decay *= 1.0 - lr(step) as f64 * s.weight_decay as f64;
    }
    engine.finish().unwrap();
    engine.settle(steps);
    let (after, moments) = (read(&mut engine, item.w), read(&mut engine, item.v));
    let mut untouched = 0;
    for i in 10..600 {
        let row = i * 8..i * 8 + 8;
        if moments[row.clone()].iter().any(|v| *v != 0.0) {
            continue;
        }
        untouched += 1;
        for (a, b) in after[row.clone()].iter().zip(&before[row]) {
            let want = *b as f64 * decay;
            assert!((*a as f64 - want).abs() < 1e-4 * want.abs() + 1e-9, "row {i}: {a}, {want} by the closed form");
        }
    }
    assert!(untouched > 100 && (0.3..0.8).contains(&decay), "{untouched} rows, decay {decay}");
}
