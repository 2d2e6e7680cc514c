//! Training whose item table is updated by rows against training that updates all of it: the same curve and, once every
//! row has been brought to date, the same weights, up to what catching up leaves out (tests/row_adamw.rs measures that op).

use mipgpu::{
    backend::Cpu,
    base::rng::{Purpose, Stream},
    models::Bert4Rec,
    ops::Memory,
    tasks::{LossKind, Sequence},
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

/// Losses of `steps` steps, and the weights with every row at the last step.
fn train(s: &Settings, steps: u64) -> (Vec<f32>, Vec<f32>) {
    let counts: Vec<u64> = (0..ITEMS as u64).map(|i| 1 + i % 7).collect();
    let mut engine = Engine::<Bert4Rec, Cpu>::new(s, &counts, |p| Ok(Cpu::new(p))).unwrap();
    assert_eq!(engine.by_rows(), s.table_update == TableUpdate::Rows);
    let mut losses = Vec::new();
    for step in 1..=steps {
        engine.begin(step as u32);
        let mut draw = Stream::new(4, Purpose::Test, step as u32);
        for user in 0..6u64 {
            // Some items come often, most after long gaps or never.
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
        // A hundredth of one step's size, after three hundred.
        assert!(mean < 0.01 * LR as f64, "weights differ by {mean} on average, a step is {LR}");
    }
}

#[test]
fn large_tables_are_updated_by_rows_and_small_ones_are_not() {
    let auto = settings(LossKind::SampledSoftmax, TableUpdate::Auto);
    assert!(!auto.by_rows(ITEMS) && auto.by_rows(10_000_000));
    assert!(!settings(LossKind::Softmax, TableUpdate::Auto).by_rows(10_000_000));
    let refused = settings(LossKind::Softmax, TableUpdate::Rows).check().unwrap_err();
    assert!(refused.what.contains("every row") && refused.hint.is_some(), "{refused}");
    let refused = Settings { beta1: 0.9995, beta2: 0.99, ..auto }.check().unwrap_err();
    assert!(refused.what.contains("beta1"), "{refused}");
}
