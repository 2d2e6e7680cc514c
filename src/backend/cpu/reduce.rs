//! Sums over all elements: chunks in vector lanes, with the chunk results added in order in f64.

use rayon::prelude::*;

use super::{
    Cpu,
    math::{lanes, load},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{GradNorm, Run, Valid, WeightedMean};

/// Elements per partial sum.
const PART: usize = 4096;

/// Adds partial sums that lie `stride` apart, in order, into a gradient.
pub(super) fn sum_partials(to: Option<(&mut [f32], bool)>, partials: &[f32], stride: usize) {
    let Some((to, acc)) = to else { return };
    if !acc {
        to.fill(0.0);
    }
    for part in partials.chunks(stride) {
        to.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
}

/// Computes the column sums of a dense (n, d) matrix from fixed blocks of rows, added in order.
pub(super) fn sum_columns(to: Option<(&mut [f32], bool)>, x: &[f32], d: usize) {
    const ROWS: usize = 256;
    if to.is_none() || d == 0 {
        return;
    }
    let blocks = (x.len() / d).div_ceil(ROWS);
    scratch::borrow(blocks * d, |partials| {
        partials.par_chunks_mut(d).zip(x.par_chunks(ROWS * d)).for_each(|(sum, x)| {
            sum.fill(0.0);
            dispatch(AddRows(sum, x));
        });
        sum_partials(to, partials, d);
    });
}

/// Adds every row of the second slice to the first slice.
pub(super) struct AddRows<'a>(pub &'a mut [f32], pub &'a [f32]);

impl Kernel for AddRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.1.chunks_exact(self.0.len()) {
            self.0.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    }
}

/// Computes the sum of x w over one part.
struct Sum<'a> {
    x: &'a [f32],
    w: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Four sums in parallel, since each addition waits for the one before.
        let mut sums = [s.zero(); 4];
        assert_eq!(self.x.len(), self.w.len());
        let mut quads = self.x.chunks_exact(4 * S::LANES).zip(self.w.chunks_exact(4 * S::LANES));
        for (x, w) in &mut quads {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunks hold four vectors.
                let (x, w) = unsafe { (s.load(x.as_ptr().add(v * S::LANES)), s.load(w.as_ptr().add(v * S::LANES))) };
                *sum = s.fma(x, w, *sum);
            }
        }
        let whole = self.x.len() / (4 * S::LANES) * (4 * S::LANES);
        let (x, w) = (&self.x[whole..], &self.w[whole..]);
        lanes!(S, x.len(), |i, k| {
            // SAFETY: i + k is at most the common length.
            let (x, w) = unsafe { (load(s, x.as_ptr().add(i), k), load(s, w.as_ptr().add(i), k)) };
            sums[0] = s.fma(x, w, sums[0]);
        });
        s.sum(s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3])))
    }
}

/// Returns the sum of x w.
fn sum(x: &[f32], w: &[f32]) -> f64 {
    scratch::borrow(x.len().div_ceil(PART), |partials| {
        partials
            .par_iter_mut()
            .with_min_len(8)
            .zip(x.par_chunks(PART).zip(w.par_chunks(PART)))
            .for_each(|(p, (x, w))| *p = dispatch(Sum { x, w }));
        partials.iter().map(|p| *p as f64).sum()
    })
}

impl Run<WeightedMean> for Cpu {
    fn execute(&mut self, op: &Valid<'_, WeightedMean>) {
        let mem = self.lend(op);
        let mean = sum(mem.get(op.x, op.n), mem.get(op.w, op.n));
        let y = mem.out(op.y, 1);
        y[0] = mean as f32;
    }
}

impl Run<GradNorm> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GradNorm>) {
        let mem = self.lend(op);
        let g = mem.get(op.g, op.n);
        let squares = sum(g, g);
        let norm = mem.out(op.norm, 1);
        norm[0] = squares.sqrt() as f32;
    }
}
