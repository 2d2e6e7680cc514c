/*! Losses over scored rows: the items that the target of a row is compared with, and the comparison.

| loss | compared with |
|---|---|
| softmax | the whole catalogue |
| sampled-softmax | negatives shared by all rows of the batch, or separate negatives of each row |
| bce, gbce, bpr | separate negatives of each row |

A step has four parts:

1. [`Loss::begin`] draws negatives.
2. [`Loss::forward`] computes scores and the loss.
3. [`Loss::backward`] computes the gradients of the scores and of the scored rows.
4. [`Loss::tables`] runs after the backward pass of the model and sums the gradients of each row of the item table: from
   the input, from shared negatives, and from the pairs (gradient of a score, scored row).
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

/// Selects how a target is compared with other items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross-entropy over the whole catalogue.
    Softmax,
    /// Cross-entropy over the target and sampled negatives.
    SampledSoftmax,
    /// Binary cross-entropy of the target and each negative.
    Bce,
    /// Binary cross-entropy with the target's likelihood to the power of beta (gSASRec).
    Gbce,
    /// Bayesian personalised ranking: the target above each negative, pairwise.
    Bpr,
    /// The former name of `sampled-softmax` with `sampler = "uniform"`.
    #[value(hide = true)]
    SampledUniform,
    /// The former name of `sampled-softmax` with `sampler = "popularity"`.
    #[value(hide = true)]
    SampledPopularity,
}

impl LossKind {
    /// Replaces names of earlier versions with the kind and sampler that they stand for.
    pub fn resolve(self, sampler: SamplerKind) -> (LossKind, SamplerKind) {
        match self {
            LossKind::SampledUniform => (LossKind::SampledSoftmax, SamplerKind::Uniform),
            LossKind::SampledPopularity => (LossKind::SampledSoftmax, SamplerKind::Popularity),
            LossKind::Softmax | LossKind::SampledSoftmax | LossKind::Bce | LossKind::Gbce | LossKind::Bpr => {
                (self, sampler)
            }
        }
    }

    /// Returns all kinds and their names, without the names of earlier versions.
    pub fn named() -> Vec<(LossKind, String)> {
        let shown = |kind: &LossKind| {
            let value = kind.to_possible_value().filter(|value| !value.is_hide_set())?;
            Some((*kind, value.get_name().to_string()))
        };
        LossKind::value_variants().iter().filter_map(shown).collect()
    }

    /// Returns the names of the losses that satisfy `are`, as an enumeration for messages: `bce, gbce and bpr`.
    pub fn words(are: impl Fn(LossKind) -> bool, last: &str) -> String {
        let mut names: Vec<String> =
            LossKind::named().into_iter().filter(|(kind, _)| are(*kind)).map(|(_, name)| name).collect();
        match names.pop() {
            Some(end) if !names.is_empty() => format!("{} {last} {end}", names.join(", ")),
            only => only.unwrap_or_default(),
        }
    }

    /// Returns whether targets are compared with negatives instead of the whole catalogue.
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

    /// Returns whether each row always has its own negatives, with or without `per-position`.
    pub fn pairwise(self) -> bool {
        match self {
            LossKind::Bce | LossKind::Gbce | LossKind::Bpr => true,
            LossKind::Softmax | LossKind::SampledSoftmax | LossKind::SampledUniform | LossKind::SampledPopularity => {
                false
            }
        }
    }

    /// Returns whether `log-q` corrects its logits.
    pub fn correctable(self) -> bool {
        match self {
            LossKind::SampledSoftmax | LossKind::SampledUniform | LossKind::SampledPopularity => true,
            LossKind::Softmax | LossKind::Bce | LossKind::Gbce | LossKind::Bpr => false,
        }
    }

    /// Returns whether `gbce-t` calibrates it.
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

/// Settings of the loss and its negatives.
#[derive(Clone, Copy, Debug)]
pub struct LossSettings {
    pub kind: LossKind,
    pub sampler: SamplerSettings,
    /// Whether the logits of a sampled softmax are corrected by the log of an item's expected count among the
    /// negatives.
    pub log_q: bool,
    /// Whether items of a row's own sequence are excluded from its negatives.
    pub exclude_seen: bool,
    /// Calibration of gBCE.
    pub gbce_t: f32,
}

impl LossSettings {
    /// Checks that the settings are valid for a catalogue of `items`; `None` stands for any sufficiently large
    /// catalogue.
    ///
    /// # Errors
    /// They are not valid; the error names the reason.
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
                "--sampler in-batch cannot be combined with {pairwise}, which draw separate negatives for each row"
            ))
            .hint("use --sampler popularity, which is similar, or --loss sampled-softmax"));
        }
        self.sampler.check(items.unwrap_or(u32::MAX as usize - 1))
    }

    /// Returns whether each row has its own negatives.
    fn by_row(&self) -> bool {
        self.kind.pairwise() || self.kind.sampled() && self.sampler.per_row
    }

    /// Returns how the target of a row is compared with the row's own negatives. Returns `None` if it is compared with
    /// the whole catalogue or with shared negatives.
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

/// The items that targets are compared with.
#[derive(Clone, Debug)]
enum Against {
    Catalogue,
    Shared(Shared),
    PerRow(PerRow),
}

/// The candidates of each row, target first.
#[derive(Clone, Copy, Debug)]
struct Candidates {
    /// (M,1+S) the target and the row's own negatives; NO_ID in padding rows.
    id: Span<U32>,
    /// (M,1+S) gradients of their scores.
    g: Span<F32>,
    /// (M) ln of the probability that a draw misses the items that the row excludes; empty if there is no correction.
    free: Span<F32>,
    /// Number of own negatives per row (S).
    s: usize,
    /// Whether a row excludes all items of its own sequence.
    own: bool,
}

/// The planned loss.
#[derive(Clone, Debug)]
pub struct Loss {
    settings: LossSettings,
    r: Representations,
    input: Input,
    /// (M) loss of each scored row.
    loss: Span<F32>,
    lse: Span<F32>,
    /// (M) weight of each scored row in the mean: 1/M, or 0 for padding. Written when the batch is made.
    pub weight: Span<F32>,
    /// (1) mean loss of the batch.
    pub value: Span<F32>,
    /// (M) target item of each scored row. Written when the batch is made.
    pub target: Span<U32>,
    candidates: Candidates,
    /// (V,2) alias table that negatives are drawn from, or empty.
    alias: Span<U32>,
    /// (V,2) weight of each item in `alias`, or empty.
    mass: Span<U32>,
    /// (V) log of the expected count, or empty.
    log_q: Span<F32>,
    against: Against,
    /// Sorted ids of the rows of the item table that get a gradient.
    by: Sorted,
    seed: u64,
}

impl Loss {
    /// Plans the loss over the scored rows of `r`. The mean is written to `value`.
    ///
    /// # Errors
    /// The settings contradict each other or do not fit the catalogue.
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
        // Kernels of shared negatives always subtract log q, kernels of per-row negatives only if it is not empty.
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

    /// Returns the maximum number of rows of the item table that a batch of capacity `c` touches, or `None` for all
    /// rows.
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

    /// Returns the sorted ids of all rows that get a gradient, and their number.
    fn sorted_keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        let shared = if let Against::Shared(shared) = &self.against { shared.most(s.m) } else { 0 };
        (self.by.key, self.input_rows(s) + shared + s.m * (1 + self.candidates.s))
    }

    /// Returns the number of rows of the item table that the model reads as input.
    fn input_rows(&self, s: &BatchShape) -> usize {
        if self.r.rows.is_some() { s.n } else { 0 }
    }

    /// Sorts the ids of all rows of the item table that get a gradient: input of the model, shared negatives, pairs.
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
    /// Writes the tables that negatives are drawn from, computed from the number of training interactions of each item.
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

    /// Draws the negatives of a batch, after the batch is made.
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
            // With shared negatives, the candidates are the targets only and nothing is drawn.
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

    /// Computes the mean loss of the scored rows into `value`.
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

    /// Writes the gradients of the scored rows and of the scores. Full softmax also writes those of the item table
    /// (zero for special rows) and of the item bias.
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
                // A sum over no rows writes zeros.
                let (dtable, none) = (r.item.grad_of(v * d, special * d), Sorted::empty());
                b.run(&SegmentSum::of(dtable, r.scored.dy, &none, [0, d, special]));
            }
            Against::Shared(shared) => shared.backward(b, self, s),
            Against::PerRow(rows) => rows.backward(b, self, s),
        }
    }

    /// Sums the gradients of the item table and the item bias, after the model has written those of its input rows.
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
        // The bias is not part of the input. Its gradient from a score is the gradient of the score.
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

/// Computes `sum` for touched rows only. Each sum is written where the run of its row begins; all other places are
/// zero.
fn sum_by_rows(b: &mut dyn Backend, sum: &SegmentSum) {
    let SegmentSum { dtable, dy, panel, g, h, order, key, n, s, m, p, d, v } = *sum;
    let all = dtable.span().expect("a loss trains its table");
    let used = (n + s + m * p) * d;
    b.run(&SegmentRows { rows: all.first(used), dy, panel, g, h, order, key, n, s, m, p, d, v });
    // The gradient norm reads the whole span, so values of an earlier, larger batch are cleared. A sum over no rows
    // writes zeros.
    let rest = all.slice(used, all.len() - used);
    b.run(&SegmentSum::of(Dst::Write(rest), dy, &Sorted::empty(), [0, d, rest.len() / d]));
}
