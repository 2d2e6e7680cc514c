//! One row per sequence copied to all its rows, and the rows of a sequence summed into one.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu, Work,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{PoolBwd, PoolFwd, Run, SpreadBwd, SpreadFwd, Valid};

/// One sequence: the sum of its rows, each times its weight.
struct Sum<'a> {
    y: &'a mut [f32],
    acc: bool,
    /// Whole rows with as many columns as y.
    x: &'a [f32],
    /// One weight per row; empty means ones.
    w: &'a [f32],
}

impl Sum<'_> {
    /// Sums W vectors of columns from `j` on (the last has `k` lanes) over all rows, in registers. A row costs W
    /// independent loads.
    #[inline(always)]
    fn columns<S: Simd, const W: usize>(&mut self, s: S, j: usize, k: usize) {
        let d = self.y.len();
        assert!(j + (W - 1) * S::LANES + k <= d);
        let mut sum = [s.zero(); W];
        for (i, row) in self.x.chunks_exact(d).enumerate() {
            let by = s.splat(self.w.get(i).copied().unwrap_or(1.0));
            for (w, sum) in sum.iter_mut().enumerate() {
                // SAFETY: inside the row, by the assertion. A product with one is exact.
                *sum = s.fma(by, unsafe { load(s, row.as_ptr().add(j + w * S::LANES), k) }, *sum);
            }
        }
        for (w, sum) in sum.into_iter().enumerate() {
            // SAFETY: inside the destination by the assertion. The sum is complete before it is added to the old value.
            unsafe {
                let to = self.y.as_mut_ptr().add(j + w * S::LANES);
                store(s, to, if self.acc { s.add(load(s, to, k), sum) } else { sum }, k);
            }
        }
    }
}

impl Kernel for Sum<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (d, mut at) = (self.y.len(), 0);
        while at + 4 * S::LANES <= d {
            self.columns::<S, 4>(s, at, S::LANES);
            at += 4 * S::LANES;
        }
        lanes!(S, d - at, |j, k| self.columns::<S, 1>(s, at + j, k));
    }
}

impl Work<'_> {
    /// Computes y_b = or += sum of w_n x_n, one task per sequence.
    fn pool(&self, y: &mut [f32], acc: bool, x: &[f32], w: &[f32], cu: &[u32], d: usize) {
        assert!(cu.is_sorted() && cu[cu.len() - 1] as usize * d <= x.len(), "sequences do not follow each other");
        if d == 0 {
            return;
        }
        y.par_chunks_mut(d).zip(cu.par_windows(2)).for_each(|(y, bounds)| {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let w = if w.is_empty() { w } else { &w[start..end] };
            dispatch(Sum { y, acc, x: &x[start * d..end * d], w });
        });
    }

    /// Computes y_n = or += w_n x_b, with zeros past the last sequence.
    fn spread(&self, y: &mut [f32], acc: bool, x: &[f32], w: &[f32], cu: &[u32], d: usize) {
        assert!(cu.is_sorted(), "sequences do not follow each other");
        if d == 0 {
            return;
        }
        // Rows per task: enough to make the search for the first sequence negligible.
        let rows = CHUNK / d + 1;
        y.par_chunks_mut(rows * d).enumerate().for_each(|(task, y)| {
            let first = task * rows;
            // The last sequence that starts at or before the row. Empty sequences before it are skipped.
            let mut s = cu.partition_point(|start| *start as usize <= first).max(1) - 1;
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                while s + 1 < cu.len() && cu[s + 1] as usize <= first + i {
                    s += 1;
                }
                if s + 1 >= cu.len() {
                    // Past the last sequence.
                    if !acc {
                        y.fill(0.0);
                    }
                    continue;
                }
                let (x, by) = (&x[s * d..][..d], w.get(first + i).copied().unwrap_or(1.0));
                match acc {
                    true => y.iter_mut().zip(x).for_each(|(y, x)| *y += by * x),
                    false if w.is_empty() => y.copy_from_slice(x),
                    false => y.iter_mut().zip(x).for_each(|(y, x)| *y = by * x),
                }
            }
        });
    }
}

impl Run<SpreadFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SpreadFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n * op.d);
        mem.spread(y, false, mem.get(op.x, op.b * op.d), &[], mem.ids(op.cu, op.b + 1), op.d);
    }
}

impl Run<SpreadBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SpreadBwd>) {
        let mem = self.lend(op);
        let Some((dx, acc)) = mem.grad(op.dx, op.b * op.d) else { return };
        mem.pool(dx, acc, mem.get(op.dy, op.n * op.d), &[], mem.ids(op.cu, op.b + 1), op.d);
    }
}

impl Run<PoolFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, PoolFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.b * op.d);
        let w = mem.get(op.w, op.w.len().min(op.n));
        mem.pool(y, false, mem.get(op.x, op.n * op.d), w, mem.ids(op.cu, op.b + 1), op.d);
    }
}

impl Run<PoolBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, PoolBwd>) {
        let mem = self.lend(op);
        let Some((dx, acc)) = mem.grad(op.dx, op.n * op.d) else { return };
        let w = mem.get(op.w, op.w.len().min(op.n));
        mem.spread(dx, acc, mem.get(op.dy, op.b * op.d), w, mem.ids(op.cu, op.b + 1), op.d);
    }
}
