//! Losses over scored rows: full softmax over the catalogue, or sampled softmax with negatives shared by the batch.

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    layers::Input,
    mem::{Dst, F32, Planner, Span, U32, Var},
    models::Representations,
    ops::{
        Backend, CrossEntropyBwd, CrossEntropyFwd, GatherTable, Memory, SampledSoftmaxBwd, SampledSoftmaxFwd,
        SegmentSum, WeightedMean, sort_ids::Sorted,
    },
};

/// Which items a scored row is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross-entropy over the whole catalogue.
    Softmax,
    /// Cross-entropy against shared negatives drawn uniformly.
    SampledUniform,
    /// Cross-entropy against shared negatives drawn by popularity.
    SampledPopularity,
}

/// The loss and how many negatives it draws.
#[derive(Clone, Copy, Debug)]
pub struct LossSettings {
    pub kind: LossKind,
    /// Negatives (S) shared by a batch.
    pub negatives: usize,
    /// Whether logits are corrected by the log of an item's expected count among the negatives.
    pub log_q: bool,
}

/// Spans of the sampled loss.
#[derive(Clone, Debug)]
struct Sampled {
    pos: Span<crate::mem::Act>,
    neg: Var,
    g0: Span<F32>,
    dneg_bias: Span<crate::mem::Act>,
    log_q: Span<F32>,
    negative: Span<U32>,
    /// Targets and negatives, sorted together.
    by: Sorted,
    s: usize,
    popular: bool,
}

/// The planned loss. `value` is the mean over the scored rows.
#[derive(Clone, Debug)]
pub struct Loss {
    r: Representations,
    loss: Span<F32>,
    lse: Span<F32>,
    /// (M) what each scored row counts in the mean: 1/M, or 0 where it is padding. The batch is made with it.
    pub weight: Span<F32>,
    /// (1) mean loss of the batch.
    pub value: Span<F32>,
    /// (M) items that were hidden. The batch is made with them.
    pub target: Span<U32>,
    sampled: Option<Sampled>,
    seed: u64,
}

/// Host-side scratch of a loss, reused from batch to batch.
#[derive(Debug, Default)]
pub struct HostLoss {
    negative: Vec<u32>,
    /// Interactions up to and including each item: what popularity is drawn from.
    cumulative: Vec<u64>,
}

impl Loss {
    /// Over the scored rows of `r`, their mean into `value`.
    ///
    /// # Errors
    /// Sampled losses want at least one negative and a catalogue of two items.
    pub fn plan(
        p: &mut Planner,
        c: &LossSettings,
        r: Representations,
        input: &Input,
        value: Span<F32>,
        seed: u64,
    ) -> Result<Self> {
        let m = input.capacity.m;
        p.label("loss");
        let sampled = match c.kind {
            LossKind::Softmax => None,
            _ if c.negatives == 0 => {
                return Err(Error::user("a sampled loss with 0 negatives").hint("say how many: --negatives 512"));
            }
            _ if r.v < 2 => {
                return Err(
                    Error::user(format!("a sampled loss over a catalogue of {} items", r.v)).hint("use --loss softmax")
                );
            }
            kind => {
                let (s, d) = (c.negatives, r.d);
                Some(Sampled {
                    pos: p.act(m * d),
                    neg: p.var(s * d),
                    g0: p.stat(m),
                    dneg_bias: p.act(s),
                    log_q: p.stat(r.v),
                    negative: p.index(s),
                    by: Sorted::plan(p, m + s),
                    s,
                    popular: kind == LossKind::SampledPopularity,
                })
            }
        };
        Ok(Loss { loss: p.stat(m), lse: p.stat(m), weight: p.stat(m), value, target: p.index(m), sampled, seed, r })
    }

    /// Host scratch; for sampled losses also uploads the log of each item's expected count, from `counts` (V), the
    /// training interactions of each item (popularity sampling adds one to each, so that every item can be drawn).
    pub fn prepare<B: Memory>(&self, b: &mut B, counts: &[u64], log_q: bool) -> HostLoss {
        let mut host = HostLoss::default();
        if let Some(sampled) = &self.sampled {
            let mut sum = 0;
            host.cumulative = (0..self.r.v)
                .map(|i| {
                    sum += if sampled.popular { counts[i] + 1 } else { 1 };
                    sum
                })
                .collect();
            let mut before = 0;
            let expected = |upto: &u64| {
                let share = (upto - before) as f64 / sum as f64;
                before = *upto;
                if log_q { (sampled.s as f64 * share).ln() as f32 } else { 0.0 }
            };
            let values: Vec<f32> = host.cumulative.iter().map(expected).collect();
            b.write(sampled.log_q.raw(), &values);
        }
        host
    }

    /// Draws the negatives of a batch (with replacement: stream `step`).
    pub fn upload<B: Memory>(&self, b: &mut B, host: &mut HostLoss, step: u32) {
        if let Some(sampled) = &self.sampled {
            let mut draw = Stream::new(self.seed, Purpose::Negative, step);
            let total = *host.cumulative.last().expect("prepared");
            host.negative.clear();
            for _ in 0..sampled.s {
                let x = draw.below(total);
                host.negative.push(host.cumulative.partition_point(|c| *c <= x) as u32);
            }
            b.write_ids(sampled.negative, &host.negative);
        }
    }

    /// Mean loss of `m` scored rows into `value`.
    pub fn forward<B: Backend>(&self, b: &mut B, m: usize) {
        let r = &self.r;
        match &self.sampled {
            None => b.run(&CrossEntropyFwd {
                loss: self.loss,
                lse: self.lse,
                h: r.scored.y,
                table: r.item.w,
                bias: r.item_bias.w,
                target: self.target,
                m,
                d: r.d,
                v: r.v,
            }),
            Some(s) => {
                let (d, v) = (r.d, r.v);
                b.run(&GatherTable { y: s.pos, table: r.item.w, id: self.target, n: m, d, v });
                b.run(&GatherTable { y: s.neg.y, table: r.item.w, id: s.negative, n: s.s, d, v });
                b.run(&SampledSoftmaxFwd {
                    loss: self.loss,
                    lse: self.lse,
                    h: r.scored.y,
                    pos: s.pos,
                    neg: s.neg.y,
                    bias: r.item_bias.w,
                    log_q: s.log_q,
                    target: self.target,
                    negative: s.negative,
                    own: Span::empty(),
                    m,
                    d,
                    s: s.s,
                });
            }
        }
        b.run(&WeightedMean { y: self.value, x: self.loss, w: self.weight, n: m });
    }

    /// Writes the gradients of the scored rows, the item table (special rows: zero) and the item bias.
    pub fn backward<B: Backend>(&self, b: &mut B, m: usize) {
        let r = &self.r;
        let (d, v) = (r.d, r.v);
        let Some(s) = &self.sampled else {
            b.run(&CrossEntropyBwd {
                dh: Dst::Write(r.scored.dy),
                dtable: Dst::Write(r.item.dw.first(v * d)),
                dbias: Dst::Write(r.item_bias.dw),
                dloss: self.weight,
                h: r.scored.y,
                table: r.item.w,
                bias: r.item_bias.w,
                target: self.target,
                lse: self.lse,
                m,
                d,
                v,
            });
            let special = r.item.shape[0] - v;
            // Of no rows: zeros.
            let (dtable, none) = (Dst::Write(r.item.dw.slice(v * d, special * d)), Sorted::empty());
            b.run(&SegmentSum::of(dtable, r.scored.dy, &none, [0, d, special]));
            return;
        };
        b.run(&SampledSoftmaxBwd {
            g0: s.g0,
            dh: Dst::Write(r.scored.dy),
            dneg: Dst::Write(s.neg.dy),
            dneg_bias: Dst::Write(s.dneg_bias),
            dloss: self.weight,
            h: r.scored.y,
            pos: s.pos,
            neg: s.neg.y,
            bias: r.item_bias.w,
            log_q: s.log_q,
            target: self.target,
            negative: s.negative,
            own: Span::empty(),
            lse: self.lse,
            m,
            d,
            s: s.s,
        });
        let rows = r.item.shape[0];
        b.run(&s.by.sort(&[(s.negative, s.s), (self.target, m)], rows));
        let (h, order, key) = (r.scored.y, s.by.order, s.by.key);
        let (dtable, dy) = (Dst::Write(r.item.dw), Span::empty());
        let sum = SegmentSum { dtable, dy, panel: s.neg.dy, g: s.g0, h, order, key, n: 0, s: s.s, m, p: 1, d, v: rows };
        b.run(&sum);
        b.run(&SegmentSum { dtable: Dst::Write(r.item_bias.dw), panel: s.dneg_bias, h: Span::empty(), d: 1, v, ..sum });
    }
}
