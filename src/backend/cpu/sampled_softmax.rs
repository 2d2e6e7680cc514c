//! Softmax over a row's target and shared negatives, on [`softmax_tiles`](super::softmax_tiles). A missing negative has
//! the offset -inf.

use rayon::prelude::*;

use super::{
    Cpu, Work,
    gemm::{Terms, View},
    in_precision, scratch,
    simd::dispatch,
    softmax_tiles::{self, CandidateKind, Gradients, Scores},
};
use crate::ops::{NO_ID, Run, SampledSoftmaxBwd, SampledSoftmaxFwd, Valid, sampled_softmax::log_others};

/// Rows per task.
const ROWS: usize = 256;

/// Computes z of each row's target: <h, pos> + bias.
fn target_logits(z: &mut [f32], h: &[f32], pos: &[f32], d: usize, bias: &[f32], target: &[u32]) {
    z.par_chunks_mut(ROWS).enumerate().for_each(|(block, z)| {
        let (first, n) = (block * ROWS, z.len());
        let rows = |x| View::dense(x, target.len(), d).rows(first, n);
        dispatch(super::attention::RowDots(z, rows(h), rows(pos)));
        let real = z.iter_mut().zip(&target[first..]).filter(|(_, t)| **t != NO_ID);
        real.for_each(|(z, &t)| *z += bias[t as usize]);
    });
}

impl Run<SampledSoftmaxFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SampledSoftmaxFwd>) {
        let mem = self.lend(op);
        in_precision!(mem, forward(&mem, op))
    }
}

fn forward<T: Terms>(mem: &Work<'_>, op: &SampledSoftmaxFwd) {
    let (m, d, s) = (op.m, op.d, op.s);
    let (loss, lse) = (mem.out(op.loss, m), mem.out(op.lse, m));
    let (h, pos, neg) = (mem.get(op.h, m * d), mem.get(op.pos, m * d), mem.get(op.neg, s * d));
    let (bias, log_q) = (mem.lent.get(op.bias), mem.lent.get(op.log_q));
    let (target, negative, own) = (mem.ids(op.target, m), mem.ids(op.negative, s), mem.lent.ids(op.own));
    let others = if op.in_batch { log_others(mem.lent.ids(op.targets)) as f32 } else { 0.0 };
    let offset = |id: u32| bias[id as usize] - log_q[id as usize] - others;
    scratch::borrow(scratch::room(s) + 2 * scratch::room(m), |mut rest| {
        let offsets = scratch::split(&mut rest, s);
        let (z, unused) = (scratch::split(&mut rest, m), scratch::split(&mut rest, m));
        fill_offsets(offsets, negative, offset);
        target_logits(z, h, pos, d, bias, target);
        // The destinations hold the running maximum and sum. The target counts first.
        lse.copy_from_slice(z);
        loss.fill(1.0);
        let scores = Scores {
            h,
            candidates: neg,
            offset: offsets,
            d,
            target,
            kind: CandidateKind::Negatives { ids: negative, own },
        };
        softmax_tiles::log_sum_exp::<T>(&scores, lse, loss, unused);
        for ((lse, loss), z) in lse.iter_mut().zip(loss).zip(z) {
            *lse += loss.ln();
            *loss = *lse - *z;
        }
    });
}

impl Run<SampledSoftmaxBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SampledSoftmaxBwd>) {
        let mem = self.lend(op);
        in_precision!(mem, backward(&mem, op))
    }
}

fn backward<T: Terms>(mem: &Work<'_>, op: &SampledSoftmaxBwd) {
    let (m, d, s) = (op.m, op.d, op.s);
    let (g0, mut dh, dneg, dneg_bias) =
        (mem.out(op.g0, m), mem.grad(op.dh, m * d), mem.grad(op.dneg, s * d), mem.grad(op.dneg_bias, s));
    let (h, pos, neg) = (mem.get(op.h, m * d), mem.get(op.pos, m * d), mem.get(op.neg, s * d));
    let (bias, log_q) = (mem.lent.get(op.bias), mem.lent.get(op.log_q));
    let (target, negative, own) = (mem.ids(op.target, m), mem.ids(op.negative, s), mem.lent.ids(op.own));
    let (lse, dloss) = (mem.get(op.lse, m), mem.get(op.dloss, m));
    let others = if op.in_batch { log_others(mem.lent.ids(op.targets)) as f32 } else { 0.0 };
    let offset = |id: u32| bias[id as usize] - log_q[id as usize] - others;
    scratch::borrow(scratch::room(s), |offsets| {
        let offsets = &mut offsets[..s];
        fill_offsets(offsets, negative, offset);
        let kind = CandidateKind::Negatives { ids: negative, own };
        let scores = Scores { h, candidates: neg, offset: offsets, d, target, kind };
        let shared =
            Gradients { dh: dh.as_mut().map(|(dh, acc)| (&mut **dh, *acc)), dcandidates: dneg, doffset: dneg_bias };
        softmax_tiles::backward::<T>(&scores, lse, dloss, shared);
    });
    // The target's own column: g = dloss (p - 1).
    target_logits(g0, h, pos, d, bias, target);
    g0.iter_mut().zip(lse.iter().zip(dloss)).for_each(|(g, (lse, dloss))| *g = dloss * ((*g - lse).exp() - 1.0));
    if let Some((dh, _)) = dh {
        add_rows(dh, pos, g0, d);
    }
}

/// Writes the offset added to each negative's logit.
fn fill_offsets(to: &mut [f32], negative: &[u32], offset: impl Fn(u32) -> f32) {
    let each = to.iter_mut().zip(negative);
    each.for_each(|(to, &id)| *to = if id == NO_ID { f32::NEG_INFINITY } else { offset(id) });
}

/// Computes to += g_m x_m, row by row.
fn add_rows(to: &mut [f32], x: &[f32], g: &[f32], d: usize) {
    if d == 0 {
        return;
    }
    let rows = to.par_chunks_mut(d).with_min_len(ROWS).zip(x.par_chunks(d).zip(g));
    rows.for_each(|(to, (x, g))| to.iter_mut().zip(x).for_each(|(to, x)| *to += g * x));
}
