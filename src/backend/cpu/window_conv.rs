/*! Horizontal convolutions of every height and their maxima. A task processes a block of rows, one height after
another. The products over shifted rows ([`shifted`](super::shifted)) write c to scratch, for the block and the few rows
before it that its windows reach. The maxima are taken from there while c is in the cache. The backward pass routes dy
to dc, height by height, and then runs the same products as a dilated convolution.
*/

use rayon::prelude::*;

use super::{
    Cpu,
    gemm::{F32Operand, View},
    products::ROWS,
    reduce::sum_partials,
    scratch,
    shifted::{Shifted, Start, packed, sequences, weight_gradient},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{NO_ROW, Run, Valid, WindowConvBwd, WindowConvFwd, dilated_conv::Taps, window_conv::taps};

/// Rows per task: many compared with the rows before them, for which c is computed again.
const BLOCK: usize = 2 * ROWS;

/// Returns the taps of one height.
fn height(h: usize) -> Taps {
    Taps { count: h, dilation: 1, causal: true }
}

/// Computes the maxima of one height over the windows of a block's rows.
struct Maxima<'a> {
    /// (rows, columns); height h uses F columns from `column0` on.
    y: &'a mut [f32],
    at: &'a mut [u32],
    columns: usize,
    column0: usize,
    /// (rows from `first - lead` on, F)
    c: &'a [f32],
    lead: usize,
    /// (F): the value of c before a sequence's start.
    bias: &'a [f32],
    /// Places of a window other than its newest one.
    reach: usize,
    first: usize,
    cu: &'a [u32],
}

/// Columns computed together, in plain code that the compiler vectorizes for any instruction set.
const SIDE: usize = 16;

/// Returns the first columns of a slice, with zeros past them.
#[inline(always)]
fn side<T: Copy + Default>(x: &[T]) -> [T; SIDE] {
    x.first_chunk().copied().unwrap_or_else(|| {
        let mut all = [T::default(); SIDE];
        all[..x.len()].copy_from_slice(x);
        all
    })
}

/// The running maximum, and how many rows back it lies.
struct Best {
    c: [f32; SIDE],
    at: [u32; SIDE],
}

impl Best {
    /// Takes `c` where it is larger or NaN, so that a NaN is not lost.
    #[inline(always)]
    fn meet(&mut self, c: [f32; SIDE], back: u32) {
        for ((best, at), c) in self.c.iter_mut().zip(&mut self.at).zip(c) {
            let take = c > *best || c.is_nan();
            *best = if take { c } else { *best };
            *at = if take { back } else { *at };
        }
    }

    /// Applies the ReLU.
    #[inline(always)]
    fn relu(&mut self) {
        for (best, at) in self.c.iter_mut().zip(&mut self.at) {
            let off = *best <= 0.0;
            *best = if off { 0.0 } else { *best };
            *at = if off { NO_ROW } else { *at };
        }
    }
}

impl Kernel for Maxima<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let f = self.bias.len();
        for [start, _, from, until] in sequences(self.cu, self.first, self.y.len() / self.columns) {
            for t in from..until {
                let place = (t - self.first) * self.columns + self.column0;
                let (y, at) = (&mut self.y[place..][..f], &mut self.at[place..][..f]);
                let newest = t + self.lead - self.first;
                for j in (0..f).step_by(SIDE) {
                    let c = |back: usize| side(&self.c[(newest - back) * f..][..f][j..]);
                    let mut best = Best { c: c(0), at: [0; SIDE] };
                    for back in 1..=self.reach.min(t - start) {
                        best.meet(c(back), back as u32);
                    }
                    // All places before the start are equal. The newest of them represents all.
                    if self.reach > t - start {
                        best.meet(side(&self.bias[j..]), (t - start + 1) as u32);
                    }
                    best.relu();
                    let width = SIDE.min(f - j);
                    y[j..][..width].copy_from_slice(&best.c[..width]);
                    at[j..][..width].copy_from_slice(&best.at[..width]);
                }
            }
        }
    }
}

impl Run<WindowConvFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, WindowConvFwd>) {
        let mem = self.lend(op);
        let (n, d, l, f) = (op.n, op.d, op.l, op.f);
        let columns = l * f;
        let (y, at) = (mem.out(op.y, n * columns), mem.lent.ids_mut(op.at.first(n * columns)));
        let (x, w) = (mem.get(op.x, n * d), mem.get(op.w, taps(l) * d * f));
        let (bias, cu) = (mem.get(op.bias, columns), mem.ids(op.cu, op.b + 1));
        let of = |tap: usize| View::dense(&w[tap * d * f..][..d * f], d, f);
        packed::<F32Operand, _>(taps(l), (d, f), of, |packs| {
            let task = |(block, (y, at)): (usize, (&mut [f32], &mut [u32]))| {
                let first = block * BLOCK;
                let rows = y.len() / columns;
                y.fill(0.0);
                at.fill(NO_ROW);
                for h in 1..=l {
                    let (column0, reach) = ((h - 1) * f, l - h);
                    let lead = reach.min(first);
                    let bias = &bias[column0..][..f];
                    let (packs, start) = (packs.part(taps(h - 1), h), Start::Bias(bias));
                    let conv = Shifted { x, k: d, n: f, packs, taps: height(h), mirrored: false, cu, start };
                    scratch::borrow((rows + lead) * f, |c| {
                        c.chunks_mut(ROWS * f).enumerate().for_each(|(i, c)| conv.block(c, first - lead + i * ROWS));
                        dispatch(Maxima { y, at, columns, column0, c, lead, bias, reach, first, cu });
                    });
                }
            };
            y.par_chunks_mut(BLOCK * columns).zip(at.par_chunks_mut(BLOCK * columns)).enumerate().for_each(task);
        });
    }
}

/// Computes dc from dy for a block of rows of one height. Each dc gathers from the windows that reach it, newest rows
/// last.
struct Route<'a> {
    /// (rows, F)
    dc: &'a mut [f32],
    f: usize,
    first: usize,
    /// (N, columns)
    dy: &'a [f32],
    at: &'a [u32],
    columns: usize,
    column0: usize,
    reach: usize,
    cu: &'a [u32],
}

impl Kernel for Route<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let f = self.f;
        self.dc.fill(0.0);
        for [_, end, from, until] in sequences(self.cu, self.first, self.dc.len() / f) {
            for s in from..until {
                let dc = &mut self.dc[(s - self.first) * f..][..f];
                let (column0, last) = (s * self.columns + self.column0, self.reach.min(end - 1 - s));
                for j in (0..f).step_by(SIDE) {
                    let mut sum = [0.0f32; SIDE];
                    for back in 0..=last {
                        let place = column0 + back * self.columns;
                        let (dy, at) = (side(&self.dy[place..][..f][j..]), side(&self.at[place..][..f][j..]));
                        for (sum, (dy, at)) in sum.iter_mut().zip(dy.into_iter().zip(at)) {
                            *sum += if at == back as u32 { dy } else { 0.0 };
                        }
                    }
                    let width = SIDE.min(f - j);
                    dc[j..][..width].copy_from_slice(&sum[..width]);
                }
            }
        }
    }
}

/// Column sums of the dy with a maximum above 0, at any place.
struct Seen<'a> {
    sum: &'a mut [f32],
    dy: &'a [f32],
    at: &'a [u32],
}

impl Kernel for Seen<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let columns = self.sum.len();
        self.sum.fill(0.0);
        for (dy, at) in self.dy.chunks_exact(columns).zip(self.at.chunks_exact(columns)) {
            for (sum, (dy, at)) in self.sum.iter_mut().zip(dy.iter().zip(at)) {
                *sum += if *at == NO_ROW { 0.0 } else { *dy };
            }
        }
    }
}

impl Run<WindowConvBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, WindowConvBwd>) {
        let mem = self.lend(op);
        let (n, d, l, f) = (op.n, op.d, op.l, op.f);
        let (columns, weights) = (l * f, taps(l) * d * f);
        let (dx, dw, db) = (mem.grad(op.dx, n * d), mem.grad(op.dw, weights), mem.grad(op.db, columns));
        let (dy, at) = (mem.get(op.dy, n * columns), mem.ids(op.at, n * columns));
        let (x, w, cu) = (mem.get(op.x, n * d), mem.get(op.w, weights), mem.ids(op.cu, op.b + 1));
        if db.is_some() {
            scratch::borrow(n.div_ceil(BLOCK) * columns, |sums| {
                sums.par_chunks_mut(columns)
                    .zip(dy.par_chunks(BLOCK * columns).zip(at.par_chunks(BLOCK * columns)))
                    .for_each(|(sum, (dy, at))| dispatch(Seen { sum, dy, at }));
                sum_partials(db, sums, columns);
            });
        }
        if dx.is_none() && dw.is_none() {
            return;
        }
        // dc of each height (N,F), one height after another, so that the rows are contiguous for the products.
        let matrix = |tap: usize| View::dense(&w[tap * d * f..][..d * f], d, f);
        let each = (n * f).max(1);
        scratch::borrow(l * n * f, |dc| {
            dc.par_chunks_mut(each).enumerate().for_each(|(h, dc)| {
                let (column0, reach) = (h * f, l - 1 - h);
                dc.par_chunks_mut(ROWS * f).enumerate().for_each(|(block, dc)| {
                    dispatch(Route { dc, f, first: block * ROWS, dy, at, columns, column0, reach, cu });
                });
            });
            let dc = &*dc;
            if let Some((dx, acc)) = dx {
                let of = |tap| matrix(tap).t();
                packed::<F32Operand, _>(taps(l), (f, d), of, |packs| {
                    dx.par_chunks_mut(ROWS * d).enumerate().for_each(|(block, dx)| {
                        for (x, h) in dc.chunks(each).zip(1..) {
                            // The heights after the first add to the result of the heights before.
                            let start = if acc || h > 1 { Start::Held } else { Start::Zero };
                            let (packs, taps) = (packs.part(taps(h - 1), h), height(h));
                            let conv = Shifted { x, k: f, n: d, packs, taps, mirrored: true, cu, start };
                            conv.block(dx, block * ROWS);
                        }
                    });
                });
            }
            if let Some((dw, acc)) = dw {
                for h in 1..=l {
                    // Without rows there is no dc, but dw is cleared all the same.
                    let dc = &dc[(h - 1) * n * f..][..n * f];
                    let dw = &mut dw[taps(h - 1) * d * f..taps(h) * d * f];
                    weight_gradient::<F32Operand>(dw, acc, x, dc, (n, d, f), height(h), cu);
                }
            }
        });
    }
}
