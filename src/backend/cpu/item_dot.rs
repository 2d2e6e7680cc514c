//! Scores of one item per row. Bound by the gather of table rows, which are prefetched.

use rayon::prelude::*;

use super::{
    Cpu,
    math::{lanes, load, store},
    negative_loss::prefetch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{ItemDotBwd, ItemDotFwd, Run, Valid};

/// Rows per task.
const ROWS: usize = 256;
/// Number of rows prefetched ahead.
const AHEAD: usize = 6;

struct Forward<'a> {
    z: &'a mut [f32],
    h: &'a [f32],
    id: &'a [u32],
    table: &'a [f32],
    bias: &'a [f32],
    d: usize,
    v: usize,
    shift: f32,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.d;
        for (i, z) in self.z.iter_mut().enumerate() {
            prefetch(s, self.table, self.id.get(i + AHEAD), d);
            let k = self.id[i] as usize;
            if k >= self.v {
                *z = 0.0;
                continue;
            }
            let (h, row) = (self.h[i * d..][..d].as_ptr(), self.table[k * d..][..d].as_ptr());
            let mut sum = s.zero();
            // SAFETY: both rows hold d elements.
            unsafe { lanes!(S, d, |c, n| sum = s.fma(load(s, h.add(c), n), load(s, row.add(c), n), sum)) }
            *z = s.sum(sum) + self.bias.get(k).copied().unwrap_or(0.0) + self.shift;
        }
    }
}

struct Backward<'a> {
    dh: &'a mut [f32],
    acc: bool,
    dz: &'a [f32],
    id: &'a [u32],
    table: &'a [f32],
    d: usize,
    v: usize,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.d;
        for (i, dh) in self.dh.chunks_exact_mut(d).enumerate() {
            prefetch(s, self.table, self.id.get(i + AHEAD), d);
            let k = self.id[i] as usize;
            if k >= self.v {
                if !self.acc {
                    dh.fill(0.0);
                }
                continue;
            }
            let (to, row, dz) = (dh.as_mut_ptr(), self.table[k * d..][..d].as_ptr(), s.splat(self.dz[i]));
            lanes!(S, d, |c, n| {
                // SAFETY: both rows hold d elements.
                unsafe {
                    let old = if self.acc { load(s, to.add(c), n) } else { s.zero() };
                    store(s, to.add(c), s.fma(dz, load(s, row.add(c), n), old), n);
                }
            });
        }
    }
}

impl Run<ItemDotFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ItemDotFwd>) {
        let mem = self.lend(op);
        let ItemDotFwd { m, d, v, shift, .. } = **op;
        let z = mem.out(op.z, m);
        let (h, table, bias) = (mem.get(op.h, m * d), mem.get(op.table, v * d), mem.lent.get(op.bias));
        let blocks = z.par_chunks_mut(ROWS).zip(mem.ids(op.id, m).par_chunks(ROWS)).enumerate();
        blocks.for_each(|(block, (z, id))| {
            let h = &h[block * ROWS * d..][..id.len() * d];
            dispatch(Forward { z, h, id, table, bias, d, v, shift });
        });
    }
}

impl Run<ItemDotBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ItemDotBwd>) {
        let mem = self.lend(op);
        let ItemDotBwd { m, d, v, .. } = **op;
        let Some((dh, acc)) = mem.grad(op.dh, m * d) else { return };
        if d == 0 {
            return;
        }
        let (dz, table, id) = (mem.get(op.dz, m), mem.get(op.table, v * d), mem.ids(op.id, m));
        dh.par_chunks_mut(ROWS * d)
            .zip(dz.par_chunks(ROWS).zip(id.par_chunks(ROWS)))
            .for_each(|(dh, (dz, id))| dispatch(Backward { dh, acc, dz, id, table, d, v }));
    }
}
