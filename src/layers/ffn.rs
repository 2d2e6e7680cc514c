//! The position-wise feed-forward network.

use super::{BatchShape, Linear};
use crate::{
    mem::{Dst, Mode, Planner, Var},
    ops::{Backend, GeluBwd, GeluFwd},
};

/// y = W_2 gelu(W_1 x). Parameters: `NAME.up.weight (F,D)`, `NAME.up.bias`, `NAME.down.weight (D,F)`, `NAME.down.bias`.
#[derive(Clone, Debug)]
pub struct Ffn {
    up: Linear,
    act: Var,
    down: Linear,
    f: usize,
}

impl Ffn {
    pub fn plan(p: &mut Planner, name: &str, x: Var, n: usize, d: usize, f: usize, std: f32) -> Self {
        let up = Linear::plan(p, &format!("{name}.up"), x, n, d, f, std);
        p.label(name);
        let act = p.var(n * f);
        Ffn { up, act, down: Linear::plan(p, &format!("{name}.down"), act, n, f, d, std), f }
    }

    /// Returns the output (N,D).
    pub fn y(&self) -> Var {
        self.down.y
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.up.forward(b, s);
        b.run(&GeluFwd { y: self.act.y, x: self.up.y.y, n: s.n * self.f });
        self.down.forward(b, s);
    }

    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        self.down.backward(b, s, Mode::Write);
        b.run(&GeluBwd { dx: Dst::Write(self.up.y.dy), dy: self.act.dy, x: self.up.y.y, n: s.n * self.f });
        self.up.backward(b, s, dx);
    }
}
