//! GELU over chunks of elements. Formulas and errors: [`math`](super::math).

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{self, gelu_grad, lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{GeluBwd, GeluFwd, Run, Valid};

impl Run<GeluFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GeluFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        let x = mem.get(op.x, op.n);
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| math::map(y, x, math::Gelu));
    }
}

impl Run<GeluBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GeluBwd>) {
        let mem = self.lend(op);
        let Some((dx, acc)) = mem.grad(op.dx, op.n) else { return };
        let (dy, x) = (mem.get(op.dy, op.n), mem.get(op.x, op.n));
        dx.par_chunks_mut(CHUNK)
            .zip(dy.par_chunks(CHUNK).zip(x.par_chunks(CHUNK)))
            .for_each(|(dx, (dy, x))| dispatch(Backward { dx, acc, dy, x }));
    }
}

struct Backward<'a> {
    dx: &'a mut [f32],
    acc: bool,
    dy: &'a [f32],
    x: &'a [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.dx.len().min(self.dy.len()).min(self.x.len());
        let (dx, dy, x) = (self.dx.as_mut_ptr(), self.dy.as_ptr(), self.x.as_ptr());
        lanes!(S, n, |i, k| {
            // SAFETY: i + k is at most the length of all three slices.
            unsafe {
                let old = if self.acc { load(s, dx.add(i), k) } else { s.zero() };
                store(s, dx.add(i), s.fma(load(s, dy.add(i), k), gelu_grad(s, load(s, x.add(i), k)), old), k);
            }
        });
    }
}
