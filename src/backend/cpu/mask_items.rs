//! Item masking: the batch is halved until a task has a few sequences.

use std::{cell::Cell, ops::Range};

use super::Cpu;
use crate::ops::{MaskItems, Run, Valid, mask_items::Batch};

/// Number of rows that justify another thread.
const ROWS: usize = 4096;

thread_local! {
    /// Positions of the current sequence. Grows once.
    static POSITIONS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

fn corrupt(op: &MaskItems, epoch: u32, batch: &Batch, sequences: Range<usize>, out: [&mut [u32]; 4]) {
    let [item, pos, row, target] = out;
    if sequences.len() < 2 || item.len() < ROWS {
        let mut positions = POSITIONS.take();
        op.corrupt(epoch, batch, sequences, [item, pos, row, target], &mut positions);
        return POSITIONS.set(positions);
    }
    let (start, end) = (sequences.start, sequences.end);
    let half = start + (end - start) / 2;
    let rows = (batch.cu[half] - batch.cu[start]) as usize;
    let ((item, later_item), (pos, later_pos)) = (item.split_at_mut(rows), pos.split_at_mut(rows));
    let scored = (batch.scored[half] - batch.scored[start]) as usize;
    let ((row, later_row), (target, later_target)) = (row.split_at_mut(scored), target.split_at_mut(scored));
    rayon::join(
        || corrupt(op, epoch, batch, start..half, [item, pos, row, target]),
        || corrupt(op, epoch, batch, half..end, [later_item, later_pos, later_row, later_target]),
    );
}

impl Run<MaskItems> for Cpu {
    fn execute(&mut self, op: &Valid<'_, MaskItems>) {
        let mem = self.lend(op);
        let batch = Batch {
            raw: mem.ids(op.raw, op.n),
            cu: mem.ids(op.cu, op.b + 1),
            scored: mem.ids(op.scored, op.b + 1),
            user: mem.ids(op.user, op.b),
        };
        let (item, pos) = (mem.lent.ids_mut(op.item.first(op.n)), mem.lent.ids_mut(op.pos.first(op.n)));
        let (row, target, weight) = (
            mem.lent.ids_mut(op.row.first(op.m)),
            mem.lent.ids_mut(op.target.first(op.m)),
            mem.lent.get_mut(op.weight.first(op.m)),
        );
        let real = batch.scored[op.b] as usize;
        let out = [item, pos, &mut row[..real], &mut target[..real]];
        corrupt(op, mem.ids(op.epoch, 1)[0], &batch, 0..op.b, out);
        MaskItems::pad(real, row, target, weight);
    }
}
