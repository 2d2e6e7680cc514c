//! Rows of tables by id, and their gradients by sorted segments.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    gemm::Dest,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{EmbeddingFwd, GatherTable, Op, Run, SegmentSum};

impl Run<EmbeddingFwd> for Cpu {
    fn run(&mut self, op: &EmbeddingFwd) {
        op.assert_disjoint();
        let (n, d) = (op.n, op.d);
        if d == 0 {
            return;
        }
        // SAFETY: disjoint by the assertion, taken once.
        let y = unsafe { self.out(op.y, n * d) };
        let (items, positions) = (self.get(op.item_table, op.v * d), self.get(op.pos_table, op.t * d));
        let ids = self.ids(op.item, n).par_iter().zip(self.ids(op.pos, n));
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).zip(ids).for_each(|(y, (&item, &pos))| {
            let (a, b) = (&items[item as usize * d..][..d], &positions[pos as usize * d..][..d]);
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
        });
    }
}

impl Run<GatherTable> for Cpu {
    fn run(&mut self, op: &GatherTable) {
        op.assert_disjoint();
        let (n, d) = (op.n, op.d);
        if d == 0 {
            return;
        }
        // SAFETY: disjoint by the assertion, taken once.
        let y = unsafe { self.out(op.y, n * d) };
        let table = self.get(op.table, op.v * d);
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).zip(self.ids(op.id, n)).for_each(|(y, &id)| {
            y.copy_from_slice(&table[id as usize * d..][..d]);
        });
    }
}

/// One table row: the rows of dy that `order` names, added in this order in registers.
struct Segment<'a> {
    row: &'a mut [f32],
    acc: bool,
    dy: &'a [f32],
    order: &'a [u32],
}

impl Kernel for Segment<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.row.len();
        assert!(self.order.iter().all(|&n| (n as usize + 1) * d <= self.dy.len()), "order names a row behind dy");
        let (row, dy) = (self.row.as_mut_ptr(), self.dy.as_ptr());
        lanes!(S, d, |j, k| {
            // SAFETY: j + k <= d, and every row of `order` lies inside dy by the assertion.
            unsafe {
                // The sum is taken first and added to what was there at the end, as the contract says.
                let mut sum = s.zero();
                for &n in self.order {
                    sum = s.add(sum, load(s, dy.add(n as usize * d + j), k));
                }
                if self.acc {
                    sum = s.add(load(s, row.add(j), k), sum);
                }
                store(s, row.add(j), sum, k);
            }
        });
    }
}

impl Run<SegmentSum> for Cpu {
    fn run(&mut self, op: &SegmentSum) {
        op.assert_disjoint();
        let (d, v, s) = (op.d, op.v, op.s);
        // SAFETY: disjoint by the assertion, taken once.
        let Some((dtable, acc)) = (unsafe { self.grad(op.dtable, v * d) }) else { return };
        let (dy, order) = (self.get(op.dy, op.n * d), self.ids(op.order, op.n));
        let (start, id) = (self.ids(op.start, s + 1), self.ids(op.id, s));
        if !acc {
            dtable.par_chunks_mut(CHUNK).for_each(|t| t.fill(0.0));
        }
        // Ids in ascending order differ, so no table row has two writers.
        assert!(id.windows(2).all(|w| w[0] < w[1]), "segment ids do not ascend");
        assert!(id.last().is_none_or(|&last| (last as usize) < v), "a segment id is beyond the table");
        let table = Dest::new(dtable, v, d, d);
        (0..s).into_par_iter().with_min_len(8).for_each(|i| {
            // SAFETY: the row lies inside the table, and this task is its only writer.
            let row = unsafe { table.at(id[i] as usize, 0).row(d) };
            let order = &order[start[i] as usize..start[i + 1] as usize];
            dispatch(Segment { row, acc, dy, order });
        });
    }
}
