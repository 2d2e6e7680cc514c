//! Layer normalisation with scale and shift.

use super::BatchShape;
use crate::{
    mem::{Dst, F32, Init, Mode, Param, Planner, Span, Var},
    ops::{Backend, LayerNormBwd, LayerNormFwd},
};

/// y = LN(x) over rows of width D. Parameters: `NAME.gamma (D)`, `NAME.beta (D)`.
#[derive(Clone, Debug)]
pub struct Norm {
    pub x: Var,
    pub y: Var,
    gamma: Param,
    beta: Param,
    mean: Span<F32>,
    rstd: Span<F32>,
    d: usize,
    over_scored: bool,
}

impl Norm {
    /// Added to the variance, as in BERT's published code.
    pub const EPS: f32 = 1e-12;

    pub fn plan(p: &mut Planner, name: &str, x: Var, n: usize, d: usize) -> Self {
        p.label(name);
        Norm {
            x,
            y: p.var(n * d),
            gamma: p.param(format!("{name}.gamma"), &[d], Init::Constant(1.0)),
            beta: p.param(format!("{name}.beta"), &[d], Init::Constant(0.0)),
            mean: p.stat(n),
            rstd: p.stat(n),
            d,
            over_scored: false,
        }
    }

    /// Applies the layer to the M scored rows instead of all N.
    pub fn over_scored(mut self) -> Self {
        self.over_scored = true;
        self
    }

    fn rows(&self, s: &BatchShape) -> usize {
        if self.over_scored { s.m } else { s.n }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&LayerNormFwd {
            y: self.y.y,
            mean: self.mean,
            rstd: self.rstd,
            x: self.x.y,
            gamma: self.gamma.w,
            beta: self.beta.w,
            n: self.rows(s),
            d: self.d,
            eps: Self::EPS,
        });
    }

    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        b.run(&LayerNormBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dgamma: self.gamma.grad(),
            dbeta: self.beta.grad(),
            dy: self.y.dy,
            x: self.x.y,
            gamma: self.gamma.w,
            mean: self.mean,
            rstd: self.rstd,
            n: self.rows(s),
            d: self.d,
        });
    }
}
