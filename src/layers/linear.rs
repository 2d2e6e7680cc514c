//! y = x W^T + b.

use super::BatchShape;
use crate::{
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{Backend, LinearBwd, LinearFwd},
};

/// A dense layer over rows. Parameters: `NAME.weight (O,I)`, `NAME.bias (O)`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub x: Var,
    pub y: Var,
    w: Param,
    b: Param,
    i: usize,
    o: usize,
    over: Over,
}

/// The rows that a layer processes.
#[derive(Clone, Copy, Debug)]
enum Over {
    /// All rows (N).
    All,
    /// The scored rows (M).
    Scored,
    /// One row per sequence (B).
    Sequences,
}

impl Linear {
    /// Plans the layer over at most `n` rows of `x` (N,I).
    pub fn plan(p: &mut Planner, name: &str, x: Var, n: usize, i: usize, o: usize, std: f32) -> Self {
        p.label(name);
        let y = p.var(n * o);
        Self::plan_into(p, name, x, y, [i, o], Init::TruncatedNormal(std))
    }

    /// Plans the layer with the given output `y`.
    pub fn plan_into(p: &mut Planner, name: &str, x: Var, y: Var, [i, o]: [usize; 2], init: Init) -> Self {
        p.label(name);
        let w = p.param(format!("{name}.weight"), &[o, i], init);
        let b = p.param(format!("{name}.bias"), &[o], Init::Constant(0.0));
        Linear { x, y, w, b, i, o, over: Over::All }
    }

    /// Applies the layer to the M scored rows instead of all N.
    pub fn over_scored(mut self) -> Self {
        self.over = Over::Scored;
        self
    }

    /// Applies the layer to B rows, one per sequence.
    pub fn over_sequences(mut self) -> Self {
        self.over = Over::Sequences;
        self
    }

    fn rows(&self, s: &BatchShape) -> usize {
        match self.over {
            Over::All => s.n,
            Over::Scored => s.m,
            Over::Sequences => s.b,
        }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (i, o) = (self.i, self.o);
        b.run(&LinearFwd { y: self.y.y, x: self.x.y, w: self.w.w, b: self.b.w, n: self.rows(s), i, o });
    }

    /// Computes the gradients. `dx` selects whether the gradient of x is written or, after a residual connection, added
    /// to.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        b.run(&LinearBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dw: self.w.grad(),
            db: self.b.grad(),
            dy: self.y.dy,
            x: self.x.y,
            w: self.w.w,
            n: self.rows(s),
            i: self.i,
            o: self.o,
        });
    }
}
