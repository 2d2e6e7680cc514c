//! Losses with separate negatives for each row. Kernels read table rows in place, without gathering them into a panel.

use super::Loss;
use crate::{
    layers::BatchShape,
    mem::{Dst, F32, Planner, Span},
    ops::{Backend, NegativeLossBwd, NegativeLossFwd, negative_loss::Contrast},
};

/// Memory of per-row negatives in addition to their ids.
#[derive(Clone, Debug)]
pub(super) struct PerRow {
    contrast: Contrast,
    /// (M,1+S) scores.
    z: Span<F32>,
}

impl PerRow {
    pub fn plan(p: &mut Planner, contrast: Contrast, pairs: usize) -> Self {
        PerRow { contrast, z: p.stat(pairs) }
    }

    pub fn forward(&self, b: &mut dyn Backend, loss: &Loss, s: &BatchShape) {
        let r = &loss.r;
        b.run(&NegativeLossFwd {
            loss: loss.loss,
            z: self.z,
            h: r.scored.y,
            table: r.item.w,
            bias: r.item_bias.w,
            log_q: loss.log_q,
            free: loss.candidates.free,
            id: loss.candidates.id,
            m: s.m,
            d: r.d,
            s: loss.candidates.s,
            v: r.v,
            contrast: self.contrast,
        });
    }

    pub fn backward(&self, b: &mut dyn Backend, loss: &Loss, s: &BatchShape) {
        let r = &loss.r;
        b.run(&NegativeLossBwd {
            g: loss.candidates.g,
            dh: Dst::Write(r.scored.dy),
            dloss: loss.weight,
            z: self.z,
            table: r.item.w,
            id: loss.candidates.id,
            m: s.m,
            d: r.d,
            s: loss.candidates.s,
            v: r.v,
            contrast: self.contrast,
        });
    }
}
