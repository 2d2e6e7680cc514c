/*! Proving a device: every case of every op, and whole training steps, against the f64 reference; what
`mipgpu check` runs, so that users can prove their own GPU from the program they train with.
*/

use crate::{
    backend::{self, Device, Reference, WithBackend},
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    layers::{Facts, Join, NormPlace, Patch, RatingScale},
    mem::{Bf16Products, F32, Planner, Precision, Scalar, Span},
    models,
    ops::{self, Backend, BagLists},
    tasks::{self, LossKind, SamplerKind, Sequence},
};

use super::{
    engine::Engine,
    freeze::Freeze,
    settings::{Patching, Settings},
};

/// How something fared: its worst error as a share of what is allowed, or what is wrong.
#[derive(Clone, Debug)]
pub struct Row {
    /// `attention_fwd`, or `bert4rec step (post-norm, softmax)`.
    pub what: String,
    /// Cases or steps that were run.
    pub cases: usize,
    /// At most 1: forward results, gradients (of a whole step: the loss, gradients).
    pub worst: (f64, f64),
    /// The first case that failed, and how.
    pub fault: Option<String>,
}

/// What is proved of all there is.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Only ops and steps whose name contains this.
    pub name: &'a str,
    /// Only cases with at most this many numbers.
    pub elements: usize,
}

impl Selection<'static> {
    pub const ALL: Self = Selection { name: "", elements: usize::MAX };
}

/// Proves `device` in `precision`. Rows come as they are done.
///
/// # Errors
/// The device cannot be opened, or fails.
pub fn check(device: Device, precision: Precision, only: Selection<'_>, observe: &mut dyn FnMut(Row)) -> Result<()> {
    struct Ops<'a>(Selection<'a>, &'a mut dyn FnMut(Row));
    impl WithBackend for Ops<'_> {
        type Out = Result<()>;
        fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Result<()> {
            // A device that does not open is the user's matter, not a failed case.
            open(&Planner::new())?;
            // Of whatever kind: so the proofs of all ops are compiled once, not for each backend.
            prove_ops(self.0, &|plan| Ok(Box::new(open(plan)?)), self.1);
            Ok(())
        }
    }
    struct Steps<'a>(&'a str, &'a mut dyn FnMut(Row));
    impl WithBackend for Steps<'_> {
        type Out = Result<()>;
        fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Result<()> {
            prove_steps::<B>(self.0, open, self.1)
        }
    }
    backend::with(device, precision, Ops(only, observe))?;
    // Whole steps have some 10^5 numbers.
    if only.elements < 1 << 17 {
        return Ok(());
    }
    backend::with(device, precision, Steps(only.name, observe))
}

fn prove_ops(only: Selection<'_>, open: &dyn Fn(&Planner) -> Result<Box<dyn Backend>>, observe: &mut dyn FnMut(Row)) {
    let mut row: Option<Row> = None;
    for case in ops::all_cases::<Box<dyn Backend>>() {
        let name = case.name().split(' ').next().unwrap_or_default().to_string();
        if !name.contains(only.name) || case.elements() > only.elements {
            continue;
        }
        if row.as_ref().is_some_and(|r| r.what != name) {
            row.take().into_iter().for_each(&mut *observe);
        }
        let row = row.get_or_insert(Row { what: name, cases: 0, worst: (0.0, 0.0), fault: None });
        row.cases += 1;
        match case.parity(open) {
            Ok(p) => row.worst = (row.worst.0.max(p.forward), row.worst.1.max(p.backward)),
            Err(e) => {
                row.fault.get_or_insert(e);
            }
        }
    }
    row.into_iter().for_each(observe);
}

const ITEMS: usize = 61;

/// Small models with every optional part on somewhere: the losses behind one, then every model with every task that fits, then
/// those that are fine-tuned with parts frozen.
fn variants() -> Vec<(String, Settings)> {
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
    for model in models::ALL {
        let user_width = if model.users { 9 } else { 0 };
        for task in tasks::ALL.iter().filter(|task| task.suits(model)) {
            let s = Settings { model: model.name.into(), task: task.name.into(), user_width, ..base.clone() };
            all.push((format!("{} step ({})", model.name, task.name), s));
        }
        let join = if all.len() % 2 == 0 { Join::Concat } else { Join::Sum };
        let sides = Settings { fields: "all".into(), field_width: 5, user_width: 9, join, ..base.clone() };
        let sides = Settings { model: model.name.into(), ..sides };
        // Rating rows have no place for them, and who reads no items has none for fields.
        if sides.find().is_ok_and(|(_, task)| !task.rated) && !model.users {
            all.push((format!("{} step (users and fields)", model.name), sides));
        }
    }
    all.extend(fine_tuned(&base));
    all
}

/// Patches of every model that takes them, in both places, and what is frozen around them; of one, also where something
/// beside the network is trained or frozen.
fn fine_tuned(base: &Settings) -> Vec<(String, Settings)> {
    let serial = Settings { patch: Patching::Serial, patch_width: 5, freeze: Freeze::ALL, ..base.clone() };
    let negatives = Settings { loss: LossKind::SampledSoftmax, ..base.clone() };
    let parallel = Settings { patch: Patching::Parallel, patches: 1, freeze: Freeze::NETWORK, ..negatives };
    let mut all = Vec::new();
    for model in models::ALL.iter().filter(|model| model.patches) {
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
fn facts() -> Result<Facts> {
    let values: Vec<u32> = (0..12).collect();
    let of = |item: usize, field: usize| match field {
        0 => &values[item % 7..][..item % 3],
        _ => &values[..1],
    };
    let counts: Vec<u64> = (0..ITEMS as u64).map(|i| 1 + i % 5).collect();
    Ok(Facts { counts, users: 11, fields: BagLists::new(ITEMS, &[9, 2], of)?, ratings: None })
}

/// The loss, the gradients by parameter (of what is frozen: none), and the worst error of an updated weight as a share of what is allowed.
struct Step {
    loss: f64,
    gradients: Vec<Vec<f64>>,
    update: f64,
}

/// The first step of AdamW in closed form: both moments are those of one gradient, so that a weight moves by lr against
/// the gradient's sign, and decays. The error allowed is one part in 10^4 of lr and the rounding of the weight.
fn update_error(s: &Settings, decay: bool, lr: f64, norm: f64, [w, new, g]: [&[f64]; 3]) -> f64 {
    let clip = if s.clip > 0.0 { (s.clip as f64 / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let decay = if decay { s.weight_decay as f64 } else { 0.0 };
    let error = |i: usize| {
        let g = g[i] * clip;
        let want = w[i] - lr * (g / (g.abs() + 1e-8) + decay * w[i]);
        (new[i] - want).abs() / (1e-4 * lr + 2e-7 * w[i].abs())
    };
    // NaN must not vanish in a maximum.
    (0..w.len()).map(error).fold(0.0, |a, e| if e.is_nan() || e > a { e } else { a })
}

fn step<B: Backend>(s: &Settings, open: &dyn Fn(&Planner) -> Result<B>) -> Result<(Step, Vec<String>)> {
    let ratings = Some(RatingScale { levels: vec![1.0, 2.0, 3.0, 4.5], mean: 2.75 });
    let mut engine = Engine::<B>::new(s, Facts { ratings: ratings.clone(), ..facts()? }, open)?;
    let mut draw = Stream::new(2, Purpose::Test, 1);
    engine.begin(1);
    for (user, len) in [30, 1, 5, 24, 17, 8].into_iter().enumerate() {
        let items: Vec<u32> = (0..len).map(|_| draw.below(ITEMS as u64) as u32).collect();
        let levels = ratings.iter().flat_map(|scale| scale.levels.iter().copied()).cycle();
        let ratings: Vec<f32> = levels.skip(user).take(items.len()).collect();
        let (first, second) = items.split_at(items.len().div_ceil(2));
        engine.push(
            user as u64,
            match engine.task() {
                task if task.rated => Sequence::Rated { items: &items, ratings: &ratings },
                task if task.baskets && second.is_empty() => Sequence::Baskets { first, second: first, next: false },
                task if task.baskets => Sequence::Baskets { first, second, next: user % 2 == 0 },
                _ => Sequence::Items(&items),
            },
        );
    }
    const LR: f32 = 1e-3;
    let params = engine.params().to_vec();
    // New patches are nothing, and what is below their zeros has no gradient: these have been trained before.
    for p in params.iter().filter(|p| p.name.contains(Patch::NAME) && p.name.ends_with(".up.weight")) {
        let values: Vec<f32> = (0..p.w.len()).map(|_| 0.2 * draw.normal()).collect();
        engine.backend.write(p.w.raw(), &values);
    }
    let before: Vec<Vec<f64>> = params.iter().map(|p| values(&mut engine.backend, p.w)).collect();
    let report = engine.step(1, LR)?;
    let gradients: Vec<Vec<f64>> = params.iter().map(|p| values(&mut engine.backend, p.dw)).collect();
    let mut update = 0.0f64;
    for ((p, w), g) in params.iter().zip(&before).zip(&gradients) {
        let new = values(&mut engine.backend, p.w);
        let error = match p.frozen {
            true if *w == new => 0.0,
            true => f64::INFINITY,
            false => update_error(s, p.decay, LR as f64, report.norm as f64, [w, &new, g]),
        };
        update = if error.is_nan() { error } else { update.max(error) };
    }
    engine.backend.sync()?;
    Ok((Step { loss: report.loss.into(), gradients, update }, params.into_iter().map(|p| p.name).collect()))
}

fn values<B: Backend>(b: &mut B, span: Span<F32>) -> Vec<f64> {
    let mut values = vec![0.0; span.len()];
    b.read(span.raw(), &mut values);
    values.into_iter().map(f64::from).collect()
}

fn on_host<S: Scalar>(s: &Settings) -> Result<Step> {
    Ok(step(s, &|plan| Ok(Reference::<S>::new(plan)))?.0)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
}

fn prove_steps<B: Backend>(
    only: &str,
    open: &dyn Fn(&Planner) -> Result<B>,
    observe: &mut dyn FnMut(Row),
) -> Result<()> {
    for (what, s) in variants() {
        if !what.contains(only) {
            continue;
        }
        let (got, names) = step::<B>(&s, open)?;
        let exact = on_host::<f64>(&s)?;
        // What plain loops in the same precision make of it. Their activations are not rounded to bf16 between ops, those
        // of the device are: hence the larger factor.
        let (plain, factor) = match open(&Planner::new())?.products() {
            Precision::F32 => (on_host::<f32>(&s)?, 3.0),
            Precision::Bf16 => (on_host::<Bf16Products>(&s)?, 6.0),
        };
        let mut row = Row { what, cases: 1, worst: (0.0, 0.0), fault: None };
        let floor = 1e-6;
        let mut judge = |name: &str, error: f64, plain: f64, size: f64, factor: f64| {
            // What no weight hangs on has a gradient of exact zeros, and nothing is allowed: none is needed.
            let share = if error == 0.0 { 0.0 } else { error / (factor * plain + floor * size) };
            if share.is_nan() || share > 1.0 {
                let text = format!("{name}: error {error:.2e}, allowed {:.2e}", factor * plain + floor * size);
                row.fault.get_or_insert(text);
            }
            share
        };
        let all = |steps: &[Vec<f64>]| steps.concat();
        // Errors of the loss of one batch may cancel by luck; the error of all gradients says what is usual.
        let usual = distance(&all(&plain.gradients), &all(&exact.gradients))
            / distance(&all(&exact.gradients), &vec![0.0; all(&exact.gradients).len()]);
        row.worst.0 = judge("loss", (got.loss - exact.loss).abs(), usual * exact.loss, exact.loss, factor);
        for (i, name) in names.iter().enumerate() {
            let size = distance(&exact.gradients[i], &vec![0.0; exact.gradients[i].len()]);
            let error = distance(&got.gradients[i], &exact.gradients[i]);
            let plain = distance(&plain.gradients[i], &exact.gradients[i]).max(usual * size);
            let share = judge(&format!("gradient of {name}"), error, plain, size, factor);
            row.worst.1 = row.worst.1.max(share);
        }
        if got.update.is_nan() || got.update > 1.0 {
            row.fault.get_or_insert(format!("an updated weight is off by {:.1} times what is allowed", got.update));
        }
        observe(row);
    }
    Ok(())
}
