//! Means of table rows by item and field. Their gradient is the sum of sorted rows of `segment`.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{lanes, load, store},
    segment::{Rows, sum_sorted},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{BagBwd, BagFwd, Run, Valid};

/// A range of rows of y.
struct Bag<'a> {
    y: &'a mut [f32],
    item: &'a [u32],
    table: &'a [f32],
    start: &'a [u32],
    value: &'a [u32],
    share: &'a [f32],
    /// Number of fields; `d` is the width of each.
    f: usize,
    d: usize,
}

impl Kernel for Bag<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (f, d, items) = (self.f, self.d, self.share.len() / self.f);
        for (y, &item) in self.y.chunks_exact_mut(f * d).zip(self.item) {
            if item as usize >= items {
                y.fill(0.0);
                continue;
            }
            for (field, y) in y.chunks_exact_mut(d).enumerate() {
                let o = item as usize * f + field;
                let rows = &self.value[self.start[o] as usize..self.start[o + 1] as usize];
                let (y, share) = (y.as_mut_ptr(), s.splat(self.share[o]));
                lanes!(S, d, |j, k| {
                    let mut sum = s.zero();
                    for row in rows {
                        let row = &self.table[*row as usize * d..][..d];
                        // SAFETY: j + k <= d, the length of the slice `row`.
                        sum = s.add(sum, unsafe { load(s, row.as_ptr().add(j), k) });
                    }
                    // SAFETY: j + k <= d, the length of the chunk.
                    unsafe { store(s, y.add(j), s.mul(share, sum), k) };
                });
            }
        }
    }
}

impl Run<BagFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, BagFwd>) {
        let mem = self.lend(op);
        let (size, d) = (op.size, op.d);
        let width = size.fields * d;
        if width == 0 {
            return;
        }
        let y = mem.out(op.y, op.n * width);
        let (table, share) = (mem.get(op.table, size.rows * d), mem.get(op.share, size.pairs()));
        let (start, value) = (mem.ids(op.start, size.pairs() + 1), mem.ids(op.value, size.values));
        let rows = CHUNK / width + 1;
        y.par_chunks_mut(rows * width).zip(mem.ids(op.item, op.n).par_chunks(rows)).for_each(|(y, item)| {
            dispatch(Bag { y, item, table, start, value, share, f: size.fields, d });
        });
    }
}

impl Run<BagBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, BagBwd>) {
        let mem = self.lend(op);
        let (size, d) = (op.size, op.d);
        let Some((dtable, acc)) = mem.grad(op.dtable, size.rows * d) else { return };
        let rows = Rows::scaled(mem.get(op.share, size.pairs()), mem.get(op.ditem, size.pairs() * d), d);
        let (owner, key) = (mem.ids(op.owner, size.values), mem.ids(op.key, size.values));
        sum_sorted(&rows, owner, key, size.rows, dtable, acc, false);
    }
}
