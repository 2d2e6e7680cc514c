//! What follows each row: a pass over the batch on one thread, a few microseconds.

use super::Cpu;
use crate::ops::{MaskItems, NextItems, Op, Run};

impl Run<NextItems> for Cpu {
    fn run(&mut self, op: &NextItems) {
        op.assert_disjoint();
        let (raw, cu, scored) = (self.ids(op.raw, op.n), self.ids(op.cu, op.b + 1), self.ids(op.scored, op.b + 1));
        let m = &self.arenas;
        // SAFETY: disjoint by the assertion, each taken once.
        let (item, pos) = unsafe { (m.ids_mut(op.item.first(op.n)), m.ids_mut(op.pos.first(op.n))) };
        // SAFETY: as above.
        let (row, target, weight) = unsafe {
            (m.ids_mut(op.row.first(op.m)), m.ids_mut(op.target.first(op.m)), m.get_mut(op.weight.first(op.m)))
        };
        item.copy_from_slice(raw);
        for b in 0..op.b {
            let (first, end, mut at) = (cu[b] as usize, cu[b + 1] as usize, scored[b] as usize);
            pos[first..end].iter_mut().enumerate().for_each(|(i, p)| *p = (op.t + first + i - end) as u32);
            if scored[b + 1] > scored[b] {
                op.questions(first, end - first, |asked, answer| {
                    (row[at], target[at]) = (asked as u32, raw[answer]);
                    at += 1;
                });
            }
        }
        MaskItems::pad(scored[op.b] as usize, row, target, weight);
    }
}
