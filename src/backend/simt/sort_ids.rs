//! Launcher of `kernels/sort_ids.cu`: three launches per digit, between two pairs of lists, one of them scratch.

use super::{Simt, kernels::*};
use crate::ops::{Run, SortIds, Valid};

/// Keys that a block sorts.
const TILE: usize = 2048;
const DIGITS: usize = 256;

/// Returns the number of digits of the largest key, V, which represents NO_ID.
fn passes(op: &SortIds) -> u32 {
    (usize::BITS - op.v.leading_zeros()).div_ceil(8).max(1)
}

/// Returns the bytes of the counts of all tiles, and of one list of scratch.
fn cut(op: &SortIds) -> (usize, usize) {
    let tiles = op.n().div_ceil(TILE);
    (4 * DIGITS * tiles, if passes(op) > 1 { 4 * op.n() } else { 0 })
}

impl Run<SortIds> for Simt {
    fn execute(&mut self, op: &Valid<'_, SortIds>) {
        let (n, passes, (counts, list)) = (op.n(), passes(op), cut(op));
        let tiles = n.div_ceil(TILE);
        let count = self.scratch(counts + 4 * DIGITS + 2 * list);
        let total = count + counts as Ptr;
        let spare = total + 4 * DIGITS as Ptr;
        let [ours, other] = [[self.at(op.order), self.at(op.key)], [spare, spare + list as Ptr]];
        let mut from = [0, 0];
        for i in 0..passes {
            // The last pass ends in the destinations.
            let to = if (passes - i) % 2 == 1 { ours } else { other };
            let params = SortIdsParams {
                order: to[0],
                key: to[1],
                count,
                total,
                order_in: from[0],
                key_in: from[1],
                id0: self.at(op.id0),
                id1: self.at(op.id1),
                id2: self.at(op.id2),
                n0: op.n0 as u32,
                n1: (op.n0 + op.n1) as u32,
                n: n as u32,
                v: op.v as u32,
                tiles: tiles as u32,
                shift: 8 * i,
            };
            self.launch(Kernel::SortIdsCount, [tiles, 1, 1], 0, params);
            self.launch(Kernel::SortIdsScan, [if n > 0 { DIGITS } else { 0 }, 1, 1], 0, params);
            self.launch(Kernel::SortIdsScatter, [tiles, 1, 1], 0, params);
            from = to;
        }
    }

    fn need(&self, op: &SortIds) -> Result<usize, String> {
        if op.n() >= 1 << 31 {
            return Err(format!("{} ids: at most 2^31 - 1 can be sorted", op.n()));
        }
        let (counts, list) = cut(op);
        Ok(counts + 4 * DIGITS + 2 * list)
    }
}
