//! Sums over everything: chunks in vector lanes, chunk results added in order in f64.

use rayon::prelude::*;

use super::{
    Cpu,
    math::{lanes, load},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{GradNorm, Mean, Op, Run};

/// Elements of one partial sum.
const PART: usize = 4096;

/// Adds up partial sums that lie `stride` apart, in order, into a gradient.
pub(super) fn sum_partials(to: Option<(&mut [f32], bool)>, partials: &[f32], stride: usize) {
    let Some((to, acc)) = to else { return };
    if !acc {
        to.fill(0.0);
    }
    for part in partials.chunks(stride) {
        to.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
}

/// Column sums of a dense (n, d) matrix: fixed blocks of rows, added in order.
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

/// Adds every row of the second to the first.
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

/// The sum of x or of x^2 over one part.
struct Sum<'a> {
    x: &'a [f32],
    squares: bool,
}

impl Kernel for Sum<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Four sums at a time, since one addition waits for the last.
        let mut sums = [s.zero(); 4];
        let one = s.splat(1.0);
        let mut quads = self.x.chunks_exact(4 * S::LANES);
        for quad in &mut quads {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk holds four vectors.
                let x = unsafe { s.load(quad.as_ptr().add(v * S::LANES)) };
                *sum = s.fma(x, if self.squares { x } else { one }, *sum);
            }
        }
        let rest = quads.remainder();
        lanes!(S, rest.len(), |i, k| {
            // SAFETY: i + k is at most the length.
            let x = unsafe { load(s, rest.as_ptr().add(i), k) };
            sums[0] = s.fma(x, if self.squares { x } else { one }, sums[0]);
        });
        s.sum(s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3])))
    }
}

fn sum(x: &[f32], squares: bool) -> f64 {
    scratch::borrow(x.len().div_ceil(PART), |partials| {
        partials
            .par_iter_mut()
            .with_min_len(8)
            .zip(x.par_chunks(PART))
            .for_each(|(p, x)| *p = dispatch(Sum { x, squares }));
        partials.iter().map(|p| *p as f64).sum()
    })
}

impl Run<Mean> for Cpu {
    fn run(&mut self, op: &Mean) {
        op.assert_disjoint();
        let mean = sum(self.get(op.x, op.n), false) / op.n.max(1) as f64;
        // SAFETY: disjoint by the assertion, taken once.
        let y = unsafe { self.out(op.y, 1) };
        y[0] = mean as f32;
    }
}

impl Run<GradNorm> for Cpu {
    fn run(&mut self, op: &GradNorm) {
        op.assert_disjoint();
        let squares = sum(self.get(op.g, op.n), true);
        // SAFETY: disjoint by the assertion, taken once.
        let norm = unsafe { self.out(op.norm, 1) };
        norm[0] = squares.sqrt() as f32;
    }
}
