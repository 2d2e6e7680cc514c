//! Compares one training step of a device with the same step in f64: loss, every gradient, every updated
//! weight.

use super::variants::{ITEMS, summary};
use crate::{
    backend::Reference,
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    layers::{DataSummary, Patch, RatingScale},
    mem::{Bf16Products, F32, Numerics, Planner, Precision, Scalar, Span, Traced},
    ops::Backend,
    tasks::Sequence,
    train::{engine::Engine, settings::Settings},
};

/// The results of a step.
#[derive(Clone, Debug)]
pub struct Step<R> {
    pub names: Vec<String>,
    pub loss: R,
    /// By parameter; empty for frozen ones.
    pub gradients: Vec<Vec<R>>,
    /// The worst error of an updated weight, as a share of the allowed error.
    pub update: f64,
}

/// Checks the first step of AdamW against its closed form: both moments come from one gradient, so a weight
/// moves by lr against the sign of the gradient, and decays. The allowed error is 1e-4 of lr plus the rounding
/// of the weight.
fn update_error(s: &Settings, decay: bool, lr: f64, norm: f64, [w, new, g]: [&[f64]; 3]) -> f64 {
    let clip = if s.clip > 0.0 { (s.clip as f64 / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let decay = if decay { s.weight_decay as f64 } else { 0.0 };
    let error = |i: usize| {
        let g = g[i] * clip;
        let want = w[i] - lr * (g / (g.abs() + 1e-8) + decay * w[i]);
        (new[i] - want).abs() / (1e-4 * lr + 2e-7 * w[i].abs())
    };
    // `max` would drop a NaN.
    (0..w.len()).map(error).fold(0.0, |a, e| if e.is_nan() || e > a { e } else { a })
}

/// The ratings of the data.
pub(super) fn ratings() -> RatingScale {
    RatingScale { levels: vec![1.0, 2.0, 3.0, 4.5], mean: 2.75 }
}

/// Fills a batch with sequences of random items (or pairs of baskets) of lengths 30, 1, 5, 24, 17 and 8, and returns
/// the generator of the items.
pub(super) fn fill<B: Backend>(engine: &mut Engine<B>, seed: u64) -> Stream {
    let mut draw = Stream::new(2 + seed, Purpose::Test, 1);
    engine.begin(1);
    for (user, len) in [30, 1, 5, 24, 17, 8].into_iter().enumerate() {
        let items: Vec<u32> = (0..len).map(|_| draw.below(ITEMS as u64) as u32).collect();
        let ratings: Vec<f32> = ratings().levels.into_iter().cycle().skip(user).take(items.len()).collect();
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
    draw
}

/// Runs a step on a backend. `seed` determines weights, batch and draws. `read` returns the numbers of a span
/// in the backend's type.
pub fn step<B: Backend, R: Copy>(
    s: &Settings,
    seed: u64,
    open: &dyn Fn(&Planner) -> Result<B>,
    read: impl Fn(&mut B, Span<F32>) -> Vec<R>,
) -> Result<Step<R>> {
    let s = &Settings { seed: s.seed + seed, ..s.clone() };
    let mut engine = Engine::<B>::new(s, DataSummary { ratings: Some(ratings()), ..summary()? }, open)?;
    let mut draw = fill(&mut engine, seed);
    const LR: f32 = 1e-3;
    let params = engine.params().to_vec();
    // New patches output zero, and the weights before their zeros have no gradient; make these patches look
    // trained.
    for p in params.iter().filter(|p| p.name.contains(Patch::NAME) && p.name.ends_with(".up.weight")) {
        let values: Vec<f32> = (0..p.w.len()).map(|_| 0.2 * draw.normal()).collect();
        engine.backend.write(p.w.raw(), &values);
    }
    let before: Vec<Vec<f64>> = params.iter().map(|p| values(&mut engine.backend, p.w)).collect();
    let report = engine.step(1, LR)?;
    let mut update = 0.0f64;
    for (p, w) in params.iter().zip(&before) {
        let (g, new) = (values(&mut engine.backend, p.dw), values(&mut engine.backend, p.w));
        let error = match p.frozen {
            true if *w == new => 0.0,
            true => f64::INFINITY,
            false => update_error(s, p.decay, LR as f64, report.norm as f64, [w, &new, &g]),
        };
        update = if error.is_nan() { error } else { update.max(error) };
    }
    let gradients = params.iter().map(|p| read(&mut engine.backend, p.dw)).collect();
    let loss = engine.loss_span();
    let loss = read(&mut engine.backend, loss)[0];
    engine.backend.sync()?;
    Ok(Step { names: params.into_iter().map(|p| p.name).collect(), loss, gradients, update })
}

/// Reads the numbers of a span from any backend.
pub fn values<B: Backend>(b: &mut B, span: Span<F32>) -> Vec<f64> {
    let mut values = vec![0.0; span.len()];
    b.read(span.raw(), &mut values);
    values.into_iter().map(f64::from).collect()
}

/// Runs the step in plain loops in the arithmetic of `S`.
fn on_host<S: Scalar>(s: &Settings, seed: u64) -> Result<Step<S>> {
    let read = |r: &mut Reference<S>, span: Span<F32>| r.arenas.get(span.raw()).to_vec();
    step(s, seed, &|plan| Ok(Reference::<S>::new(plan)), read)
}

/// The expected results of a step, for devices of one or both kinds of products.
pub struct Expected {
    /// The seed of the step.
    pub seed: u64,
    exact: Step<Traced>,
    /// The results of plain loops in the same precision.
    plain: Vec<(Precision, Step<f64>)>,
}

fn plainly<S: Scalar>(s: &Settings, seed: u64) -> Result<Step<f64>> {
    let Step { names, loss, gradients, update } = on_host::<S>(s, seed)?;
    let gradients = gradients.iter().map(|g| g.iter().map(|x| x.f64()).collect()).collect();
    Ok(Step { names, loss: loss.f64(), gradients, update })
}

impl Expected {
    /// Computes the `nth` expected step, once for all kinds of devices. A step that depends on a comparison too
    /// close for f32 is skipped for the next one, because it proves nothing.
    pub fn of(s: &Settings, nth: u64, kinds: &[Numerics]) -> Result<Self> {
        for seed in (0..).map(|again| nth + 1_000_000 * again) {
            let exact = || {
                Traced::close_calls();
                Ok((on_host::<Traced>(s, seed)?, Traced::close_calls()))
            };
            let plain = || {
                let one = |kind: &Numerics| {
                    let step = match kind.products {
                        Precision::F32 => plainly::<f32>(s, seed)?,
                        Precision::Bf16 => plainly::<Bf16Products>(s, seed)?,
                    };
                    Ok((kind.products, step))
                };
                kinds.iter().map(one).collect::<Result<Vec<_>>>()
            };
            let (exact, plain) = rayon::join(exact, plain);
            if let (exact, 0) = exact? {
                return Ok(Expected { seed, exact, plain: plain? });
            }
        }
        unreachable!("there is always another")
    }

    /// Returns the allowed error of the loss, and of the gradient of each parameter as a whole (Euclidean
    /// norm): a few times the error of plain loops, or a bound on correct rounding where the plain loops were
    /// exact by chance.
    ///
    /// Plain loops keep activations in f32. The error of storing them in bf16 is included by the numbers that
    /// count roundings (`Scalar::stored`).
    pub fn budgets(&self, kind: Numerics) -> (f64, Vec<f64>) {
        let found = self.plain.iter().find(|(p, _)| *p == kind.products);
        let plain = &found.expect("this precision was asked for").1;
        let factor = if kind.products == Precision::Bf16 { 6.0 } else { 3.0 };
        let budget =
            |plain: &[f64], exact: &[Traced]| (factor * distance(plain, exact)).max(Traced::allowed(exact, kind));
        let gradients = plain.gradients.iter().zip(&self.exact.gradients);
        (budget(&[plain.loss], &[self.exact.loss]), gradients.map(|(plain, exact)| budget(plain, exact)).collect())
    }

    /// Compares the step of a device: returns the errors of loss and gradients as shares of their budgets, and all
    /// faults.
    pub fn compare(&self, got: &Step<f64>, kind: Numerics) -> ((f64, f64), Vec<String>) {
        let (loss, gradients) = self.budgets(kind);
        let mut faults = Vec::new();
        let mut compare = |name: &str, error: f64, budget: f64| {
            // A parameter that nothing depends on has a gradient of exact zeros and a budget of 0.
            let share = if error == 0.0 { 0.0 } else { error / budget };
            if share.is_nan() || share > 1.0 {
                faults.push(format!("{name}: error {error:.2e}, allowed {budget:.2e}"));
            }
            share
        };
        let forward = compare("loss", distance(&[got.loss], &[self.exact.loss]), loss);
        let mut worst = 0.0f64;
        for (i, name) in self.exact.names.iter().enumerate() {
            let error = distance(&got.gradients[i], &self.exact.gradients[i]);
            let share = compare(&format!("gradient of {name}"), error, gradients[i]);
            worst = if share.is_nan() { share } else { worst.max(share) };
        }
        if got.update.is_nan() || got.update > 1.0 {
            faults.push(format!("an updated weight is off by {:.1} times what is allowed", got.update));
        }
        ((forward, worst), faults)
    }
}

fn distance(a: &[f64], b: &[Traced]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y.f64()).powi(2)).sum::<f64>().sqrt()
}
