/*! reduce: sums over all elements, in a fixed order.
weighted_mean: y = sum_N w x            x,w (N) f32, y (1) f32: weights with sum 1, or 0 where nothing counts
grad_norm:     norm = sqrt(sum_P g^2)   g (P) f32, norm (1) f32
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{F32, Lent, Planner, Scalar};

op! {
    /// Computes y = weighted mean of x.
    WeightedMean = "weighted_mean" {
        write { /** (1) */ y: F32 }
        read { /** (N) */ x: F32, /** (N) */ w: F32 }
        with { n: usize }
    }
}

op! {
    /// Computes norm = Euclidean norm of all gradients.
    GradNorm = "grad_norm" {
        write { /** (1) */ norm: F32 }
        read { /** (P) */ g: F32 }
        with { n: usize }
    }
}

impl Op for WeightedMean {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), 1), ("x", self.x.len(), self.n), ("w", self.w.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        Cost::work(2.0 * self.n as f64, 0.0).moves(self.y, 1).moves(self.x, self.n).moves(self.w, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (x, w) = (&m.get(self.x)[..self.n], m.get(self.w));
        m.compute(Dst::Write(self.y), 1, |_| x.iter().zip(w).map(|(x, w)| *x * *w).sum());
    }
}

impl Op for GradNorm {
    fn check(&self) -> Result<(), String> {
        fits(&[("norm", self.norm.len(), 1), ("g", self.g.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        Cost::work(2.0 * self.n as f64, 1.0).moves(self.norm, 1).moves(self.g, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let g = &m.get(self.g)[..self.n];
        m.compute(Dst::Write(self.norm), 1, |_| g.iter().map(|x| *x * *x).sum::<S>().sqrt());
    }
}

const SIZES: [usize; 6] = [0, 1, 3, 7, 1000, 100_003];

pub fn mean_cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|n| {
            let mut p = Planner::new();
            let (y, x, w) = (p.stat(1), p.stat(n), p.stat(n));
            Case::forward(format!("n{n}"), p, WeightedMean { y, x, w, n }).normal(x, 3.0).normal(w, 0.1)
        })
        .collect()
}

pub fn norm_cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|n| {
            let mut p = Planner::new();
            let (norm, g) = (p.stat(1), p.stat(n));
            Case::forward(format!("n{n}"), p, GradNorm { norm, g, n }).normal(g, 0.1)
        })
        .collect()
}
