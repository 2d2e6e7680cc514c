//! Softmax cross-entropy over the whole catalogue, on [`softmax_tiles`](super::softmax_tiles).

use super::{
    Cpu,
    gemm::Terms,
    in_precision, scratch,
    softmax_tiles::{self, Gradients, Kind, Scores},
};
use crate::ops::{CrossEntropyBwd, CrossEntropyFwd, Op, Run};

impl Run<CrossEntropyFwd> for Cpu {
    fn run(&mut self, op: &CrossEntropyFwd) {
        op.assert_disjoint();
        in_precision!(self, forward(self, op))
    }
}

fn forward<T: Terms>(cpu: &Cpu, op: &CrossEntropyFwd) {
    let (m, d, v) = (op.m, op.d, op.v);
    // SAFETY: disjoint by the caller's assertion, each taken once.
    let (loss, lse) = unsafe { (cpu.out(op.loss, m), cpu.out(op.lse, m)) };
    let scores = Scores {
        h: cpu.get(op.h, m * d),
        candidates: cpu.get(op.table, v * d),
        offset: cpu.get(op.bias, v),
        d,
        target: cpu.ids(op.target, m),
        kind: Kind::Catalogue,
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
    fn run(&mut self, op: &CrossEntropyBwd) {
        op.assert_disjoint();
        in_precision!(self, backward(self, op))
    }
}

fn backward<T: Terms>(cpu: &Cpu, op: &CrossEntropyBwd) {
    let (m, d, v) = (op.m, op.d, op.v);
    // SAFETY: disjoint by the caller's assertion, each taken once.
    let to = unsafe {
        Gradients {
            dh: cpu.grad(op.dh, m * d),
            dcandidates: cpu.grad(op.dtable, v * d),
            doffset: cpu.grad(op.dbias, v),
        }
    };
    let scores = Scores {
        h: cpu.get(op.h, m * d),
        candidates: cpu.get(op.table, v * d),
        offset: cpu.get(op.bias, v),
        d,
        target: cpu.ids(op.target, m),
        kind: Kind::Catalogue,
    };
    softmax_tiles::backward::<T>(&scores, cpu.get(op.lse, m), cpu.get(op.dloss, m), to);
}
