//! Rows times numbers of their own: there and back the same loop.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{Op, Run, ScaleRowsBwd, ScaleRowsFwd};

/// to_n = or += w_n from_n, rows of `d`.
struct Scale<'a> {
    to: &'a mut [f32],
    acc: bool,
    from: &'a [f32],
    w: &'a [f32],
    d: usize,
}

impl Kernel for Scale<'_> {
    type Out = ();
    /// Plain loops, of which the compiler makes vectors.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let rows = self.to.chunks_exact_mut(self.d).zip(self.from.chunks_exact(self.d));
        for ((to, from), w) in rows.zip(self.w) {
            match self.acc {
                true => to.iter_mut().zip(from).for_each(|(t, x)| *t += w * x),
                false => to.iter_mut().zip(from).for_each(|(t, x)| *t = w * x),
            }
        }
    }
}

fn scale(to: &mut [f32], acc: bool, from: &[f32], w: &[f32], d: usize) {
    if d == 0 {
        return;
    }
    let rows = CHUNK / d + 1;
    to.par_chunks_mut(rows * d)
        .zip(from.par_chunks(rows * d).zip(w.par_chunks(rows)))
        .for_each(|(to, (from, w))| dispatch(Scale { to, acc, from, w, d }));
}

impl Run<ScaleRowsFwd> for Cpu {
    fn run(&mut self, op: &ScaleRowsFwd) {
        op.assert_disjoint();
        let nd = op.n * op.d;
        // SAFETY: disjoint by the assertion, taken once.
        let y = unsafe { self.out(op.y, nd) };
        scale(y, false, self.get(op.x, nd), self.get(op.w, op.n), op.d);
    }
}

impl Run<ScaleRowsBwd> for Cpu {
    fn run(&mut self, op: &ScaleRowsBwd) {
        op.assert_disjoint();
        let nd = op.n * op.d;
        // SAFETY: disjoint by the assertion, taken once.
        let Some((dx, acc)) = (unsafe { self.grad(op.dx, nd) }) else { return };
        scale(dx, acc, self.get(op.dy, nd), self.get(op.w, op.n), op.d);
    }
}
