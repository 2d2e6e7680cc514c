//! Gathers rows of tables by id, and computes the gradients of positions.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{EmbeddingFwd, GatherTable, NO_ID, PositionSum, Run, Valid};

impl Run<EmbeddingFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, EmbeddingFwd>) {
        let mem = self.lend(op);
        let (n, d) = (op.n, op.d);
        if d == 0 {
            return;
        }
        let y = mem.out(op.y, n * d);
        let (items, positions) = (mem.get(op.item_table, op.v * d), mem.get(op.pos_table, op.t * d));
        let ids = mem.ids(op.item, n).par_iter().zip(mem.ids(op.pos, n));
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).zip(ids).for_each(|(y, (&item, &pos))| {
            if item == NO_ID {
                return y.fill(0.0);
            }
            let (a, b) = (&items[item as usize * d..][..d], &positions[pos as usize * d..][..d]);
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
        });
    }
}

impl Run<GatherTable> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GatherTable>) {
        let mem = self.lend(op);
        let (n, d) = (op.n, op.d);
        if d == 0 {
            return;
        }
        let y = mem.out(op.y, n * d);
        let table = mem.get(op.table, op.v * d);
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).zip(mem.ids(op.id, n)).for_each(|(y, &id)| match id {
            NO_ID => y.fill(0.0),
            id => y.copy_from_slice(&table[id as usize * d..][..d]),
        });
    }
}

/// One position: sums in registers the rows of dy that lie `back` rows before the end of their sequences.
struct Position<'a> {
    row: &'a mut [f32],
    acc: bool,
    dy: &'a [f32],
    cu: &'a [u32],
    back: u32,
}

impl Kernel for Position<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.row.len();
        let row = self.row.as_mut_ptr();
        lanes!(S, d, |j, k| {
            // SAFETY: j + k <= d, the length of the table row and of the rows of dy, which are slices.
            unsafe {
                let mut sum = s.zero();
                for bounds in self.cu.windows(2) {
                    if bounds[1] - bounds[0] >= self.back {
                        let dy = &self.dy[(bounds[1] - self.back) as usize * d..][..d];
                        sum = s.add(sum, load(s, dy.as_ptr().add(j), k));
                    }
                }
                // The sum is completed first and then added to the old value, as the op's contract requires.
                if self.acc {
                    sum = s.add(load(s, row.add(j), k), sum);
                }
                store(s, row.add(j), sum, k);
            }
        });
    }
}

impl Run<PositionSum> for Cpu {
    fn execute(&mut self, op: &Valid<'_, PositionSum>) {
        let mem = self.lend(op);
        let (d, t) = (op.d, op.t);
        let Some((dtable, acc)) = mem.grad(op.dtable, t * d) else { return };
        if d == 0 {
            return;
        }
        let (dy, cu) = (mem.get(op.dy, op.n * d), mem.ids(op.cu, op.b + 1));
        assert!(cu.is_sorted(), "sequences do not follow each other");
        dtable.par_chunks_mut(d).enumerate().for_each(|(p, row)| {
            dispatch(Position { row, acc, dy, cu, back: (t - p) as u32 });
        });
    }
}
