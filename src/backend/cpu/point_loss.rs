//! Losses of single numbers, one vector at a time.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{lanes, load, sigmoids, softplus_onto, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{PointLossBwd, PointLossFwd, Run, Valid, point_loss::PointKind};

struct Forward<'a> {
    loss: &'a mut [f32],
    z: &'a [f32],
    target: &'a [f32],
    kind: PointKind,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.loss.len().min(self.z.len()).min(self.target.len());
        let (loss, z, target) = (self.loss.as_mut_ptr(), self.z.as_ptr(), self.target.as_ptr());
        lanes!(S, n, |i, k| {
            // SAFETY: i + k is at most the length of all three slices.
            unsafe {
                let (z, t) = (load(s, z.add(i), k), load(s, target.add(i), k));
                let value = match self.kind {
                    PointKind::Squared => {
                        let off = s.sub(z, t);
                        s.mul(off, off)
                    }
                    // max(z,0) - t z is exactly 0 where z lies on the side of a target of 0 or 1.
                    PointKind::Logistic => {
                        let base = s.fma(s.sub(s.zero(), t), z, s.max(z, s.zero()));
                        softplus_onto(s, base, z)
                    }
                };
                store(s, loss.add(i), value, k);
            }
        });
    }
}

struct Backward<'a> {
    dz: &'a mut [f32],
    acc: bool,
    dloss: &'a [f32],
    z: &'a [f32],
    target: &'a [f32],
    kind: PointKind,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.dz.len().min(self.dloss.len()).min(self.z.len()).min(self.target.len());
        let (dz, dloss) = (self.dz.as_mut_ptr(), self.dloss.as_ptr());
        let (z, target) = (self.z.as_ptr(), self.target.as_ptr());
        lanes!(S, n, |i, k| {
            // SAFETY: i + k is at most the length of all four slices.
            unsafe {
                let (z, t) = (load(s, z.add(i), k), load(s, target.add(i), k));
                let slope = match self.kind {
                    PointKind::Squared => s.mul(s.splat(2.0), s.sub(z, t)),
                    PointKind::Logistic => {
                        let (up, down) = sigmoids(s, z);
                        s.sub(s.mul(s.sub(s.splat(1.0), t), up), s.mul(t, down))
                    }
                };
                let old = if self.acc { load(s, dz.add(i), k) } else { s.zero() };
                store(s, dz.add(i), s.fma(load(s, dloss.add(i), k), slope, old), k);
            }
        });
    }
}

impl Run<PointLossFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, PointLossFwd>) {
        let mem = self.lend(op);
        let (m, kind) = (op.m, op.kind);
        let loss = mem.out(op.loss, m);
        let (z, target) = (mem.get(op.z, m), mem.get(op.target, m));
        loss.par_chunks_mut(CHUNK)
            .zip(z.par_chunks(CHUNK).zip(target.par_chunks(CHUNK)))
            .for_each(|(loss, (z, target))| dispatch(Forward { loss, z, target, kind }));
    }
}

impl Run<PointLossBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, PointLossBwd>) {
        let mem = self.lend(op);
        let (m, kind) = (op.m, op.kind);
        let Some((dz, acc)) = mem.grad(op.dz, m) else { return };
        let (dloss, z, target) = (mem.get(op.dloss, m), mem.get(op.z, m), mem.get(op.target, m));
        let sources = dloss.par_chunks(CHUNK).zip(z.par_chunks(CHUNK).zip(target.par_chunks(CHUNK)));
        dz.par_chunks_mut(CHUNK)
            .zip(sources)
            .for_each(|(dz, (dloss, (z, target)))| dispatch(Backward { dz, acc, dloss, z, target, kind }));
    }
}
