//! Concatenation of rows: copies pieces of rows, with chunks of rows in parallel.

use rayon::prelude::*;

use super::{CHUNK, Cpu};
use crate::ops::{ConcatBwd, ConcatFwd, Run, Valid, concat::starts};

impl Run<ConcatFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ConcatFwd>) {
        let mem = self.lend(op);
        let d: usize = op.widths.iter().sum();
        if d == 0 {
            return;
        }
        let y = mem.out(op.y, op.n * d);
        let [wa, wb, wc] = op.widths;
        let (a, b, c) = (mem.get(op.a, op.n * wa), mem.get(op.b, op.n * wb), mem.get(op.c, op.n * wc));
        y.par_chunks_mut(d).with_min_len(CHUNK / d + 1).enumerate().for_each(|(i, y)| {
            let (to_a, rest) = y.split_at_mut(wa);
            let (to_b, to_c) = rest.split_at_mut(wb);
            to_a.copy_from_slice(&a[i * wa..][..wa]);
            to_b.copy_from_slice(&b[i * wb..][..wb]);
            to_c.copy_from_slice(&c[i * wc..][..wc]);
        });
    }
}

impl Run<ConcatBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ConcatBwd>) {
        let mem = self.lend(op);
        let d: usize = op.widths.iter().sum();
        let dy = mem.get(op.dy, op.n * d);
        // One destination after another: each reads only its own columns.
        for ((to, width), start) in [op.da, op.db, op.dc].into_iter().zip(op.widths).zip(starts(op.widths)) {
            let Some((to, acc)) = mem.grad(to, op.n * width) else { continue };
            if width == 0 {
                continue;
            }
            to.par_chunks_mut(width).with_min_len(CHUNK / width + 1).enumerate().for_each(|(i, to)| {
                let dy = &dy[i * d + start..][..width];
                match acc {
                    true => to.iter_mut().zip(dy).for_each(|(to, dy)| *to += dy),
                    false => to.copy_from_slice(dy),
                }
            });
        }
    }
}
