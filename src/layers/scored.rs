//! The scored rows of a sequence.

use super::{BatchShape, Input};
use crate::{
    mem::{Dst, Planner, Var},
    ops::{Backend, GatherRows, ScatterRows},
};

/// y = x[row], the input of a loss.
#[derive(Clone, Debug)]
pub struct ScoredRows {
    x: Var,
    /// (M,D)
    pub y: Var,
    input: Input,
    d: usize,
}

impl ScoredRows {
    /// Plans the gather from `x` (N,D).
    pub fn plan(p: &mut Planner, x: Var, input: &Input, d: usize) -> Self {
        p.label("scored rows");
        ScoredRows { x, y: p.var(input.capacity.m * d), input: *input, d }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.run(&GatherRows { y: self.y.y, x: self.x.y, row: self.input.row, m: s.m, n: s.n, d: self.d });
    }

    /// Writes the gradient of all of x, with zeros for rows that are not scored.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (dx, row) = (Dst::Write(self.x.dy), self.input.row);
        b.run(&ScatterRows { dx, dy: self.y.dy, row, m: s.m, n: s.n, d: self.d });
    }
}
