//! The whole steps that are checked: every model, task and loss, with every optional part enabled in at least
//! one.

use crate::{
    base::Result,
    layers::{DataSummary, Join, NormPlace},
    models,
    ops::BagLists,
    tasks::{self, LossKind, SamplerKind},
    train::{
        freeze::Freeze,
        settings::{Patching, Settings},
    },
};

pub const ITEMS: usize = 61;

/// Small models with every optional part enabled in at least one: first one model with every loss, then every
/// model with every task that fits, then fine-tuned models with frozen parts.
pub fn variants() -> Vec<(String, Settings)> {
    use SamplerKind::{InBatch, LogUniform, Popularity};
    let base = Settings {
        width: 32,
        heads: 2,
        blocks: 2,
        length: 24,
        batch: 6,
        mask: 0.3,
        dropout: 0.1,
        attention_dropout: 0.1,
        init_std: 0.2,
        negatives: 17,
        ..Settings::default()
    };
    let losses = [
        ("post-norm, softmax", base.clone()),
        ("pre-norm, projection", Settings { norm: NormPlace::Pre, projection: true, ..base.clone() }),
        (
            "sampled softmax",
            Settings { loss: LossKind::SampledSoftmax, sampler: Popularity, exclude_seen: true, ..base.clone() },
        ),
        ("in-batch negatives", Settings { loss: LossKind::SampledSoftmax, sampler: InBatch, ..base.clone() }),
        ("gbce", Settings { loss: LossKind::Gbce, sampler: LogUniform, exclude_seen: true, ..base.clone() }),
        ("bpr", Settings { loss: LossKind::Bpr, negatives: 3, ..base.clone() }),
    ];
    let mut all: Vec<_> = losses.into_iter().map(|(what, s)| (format!("{} step ({what})", s.model), s)).collect();
    for (loss, name) in LossKind::named() {
        if all.iter().all(|(_, s)| s.loss != loss) {
            all.push((format!("{} step ({name})", base.model), Settings { loss, ..base.clone() }));
        }
    }
    for model in models::all() {
        let user_width = if model.users { 9 } else { 0 };
        for task in tasks::ALL.iter().filter(|task| task.suits(model)) {
            let s = Settings { model: model.name.into(), task: task.name.into(), user_width, ..base.clone() };
            all.push((format!("{} step ({})", model.name, task.name), s));
        }
        let join = if all.len() % 2 == 0 { Join::Concat } else { Join::Sum };
        let sides = Settings { fields: "all".into(), field_width: 5, user_width: 9, join, ..base.clone() };
        let sides = Settings { model: model.name.into(), ..sides };
        // Rating rows cannot have side inputs, and a model that reads no items cannot have fields.
        if sides.find().is_ok_and(|(_, task)| !task.rated) && !model.users {
            all.push((format!("{} step (users and fields)", model.name), sides));
        }
    }
    all.extend(fine_tuned(&base));
    all
}

/// Patches of every model that supports them, in both placements, with frozen parts. For one model, also with
/// tables trained or frozen next to the network.
fn fine_tuned(base: &Settings) -> Vec<(String, Settings)> {
    let serial = Settings { patch: Patching::Serial, patch_width: 5, freeze: Freeze::ALL, ..base.clone() };
    let negatives = Settings { loss: LossKind::SampledSoftmax, ..base.clone() };
    let parallel = Settings { patch: Patching::Parallel, patches: 1, freeze: Freeze::NETWORK, ..negatives };
    let mut all = Vec::new();
    for model in models::all().into_iter().filter(|model| model.patches) {
        for (what, s) in [("serial patches, all else frozen", &serial), ("parallel patches, network frozen", &parallel)]
        {
            all.push((format!("{} step ({what})", model.name), Settings { model: model.name.into(), ..s.clone() }));
        }
    }
    let sides = |s: &Settings| Settings { fields: "all".into(), field_width: 5, user_width: 9, ..s.clone() };
    all.extend(
        [
            ("patches, all else frozen, next-basket", Settings { task: "next-basket".into(), ..serial.clone() }),
            ("patches, all else frozen, users and fields", sides(&serial)),
            ("network frozen, users and fields", Settings { patch: Patching::None, ..sides(&parallel) }),
        ]
        .map(|(what, s)| (format!("{} step ({what})", s.model), s)),
    );
    all
}

/// A catalogue whose items have values in two fields, and more users than a batch has.
pub fn summary() -> Result<DataSummary> {
    let values: Vec<u32> = (0..12).collect();
    let of = |item: usize, field: usize| match field {
        0 => &values[item % 7..][..item % 3],
        _ => &values[..1],
    };
    let counts: Vec<u64> = (0..ITEMS as u64).map(|i| 1 + i % 5).collect();
    Ok(DataSummary { counts, users: 11, fields: BagLists::new(ITEMS, &[9, 2], of)?, ratings: None })
}
