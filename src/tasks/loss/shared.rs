//! Sampled softmax with negatives shared by all rows of a batch: one panel of table rows and matrix products.

use super::{Loss, LossSettings};
use crate::{
    layers::{BatchShape, Input},
    mem::{Act, Dst, Planner, Span, U32},
    models::Representations,
    ops::{
        Backend, DrawNegatives, GatherTable, MarkOwn, SampledSoftmaxBwd, SampledSoftmaxFwd, draw_negatives::Sampling,
    },
};

/// Memory of the shared negatives.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// (M,D) table rows of the targets.
    pos: Span<Act>,
    /// (S,D) table rows of the negatives; `pos` for in-batch negatives.
    neg: Span<Act>,
    pub dneg: Span<Act>,
    /// (S)
    pub dneg_bias: Span<Act>,
    /// (S) ids of the negatives; empty for in-batch negatives.
    negative: Span<U32>,
    /// (M,ceil(S/32)) bits that mark the negatives in the row's own sequence, or empty.
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

    /// Returns the number of negatives of a batch of `m` scored rows.
    pub fn most(&self, m: usize) -> usize {
        if self.in_batch { m } else { self.s }
    }

    /// Returns the negatives of a batch and their number.
    pub fn negatives(&self, loss: &Loss, s: &BatchShape) -> (Span<U32>, usize) {
        // Padding rows have no candidate, so they are not negatives either.
        (if self.in_batch { loss.candidates.id } else { self.negative }, self.most(s.m))
    }

    /// Returns whether log q includes the number of targets of the batch, which is known on the device only.
    fn counted(&self, loss: &Loss) -> bool {
        self.in_batch && loss.settings.log_q
    }

    /// Returns the span of the number of targets of the batch, or an empty span. Padding rows follow those of the last
    /// sequence.
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

    /// Marks the negatives that are in the row's own sequence, if those are excluded.
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
