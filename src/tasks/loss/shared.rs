//! Sampled softmax against negatives that all rows of a batch share: one panel of table rows, products of matrices.

use super::{Loss, LossSettings};
use crate::{
    layers::{BatchShape, Input},
    mem::{Act, Dst, Planner, Span, U32},
    models::Representations,
    ops::{
        Backend, DrawNegatives, GatherTable, MarkOwn, SampledSoftmaxBwd, SampledSoftmaxFwd, draw_negatives::Sampling,
    },
};

/// What the shared negatives take.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// (M,D) table rows of the targets.
    pos: Span<Act>,
    /// (S,D) table rows of the negatives; in-batch these are `pos`.
    neg: Span<Act>,
    pub dneg: Span<Act>,
    /// (S)
    pub dneg_bias: Span<Act>,
    /// (S) or empty: the batch's own targets.
    negative: Span<U32>,
    /// (M,ceil(S/32)) which of them are a row's own items, or empty.
    own: Span<U32>,
    s: usize,
    in_batch: bool,
}

impl Shared {
    pub fn plan(p: &mut Planner, c: &LossSettings, r: &Representations, input: &Input) -> Self {
        let (m, d, in_batch) = (input.capacity.m, r.d, c.sampler.kind.in_batch());
        let s = if in_batch { m } else { c.sampler.negatives };
        let pos = p.act(m * d);
        Shared {
            pos,
            neg: if in_batch { pos } else { p.act(s * d) },
            dneg: p.act(s * d),
            dneg_bias: p.act(s),
            negative: p.index(if in_batch { 0 } else { s }),
            own: if c.exclude_seen { p.index(m * s.div_ceil(32)) } else { Span::empty() },
            s,
            in_batch,
        }
    }

    /// Negatives of a batch of `m` scored rows.
    pub fn most(&self, m: usize) -> usize {
        if self.in_batch { m } else { self.s }
    }

    /// The negatives of a batch, and how many they are.
    pub fn negatives(&self, loss: &Loss, s: &BatchShape) -> (Span<U32>, usize) {
        // Rows of padding have no candidate, so they are no negatives either.
        (if self.in_batch { loss.candidates.id } else { self.negative }, self.most(s.m))
    }

    /// Whether their number is that of the batch's targets, and to be taken off.
    fn counted(&self, loss: &Loss) -> bool {
        self.in_batch && loss.settings.log_q
    }

    /// How many targets the batch has: rows of padding stand behind those of the last sequence.
    fn targets(&self, loss: &Loss, s: &BatchShape) -> Span<U32> {
        if self.counted(loss) { loss.input.scored.slice(s.b, 1) } else { Span::empty() }
    }

    pub fn draw(&self, b: &mut dyn Backend, loss: &Loss, sampling: Option<Sampling>) {
        if let Some(sampling) = sampling {
            b.run(&DrawNegatives {
                negative: self.negative,
                alias: loss.alias,
                step: loss.input.step,
                s: self.s,
                v: loss.r.v,
                sampling,
                seed: loss.seed,
            });
        }
    }

    /// Marks each row's own items among the negatives, where they are excluded.
    pub fn mark(&self, b: &mut dyn Backend, loss: &Loss, s: &BatchShape) {
        let (input, (negative, count)) = (&loss.input, self.negatives(loss, s));
        if self.own.is_empty() {
            return;
        }
        b.run(&MarkOwn {
            own: self.own,
            negative,
            raw: input.raw,
            cu: input.cu,
            scored: input.scored,
            m: s.m,
            s: count,
            n: s.n,
            b: s.b,
            t: input.capacity.t,
        });
    }

    pub fn forward(&self, b: &mut dyn Backend, loss: &Loss, s: &BatchShape) {
        let (r, (negative, count)) = (&loss.r, self.negatives(loss, s));
        let (m, d, v, target) = (s.m, r.d, r.v, loss.candidates.id);
        b.run(&GatherTable { y: self.pos, table: r.item.w, id: target, n: m, d, v });
        if !self.in_batch {
            b.run(&GatherTable { y: self.neg, table: r.item.w, id: negative, n: count, d, v });
        }
        b.run(&SampledSoftmaxFwd {
            loss: loss.loss,
            lse: loss.lse,
            h: r.scored.y,
            pos: self.pos,
            neg: self.neg,
            bias: r.item_bias.w,
            log_q: loss.log_q,
            target,
            negative,
            own: self.own,
            targets: self.targets(loss, s),
            m,
            d,
            s: count,
            in_batch: self.counted(loss),
        });
    }

    pub fn backward(&self, b: &mut dyn Backend, loss: &Loss, s: &BatchShape) {
        let (r, (negative, count)) = (&loss.r, self.negatives(loss, s));
        b.run(&SampledSoftmaxBwd {
            g0: loss.candidates.g,
            dh: Dst::Write(r.scored.dy),
            dneg: Dst::Write(self.dneg),
            dneg_bias: Dst::Write(self.dneg_bias),
            dloss: loss.weight,
            h: r.scored.y,
            pos: self.pos,
            neg: self.neg,
            bias: r.item_bias.w,
            log_q: loss.log_q,
            target: loss.candidates.id,
            negative,
            own: self.own,
            targets: self.targets(loss, s),
            lse: loss.lse,
            m: s.m,
            d: r.d,
            s: count,
            in_batch: self.counted(loss),
        });
    }
}
