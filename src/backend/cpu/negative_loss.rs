//! Losses over each row's own candidates. Bound by the gather of table rows, which are prefetched.

use rayon::prelude::*;

use super::{
    Cpu,
    math::{Map, exp, lanes, load, sigmoid, softplus_onto, store},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{NegativeLossBwd, NegativeLossFwd, Run, Valid, negative_loss::Contrast};

/// Scored rows per task.
const ROWS: usize = 8;
/// Number of candidates prefetched ahead.
const AHEAD: usize = 6;
/// Vectors of columns with sums in registers in the backward pass.
const COLUMNS: usize = 4;

/// Computes ln(1 + e^x).
#[inline(always)]
fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    softplus_onto(s, s.max(x, s.zero()), x)
}

/// Computes [`softplus`] and [`sigmoid`] of one number.
fn softplus1(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
fn sigmoid1(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Prefetches table row `id`, if it is a row.
#[inline(always)]
pub(super) fn prefetch<S: Simd>(s: S, table: &[f32], id: Option<&u32>, d: usize) {
    if let Some(row) = id.and_then(|id| table.get(*id as usize * d..)) {
        // One cache line is 16 elements.
        (0..d.min(row.len())).step_by(16).for_each(|k| s.prefetch(row[k..].as_ptr()));
    }
}

/// Writes the logits of a row's negatives in whole vectors, with -inf for missing ones. Returns the number of
/// negatives.
#[inline(always)]
fn spread(x: &mut [f32], z: &[f32], id: &[u32], v: usize) -> usize {
    let mut n = 0;
    for (x, (z, id)) in x.iter_mut().zip(z[1..].iter().zip(&id[1..])) {
        let there = (*id as usize) < v;
        n += there as usize;
        *x = if there { *z } else { f32::NEG_INFINITY };
    }
    x[z.len() - 1..].fill(f32::NEG_INFINITY);
    n
}

/// [`softplus`] of the difference from a number.
struct SoftplusFrom(f32);
impl Map for SoftplusFrom {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        softplus(s, s.sub(x, s.splat(self.0)))
    }
}

/// exp of the difference from a number.
struct ExpFrom(f32);
impl Map for ExpFrom {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        exp(s, s.sub(x, s.splat(self.0)))
    }
}

/// Sums f over a padded row.
#[inline(always)]
fn total<S: Simd, F: Map>(s: S, x: &[f32], f: F) -> f32 {
    let mut sum = s.zero();
    // SAFETY: j + k is at most the row's length.
    lanes!(S, x.len(), |j, k| sum = s.add(sum, f.at(s, unsafe { load(s, x.as_ptr().add(j), k) })));
    s.sum(sum)
}

/// Returns the largest logit of a row, the target's share e^(z_0 - max) and the share of all negatives.
#[inline(always)]
fn softmax<S: Simd>(s: S, x: &[f32], z0: f32) -> (f32, f32, f32) {
    let mut top = s.splat(z0);
    // SAFETY: j + k is at most the row's length.
    lanes!(S, x.len(), |j, k| top = s.max(top, unsafe { load(s, x.as_ptr().add(j), k) }));
    let max = s.largest(top);
    (max, (z0 - max).exp(), total(s, x, ExpFrom(max)))
}

struct Forward<'a> {
    loss: &'a mut [f32],
    z: &'a mut [f32],
    x: &'a mut [f32],
    h: &'a [f32],
    id: &'a [u32],
    table: &'a [f32],
    bias: &'a [f32],
    log_q: &'a [f32],
    /// Of these rows, or empty.
    free: &'a [f32],
    d: usize,
    s: usize,
    v: usize,
    contrast: Contrast,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, w, x) = (self.d, 1 + self.s, self.x);
        for (i, loss) in self.loss.iter_mut().enumerate() {
            let (z, id) = (&mut self.z[i * w..][..w], &self.id[i * w..][..w]);
            let h = self.h[i * d..][..d].as_ptr();
            let free = self.free.get(i).copied().unwrap_or(0.0);
            for j in 0..w {
                prefetch(s, self.table, id.get(j + AHEAD), d);
                let k = id[j] as usize;
                z[j] = 0.0;
                if k >= self.v {
                    continue;
                }
                let row = self.table[k * d..][..d].as_ptr();
                let mut sum = s.zero();
                // SAFETY: both rows hold d elements.
                unsafe { lanes!(S, d, |c, n| sum = s.fma(load(s, h.add(c), n), load(s, row.add(c), n), sum)) }
                z[j] =
                    s.sum(sum) + self.bias[k] - if j == 0 { 0.0 } else { self.log_q.get(k).map_or(0.0, |q| q - free) };
            }
            let (n, z0) = (spread(x, z, id, self.v), z[0]);
            if id[0] as usize >= self.v {
                *loss = 0.0;
                continue;
            }
            *loss = match self.contrast {
                Contrast::Bce { beta } => (beta * softplus1(-z0) + total(s, x, SoftplusFrom(0.0))) / (1 + n) as f32,
                Contrast::Bpr => total(s, x, SoftplusFrom(z0)) / n.max(1) as f32,
                Contrast::Softmax => {
                    let (max, target, rest) = softmax(s, x, z0);
                    // Exact where the target outweighs the rest.
                    max - z0 + (rest + (target - 1.0)).ln_1p()
                }
            };
        }
    }
}

struct Backward<'a> {
    g: &'a mut [f32],
    dh: Option<(&'a mut [f32], bool)>,
    x: &'a mut [f32],
    dloss: &'a [f32],
    z: &'a [f32],
    id: &'a [u32],
    table: &'a [f32],
    d: usize,
    s: usize,
    v: usize,
    contrast: Contrast,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (d, w, x) = (self.d, 1 + self.s, self.x);
        for (i, &dloss) in self.dloss.iter().enumerate() {
            let (z, id, g) = (&self.z[i * w..][..w], &self.id[i * w..][..w], &mut self.g[i * w..][..w]);
            if id[0] as usize >= self.v {
                g.fill(0.0);
            } else {
                let (n, z0) = (spread(x, z, id, self.v), z[0]);
                let (at, scale) = match self.contrast {
                    Contrast::Bce { .. } => (0.0, 1.0 / (1 + n) as f32),
                    Contrast::Bpr => (z0, 1.0 / n.max(1) as f32),
                    Contrast::Softmax => {
                        let (max, target, rest) = softmax(s, x, z0);
                        (max, 1.0 / (rest + target))
                    }
                };
                let (at, p) = (s.splat(at), x.as_mut_ptr());
                let alone = match self.contrast {
                    Contrast::Bce { .. } | Contrast::Bpr => true,
                    Contrast::Softmax => false,
                };
                let mut sum = s.zero();
                lanes!(S, x.len(), |j, k| {
                    // SAFETY: j + k is at most the row's length.
                    unsafe {
                        let from = s.sub(load(s, p.add(j), k), at);
                        let slope = s.mul(if alone { sigmoid(s, from) } else { exp(s, from) }, s.splat(scale));
                        sum = s.add(sum, slope);
                        store(s, p.add(j), slope, k)
                    }
                });
                // The target's gradient is minus the sum of the negatives' gradients. For softmax this is exact where 1
                // - p would cancel.
                g[0] = dloss
                    * match self.contrast {
                        Contrast::Bce { beta } => -beta * scale * sigmoid1(-z0),
                        Contrast::Bpr | Contrast::Softmax => -s.sum(sum),
                    };
                g[1..].iter_mut().zip(&*x).for_each(|(g, slope)| *g = dloss * slope);
            }
            if let Some((dh, acc)) = &mut self.dh {
                mix(s, &mut dh[i * d..][..d], *acc, g, id, self.table, self.v);
            }
        }
    }
}

/// Computes to = or += sum_j g_j table[id_j], a few vectors of columns at a time.
#[inline(always)]
fn mix<S: Simd>(s: S, to: &mut [f32], acc: bool, g: &[f32], ids: &[u32], table: &[f32], v: usize) {
    let d = to.len();
    for c in (0..d).step_by(COLUMNS * S::LANES) {
        let columns = (d - c).min(COLUMNS * S::LANES);
        let mut sum = [s.zero(); COLUMNS];
        for (j, (g, id)) in g.iter().zip(ids).enumerate() {
            // The first columns prefetch whole rows, so later columns need no prefetch.
            if c == 0 {
                prefetch(s, table, ids.get(j + AHEAD), d);
            }
            if *id as usize >= v {
                continue;
            }
            let (row, g) = (table[*id as usize * d + c..][..columns].as_ptr(), s.splat(*g));
            // SAFETY: the row holds `columns` elements from here on.
            unsafe {
                lanes!(S, columns, |k, n| sum[k / S::LANES] = s.fma(g, load(s, row.add(k), n), sum[k / S::LANES]))
            }
        }
        let to = to[c..][..columns].as_mut_ptr();
        lanes!(S, columns, |k, n| {
            // SAFETY: k + n is at most the columns of this piece.
            unsafe {
                let old = if acc { load(s, to.add(k), n) } else { s.zero() };
                store(s, to.add(k), s.add(old, sum[k / S::LANES]), n)
            }
        });
    }
}

impl Run<NegativeLossFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, NegativeLossFwd>) {
        let mem = self.lend(op);
        let (m, d, s, v, w) = (op.m, op.d, op.s, op.v, 1 + op.s);
        let (loss, z) = (mem.out(op.loss, m), mem.out(op.z, m * w));
        let (h, table, bias) = (mem.get(op.h, m * d), mem.get(op.table, v * d), mem.get(op.bias, v));
        let (log_q, free, id) = (mem.lent.get(op.log_q), mem.lent.get(op.free), mem.ids(op.id, m * w));
        let blocks = loss.par_chunks_mut(ROWS).zip(z.par_chunks_mut(ROWS * w)).enumerate();
        blocks.for_each(|(block, (loss, z))| {
            let (first, contrast) = (block * ROWS, op.contrast);
            let (h, id) = (&h[first * d..][..loss.len() * d], &id[first * w..][..z.len()]);
            let free = free.get(first..first + loss.len()).unwrap_or_default();
            scratch::borrow(scratch::room(s), |x| {
                let x = &mut x[..scratch::room(s)];
                dispatch(Forward { loss, z, x, h, id, table, bias, log_q, free, d, s, v, contrast });
            });
        });
    }
}

impl Run<NegativeLossBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, NegativeLossBwd>) {
        let mem = self.lend(op);
        let (m, d, s, v, w) = (op.m, op.d, op.s, op.v, 1 + op.s);
        let (g, dh) = (mem.out(op.g, m * w), mem.grad(op.dh, m * d));
        let (dloss, z) = (mem.get(op.dloss, m), mem.get(op.z, m * w));
        let (table, id) = (mem.get(op.table, v * d), mem.ids(op.id, m * w));
        let task = |block: usize, g: &mut [f32], dh: Option<(&mut [f32], bool)>| {
            let (first, contrast) = (block * ROWS, op.contrast);
            let (dloss, z) = (&dloss[first..][..g.len() / w], &z[first * w..][..g.len()]);
            let id = &id[first * w..][..g.len()];
            scratch::borrow(scratch::room(s), |x| {
                let x = &mut x[..scratch::room(s)];
                dispatch(Backward { g, dh, x, dloss, z, id, table, d, s, v, contrast });
            });
        };
        let blocks = g.par_chunks_mut(ROWS * w);
        match dh {
            Some((dh, acc)) if d > 0 => {
                let both = blocks.zip(dh.par_chunks_mut(ROWS * d)).enumerate();
                both.for_each(|(block, (g, dh))| task(block, g, Some((dh, acc))));
            }
            _ => blocks.enumerate().for_each(|(block, g)| task(block, g, None)),
        }
    }
}
