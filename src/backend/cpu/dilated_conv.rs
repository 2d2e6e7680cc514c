/*! Dilated convolution: products over shifted rows ([`shifted`](super::shifted)), then norm, ReLU and residual of a
block of rows while it is in the cache. The backward pass computes dz through the norm into scratch and adds the column
sums of blocks in order. The products start from dz.
*/

use rayon::prelude::*;

use super::{
    Cpu, Work,
    gemm::{Terms, View},
    in_precision,
    math::{lanes, load, store},
    products::{ROWS, held},
    reduce::sum_partials,
    scratch,
    shifted::{Shifted, Start, packed, weight_gradient},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{DilatedConvBwd, DilatedConvFwd, Run, Valid};

/// y = relu(LN(z)) (+ residual) for a block of rows.
struct NormRelu<'a> {
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
    z: &'a [f32],
    residual: Option<&'a [f32]>,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

impl Kernel for NormRelu<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let o = self.gamma.len();
        let (gamma, beta) = (self.gamma.as_ptr(), self.beta[..o].as_ptr());
        for i in 0..self.mean.len() {
            let z = self.z[i * o..][..o].as_ptr();
            let y = self.y[i * o..][..o].as_mut_ptr();
            let residual = self.residual.map(|r| r[i * o..][..o].as_ptr());
            // SAFETY: all loads and stores lie in rows of o elements, or in gamma and beta of o elements.
            unsafe {
                let mut sum = s.zero();
                lanes!(S, o, |j, k| sum = s.add(sum, load(s, z.add(j), k)));
                let mean = s.sum(sum) / o as f32;
                let mu = s.splat(mean);
                let mut squares = s.zero();
                lanes!(S, o, |j, k| {
                    let mut c = s.sub(load(s, z.add(j), k), mu);
                    if k < S::LANES {
                        // The lanes past the end of the row hold -mean and must not count.
                        let mut tail = [0f32; 16];
                        s.store_first(tail.as_mut_ptr(), c, k);
                        c = s.load(tail.as_ptr());
                    }
                    squares = s.fma(c, c, squares)
                });
                let rstd = 1.0 / (s.sum(squares) / o as f32 + self.eps).sqrt();
                let scale = s.splat(rstd);
                lanes!(S, o, |j, k| {
                    let xh = s.mul(s.sub(load(s, z.add(j), k), mu), scale);
                    let u = s.fma(xh, load(s, gamma.add(j), k), load(s, beta.add(j), k));
                    // With this operand order a NaN stays NaN.
                    let mut out = s.max(s.zero(), u);
                    if let Some(r) = residual {
                        out = s.add(out, load(s, r.add(j), k));
                    }
                    store(s, y.add(j), out, k)
                });
                self.mean[i] = mean;
                self.rstd[i] = rstd;
            }
        }
    }
}

impl Run<DilatedConvFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DilatedConvFwd>) {
        let mem = self.lend(op);
        in_precision!(mem, forward(&mem, op))
    }
}

fn forward<T: Terms>(mem: &Work<'_>, op: &DilatedConvFwd) {
    let (n, i, o) = (op.n, op.i, op.o);
    let (y, z, mean, rstd) = (mem.out(op.y, n * o), mem.out(op.z, n * o), mem.out(op.mean, n), mem.out(op.rstd, n));
    let (x, w, bias) = (mem.get(op.x, n * i), mem.get(op.w, op.taps.count * i * o), mem.get(op.bias, o));
    let (gamma, beta, cu) = (mem.get(op.gamma, o), mem.get(op.beta, o), mem.ids(op.cu, op.b + 1));
    let residual = (!op.residual.is_empty()).then(|| mem.get(op.residual, n * o));
    let of = |tap: usize| View::dense(&w[tap * i * o..][..i * o], i, o);
    packed::<T, _>(op.taps.count, (i, o), of, |packs| {
        held::<T, _>(x, n, i, |x, k| {
            let conv = Shifted { x, k, n: o, packs, taps: op.taps, mirrored: false, cu, start: Start::Bias(bias) };
            y.par_chunks_mut(ROWS * o)
                .zip(z.par_chunks_mut(ROWS * o))
                .zip(mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS)))
                .enumerate()
                .for_each(|(block, ((y, z), (mean, rstd)))| {
                    conv.block(z, block * ROWS);
                    let residual = residual.map(|r| &r[block * ROWS * o..][..z.len()]);
                    dispatch(NormRelu { y, mean, rstd, z, residual, gamma, beta, eps: op.eps });
                });
        })
    });
}

/// Computes dz from dy for a block of rows, and the block's column sums.
struct NormReluBackward<'a> {
    dz: &'a mut [f32],
    /// (3,O): dgamma, dbeta, db. Cleared here.
    sums: &'a mut [f32],
    dy: &'a [f32],
    z: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
}

impl Kernel for NormReluBackward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let o = self.gamma.len();
        self.sums.fill(0.0);
        let (dgamma, rest) = self.sums.split_at_mut(o);
        let (dbeta, db) = rest.split_at_mut(o);
        let (dgamma, dbeta, db) = (dgamma.as_mut_ptr(), dbeta.as_mut_ptr(), db[..o].as_mut_ptr());
        for i in 0..self.mean.len() {
            let row = i * o..(i + 1) * o;
            let (mean, rstd) = (self.mean[i], self.rstd[i]);
            let (z, dz) = (&self.z[row.clone()], &mut self.dz[row.clone()]);
            // The mask is plain code that the compiler vectorizes. dz holds g until the row's means are known.
            let inputs = self.dy[row].iter().zip(z).zip(self.gamma.iter().zip(self.beta));
            for (g, ((dy, z), (gamma, beta))) in dz.iter_mut().zip(inputs) {
                let u = (z - mean) * rstd * gamma + beta;
                *g = if u <= 0.0 { 0.0 } else { *dy };
            }
            let (z, dz, gamma) = (z.as_ptr(), dz.as_mut_ptr(), self.gamma.as_ptr());
            let (mean, rstd) = (s.splat(mean), s.splat(rstd));
            // SAFETY: all loads and stores lie in rows of o elements (the sums, gamma, one row of z and dz).
            unsafe {
                let (mut g_sum, mut gx_sum) = (s.zero(), s.zero());
                lanes!(S, o, |j, k| {
                    let g = load(s, dz.add(j), k);
                    let xh = s.mul(s.sub(load(s, z.add(j), k), mean), rstd);
                    let g_xh = s.mul(g, xh);
                    // Lanes past the end of the row hold zeros in gamma, so they add nothing here.
                    let w = load(s, gamma.add(j), k);
                    g_sum = s.fma(g, w, g_sum);
                    gx_sum = s.fma(g_xh, w, gx_sum);
                    store(s, dgamma.add(j), s.add(load(s, dgamma.add(j), k), g_xh), k);
                    store(s, dbeta.add(j), s.add(load(s, dbeta.add(j), k), g), k);
                });
                let (a, b) = (s.splat(s.sum(g_sum) / o as f32), s.splat(s.sum(gx_sum) / o as f32));
                lanes!(S, o, |j, k| {
                    let g = s.mul(load(s, dz.add(j), k), load(s, gamma.add(j), k));
                    let xh = s.mul(s.sub(load(s, z.add(j), k), mean), rstd);
                    let d = s.mul(rstd, s.sub(s.sub(g, a), s.mul(xh, b)));
                    store(s, dz.add(j), d, k);
                    store(s, db.add(j), s.add(load(s, db.add(j), k), d), k);
                });
            }
        }
    }
}

impl Run<DilatedConvBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DilatedConvBwd>) {
        let mem = self.lend(op);
        in_precision!(mem, backward(&mem, op))
    }
}

fn backward<T: Terms>(mem: &Work<'_>, op: &DilatedConvBwd) {
    let (n, i, o, taps) = (op.n, op.i, op.o, op.taps);
    let weights = taps.count * i * o;
    let (dx, dw, db) = (mem.grad(op.dx, n * i), mem.grad(op.dw, weights), mem.grad(op.db, o));
    let (dgamma, dbeta) = (mem.grad(op.dgamma, o), mem.grad(op.dbeta, o));
    let (dy, z, x, w) = (mem.get(op.dy, n * o), mem.get(op.z, n * o), mem.get(op.x, n * i), mem.get(op.w, weights));
    let (gamma, beta) = (mem.get(op.gamma, o), mem.get(op.beta, o));
    let (mean, rstd, cu) = (mem.get(op.mean, n), mem.get(op.rstd, n), mem.ids(op.cu, op.b + 1));
    let blocks = n.div_ceil(ROWS);
    scratch::borrow(scratch::room(n * o) + blocks * 3 * o, |mut rest| {
        let dz = scratch::split(&mut rest, n * o);
        let sums = &mut rest[..blocks * 3 * o];
        dz.par_chunks_mut(ROWS * o)
            .zip(sums.par_chunks_mut(3 * o))
            .zip(dy.par_chunks(ROWS * o).zip(z.par_chunks(ROWS * o)))
            .zip(mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS)))
            .for_each(|(((dz, sums), (dy, z)), (mean, rstd))| {
                dispatch(NormReluBackward { dz, sums, dy, z, gamma, beta, mean, rstd });
            });
        for (part, to) in [dgamma, dbeta, db].into_iter().enumerate() {
            // The last partial row of a stride is only as long as the rest of it.
            let sums = sums.get(part * o..).unwrap_or(&[]);
            sum_partials(to, sums, 3 * o);
        }
        if let Some((dx, acc)) = dx {
            let of = |tap: usize| View::dense(&w[tap * i * o..][..i * o], i, o).t();
            packed::<T, _>(taps.count, (o, i), of, |packs| {
                let start = if acc { Start::Held } else { Start::Zero };
                held::<T, _>(dz, n, o, |x, k| {
                    let conv = Shifted { x, k, n: i, packs, taps, mirrored: true, cu, start };
                    dx.par_chunks_mut(ROWS * i).enumerate().for_each(|(block, dx)| conv.block(dx, block * ROWS));
                })
            });
        }
        if let Some((dw, acc)) = dw {
            weight_gradient::<T>(dw, acc, x, dz, (n, i, o), taps, cu);
        }
    });
}
