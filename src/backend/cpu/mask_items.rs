//! Masked sequences: the batch is halved until a task has a few sequences.

use std::{cell::Cell, ops::Range};

use super::Cpu;
use crate::ops::{MaskItems, Op, Run, mask_items::Batch};

/// Rows that are worth handing to another thread.
const ROWS: usize = 4096;

thread_local! {
    /// Positions of the sequence at hand; grows once.
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
    fn run(&mut self, op: &MaskItems) {
        op.assert_disjoint();
        let batch = Batch {
            raw: self.ids(op.raw, op.n),
            cu: self.ids(op.cu, op.b + 1),
            scored: self.ids(op.scored, op.b + 1),
            user: self.ids(op.user, op.b),
        };
        let m = &self.arenas;
        // SAFETY: disjoint by the assertion, each taken once.
        let (item, pos) = unsafe { (m.ids_mut(op.item.first(op.n)), m.ids_mut(op.pos.first(op.n))) };
        // SAFETY: as above.
        let (row, target, weight) = unsafe {
            (m.ids_mut(op.row.first(op.m)), m.ids_mut(op.target.first(op.m)), m.get_mut(op.weight.first(op.m)))
        };
        let real = batch.scored[op.b] as usize;
        let out = [item, pos, &mut row[..real], &mut target[..real]];
        corrupt(op, self.ids(op.epoch, 1)[0], &batch, 0..op.b, out);
        MaskItems::pad(real, row, target, weight);
    }
}
