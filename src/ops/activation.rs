/*! activation: relu, sigmoid or tanh, elementwise.
fwd: y = a(x)                                                                       x,y (N)
bwd: dx = dy a'(x), written in y so that x need not be kept:                        dx,dy,y (N)
     relu: dy where y > 0, else 0        sigmoid: dy y (1-y)        tanh: dy (1-y^2)
A NaN stays a NaN, so that a diverged step is detected.
*/

use super::{
    Cost, Dst, Op,
    case::{Case, affordable},
    fits,
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, Lent, Planner, Scalar},
};

/// The activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0); its slope at 0 is 0.
    Relu,
    /// 1 / (1 + e^-x).
    Sigmoid,
    Tanh,
}

op! {
    /// y = a(x), elementwise.
    ActivationFwd = "activation_fwd" {
        write { /** (N) */ y: Act }
        read { /** (N) */ x: Act }
        with { n: usize, kind: Activation }
    }
}

op! {
    /// Gradient of [`ActivationFwd`], from its output.
    ActivationBwd = "activation_bwd" {
        grad { /** (N) */ dx: Act }
        read { /** (N) */ dy: Act, /** (N) */ y: Act }
        with { n: usize, kind: Activation }
    }
}

impl Op for ActivationFwd {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), self.n), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        // A sigmoid is 1/2 (1 + tanh(x/2)).
        let (flop, exps) = match self.kind {
            Activation::Relu => (1.0, 0.0),
            Activation::Sigmoid => (3.0, 1.0),
            Activation::Tanh => (0.0, 1.0),
        };
        let n = self.n as f64;
        Cost::work(flop * n, exps * n).moves(self.y, self.n).moves(self.x, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let x = m.get(self.x);
        m.compute(Dst::Write(self.y), self.n, |i| match self.kind {
            Activation::Relu => x[i].relu(),
            Activation::Sigmoid => S::one() / (S::one() + (-x[i]).exp()),
            Activation::Tanh => x[i].tanh(),
        });
    }
}

impl Op for ActivationBwd {
    fn check(&self) -> Result<(), String> {
        fits(&[("dx", self.dx.len_or(self.n), self.n), ("dy", self.dy.len(), self.n), ("y", self.y.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        let n = self.dx.wanted() as usize * self.n;
        let flop = match self.kind {
            Activation::Relu => 1.0,
            Activation::Sigmoid | Activation::Tanh => 3.0,
        };
        Cost::work(flop * n as f64, 0.0).gradient(self.dx, n).moves(self.dy, n).moves(self.y, n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (dy, y) = (m.get(self.dy), m.get(self.y));
        m.compute(self.dx, self.n, |i| match self.kind {
            Activation::Relu => dy[i].gate(y[i]),
            Activation::Sigmoid => dy[i] * (y[i] * (S::one() - y[i])),
            Activation::Tanh => dy[i] * (S::one() - y[i] * y[i]),
        });
    }
}

pub fn cases() -> Vec<Case> {
    use Activation::*;
    let plan = |kind: Activation, n: usize, what: String| {
        let mut p = Planner::new();
        let (x, y) = (p.var(n), p.var(n));
        let fwd = ActivationFwd { y: y.y, x: x.y, n, kind };
        let bwd = ActivationBwd { dx: Dst::Write(x.dy), dy: y.dy, y: y.y, n, kind };
        (Case::new(format!("{kind:?} n{n} {what}"), p, fwd, bwd), x, y)
    };
    const SIZES: [(usize, f32); 8] =
        [(0, 1.0), (1, 1.0), (3, 1.0), (7, 3.0), (64, 0.01), (1000, 3.0), (4099, 8.0), (40_003, 1.0)];
    let smooth = [Relu, Sigmoid, Tanh].into_iter().flat_map(|kind| SIZES.map(|(n, std)| (kind, n, std)));
    let smooth = smooth.filter(|(_, n, _)| affordable(*n)).map(|(kind, n, std)| {
        let (case, x, y) = plan(kind, n, format!("std{std}"));
        let case = case.input(x.y, std, x.dy).output(y.y, y.dy);
        if kind != Relu {
            return case;
        }
        // Keep inputs away from the corner, where central differences are not valid.
        let mut draw = Stream::new(12, Purpose::Test, n as u32);
        let away = |x: f32| x + 0.01f32.copysign(x);
        case.values(x.y, (0..n).map(|_| away(draw.normal() * std)).collect())
    });
    // At corners and in flat parts there is no difference to compare with; test parity only.
    let corners = [0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 0.5, -0.5, 9.0, -9.0, 20.0, -20.0, 90.0, -90.0, 1e30, -1e30];
    let corners = [Relu, Sigmoid, Tanh].map(|kind| {
        let (case, x, y) = plan(kind, 48, "corners".into());
        case.values(x.y, corners.repeat(3)).output(y.y, y.dy)
    });
    smooth.chain(corners).collect()
}
