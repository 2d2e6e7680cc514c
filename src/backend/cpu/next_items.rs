//! Targets of each row: a single-threaded pass over the batch, a few microseconds long.

use super::Cpu;
use crate::ops::{MaskItems, NextItems, Run, Valid};

impl Run<NextItems> for Cpu {
    fn execute(&mut self, op: &Valid<'_, NextItems>) {
        let mem = self.lend(op);
        let (raw, cu, scored) = (mem.ids(op.raw, op.n), mem.ids(op.cu, op.b + 1), mem.ids(op.scored, op.b + 1));
        let (item, pos) = (mem.lent.ids_mut(op.item.first(op.n)), mem.lent.ids_mut(op.pos.first(op.n)));
        let (row, target, weight) = (
            mem.lent.ids_mut(op.row.first(op.m)),
            mem.lent.ids_mut(op.target.first(op.m)),
            mem.lent.get_mut(op.weight.first(op.m)),
        );
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
