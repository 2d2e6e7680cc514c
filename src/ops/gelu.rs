/*! gelu: the Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016, as in BERT).
fwd: y = x/2 (1 + tanh(c (x + 0.044715 x^3))),  c = sqrt(2/pi)          x,y (N)
bwd: dx = dy (1/2 (1 + t) + x/2 (1 - t^2) c (1 + 3*0.044715 x^2)),  t the tanh above
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{Act, Lent, Planner, Scalar};

op! {
    /// Computes y = gelu(x), elementwise.
    GeluFwd = "gelu_fwd" {
        write { /** (N) */ y: Act }
        read { /** (N) */ x: Act }
        with { n: usize }
    }
}

op! {
    /// Computes the gradient of [`GeluFwd`] from its input.
    GeluBwd = "gelu_bwd" {
        grad { /** (N) */ dx: Act }
        read { /** (N) */ dy: Act, /** (N) */ x: Act }
        with { n: usize }
    }
}

fn tanh_part<S: Scalar>(x: S) -> (S, S, S) {
    let (c, a) = (S::of((2.0 / std::f64::consts::PI).sqrt()), S::of(0.044715));
    ((c * (x + a * x * x * x)).tanh(), c, a)
}

impl Op for GeluFwd {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), self.n), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        // The argument of tanh 5, the rest 3.
        Cost::work(8.0 * self.n as f64, self.n as f64).moves(self.y, self.n).moves(self.x, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let x = m.get(self.x);
        m.compute(Dst::Write(self.y), self.n, |i| {
            let (t, _, _) = tanh_part(x[i]);
            S::of(0.5) * x[i] * (S::one() + t)
        });
    }
}

impl Op for GeluBwd {
    fn check(&self) -> Result<(), String> {
        fits(&[("dx", self.dx.len_or(self.n), self.n), ("dy", self.dy.len(), self.n), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        // The argument of tanh 5, its slope 4, the rest 9.
        let n = self.dx.wanted() as usize * self.n;
        Cost::work(18.0 * n as f64, n as f64).gradient(self.dx, n).moves(self.dy, n).moves(self.x, n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (dy, x) = (m.get(self.dy), m.get(self.x));
        m.compute(self.dx, self.n, |i| {
            let (t, c, a) = tanh_part(x[i]);
            let (half, one, three) = (S::of(0.5), S::one(), S::of(3.0));
            let slope = c * (one + three * a * x[i] * x[i]);
            dy[i] * (half * (one + t) + half * x[i] * (one - t * t) * slope)
        });
    }
}

pub fn cases() -> Vec<Case> {
    [(1, 1.0), (3, 1.0), (7, 3.0), (64, 1.0), (1000, 3.0), (4099, 8.0)]
        .into_iter()
        .map(|(n, std)| {
            let mut p = Planner::new();
            let (x, y) = (p.var(n), p.var(n));
            let fwd = GeluFwd { y: y.y, x: x.y, n };
            let bwd = GeluBwd { dx: Dst::Write(x.dy), dy: y.dy, x: x.y, n };
            Case::new(format!("n{n} std{std}"), p, fwd, bwd).input(x.y, std, x.dy).output(y.y, y.dy)
        })
        .collect()
}
