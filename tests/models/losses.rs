//! The value of every loss in a training step, compared with its formula implemented independently in f64, from
//! the scored rows, the item table, the targets and the drawn negatives. A kind of loss that runs as another
//! one fails here.

use std::any::Any;

use clap::ValueEnum;
use mipgpu::{
    backend::{Cpu, Reference},
    mem::{RawSpan, Span, U32},
    ops::{Backend, DrawCandidates, DrawNegatives, Memory, NextItems, Op, Run, Valid, WeightedMean},
    tasks::{LossKind, SamplerKind, Sequence},
    train::{Engine, Settings},
};

const ITEMS: usize = 23;
const NEGATIVES: usize = 7;

/// The inputs of a loss, as a step leaves them in memory.
#[derive(Clone, Debug, Default)]
struct Inputs {
    /// (M,D)
    h: Vec<f32>,
    /// (V,D)
    table: Vec<f32>,
    /// (V)
    bias: Vec<f32>,
    /// (M)
    targets: Vec<u32>,
    /// (M) weight of each row in the mean.
    weights: Vec<f32>,
    /// (M,1+S) the target and the negatives of each row; empty for full softmax.
    candidates: Vec<u32>,
    /// (S) negatives shared by all rows; empty if none are drawn.
    shared: Vec<u32>,
}

/// The spans of these inputs.
#[derive(Clone, Copy, Debug)]
struct Places {
    h: RawSpan,
    table: RawSpan,
    bias: RawSpan,
}

/// A backend that reads the inputs of the loss when its mean is computed, before the step changes a weight.
struct Spy<B> {
    inner: B,
    places: Option<Places>,
    targets: Option<Span<U32>>,
    candidates: Option<Span<U32>>,
    shared: Option<Span<U32>>,
    inputs: Inputs,
}

impl<B> Spy<B> {
    fn new(inner: B) -> Self {
        Spy { inner, places: None, targets: None, candidates: None, shared: None, inputs: Inputs::default() }
    }
}

impl<B: Memory> Spy<B> {
    fn real(&mut self, span: RawSpan) -> Vec<f32> {
        let mut values = vec![0.0; span.len()];
        self.inner.read(span, &mut values);
        values
    }

    fn ids(&mut self, span: Option<Span<U32>>) -> Vec<u32> {
        let mut ids = vec![0; span.map_or(0, |span| span.len())];
        if let Some(span) = span {
            self.inner.read_ids(span, &mut ids);
        }
        ids
    }
}

impl<B: Memory + Run<O>, O: Op> Run<O> for Spy<B> {
    fn execute(&mut self, op: &Valid<'_, O>) {
        self.inner.execute(op);
        let op: &dyn Any = &**op;
        if let Some(op) = op.downcast_ref::<NextItems>() {
            self.targets = Some(op.target.first(op.m));
        } else if let Some(op) = op.downcast_ref::<DrawCandidates>() {
            self.candidates = Some(op.id.first(op.m * (1 + op.s)));
        } else if let Some(op) = op.downcast_ref::<DrawNegatives>() {
            self.shared = Some(op.negative.first(op.s));
        } else if let (Some(op), Some(places)) = (op.downcast_ref::<WeightedMean>(), self.places) {
            self.inputs = Inputs {
                h: self.real(places.h),
                table: self.real(places.table),
                bias: self.real(places.bias),
                targets: self.ids(self.targets),
                weights: self.real(op.w.first(op.n).raw()),
                candidates: self.ids(self.candidates),
                shared: self.ids(self.shared),
            };
        }
    }
    fn need(&self, op: &O) -> Result<usize, String> {
        self.inner.need(op)
    }
}

impl<B: Memory> Memory for Spy<B> {
    mipgpu::forward_memory!(self => self.inner);
}

mipgpu::at_once!(Spy<B>, for B: mipgpu::ops::Backend);

/// Training interactions of each item, all different, so that ranks have no ties.
fn counts() -> Vec<u64> {
    (0..ITEMS as u64).map(|i| 1 + (i * 7) % ITEMS as u64).collect()
}

/// The probability of each item in one draw, by the definitions of the samplers.
fn probabilities(sampler: SamplerKind) -> Vec<f64> {
    let counts = counts();
    let by_popularity = || {
        let all: u64 = counts.iter().map(|c| c + 1).sum();
        counts.iter().map(|c| (c + 1) as f64 / all as f64).collect()
    };
    match sampler {
        SamplerKind::Uniform => vec![1.0 / ITEMS as f64; ITEMS],
        SamplerKind::LogUniform => {
            let rank = |c: &u64| counts.iter().filter(|other| *other > c).count() as f64;
            counts.iter().map(|c| ((rank(c) + 2.0) / (rank(c) + 1.0)).ln() / (ITEMS as f64 + 1.0).ln()).collect()
        }
        SamplerKind::Popularity | SamplerKind::InBatch => by_popularity(),
    }
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
}

/// -ln sigma(x)
fn minus_log_sigmoid(x: f64) -> f64 {
    if x > 0.0 { (-x).exp().ln_1p() } else { -x + x.exp().ln_1p() }
}

impl Inputs {
    fn width(&self) -> usize {
        self.table.len() / ITEMS
    }

    /// <h_row, table[item]> + bias[item]
    fn score(&self, row: usize, item: u32) -> f64 {
        let (d, item) = (self.width(), item as usize);
        let products = self.h[row * d..][..d].iter().zip(&self.table[item * d..][..d]);
        products.map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() + self.bias[item] as f64
    }

    /// The row's own negatives.
    fn own(&self, row: usize) -> &[u32] {
        let width = self.candidates.len() / self.targets.len();
        &self.candidates[row * width..][1..width]
    }

    /// Sampled softmax: each negative's score is reduced by ln of its expected count among the row's negatives.
    fn sampled_softmax(&self, s: &Settings, sampler: SamplerKind, row: usize) -> f64 {
        let (p, target) = (probabilities(sampler), self.targets[row]);
        let drawn = NEGATIVES as f64;
        let (negatives, expected): (&[u32], f64) = if s.per_position {
            // The row's own negatives are drawn until they miss the target.
            (self.own(row), drawn / (1.0 - p[target as usize]))
        } else if sampler == SamplerKind::InBatch {
            // The target of every other row.
            (&self.targets, (self.targets.len() - 1) as f64)
        } else {
            (&self.shared, drawn)
        };
        let lowered = |item: &u32| {
            let count = expected * p[*item as usize];
            self.score(row, *item) - if s.log_q { count.ln() } else { 0.0 }
        };
        let positive = self.score(row, target);
        let mut z: Vec<f64> = negatives.iter().filter(|item| **item != target).map(lowered).collect();
        z.push(positive);
        log_sum_exp(&z) - positive
    }

    /// Binary cross-entropy of the target, to the power of `beta`, and of the row's negatives.
    fn binary(&self, row: usize, beta: f64) -> f64 {
        let own = self.own(row);
        let negatives: f64 = own.iter().map(|item| minus_log_sigmoid(-self.score(row, *item))).sum();
        let positive = beta * minus_log_sigmoid(self.score(row, self.targets[row]));
        (positive + negatives) / (1 + own.len()) as f64
    }

    /// The loss of a row. A kind of loss without a formula here does not compile.
    fn row(&self, s: &Settings, row: usize) -> f64 {
        let positive = self.score(row, self.targets[row]);
        match s.loss {
            LossKind::Softmax => {
                let all: Vec<f64> = (0..ITEMS as u32).map(|item| self.score(row, item)).collect();
                log_sum_exp(&all) - positive
            }
            LossKind::SampledSoftmax => self.sampled_softmax(s, s.sampler, row),
            LossKind::SampledUniform => self.sampled_softmax(s, SamplerKind::Uniform, row),
            LossKind::SampledPopularity => self.sampled_softmax(s, SamplerKind::Popularity, row),
            LossKind::Bce => self.binary(row, 1.0),
            LossKind::Gbce => {
                let (alpha, t) = (NEGATIVES as f64 / (ITEMS - 1) as f64, s.gbce_t as f64);
                self.binary(row, alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha))
            }
            LossKind::Bpr => {
                let own = self.own(row);
                let pair = |item: &u32| minus_log_sigmoid(positive - self.score(row, *item));
                own.iter().map(pair).sum::<f64>() / own.len() as f64
            }
        }
    }

    fn loss(&self, s: &Settings) -> f64 {
        (0..self.targets.len()).map(|row| self.weights[row] as f64 * self.row(s, row)).sum()
    }
}

/// Returns the loss that a training step reports, and its inputs.
fn step<B: Backend>(s: &Settings, open: impl Fn(&mipgpu::mem::Planner) -> B) -> (f64, Inputs) {
    let mut engine = Engine::new(s, &counts(), |plan| Ok(Spy::new(open(plan)))).unwrap();
    let r = engine.representations().clone();
    // A bias of zero would hide a missing one.
    let bias: Vec<f32> = (0..r.v).map(|i| (i as f32 * 1.7).sin()).collect();
    engine.backend.write(r.item_bias.w.raw(), &bias);
    let places = |m: usize| Places {
        h: r.scored.y.first(m * r.d).raw(),
        table: r.item.w.first(r.v * r.d).raw(),
        bias: r.item_bias.w.raw(),
    };
    engine.begin(1);
    let sequences: [&[u32]; 3] = [&[3, 9, 14, 2, 20, 7], &[5, 21, 1], &[11, 0, 17, 16, 8, 19, 12]];
    for (user, items) in sequences.into_iter().enumerate() {
        engine.push(user as u64, Sequence::Items(items));
    }
    let m = sequences.iter().map(|items| items.len() - 1).sum();
    engine.backend.places = Some(places(m));
    let report = engine.step(1, 1e-3).unwrap();
    let inputs = engine.backend.inputs.clone();
    assert_eq!((inputs.targets.len(), inputs.weights.len()), (m, m), "{:?}: rows of the step", s.loss);
    (report.loss as f64, inputs)
}

/// Every kind of loss with every sampler, with and without the settings that change its formula.
fn variants() -> Vec<Settings> {
    let mut all = Vec::new();
    for loss in LossKind::value_variants() {
        let base = Settings {
            model: "sasrec".into(),
            task: "next-item".into(),
            width: 8,
            heads: 2,
            blocks: 1,
            length: 9,
            batch: 3,
            dropout: 0.0,
            init_std: 0.5,
            negatives: NEGATIVES,
            loss: *loss,
            ..Settings::default()
        };
        for sampler in SamplerKind::value_variants() {
            for (per_position, log_q) in [(false, true), (false, false), (true, true), (true, false)] {
                let s = Settings { sampler: *sampler, per_position, log_q, ..base.clone() };
                if s.check().is_ok() {
                    all.push(s);
                }
            }
        }
        assert!(all.iter().any(|s| s.loss == *loss), "{loss:?}: no settings that it accepts");
    }
    all
}

#[test]
fn every_loss_has_the_value_of_its_formula() {
    let mut wrong = Vec::new();
    for s in variants() {
        let steps = [("reference", step(&s, Reference::<f64>::new)), ("cpu", step(&s, Cpu::new))];
        for (backend, (loss, inputs)) in steps {
            let want = inputs.loss(&s);
            if (loss - want).abs().total_cmp(&(1e-5 * want.abs())).is_gt() {
                let what = (s.loss, s.sampler, ("per_position", s.per_position), ("log_q", s.log_q));
                wrong.push(format!("{what:?} on {backend}: {loss}, by its formula {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// For the same inputs no two kinds have the same value, so the test above distinguishes them.
#[test]
fn the_formulas_differ() {
    let of = |loss: LossKind| variants().into_iter().find(|s| s.loss == loss).unwrap();
    let (_, shared) = step(&of(LossKind::SampledSoftmax), Cpu::new);
    let (_, own) = step(&of(LossKind::Bce), Cpu::new);
    let inputs = Inputs { shared: shared.shared, ..own };
    let kinds = LossKind::value_variants();
    let values: Vec<f64> = kinds.iter().map(|loss| inputs.loss(&of(*loss))).collect();
    for (i, a) in kinds.iter().enumerate() {
        for (j, b) in kinds.iter().enumerate().skip(i + 1) {
            // `sampled-uniform` is a former name of `sampled-softmax` with its default sampler.
            let same = a.resolve(SamplerKind::Uniform) == b.resolve(SamplerKind::Uniform);
            let close = (values[i] - values[j]).abs() <= 1e-3 * values[i].abs();
            assert_eq!(same, close, "{a:?} {} and {b:?} {}", values[i], values[j]);
        }
    }
}
