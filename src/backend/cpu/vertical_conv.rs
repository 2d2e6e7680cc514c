/*! Vertical convolutions: weighted sums of rows, vector by vector of a row, in blocks of rows. Four filters are
computed at a time (four taps for the weight's gradient). A loaded vector then serves several sums, and no sum waits for
the last addition.
*/

use rayon::prelude::*;

use super::{
    Cpu,
    math::{lanes, load, store},
    products::ROWS,
    reduce::sum_partials,
    scratch,
    shifted::sequences,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{Run, Valid, VerticalConvBwd, VerticalConvFwd};

/// Sums computed together.
const SIDE: usize = 4;

/// The sizes of one op, and the rows of a block.
#[derive(Clone, Copy)]
struct Rows<'a> {
    d: usize,
    l: usize,
    f: usize,
    cu: &'a [u32],
    /// The first row of the block.
    first: usize,
}

/// Computes y for a block of rows.
struct Forward<'a> {
    /// (rows, F*D)
    y: &'a mut [f32],
    /// (N, D)
    x: &'a [f32],
    w: &'a [f32],
    bias: &'a [f32],
    of: Rows<'a>,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { d, l, f, cu, first } = self.of;
        assert!(self.w.len() == f * l && self.bias.len() == f);
        self.y.fill(0.0);
        for [start, _, from, until] in sequences(cu, first, self.y.len() / (f * d)) {
            for t in from..until {
                let y = self.y[(t - first) * f * d..][..f * d].as_mut_ptr();
                // The existing rows of the window, and the tap of the oldest of them.
                let rows = l.min(t - start + 1);
                let (oldest, x) = (l - rows, self.x[(t + 1 - rows) * d..][..rows * d].as_ptr());
                lanes!(S, d, |j, k| {
                    for f0 in (0..f).step_by(SIDE) {
                        // Past the last filter, the last one is computed again and dropped below.
                        let filter: [usize; SIDE] = std::array::from_fn(|g| (f0 + g).min(f - 1));
                        let mut acc = [s.zero(); SIDE];
                        for g in 0..SIDE {
                            acc[g] = s.splat(self.bias[filter[g]]);
                        }
                        for row in 0..rows {
                            // SAFETY: j..j+k lies in the row; filter and tap are below F and L.
                            unsafe {
                                let x = load(s, x.add(row * d + j), k);
                                for g in 0..SIDE {
                                    let w = s.splat(*self.w.get_unchecked(filter[g] * l + oldest + row));
                                    acc[g] = s.fma(w, x, acc[g]);
                                }
                            }
                        }
                        for (g, acc) in acc.into_iter().enumerate().take(f - f0) {
                            // SAFETY: j..j+k lies in the filter's part of the row.
                            unsafe { store(s, y.add((f0 + g) * d + j), acc, k) }
                        }
                    }
                });
            }
        }
    }
}

impl Run<VerticalConvFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, VerticalConvFwd>) {
        let mem = self.lend(op);
        let (n, d, l, f) = (op.n, op.d, op.l, op.f);
        let y = mem.out(op.y, n * f * d);
        let (x, w, bias) = (mem.get(op.x, n * d), mem.get(op.w, f * l), mem.get(op.bias, f));
        let cu = mem.ids(op.cu, op.b + 1);
        y.par_chunks_mut(ROWS * f * d).enumerate().for_each(|(block, y)| {
            dispatch(Forward { y, x, w, bias, of: Rows { d, l, f, cu, first: block * ROWS } });
        });
    }
}

/// Computes dx for a block of rows, each gathered from the rows with windows that contain it.
struct Inputs<'a> {
    /// (rows, D)
    dx: &'a mut [f32],
    acc: bool,
    /// (N, F*D)
    dy: &'a [f32],
    w: &'a [f32],
    of: Rows<'a>,
}

impl Kernel for Inputs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { d, l, f, cu, first } = self.of;
        assert!(self.w.len() == f * l);
        if !self.acc {
            self.dx.fill(0.0);
        }
        for [_, end, from, until] in sequences(cu, first, self.dx.len() / d) {
            for r in from..until {
                let dx = self.dx[(r - first) * d..][..d].as_mut_ptr();
                // Rows r .. r + rows see this row: with the last tap, the one before it, and so on.
                let rows = l.min(end - r);
                let dy = self.dy[r * f * d..][..rows * f * d].as_ptr();
                lanes!(S, d, |j, k| {
                    let mut acc = [s.zero(); SIDE];
                    for row in 0..rows {
                        for filter in 0..f {
                            // SAFETY: j..j+k lies in the filter's part of the row; filter and tap are below F and L.
                            unsafe {
                                let w = s.splat(*self.w.get_unchecked(filter * l + l - 1 - row));
                                let dy = load(s, dy.add((row * f + filter) * d + j), k);
                                acc[filter % SIDE] = s.fma(w, dy, acc[filter % SIDE]);
                            }
                        }
                    }
                    let sum = s.add(s.add(acc[0], acc[2]), s.add(acc[1], acc[3]));
                    // SAFETY: j..j+k lies in the row.
                    unsafe {
                        let old = if self.acc { load(s, dx.add(j), k) } else { s.zero() };
                        store(s, dx.add(j), s.add(old, sum), k)
                    }
                });
            }
        }
    }
}

/// A block's share of dw (F,L), followed by db (F).
struct Weights<'a> {
    sums: &'a mut [f32],
    /// Whether dw is wanted. Any group of taps yields db.
    dw: bool,
    rows: usize,
    dy: &'a [f32],
    x: &'a [f32],
    /// (D): the value of rows before a sequence's start.
    zeros: &'a [f32],
    of: Rows<'a>,
}

impl Kernel for Weights<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { d, l, f, cu, first } = self.of;
        assert!(self.sums.len() == f * (l + 1) && self.zeros.len() == d);
        for filter in 0..f {
            for l0 in (0..if self.dw { l } else { 1 }).step_by(SIDE) {
                let mut acc = [s.zero(); SIDE];
                let mut bias = s.zero();
                for [start, _, from, until] in sequences(cu, first, self.rows) {
                    for t in from..until {
                        let dy = self.dy[(t * f + filter) * d..][..d].as_ptr();
                        let mut x = [self.zeros.as_ptr(); SIDE];
                        for (g, x) in x.iter_mut().enumerate().take(l - l0) {
                            if t + 1 + l0 + g >= start + l {
                                *x = self.x[(t + 1 + l0 + g - l) * d..][..d].as_ptr();
                            }
                        }
                        lanes!(S, d, |j, k| {
                            // SAFETY: all rows hold d elements; lanes past them are zeros.
                            unsafe {
                                let dy = load(s, dy.add(j), k);
                                bias = s.add(bias, dy);
                                for g in 0..SIDE {
                                    acc[g] = s.fma(dy, load(s, x[g].add(j), k), acc[g]);
                                }
                            }
                        });
                    }
                }
                for (g, acc) in acc.into_iter().enumerate().take(l - l0) {
                    self.sums[filter * l + l0 + g] = s.sum(acc);
                }
                // Every group of taps computes the same sum.
                self.sums[f * l + filter] = s.sum(bias);
            }
        }
    }
}

impl Run<VerticalConvBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, VerticalConvBwd>) {
        let mem = self.lend(op);
        let (n, d, l, f) = (op.n, op.d, op.l, op.f);
        let (dx, dw, db) = (mem.grad(op.dx, n * d), mem.grad(op.dw, f * l), mem.grad(op.db, f));
        let (dy, x, w) = (mem.get(op.dy, n * f * d), mem.get(op.x, n * d), mem.get(op.w, f * l));
        let cu = mem.ids(op.cu, op.b + 1);
        let of = |block: usize| Rows { d, l, f, cu, first: block * ROWS };
        if let Some((dx, acc)) = dx {
            dx.par_chunks_mut(ROWS * d).enumerate().for_each(|(block, dx)| {
                dispatch(Inputs { dx, acc, dy, w, of: of(block) });
            });
        }
        if dw.is_none() && db.is_none() {
            return;
        }
        let wanted = dw.is_some();
        let (blocks, each) = (n.div_ceil(ROWS), f * (l + 1));
        scratch::borrow(d + blocks * each, |room| {
            let (zeros, sums) = room.split_at_mut(d);
            zeros.fill(0.0);
            let zeros = &*zeros;
            sums.par_chunks_mut(each).enumerate().for_each(|(block, sums)| {
                let rows = ROWS.min(n - block * ROWS);
                dispatch(Weights { sums, dw: wanted, rows, dy, x, zeros, of: of(block) });
            });
            sum_partials(dw, sums, each);
            // The last partial row of a stride is only as long as the rest of it.
            sum_partials(db, sums.get(f * l..).unwrap_or(&[]), each);
        });
    }
}
