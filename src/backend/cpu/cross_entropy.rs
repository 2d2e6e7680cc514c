//! Softmax cross-entropy over the whole catalogue, on [`softmax_tiles`](super::softmax_tiles).

use super::{
    Cpu, Work,
    gemm::Terms,
    in_precision, scratch,
    softmax_tiles::{self, CandidateKind, Gradients, Scores},
};
use crate::ops::{CrossEntropyBwd, CrossEntropyFwd, Run, Valid};

impl Run<CrossEntropyFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, CrossEntropyFwd>) {
        let mem = self.lend(op);
        in_precision!(mem, forward(&mem, op))
    }
}

fn forward<T: Terms>(mem: &Work<'_>, op: &CrossEntropyFwd) {
    let (m, d, v) = (op.m, op.d, op.v);
    let (loss, lse) = (mem.out(op.loss, m), mem.out(op.lse, m));
    let scores = Scores {
        h: mem.get(op.h, m * d),
        candidates: mem.get(op.table, v * d),
        offset: mem.get(op.bias, v),
        d,
        target: mem.ids(op.target, m),
        kind: CandidateKind::Catalogue,
    };
    assert!(scores.target.iter().all(|&t| (t as usize) < v), "cross_entropy: a target is beyond the table");
    scratch::borrow(m, |hit| {
        // The destinations hold the running maximum and sum until the end.
        lse.fill(f32::MIN);
        loss.fill(0.0);
        softmax_tiles::log_sum_exp::<T>(&scores, lse, loss, hit);
        for ((lse, loss), hit) in lse.iter_mut().zip(loss).zip(hit) {
            *lse += loss.ln();
            *loss = *lse - *hit;
        }
    });
}

impl Run<CrossEntropyBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, CrossEntropyBwd>) {
        let mem = self.lend(op);
        in_precision!(mem, backward(&mem, op))
    }
}

fn backward<T: Terms>(mem: &Work<'_>, op: &CrossEntropyBwd) {
    let (m, d, v) = (op.m, op.d, op.v);
    let to = Gradients {
        dh: mem.grad(op.dh, m * d),
        dcandidates: mem.grad(op.dtable, v * d),
        doffset: mem.grad(op.dbias, v),
    };
    let scores = Scores {
        h: mem.get(op.h, m * d),
        candidates: mem.get(op.table, v * d),
        offset: mem.get(op.bias, v),
        d,
        target: mem.ids(op.target, m),
        kind: CandidateKind::Catalogue,
    };
    softmax_tiles::backward::<T>(&scores, mem.get(op.lse, m), mem.get(op.dloss, m), to);
}
