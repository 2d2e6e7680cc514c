//! ReLU, the logistic function and tanh over chunks of elements. Formulas and errors: [`math`](super::math).

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{self, Map},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{ActivationBwd, ActivationFwd, Run, Valid, activation::Activation};

/// max(x, 0). A NaN stays NaN, since `max` returns its second operand then.
struct Relu;
impl Map for Relu {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        s.max(s.zero(), x)
    }
}

impl Run<ActivationFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ActivationFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        let x = mem.get(op.x, op.n);
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| match op.kind {
            Activation::Relu => math::map(y, x, Relu),
            Activation::Sigmoid => math::map(y, x, math::Sigmoid),
            Activation::Tanh => math::map(y, x, math::Tanh),
        });
    }
}

impl Run<ActivationBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ActivationBwd>) {
        let mem = self.lend(op);
        let Some((dx, acc)) = mem.grad(op.dx, op.n) else { return };
        let (dy, y, kind) = (mem.get(op.dy, op.n), mem.get(op.y, op.n), op.kind);
        dx.par_chunks_mut(CHUNK)
            .zip(dy.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)))
            .for_each(|(dx, (dy, y))| dispatch(Backward { dx, acc, dy, y, kind }));
    }
}

struct Backward<'a> {
    dx: &'a mut [f32],
    acc: bool,
    dy: &'a [f32],
    y: &'a [f32],
    kind: Activation,
}

impl Backward<'_> {
    /// Runs plain loops that the compiler vectorizes.
    /// Each element needs a few products, so the loops are bound by memory.
    #[inline(always)]
    fn each(self, slope: impl Fn(f32, f32) -> f32) {
        let each = self.dx.iter_mut().zip(self.dy.iter().zip(self.y));
        match self.acc {
            true => each.for_each(|(dx, (dy, y))| *dx += slope(*dy, *y)),
            false => each.for_each(|(dx, (dy, y))| *dx = slope(*dy, *y)),
        }
    }
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.kind {
            Activation::Relu => self.each(|dy, y| if y <= 0.0 { 0.0 } else { dy }),
            Activation::Sigmoid => self.each(|dy, y| dy * (y * (1.0 - y))),
            Activation::Tanh => self.each(|dy, y| dy * (1.0 - y * y)),
        }
    }
}
