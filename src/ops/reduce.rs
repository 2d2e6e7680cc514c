/*! reduce: sums over everything, in a fixed order.
mean:      y = 1/N sum_N x          x (N) f32, y (1) f32; N = 0 gives 0
grad_norm: norm = sqrt(sum_P g^2)   g (P) f32, norm (1) f32
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{F32, HostArenas, Planner, Scalar};

op! {
    /// y = mean of x.
    Mean = "mean" {
        write { /** (1) */ y: F32 }
        read { /** (N) */ x: F32 }
        with { n: usize }
    }
}

op! {
    /// norm = Euclidean norm of all gradients.
    GradNorm = "grad_norm" {
        write { /** (1) */ norm: F32 }
        read { /** (P) */ g: F32 }
        with { n: usize }
    }
}

impl Op for Mean {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), 1), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        Cost { flop: self.n as f64, bytes: 4.0 * self.n as f64 }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let x = &m.get(self.x)[..self.n];
        m.compute(Dst::Write(self.y), 1, |_| x.iter().copied().sum::<S>() / S::of(self.n.max(1) as f64));
    }
}

impl Op for GradNorm {
    fn check(&self) -> Result<(), String> {
        fits(&[("norm", self.norm.len(), 1), ("g", self.g.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        Cost { flop: 2.0 * self.n as f64, bytes: 4.0 * self.n as f64 }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let g = &m.get(self.g)[..self.n];
        m.compute(Dst::Write(self.norm), 1, |_| g.iter().map(|x| *x * *x).sum::<S>().sqrt());
    }
}

const SIZES: [usize; 6] = [0, 1, 3, 7, 1000, 100_003];

pub fn mean_cases() -> Vec<Case<Mean>> {
    SIZES
        .into_iter()
        .map(|n| {
            let mut p = Planner::new();
            let (y, x) = (p.stat(1), p.stat(n));
            Case::forward(format!("n{n}"), p, Mean { y, x, n }).normal(x, 3.0)
        })
        .collect()
}

pub fn norm_cases() -> Vec<Case<GradNorm>> {
    SIZES
        .into_iter()
        .map(|n| {
            let mut p = Planner::new();
            let (norm, g) = (p.stat(1), p.stat(n));
            Case::forward(format!("n{n}"), p, GradNorm { norm, g, n }).normal(g, 0.1)
        })
        .collect()
}
