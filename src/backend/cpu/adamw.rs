//! AdamW in one pass over weights, moments and gradients.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{AdamW, Guard, Op, Run, Valid};

/// One AdamW step over a range of weights.
pub(super) struct Update<'a> {
    pub p: &'a mut [f32],
    pub m: &'a mut [f32],
    pub v: &'a mut [f32],
    pub g: &'a [f32],
    pub clip: f32,
    /// [lr, 1/(1 - b1^t), 1/(1 - b2^t)]
    pub hyper: [f32; 3],
    pub betas: [f32; 2],
    pub eps: f32,
    pub weight_decay: f32,
}

impl Kernel for Update<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.p.len();
        assert!(self.m.len() == n && self.v.len() == n && self.g.len() == n);
        let (p, m, v, g) = (self.p.as_mut_ptr(), self.m.as_mut_ptr(), self.v.as_mut_ptr(), self.g.as_ptr());
        let ([beta1, beta2], eps, weight_decay) = (self.betas, self.eps, self.weight_decay);
        let [lr, c1, c2] = self.hyper.map(|x| s.splat(x));
        let (b1, b1_rest) = (s.splat(beta1), s.splat(1.0 - beta1));
        let (b2, b2_rest) = (s.splat(beta2), s.splat(1.0 - beta2));
        let (clip, eps, decay) = (s.splat(self.clip), s.splat(eps), s.splat(weight_decay));
        lanes!(S, n, |i, k| {
            // SAFETY: i + k is at most the common length.
            unsafe {
                let g = s.mul(load(s, g.add(i), k), clip);
                let m1 = s.fma(b1, load(s, m.add(i), k), s.mul(b1_rest, g));
                let v1 = s.fma(b2, load(s, v.add(i), k), s.mul(b2_rest, s.mul(g, g)));
                let root = s.add(s.sqrt(s.mul(v1, c2)), eps);
                let w = load(s, p.add(i), k);
                let step = s.fma(decay, w, s.div(s.mul(m1, c1), root));
                store(s, m.add(i), m1, k);
                store(s, v.add(i), v1, k);
                store(s, p.add(i), s.sub(w, s.mul(lr, step)), k);
            }
        });
    }
}

impl Run<AdamW> for Cpu {
    fn execute(&mut self, op: &Valid<'_, AdamW>) {
        let mem = self.lend(op);
        let n = op.n;
        let (p, m, v) = (mem.out(op.p, n), mem.out(op.m, n), mem.out(op.v, n));
        if mem.get(op.ok, 1)[0] == 0.0 {
            return;
        }
        let (g, norm, hyper) = (mem.get(op.g, n), mem.get(op.norm, 1)[0], mem.get(op.hyper, 3));
        let clip = if op.max_norm > 0.0 { (op.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let hyper = [hyper[0], hyper[1], hyper[2]];
        let (betas, eps, weight_decay) = ([op.beta1, op.beta2], op.eps, op.weight_decay);
        p.par_chunks_mut(CHUNK)
            .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
            .zip(g.par_chunks(CHUNK))
            .for_each(|((p, (m, v)), g)| dispatch(Update { p, m, v, g, clip, hyper, betas, eps, weight_decay }));
    }
}

impl Run<Guard> for Cpu {
    fn execute(&mut self, op: &Valid<'_, Guard>) {
        let mem = self.lend(op);
        op.reference(&mem.lent);
    }
}
