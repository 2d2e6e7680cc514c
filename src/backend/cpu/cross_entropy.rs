//! Softmax cross-entropy over the whole catalogue, on [`softmax_tiles`](super::softmax_tiles).

use super::{
    Cpu, scratch,
    softmax_tiles::{self, Gradients, Kind, Scores},
};
use crate::ops::{CrossEntropyBwd, CrossEntropyFwd, Op, Run};

impl Run<CrossEntropyFwd> for Cpu {
    fn run(&mut self, op: &CrossEntropyFwd) {
        op.assert_disjoint();
        let (m, d, v) = (op.m, op.d, op.v);
        // SAFETY: disjoint by the assertion, each taken once.
        let (loss, lse) = unsafe { (self.out(op.loss, m), self.out(op.lse, m)) };
        let scores = Scores {
            h: self.get(op.h, m * d),
            candidates: self.get(op.table, v * d),
            offset: self.get(op.bias, v),
            d,
            target: self.ids(op.target, m),
            kind: Kind::Catalogue,
        };
        assert!(scores.target.iter().all(|&t| (t as usize) < v), "cross_entropy: a target is beyond the table");
        scratch::borrow(m, |hit| {
            // The destinations hold the running maximum and sum until the end.
            lse.fill(f32::MIN);
            loss.fill(0.0);
            softmax_tiles::log_sum_exp(&scores, lse, loss, hit);
            for ((lse, loss), hit) in lse.iter_mut().zip(loss).zip(hit) {
                *lse += loss.ln();
                *loss = *lse - *hit;
            }
        });
    }
}

impl Run<CrossEntropyBwd> for Cpu {
    fn run(&mut self, op: &CrossEntropyBwd) {
        op.assert_disjoint();
        let (m, d, v) = (op.m, op.d, op.v);
        // SAFETY: disjoint by the assertion, each taken once.
        let to = unsafe {
            Gradients {
                dh: self.grad(op.dh, m * d),
                dcandidates: self.grad(op.dtable, v * d),
                doffset: self.grad(op.dbias, v),
            }
        };
        let scores = Scores {
            h: self.get(op.h, m * d),
            candidates: self.get(op.table, v * d),
            offset: self.get(op.bias, v),
            d,
            target: self.ids(op.target, m),
            kind: Kind::Catalogue,
        };
        softmax_tiles::backward(&scores, self.get(op.lse, m), self.get(op.dloss, m), to);
    }
}
