/*! scale_rows: each row times a number of its own that is not trained, such as a weight of its rating or its age.
fwd: y_n = w_n x_n            x,y (N,D) act   w (N) f32
bwd: dx_n = w_n dy_n
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{Act, F32, HostArenas, Planner, Scalar};

op! {
    /// y = w x, row by row.
    ScaleRowsFwd = "scale_rows_fwd" {
        write { /** (N,D) */ y: Act }
        read { /** (N,D) */ x: Act, /** (N) */ w: F32 }
        with { n: usize, d: usize }
    }
}

op! {
    /// Gradient of [`ScaleRowsFwd`]; the weights have none.
    ScaleRowsBwd = "scale_rows_bwd" {
        grad { /** (N,D) */ dx: Act }
        read { /** (N,D) */ dy: Act, /** (N) */ w: F32 }
        with { n: usize, d: usize }
    }
}

impl Op for ScaleRowsFwd {
    fn check(&self) -> Result<(), String> {
        let nd = self.n * self.d;
        fits(&[("y", self.y.len(), nd), ("x", self.x.len(), nd), ("w", self.w.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        let nd = self.n * self.d;
        Cost::work(nd as f64, 0.0).moves(self.y, nd).moves(self.x, nd).moves(self.w, self.n)
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let (x, w, d) = (m.get(self.x), m.get(self.w), self.d);
        m.compute(Dst::Write(self.y), self.n * d, |at| w[at / d] * x[at]);
    }
}

impl Op for ScaleRowsBwd {
    fn check(&self) -> Result<(), String> {
        let nd = self.n * self.d;
        fits(&[("dx", self.dx.len_or(nd), nd), ("dy", self.dy.len(), nd), ("w", self.w.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        let n = self.dx.wanted() as usize * self.n;
        let nd = n * self.d;
        Cost::work(nd as f64, 0.0).gradient(self.dx, nd).moves(self.dy, nd).moves(self.w, n)
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let (dy, w, d) = (m.get(self.dy), m.get(self.w), self.d);
        m.compute(self.dx, self.n * d, |at| w[at / d] * dy[at]);
    }
}

pub fn cases() -> Vec<Case<ScaleRowsFwd, ScaleRowsBwd>> {
    [(0, 8), (1, 1), (3, 1), (1, 7), (7, 3), (9, 8), (33, 64), (100, 33), (1000, 16), (5, 300), (2001, 130)]
        .into_iter()
        .map(|(n, d)| {
            let mut p = Planner::new();
            let (x, y, w) = (p.var(n * d), p.var(n * d), p.stat(n));
            let fwd = ScaleRowsFwd { y: y.y, x: x.y, w, n, d };
            let bwd = ScaleRowsBwd { dx: Dst::Write(x.dy), dy: y.dy, w, n, d };
            // Every fifth row is left out, as padding is.
            let weights = (0..n).map(|i| if i % 5 == 4 { 0.0 } else { 0.3 * (i % 11) as f32 - 1.4 }).collect();
            Case::new(format!("n{n} d{d}"), p, fwd, bwd).input(x.y, 1.0, x.dy).output(y.y, y.dy).values(w, weights)
        })
        .collect()
}
