//! Sums of calls by op, by phase and by layer.

use std::collections::HashMap;

use super::{
    OpByOp, ProfileRow, Spread,
    parts::{Step, StepTimings},
};
use crate::{
    backend::wrap::Call,
    measure::{
        ceilings::Ceilings,
        roof::{self, Bound},
    },
    mem::Precision,
    ops::Phase,
};

/// All sums.
pub(super) struct Sums {
    pub total: OpByOp,
    pub phases: Vec<ProfileRow>,
    pub ops: Vec<ProfileRow>,
    pub layers: Vec<ProfileRow>,
    pub calls: Vec<ProfileRow>,
}

/// The grouping key of calls; `None` means that this part is not grouped by.
type Key = (Option<&'static str>, Option<Phase>, Option<String>);

pub(super) fn sums(parts: &StepTimings, precision: Precision, ceilings: &Ceilings) -> Sums {
    let n = parts.steps.len() as f64;
    let mean = |of: &dyn Fn(&Step) -> f64| parts.steps.iter().map(of).sum::<f64>() / n;
    let ops = mean(&|s| s.calls.iter().map(|c| c.seconds).sum());
    let first_to_last = |s: &Step| match (s.calls.first(), s.calls.last()) {
        (Some(first), Some(last)) => last.start + last.seconds - first.start,
        _ => 0.0,
    };
    let total = OpByOp {
        wall: mean(&|s| s.at[3] - s.at[0]),
        load: mean(&|s| s.at[1] - s.at[0]),
        upload: mean(&|s| s.at[2] - s.at[1]),
        upload_bytes: mean(&|s| s.upload_bytes as f64),
        ops,
        idle: (mean(&first_to_last) - ops).max(0.0),
        calls: mean(&|s| s.calls.len() as f64),
    };
    let by = |key: &dyn Fn(&Call) -> Key| rows(&parts.steps, ops, (precision, ceilings), key);
    let layer = |c: &Call| Some(layer(c, parts));
    let largest_first = |mut rows: Vec<ProfileRow>| {
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    };
    Sums {
        total,
        phases: by(&|c| (None, Some(c.phase), None)),
        ops: largest_first(by(&|c| (Some(c.op), None, None))),
        layers: by(&|c| (None, None, layer(c))),
        calls: by(&|c| (Some(c.op), Some(c.phase), layer(c))),
    }
}

/// Returns the layer of a call; calls outside a layer belong to their phase.
fn layer(call: &Call, parts: &StepTimings) -> String {
    match call.phase {
        Phase::Batch => "batch".into(),
        Phase::Loss => "loss".into(),
        Phase::Update => "optimiser".into(),
        Phase::Forward | Phase::Backward => parts.layer(call),
    }
}

/// Returns one row per key, in the order of first occurrence.
fn rows(
    steps: &[Step],
    ops: f64,
    (precision, ceilings): (Precision, &Ceilings),
    key: &dyn Fn(&Call) -> Key,
) -> Vec<ProfileRow> {
    let mut at: HashMap<Key, usize> = HashMap::new();
    // With each row, the seconds of every step and the least seconds by limiting kind of work.
    let mut rows: Vec<(ProfileRow, Vec<f64>, [f64; 3])> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let mut free = step.calls.first().map_or(0.0, |first| first.start);
        for call in &step.calls {
            let key = key(call);
            let i = *at.entry(key.clone()).or_insert_with(|| {
                let (op, phase, layer) = key;
                let (op, layer) = (op.unwrap_or_default().into(), layer.unwrap_or_default());
                rows.push((ProfileRow { op, phase, layer, ..ProfileRow::default() }, vec![0.0; steps.len()], [0.0; 3]));
                rows.len() - 1
            });
            let (row, by_step, floors) = &mut rows[i];
            let bytes = call.cost.moved(precision);
            let (floor, bound) = roof::floor(&call.cost, call.products, precision, &ceilings.warm(bytes));
            floors[bound as usize] += floor;
            by_step[number] += call.seconds;
            row.calls += 1.0;
            row.idle += (call.start - free).max(0.0);
            free = call.start + call.seconds;
            row.flop += call.cost.flop;
            row.exps += call.cost.exps;
            row.bytes += bytes;
            row.sizes.clone_from(&call.sizes);
        }
    }
    let n = steps.len() as f64;
    let finish = |(row, by_step, floors): (ProfileRow, Vec<f64>, [f64; 3])| {
        let spread = Spread::of(by_step.into_iter());
        let (seconds, flop, bytes) = (spread.mean, row.flop / n, row.bytes / n);
        let floor = floors.iter().sum::<f64>() / n;
        let bounds = [Bound::Memory, Bound::Products, Bound::Exps].into_iter().zip(floors);
        let bound = bounds.max_by(|a, b| a.1.total_cmp(&b.1)).expect("three").0;
        let rate = |work: f64| if seconds > 0.0 { work / seconds * 1e-9 } else { 0.0 };
        ProfileRow {
            calls: row.calls / n,
            seconds,
            share: if ops > 0.0 { seconds / ops } else { 0.0 },
            idle: row.idle / n,
            spread,
            flop,
            exps: row.exps / n,
            bytes,
            gflops: rate(flop),
            gbps: rate(bytes),
            roof: (floor > 0.0 && seconds > 0.0).then(|| floor / seconds),
            bound: (floor > 0.0).then_some(bound),
            // Rows that combine several kinds of calls have no sizes.
            sizes: if row.op.is_empty() || row.layer.is_empty() { String::new() } else { row.sizes.clone() },
            ..row
        }
    };
    rows.into_iter().map(finish).collect()
}
