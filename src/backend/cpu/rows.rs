//! Gathers rows and scatters them back.

use rayon::prelude::*;

use super::{CHUNK, Cpu};
use crate::ops::{GatherRows, NO_ROW, Run, ScatterRows, Valid};

impl Run<GatherRows> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GatherRows>) {
        let mem = self.lend(op);
        let d = op.d;
        if d == 0 {
            return;
        }
        let y = mem.out(op.y, op.m * d);
        let (x, row) = (mem.get(op.x, op.n * d), mem.ids(op.row, op.m));
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).zip(row).for_each(|(y, &row)| match row {
            NO_ROW => y.fill(0.0),
            row => y.copy_from_slice(&x[row as usize * d..][..d]),
        });
    }
}

impl Run<ScatterRows> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ScatterRows>) {
        let mem = self.lend(op);
        let d = op.d;
        let Some((dx, acc)) = mem.grad(op.dx, op.n * d) else { return };
        if !acc {
            dx.par_chunks_mut(CHUNK).for_each(|dx| dx.fill(0.0));
        }
        if d == 0 {
            return;
        }
        // Single-threaded: the M rows are few compared with N, and two threads could write the same row.
        for (dy, &row) in mem.get(op.dy, op.m * d).chunks_exact(d).zip(mem.ids(op.row, op.m)) {
            if row == NO_ROW {
                continue;
            }
            let dx = &mut dx[row as usize * d..][..d];
            dx.iter_mut().zip(dy).for_each(|(x, y)| *x += y);
        }
    }
}
