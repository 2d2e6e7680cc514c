/*! linear: y = x W^T + b, the weight stored (out, in) as in PyTorch.
fwd: y (N,O) = x (N,I) W (O,I)^T + b (O)
bwd: dx = dy W,  dW = dy^T x,  db = sum_N dy
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar};

op! {
    /// Computes y = x W^T + b.
    LinearFwd = "linear_fwd" {
        write { /** (N,O) */ y: Act }
        read { /** (N,I) */ x: Act, /** (O,I) */ w: F32, /** (O) */ b: F32 }
        with { n: usize, i: usize, o: usize }
    }
}

op! {
    /// Computes the gradients of [`LinearFwd`].
    LinearBwd = "linear_bwd" {
        grad { /** (N,I) */ dx: Act, /** (O,I) */ dw: F32, /** (O) */ db: F32 }
        read { /** (N,O) */ dy: Act, /** (N,I) */ x: Act, /** (O,I) */ w: F32 }
        with { n: usize, i: usize, o: usize }
    }
}

impl Op for LinearFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, i, o) = (self.n, self.i, self.o);
        fits(&[
            ("y", self.y.len(), area([n, o])),
            ("x", self.x.len(), area([n, i])),
            ("w", self.w.len(), area([o, i])),
            ("b", self.b.len(), o),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, i, o) = (self.n, self.i, self.o);
        Cost::work((2 * n * i * o) as f64, 0.0)
            .moves(self.y, n * o)
            .moves(self.x, n * i)
            .weights(self.w, o * i)
            .weights(self.b, o)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, i, o) = (self.n, self.i, self.o);
        let (x, w, b) = (m.get(self.x), m.get(self.w), m.get(self.b));
        m.compute(Dst::Write(self.y), n * o, |at| {
            let (r, c) = (at / o, at % o);
            (0..i).map(|k| x[r * i + k].product(w[c * i + k])).sum::<S>() + b[c]
        });
    }
}

impl Op for LinearBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, i, o) = (self.n, self.i, self.o);
        fits(&[
            ("dx", self.dx.len_or(area([n, i])), area([n, i])),
            ("dw", self.dw.len_or(area([o, i])), area([o, i])),
            ("db", self.db.len_or(o), o),
            ("dy", self.dy.len(), area([n, o])),
            ("x", self.x.len(), area([n, i])),
            ("w", self.w.len(), area([o, i])),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, i, o) = (self.n, self.i, self.o);
        let [dx, dw, db] = [self.dx.wanted(), self.dw.wanted(), self.db.wanted()].map(usize::from);
        Cost::work(((dx + dw) * 2 * n * i * o) as f64, 0.0)
            .gradient(self.dx, n * i)
            .gradient(self.dw, o * i)
            .gradient(self.db, o)
            .moves(self.dy, (dx | dw | db) * n * o)
            .moves(self.x, dw * n * i)
            .weights(self.w, dx * o * i)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, i, o) = (self.n, self.i, self.o);
        let (dy, x, w) = (m.get(self.dy), m.get(self.x), m.get(self.w));
        m.compute(self.dx, n * i, |at| {
            let (r, k) = (at / i, at % i);
            (0..o).map(|c| dy[r * o + c].product(w[c * i + k])).sum()
        });
        m.compute(self.dw, o * i, |at| {
            let (c, k) = (at / i, at % i);
            (0..n).map(|r| dy[r * o + c].product(x[r * i + k])).sum()
        });
        m.compute(self.db, o, |c| (0..n).map(|r| dy[r * o + c]).sum());
    }
}

pub fn cases() -> Vec<Case> {
    [
        (1, 1, 1),
        (1, 8, 3),
        (7, 3, 5),
        (33, 16, 48),
        (65, 64, 192),
        (130, 31, 67),
        (1100, 32, 40),
        (19, 256, 64),
        (5, 3, 290),
        (5, 290, 3),
        (140, 33, 67),
    ]
    .into_iter()
    .map(|(n, i, o)| {
        let mut p = Planner::new();
        let (x, y) = (p.var(n * i), p.var(n * o));
        let (w, b, dw, db) = (p.weight(o * i), p.weight(o), p.stat(o * i), p.stat(o));
        let fwd = LinearFwd { y: y.y, x: x.y, w, b, n, i, o };
        let bwd =
            LinearBwd { dx: Dst::Write(x.dy), dw: Dst::Write(dw), db: Dst::Write(db), dy: y.dy, x: x.y, w, n, i, o };
        Case::new(format!("n{n} i{i} o{o}"), p, fwd, bwd)
            .input(x.y, 1.0, x.dy)
            .input(w, 0.5, dw)
            .input(b, 0.5, db)
            .output(y.y, y.dy)
    })
    .collect()
}
