/*! Losses over scored rows: which items a row's target is compared with, and how.

| loss | compared with |
|---|---|
| softmax | the whole catalogue |
| sampled-softmax | negatives that all rows of the batch share, or each row's own |
| bce, gbce, bpr | negatives of each row's own |

A step draws ([`Loss::begin`]), scores ([`Loss::forward`]), takes the gradients of the scores and of the scored rows
([`Loss::backward`]), and, when the model has gone back too, sums up what each row of the item table has coming from all
sides ([`Loss::tables`]): from the input, from shared negatives and from the pairs (gradient of a score, scored row).
*/

mod per_row;
mod shared;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    Objective,
    negatives::{Sampler, SamplerKind, SamplerSettings, gbce_beta},
};
use crate::{
    base::{Error, Result},
    layers::{BatchShape, Capacity, DataSummary, Input},
    mem::{Act, Dst, F32, Planner, Span, U32},
    models::Representations,
    ops::{
        Backend, CrossEntropyBwd, CrossEntropyFwd, DrawCandidates, SegmentRows, SegmentSum, WeightedMean,
        draw_negatives::Sampling, negative_loss::Contrast, sort_ids::Sorted,
    },
};
use per_row::PerRow;
use shared::Shared;

/// How a target is compared with other items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross-entropy over the whole catalogue.
    Softmax,
    /// Cross-entropy against negatives.
    SampledSoftmax,
    /// Binary cross-entropy of the target and each negative.
    Bce,
    /// The same with the target's likelihood to the power of beta (gSASRec).
    Gbce,
    /// The target above each negative, pair by pair (Bayesian personalised ranking).
    Bpr,
    /// What `sampled-softmax` with `sampler = "uniform"` was called.
    #[value(hide = true)]
    SampledUniform,
    /// What `sampled-softmax` with `sampler = "popularity"` was called.
    #[value(hide = true)]
    SampledPopularity,
}

impl LossKind {
    /// The kind and sampler that the names of earlier versions stand for.
    pub fn resolve(self, sampler: SamplerKind) -> (LossKind, SamplerKind) {
        match self {
            LossKind::SampledUniform => (LossKind::SampledSoftmax, SamplerKind::Uniform),
            LossKind::SampledPopularity => (LossKind::SampledSoftmax, SamplerKind::Popularity),
            LossKind::Softmax | LossKind::SampledSoftmax | LossKind::Bce | LossKind::Gbce | LossKind::Bpr => {
                (self, sampler)
            }
        }
    }

    /// All of them and their names, without the names of earlier versions.
    pub fn named() -> Vec<(LossKind, String)> {
        let shown = |kind: &LossKind| {
            let value = kind.to_possible_value().filter(|value| !value.is_hide_set())?;
            Some((*kind, value.get_name().to_string()))
        };
        LossKind::value_variants().iter().filter_map(shown).collect()
    }

    /// The names of the losses that `are`, for sentences: `bce, gbce and bpr`.
    pub fn words(are: impl Fn(LossKind) -> bool, last: &str) -> String {
        let mut names: Vec<String> =
            LossKind::named().into_iter().filter(|(kind, _)| are(*kind)).map(|(_, name)| name).collect();
        match names.pop() {
            Some(end) if !names.is_empty() => format!("{} {last} {end}", names.join(", ")),
            only => only.unwrap_or_default(),
        }
    }

    /// Whether targets are compared with negatives instead of the whole catalogue.
    pub fn sampled(self) -> bool {
        match self {
            LossKind::Softmax => false,
            LossKind::SampledSoftmax
            | LossKind::Bce
            | LossKind::Gbce
            | LossKind::Bpr
            | LossKind::SampledUniform
            | LossKind::SampledPopularity => true,
        }
    }

    /// Whether each row always has negatives of its own, with or without `per-position`.
    pub fn pairwise(self) -> bool {
        match self {
            LossKind::Bce | LossKind::Gbce | LossKind::Bpr => true,
            LossKind::Softmax | LossKind::SampledSoftmax | LossKind::SampledUniform | LossKind::SampledPopularity => {
                false
            }
        }
    }

    /// Whether `log-q` corrects its logits.
    pub fn correctable(self) -> bool {
        match self {
            LossKind::SampledSoftmax | LossKind::SampledUniform | LossKind::SampledPopularity => true,
            LossKind::Softmax | LossKind::Bce | LossKind::Gbce | LossKind::Bpr => false,
        }
    }

    /// Whether `gbce-t` calibrates it.
    pub fn calibrated(self) -> bool {
        match self {
            LossKind::Gbce => true,
            LossKind::Softmax
            | LossKind::SampledSoftmax
            | LossKind::Bce
            | LossKind::Bpr
            | LossKind::SampledUniform
            | LossKind::SampledPopularity => false,
        }
    }
}

/// The loss and its negatives.
#[derive(Clone, Copy, Debug)]
pub struct LossSettings {
    pub kind: LossKind,
    pub sampler: SamplerSettings,
    /// Whether the logits of a sampled softmax are corrected by the log of an item's expected count among the negatives.
    pub log_q: bool,
    /// Whether items of a row's own sequence are no negatives.
    pub exclude_seen: bool,
    /// Calibration of gBCE.
    pub gbce_t: f32,
}

impl LossSettings {
    /// Whether they make sense over a catalogue of `items`; `None`: of any that is large enough.
    ///
    /// # Errors
    /// They do not; says why.
    pub fn check(&self, items: Option<usize>) -> Result<()> {
        if self.kind.calibrated() {
            gbce_beta(self.gbce_t, self.sampler.negatives, 2)?;
        }
        if !self.kind.sampled() {
            return Ok(());
        }
        if self.kind.pairwise() && self.sampler.kind.in_batch() {
            let pairwise = LossKind::words(LossKind::pairwise, "and");
            return Err(Error::user(format!(
                "{pairwise} draw negatives of each row's own: there are none in the batch"
            ))
            .hint("--sampler popularity draws alike, or use --loss sampled-softmax"));
        }
        self.sampler.check(items.unwrap_or(u32::MAX as usize - 1))
    }

    /// Whether each row has negatives of its own.
    fn by_row(&self) -> bool {
        self.kind.pairwise() || self.kind.sampled() && self.sampler.per_row
    }

    /// How each row's candidates are compared; `None`: with the whole catalogue, or with negatives that rows share.
    ///
    /// # Errors
    /// The calibration is out of range.
    fn contrast(&self, items: usize) -> Result<Option<Contrast>> {
        Ok(match self.kind {
            LossKind::Softmax => None,
            LossKind::SampledSoftmax | LossKind::SampledUniform | LossKind::SampledPopularity => {
                self.by_row().then_some(Contrast::Softmax)
            }
            LossKind::Bce => Some(Contrast::Bce { beta: 1.0 }),
            LossKind::Gbce => Some(Contrast::Bce { beta: gbce_beta(self.gbce_t, self.sampler.negatives, items)? }),
            LossKind::Bpr => Some(Contrast::Bpr),
        })
    }
}

/// What targets are compared with.
#[derive(Clone, Debug)]
enum Against {
    Catalogue,
    Shared(Shared),
    PerRow(PerRow),
}

/// Candidates of each row, target first, as they are drawn.
#[derive(Clone, Copy, Debug)]
struct Candidates {
    /// (M,1+S) the target and the row's own negatives; NO_ID in the rows of padding.
    id: Span<U32>,
    /// (M,1+S) gradients of their scores.
    g: Span<F32>,
    /// (M) ln of the probability that a draw misses what the row excludes, or empty: nothing is corrected by it.
    free: Span<F32>,
    /// Negatives of a row's own (S).
    s: usize,
    own: bool,
}

/// The planned loss.
#[derive(Clone, Debug)]
pub struct Loss {
    settings: LossSettings,
    r: Representations,
    input: Input,
    /// (M) of each scored row.
    loss: Span<F32>,
    lse: Span<F32>,
    /// (M) what each scored row counts in the mean: 1/M, or 0 where it is padding. The batch is made with it.
    pub weight: Span<F32>,
    /// (1) mean loss of the batch.
    pub value: Span<F32>,
    /// (M) items that were hidden. The batch is made with them.
    pub target: Span<U32>,
    candidates: Candidates,
    /// (V,2) what negatives are drawn by, or empty.
    alias: Span<U32>,
    /// (V,2) what each item weighs in `alias`, or empty.
    mass: Span<U32>,
    /// (V) log of the expected count, or empty.
    log_q: Span<F32>,
    against: Against,
    /// Rows of the item table that have a gradient coming, sorted.
    by: Sorted,
    seed: u64,
}

impl Loss {
    /// Over the scored rows of `r`, their mean into `value`.
    ///
    /// # Errors
    /// Settings that contradict each other or do not fit the catalogue.
    pub fn plan(
        p: &mut Planner,
        c: &LossSettings,
        r: Representations,
        input: &Input,
        value: Span<F32>,
        seed: u64,
    ) -> Result<Self> {
        c.check(Some(r.v))?;
        p.label("loss");
        let (m, sampler) = (input.capacity.m, &c.sampler);
        let n = if r.rows.is_some() { input.capacity.n } else { 0 };
        let sampled = c.kind.sampled();
        let s = if c.by_row() { sampler.negatives } else { 0 };
        let pairs = if sampled { m * (1 + s) } else { 0 };
        let by_row = c.by_row() && c.kind.correctable() && c.log_q;
        let free = p.stat(if by_row { m } else { 0 });
        let candidates = Candidates { id: p.index(pairs), g: p.stat(pairs), free, s, own: c.exclude_seen };
        let against = match c.contrast(r.v)? {
            Some(contrast) => Against::PerRow(PerRow::plan(p, contrast, pairs)),
            None if sampled => Against::Shared(Shared::plan(p, c, &r, input)),
            None => Against::Catalogue,
        };
        let shared = if let Against::Shared(shared) = &against { shared.most(m) } else { 0 };
        // The kernels of shared negatives always subtract it, those of a row's own where there is one.
        let corrected = matches!(against, Against::Shared(_)) || c.kind.correctable() && c.log_q;
        Ok(Loss {
            settings: *c,
            input: *input,
            loss: p.stat(m),
            lse: p.stat(m),
            weight: p.stat(m),
            value,
            target: p.index(m),
            candidates,
            alias: p.index(if sampled { Sampler::cells_len(sampler.kind, r.v) } else { 0 }),
            mass: p.index(if by_row { Sampler::cells_len(sampler.kind, r.v) } else { 0 }),
            log_q: p.stat(if corrected { r.v } else { 0 }),
            against,
            by: Sorted::plan(p, n + shared + pairs),
            seed,
            r,
        })
    }

    /// Rows of the item table that a batch of capacity `c` touches at most; `None` where it touches all of them.
    pub fn touched(settings: &LossSettings, c: &Capacity) -> Option<usize> {
        let sampler = &settings.sampler;
        settings.kind.sampled().then(|| {
            let each = if settings.by_row() { c.m * sampler.negatives } else { 0 };
            let shared = match settings.by_row() {
                true => 0,
                false if sampler.kind.in_batch() => c.m,
                false => sampler.negatives,
            };
            c.n + c.m + each + shared
        })
    }

    fn by_rows(&self) -> bool {
        self.r.item.last.is_some()
    }

    /// The sorted ids of all rows that have a gradient coming, and how many they are.
    fn sorted_keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        let shared = if let Against::Shared(shared) = &self.against { shared.most(s.m) } else { 0 };
        (self.by.key, self.input_rows(s) + shared + s.m * (1 + self.candidates.s))
    }

    /// Rows of the item table that the model took for its input.
    fn input_rows(&self, s: &BatchShape) -> usize {
        if self.r.rows.is_some() { s.n } else { 0 }
    }

    /// Sorts the ids of all rows of the item table that have a gradient coming: taken by the model, shared, of pairs.
    fn sort(&self, b: &mut dyn Backend, s: &BatchShape) {
        let negative = match &self.against {
            Against::Shared(shared) => shared.negatives(self, s),
            Against::Catalogue | Against::PerRow(_) => (Span::empty(), 0),
        };
        let pairs = (self.candidates.id, s.m * (1 + self.candidates.s));
        let input = (self.input.item, self.input_rows(s));
        b.run(&self.by.sort(&[input, negative, pairs], self.r.item.shape[0]));
    }
}

impl Objective for Loss {
    /// Writes what negatives are drawn by, from the training interactions of each item.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        if matches!(self.against, Against::Catalogue) {
            return Ok(());
        }
        let sampler = Sampler::new(self.settings.sampler, &summary.counts)?;
        b.write_ids(self.alias, sampler.cells());
        if !self.mass.is_empty() {
            b.write_ids(self.mass, &sampler.masses());
        }
        if !self.log_q.is_empty() {
            let log_q = if self.settings.log_q { sampler.log_q() } else { vec![0.0; self.r.v] };
            b.write(self.log_q.raw(), &log_q);
        }
        Ok(())
    }

    /// Draws what the batch is compared with; it has been made.
    fn begin(&self, b: &mut dyn Backend, s: &BatchShape) {
        if matches!(self.against, Against::Catalogue) {
            return;
        }
        let (input, own) = (&self.input, self.candidates);
        let sampling = self.settings.sampler.sampling();
        b.run(&DrawCandidates {
            id: own.id,
            free: own.free,
            mass: self.mass,
            target: self.target,
            raw: input.raw,
            cu: input.cu,
            scored: input.scored,
            alias: self.alias,
            step: input.step,
            m: s.m,
            s: own.s,
            n: s.n,
            b: s.b,
            v: self.r.v,
            // Where negatives are shared these are the targets alone, and nothing is drawn.
            sampling: sampling.filter(|_| own.s > 0).unwrap_or(Sampling::Uniform),
            own: own.own && own.s > 0,
            seed: self.seed,
            t: input.capacity.t,
        });
        if let Against::Shared(shared) = &self.against {
            shared.draw(b, self, sampling);
            shared.mark(b, self, s);
        }
        if self.by_rows() {
            self.sort(b, s);
        }
    }

    /// Mean loss of the scored rows into `value`.
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let r = &self.r;
        match &self.against {
            Against::Catalogue => b.run(&CrossEntropyFwd {
                loss: self.loss,
                lse: self.lse,
                h: r.scored.y,
                table: r.item.w,
                bias: r.item_bias.w,
                target: self.target,
                m: s.m,
                d: r.d,
                v: r.v,
            }),
            Against::Shared(shared) => shared.forward(b, self, s),
            Against::PerRow(rows) => rows.forward(b, self, s),
        }
        b.run(&WeightedMean { y: self.value, x: self.loss, w: self.weight, n: s.m });
    }

    /// Writes the gradients of the scored rows and of the scores; full softmax also those of the item table (special rows:
    /// zero) and the item bias.
    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let r = &self.r;
        let (d, v) = (r.d, r.v);
        match &self.against {
            Against::Catalogue => {
                b.run(&CrossEntropyBwd {
                    dh: Dst::Write(r.scored.dy),
                    dtable: r.item.grad_of(0, v * d),
                    dbias: r.item_bias.grad(),
                    dloss: self.weight,
                    h: r.scored.y,
                    table: r.item.w,
                    bias: r.item_bias.w,
                    target: self.target,
                    lse: self.lse,
                    m: s.m,
                    d,
                    v,
                });
                let special = r.item.shape[0] - v;
                // Of no rows: zeros.
                let (dtable, none) = (r.item.grad_of(v * d, special * d), Sorted::empty());
                b.run(&SegmentSum::of(dtable, r.scored.dy, &none, [0, d, special]));
            }
            Against::Shared(shared) => shared.backward(b, self, s),
            Against::PerRow(rows) => rows.backward(b, self, s),
        }
    }

    /// Sums the gradients of the item table and the item bias, once the model has left those of the rows that it took.
    fn tables(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (r, by) = (&self.r, &self.by);
        let rows = r.item.shape[0];
        let (negatives, panel, dbias) = match &self.against {
            Against::Catalogue => {
                if let (Some(input), false) = (r.rows, r.item.frozen) {
                    b.run(&by.sort(&[(self.input.item, s.n)], rows));
                    b.run(&SegmentSum::of(Dst::Acc(r.item.dw), input.dy, by, [s.n, r.d, rows]));
                }
                return;
            }
            Against::Shared(shared) => (shared.most(s.m), shared.dneg, shared.dneg_bias),
            Against::PerRow(_) => (0, Span::empty(), Span::empty()),
        };
        if !self.by_rows() {
            self.sort(b, s);
        }
        let Candidates { g, s: own, .. } = self.candidates;
        let p = 1 + own;
        let sum = SegmentSum {
            dtable: r.item.grad(),
            dy: r.rows.map_or(Span::empty(), |rows| rows.dy),
            panel,
            g,
            h: r.scored.y,
            order: by.order,
            key: by.key,
            n: self.input_rows(s),
            s: negatives,
            m: s.m,
            p,
            d: r.d,
            v: rows,
        };
        // A bias has no part in the input, and its gradient from a score is that of the score.
        let (dtable, none): (_, Span<Act>) = (r.item_bias.grad(), Span::empty());
        let bias = SegmentSum { dtable, dy: none, panel: dbias, h: none, d: 1, v: r.v, ..sum };
        for sum in [sum, bias] {
            if self.by_rows() {
                sum_by_rows(b, &sum);
            } else {
                b.run(&sum);
            }
        }
    }

    fn value(&self) -> Span<F32> {
        self.value
    }

    fn keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        self.sorted_keys(s)
    }

    fn targets(&self) -> Option<(Span<U32>, Span<F32>)> {
        Some((self.target, self.weight))
    }
}

/// The same sums where only touched rows have a gradient: at the places where their runs begin, zero elsewhere.
fn sum_by_rows(b: &mut dyn Backend, sum: &SegmentSum) {
    let SegmentSum { dtable, dy, panel, g, h, order, key, n, s, m, p, d, v } = *sum;
    let all = dtable.span().expect("a loss trains its table");
    let used = (n + s + m * p) * d;
    b.run(&SegmentRows { rows: all.first(used), dy, panel, g, h, order, key, n, s, m, p, d, v });
    // The gradient norm takes all of it: what a larger batch left behind it goes. Of no rows: zeros.
    let rest = all.slice(used, all.len() - used);
    b.run(&SegmentSum::of(Dst::Write(rest), dy, &Sorted::empty(), [0, d, rest.len() / d]));
}
