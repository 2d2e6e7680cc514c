/*! ceilings: the limits of a machine, as work to be timed. No model runs these ops. `mipgpu bench` and `mipgpu profile`
compare all other ops with them (the third ceiling, products, is a large `linear_fwd`).
stream_copy: y = x                                                             x,y (N) f32
exp_chain:   y = x, and then `rounds` times y = exp(-y)                        x,y (N) f32
The chain ends near 0.567, the fixed point of exp(-x), from any start. Each round reduces an error to about that share
of it, so many rounds are as exact as one.
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::mem::{F32, Lent, Planner, Scalar};

op! {
    /// Computes y = x, to measure the bytes per second from memory to memory.
    StreamCopy = "stream_copy" {
        write { /** (N) */ y: F32 }
        read { /** (N) */ x: F32 }
        with { n: usize }
    }
}

op! {
    /// Computes y = exp(-exp(-…x)), to measure exponentials per second with almost no memory traffic.
    ExpChain = "exp_chain" {
        write { /** (N) */ y: F32 }
        read { /** (N) */ x: F32 }
        with { n: usize, rounds: usize }
    }
}

impl Op for StreamCopy {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), self.n), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        Cost::default().moves(self.x, self.n).moves(self.y, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let x = m.get(self.x);
        m.compute(Dst::Write(self.y), self.n, |i| x[i]);
    }
}

impl Op for ExpChain {
    fn check(&self) -> Result<(), String> {
        fits(&[("y", self.y.len(), self.n), ("x", self.x.len(), self.n)])
    }

    fn cost(&self) -> Cost {
        let all = (self.n * self.rounds) as f64;
        Cost::work(0.0, all).moves(self.x, self.n).moves(self.y, self.n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let x = m.get(self.x);
        m.compute(Dst::Write(self.y), self.n, |i| (0..self.rounds).fold(x[i], |y, _| (-y).exp()));
    }
}

pub fn copy_cases() -> Vec<Case> {
    [0, 1, 3, 7, 8, 2047, 2048, 5001]
        .into_iter()
        .map(|n| {
            let mut p = Planner::new();
            let (x, y) = (p.stat(n), p.stat(n));
            Case::forward(format!("n{n}"), p, StreamCopy { y, x, n }).normal(x, 1.0)
        })
        .collect()
}

pub fn exp_cases() -> Vec<Case> {
    [(0, 3), (1, 1), (3, 0), (7, 2), (100, 5), (2049, 64)]
        .into_iter()
        .map(|(n, rounds)| {
            let mut p = Planner::new();
            let (x, y) = (p.stat(n), p.stat(n));
            Case::forward(format!("n{n} rounds{rounds}"), p, ExpChain { y, x, n, rounds }).normal(x, 1.0)
        })
        .collect()
}
