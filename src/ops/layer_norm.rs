/*! layer_norm: normalise each row to mean 0 and variance 1, then scale and shift (Ba et al. 2016).
fwd: y = (x - mean)*rstd*gamma + beta          x,y (N,D) act   gamma,beta (D) f32   mean,rstd (N) f32
bwd: dx = rstd*(g - mean_D(g) - xh*mean_D(g*xh)),  g = dy*gamma, xh = (x-mean)*rstd
     dgamma = sum_N dy*xh,  dbeta = sum_N dy
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar};

op! {
    /// Computes y = (x - mean)*rstd*gamma + beta, row by row.
    LayerNormFwd = "layer_norm_fwd" {
        write { /** (N,D) */ y: Act, /** (N), kept for the backward pass */ mean: F32, /** (N) */ rstd: F32 }
        read { /** (N,D) */ x: Act, /** (D) */ gamma: F32, /** (D) */ beta: F32 }
        with { n: usize, d: usize, eps: f32 }
    }
}

op! {
    /// Computes the gradients of [`LayerNormFwd`].
    LayerNormBwd = "layer_norm_bwd" {
        grad { /** (N,D) */ dx: Act, /** (D) */ dgamma: F32, /** (D) */ dbeta: F32 }
        read {
            /** (N,D) */ dy: Act, /** (N,D) */ x: Act, /** (D) */ gamma: F32, /** (N) */ mean: F32, /** (N) */ rstd: F32
        }
        with { n: usize, d: usize }
    }
}

impl Op for LayerNormFwd {
    fn check(&self) -> Result<(), String> {
        let (n, d) = (self.n, self.d);
        fits(&[
            ("y", self.y.len(), area([n, d])),
            ("mean", self.mean.len(), n),
            ("rstd", self.rstd.len(), n),
            ("x", self.x.len(), area([n, d])),
            ("gamma", self.gamma.len(), d),
            ("beta", self.beta.len(), d),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d) = (self.n, self.d);
        // Mean 1, variance 3, output 4.
        Cost::work((8 * n * d) as f64, n as f64)
            .moves(self.y, n * d)
            .moves(self.mean, n)
            .moves(self.rstd, n)
            .moves(self.x, n * d)
            .moves(self.gamma, d)
            .moves(self.beta, d)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d) = (self.n, self.d);
        let (x, gamma, beta) = (m.get(self.x), m.get(self.gamma), m.get(self.beta));
        let (y, mean, rstd) = (m.get_mut(self.y), m.get_mut(self.mean), m.get_mut(self.rstd));
        for i in 0..n {
            let row = &x[i * d..][..d];
            let mu = row.iter().copied().sum::<S>() / S::of(d as f64);
            let var = row.iter().map(|x| (*x - mu) * (*x - mu)).sum::<S>() / S::of(d as f64);
            mean[i] = mu;
            rstd[i] = S::one() / (var + S::of(self.eps as f64)).sqrt();
            for j in 0..d {
                y[i * d + j] = (row[j] - mu) * rstd[i] * gamma[j] + beta[j];
            }
        }
    }
}

impl Op for LayerNormBwd {
    fn check(&self) -> Result<(), String> {
        let (n, d) = (self.n, self.d);
        fits(&[
            ("dx", self.dx.len_or(area([n, d])), area([n, d])),
            ("dgamma", self.dgamma.len_or(d), d),
            ("dbeta", self.dbeta.len_or(d), d),
            ("dy", self.dy.len(), area([n, d])),
            ("x", self.x.len(), area([n, d])),
            ("gamma", self.gamma.len(), d),
            ("mean", self.mean.len(), n),
            ("rstd", self.rstd.len(), n),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d) = (self.n, self.d);
        let [dx, dgamma, dbeta] = [self.dx.wanted(), self.dgamma.wanted(), self.dbeta.wanted()].map(usize::from);
        // xh 2; g 1, its means 3, dx itself 4; dgamma 2; dbeta 1.
        let (xh, each) = (dx | dgamma, 8 * dx + 2 * dgamma + dbeta);
        Cost::work(((2 * xh + each) * n * d) as f64, 0.0)
            .gradient(self.dx, n * d)
            .gradient(self.dgamma, d)
            .gradient(self.dbeta, d)
            .moves(self.dy, (xh | dbeta) * n * d)
            .moves(self.x, xh * n * d)
            .moves(self.gamma, dx * d)
            .moves(self.mean, xh * n)
            .moves(self.rstd, xh * n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d) = (self.n, self.d);
        let (dy, x, gamma) = (m.get(self.dy), m.get(self.x), m.get(self.gamma));
        let (mean, rstd) = (m.get(self.mean), m.get(self.rstd));
        let by_d = S::one() / S::of(d as f64);
        let xh = |i: usize, j: usize| (x[i * d + j] - mean[i]) * rstd[i];
        let g = |i: usize, j: usize| dy[i * d + j] * gamma[j];
        let mean_g: Vec<S> = (0..n).map(|i| (0..d).map(|j| g(i, j)).sum::<S>() * by_d).collect();
        let mean_gx: Vec<S> = (0..n).map(|i| (0..d).map(|j| g(i, j) * xh(i, j)).sum::<S>() * by_d).collect();
        m.compute(self.dx, n * d, |at| {
            let (i, j) = (at / d, at % d);
            rstd[i] * (g(i, j) - mean_g[i] - xh(i, j) * mean_gx[i])
        });
        m.compute(self.dgamma, d, |j| (0..n).map(|i| dy[i * d + j] * xh(i, j)).sum());
        m.compute(self.dbeta, d, |j| (0..n).map(|i| dy[i * d + j]).sum());
    }
}

pub fn cases() -> Vec<Case> {
    const SMALL: [(usize, usize); 9] =
        [(1, 1), (1, 8), (3, 7), (5, 16), (17, 33), (64, 64), (9, 100), (70, 128), (300, 48)];
    // Rows of every length that a backend may process differently.
    const WIDE: [(usize, usize); 6] = [(0, 24), (21, 250), (11, 384), (9, 1000), (5, 1024), (70, 1031)];
    SMALL
        .into_iter()
        .chain(WIDE)
        .map(|(n, d)| {
            let mut p = Planner::new();
            let (x, y) = (p.var(n * d), p.var(n * d));
            let (gamma, beta) = (p.stat(d), p.stat(d));
            let (dgamma, dbeta, mean, rstd) = (p.stat(d), p.stat(d), p.stat(n), p.stat(n));
            let fwd = LayerNormFwd { y: y.y, mean, rstd, x: x.y, gamma, beta, n, d, eps: 1e-5 };
            let bwd = LayerNormBwd {
                dx: Dst::Write(x.dy),
                dgamma: Dst::Write(dgamma),
                dbeta: Dst::Write(dbeta),
                dy: y.dy,
                x: x.y,
                gamma,
                mean,
                rstd,
                n,
                d,
            };
            Case::new(format!("n{n} d{d}"), p, fwd, bwd)
                .input(x.y, 2.0, x.dy)
                .input(gamma, 1.0, dgamma)
                .input(beta, 1.0, dbeta)
                .output(y.y, y.dy)
        })
        .collect()
}
