//! Layer normalisation over blocks of rows. The variance takes a second pass; gamma and beta gradients are block
//! partials.

use rayon::prelude::*;

use super::{
    Cpu,
    math::{lanes, load, store},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{LayerNormBwd, LayerNormFwd, Run, Valid};

/// Rows per task, and per partial sum of dgamma and dbeta.
const ROWS: usize = 256;

struct Forward<'a> {
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    d: usize,
    eps: f32,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.d;
        let (gamma, beta) = (self.gamma[..d].as_ptr(), self.beta[..d].as_ptr());
        for (i, (y, x)) in self.y.chunks_exact_mut(d).zip(self.x.chunks_exact(d)).enumerate() {
            let (y, x) = (y.as_mut_ptr(), x.as_ptr());
            // SAFETY: all loads and stores lie in a row of d elements, or in gamma and beta of d elements.
            unsafe {
                let mut sum = s.zero();
                lanes!(S, d, |j, k| sum = s.add(sum, load(s, x.add(j), k)));
                let mean = s.sum(sum) / d as f32;
                let mu = s.splat(mean);
                let mut squares = s.zero();
                lanes!(S, d, |j, k| {
                    let c = centred(s, x.add(j), mu, k);
                    squares = s.fma(c, c, squares)
                });
                let rstd = 1.0 / (s.sum(squares) / d as f32 + self.eps).sqrt();
                let r = s.splat(rstd);
                lanes!(S, d, |j, k| {
                    let xh = s.mul(s.sub(load(s, x.add(j), k), mu), r);
                    store(s, y.add(j), s.fma(xh, load(s, gamma.add(j), k), load(s, beta.add(j), k)), k)
                });
                self.mean[i] = mean;
                self.rstd[i] = rstd;
            }
        }
    }
}

/// Computes x - mean, with zeros in the lanes past the end of the row.
///
/// # Safety
/// `x` is readable for `k` elements.
#[inline(always)]
unsafe fn centred<S: Simd>(s: S, x: *const f32, mean: S::V, k: usize) -> S::V {
    // SAFETY: guaranteed by the caller. The detour through memory happens only in the last vector of a row.
    unsafe {
        let c = s.sub(load(s, x, k), mean);
        if k == S::LANES {
            return c;
        }
        let mut tail = [0f32; 16];
        s.store_first(tail.as_mut_ptr(), c, k);
        s.load(tail.as_ptr())
    }
}

impl Run<LayerNormFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, LayerNormFwd>) {
        let mem = self.lend(op);
        let (n, d) = (op.n, op.d);
        if n * d == 0 {
            return;
        }
        let (y, mean, rstd) = (mem.out(op.y, n * d), mem.out(op.mean, n), mem.out(op.rstd, n));
        let (x, gamma, beta) = (mem.get(op.x, n * d), mem.get(op.gamma, d), mem.get(op.beta, d));
        y.par_chunks_mut(ROWS * d)
            .zip(mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS)))
            .zip(x.par_chunks(ROWS * d))
            .for_each(|((y, (mean, rstd)), x)| {
                dispatch(Forward { y, mean, rstd, x, gamma, beta, d, eps: op.eps });
            });
    }
}

struct Backward<'a> {
    /// dx and whether to add to it.
    dx: Option<(&'a mut [f32], bool)>,
    /// dgamma and dbeta of this block, cleared here.
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    gamma: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let d = self.gamma.len();
        let gamma = self.gamma.as_ptr();
        self.dgamma.fill(0.0);
        self.dbeta.fill(0.0);
        let (dgamma, dbeta) = (self.dgamma.as_mut_ptr(), self.dbeta.as_mut_ptr());
        for i in 0..self.mean.len() {
            let (dy, x) = (self.dy[i * d..][..d].as_ptr(), self.x[i * d..][..d].as_ptr());
            let (mean, rstd) = (s.splat(self.mean[i]), s.splat(self.rstd[i]));
            // SAFETY: all loads and stores lie in rows of d elements (the partials, gamma, one row of dy, x and dx).
            unsafe {
                let (mut g_sum, mut gx_sum) = (s.zero(), s.zero());
                lanes!(S, d, |j, k| {
                    let dyj = load(s, dy.add(j), k);
                    let xh = s.mul(s.sub(load(s, x.add(j), k), mean), rstd);
                    let dy_xh = s.mul(dyj, xh);
                    // Lanes past the end of the row hold zeros in gamma, so they add nothing here.
                    let w = load(s, gamma.add(j), k);
                    g_sum = s.fma(dyj, w, g_sum);
                    gx_sum = s.fma(dy_xh, w, gx_sum);
                    store(s, dgamma.add(j), s.add(load(s, dgamma.add(j), k), dy_xh), k);
                    store(s, dbeta.add(j), s.add(load(s, dbeta.add(j), k), dyj), k);
                });
                if let Some((dx, acc)) = &mut self.dx {
                    let dx = dx[i * d..][..d].as_mut_ptr();
                    let (a, b) = (s.splat(s.sum(g_sum) / d as f32), s.splat(s.sum(gx_sum) / d as f32));
                    lanes!(S, d, |j, k| {
                        let g = s.mul(load(s, dy.add(j), k), load(s, gamma.add(j), k));
                        let xh = s.mul(s.sub(load(s, x.add(j), k), mean), rstd);
                        let inner = s.sub(s.sub(g, a), s.mul(xh, b));
                        let old = if *acc { load(s, dx.add(j), k) } else { s.zero() };
                        store(s, dx.add(j), s.fma(rstd, inner, old), k)
                    });
                }
            }
        }
    }
}

impl Run<LayerNormBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, LayerNormBwd>) {
        let mem = self.lend(op);
        let (n, d) = (op.n, op.d);
        let (dx, dgamma, dbeta) = (mem.grad(op.dx, n * d), mem.grad(op.dgamma, d), mem.grad(op.dbeta, d));
        let (dy, x, gamma) = (mem.get(op.dy, n * d), mem.get(op.x, n * d), mem.get(op.gamma, d));
        let (mean, rstd) = (mem.get(op.mean, n), mem.get(op.rstd, n));
        if d == 0 {
            return;
        }
        let blocks = n.div_ceil(ROWS);
        let (acc, dx) = match dx {
            Some((dx, acc)) => (acc, Some(dx)),
            None => (false, None),
        };
        scratch::borrow(2 * blocks * d, |partials| {
            let block = |i: usize, dx: Option<&mut [f32]>, sums: &mut [f32]| {
                let (first, rows) = (i * ROWS, ROWS.min(n - i * ROWS));
                let (dgamma, dbeta) = sums.split_at_mut(d);
                dispatch(Backward {
                    dx: dx.map(|dx| (dx, acc)),
                    dgamma,
                    dbeta,
                    dy: &dy[first * d..][..rows * d],
                    x: &x[first * d..][..rows * d],
                    gamma,
                    mean: &mean[first..][..rows],
                    rstd: &rstd[first..][..rows],
                });
            };
            let sums = partials.par_chunks_mut(2 * d);
            match dx {
                Some(dx) => sums
                    .zip(dx.par_chunks_mut(ROWS * d))
                    .enumerate()
                    .for_each(|(i, (sums, dx))| block(i, Some(dx), sums)),
                None => sums.enumerate().for_each(|(i, sums)| block(i, None, sums)),
            }
            super::reduce::sum_partials(dgamma, partials, 2 * d);
            super::reduce::sum_partials(dbeta, partials.get(d..).unwrap_or(&[]), 2 * d);
        });
    }
}
