//! The ratings of items as an additional input, embedded by class.

use super::{BatchShape, INPUT, Input, Linear};
use crate::{
    mem::{Dst, Init, Mode, Param, Planner, Span, Var},
    ops::{Backend, ConcatBwd, ConcatFwd, DropoutAddFwd, GatherTable, SegmentSum, dropout::Dropout, sort_ids::Sorted},
};

/// The configuration of a rated input.
#[derive(Clone, Copy, Debug)]
pub struct RatedConfig {
    /// Classes of ratings (C), including the hidden one.
    pub classes: usize,
    /// Width of a rating's vector (R). 0: as wide as the input, and added to it.
    pub width: usize,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// Combines input x (N,D) and rating into one vector of the same width.
/// y = [x | rating] W^T + b        W (D,D+R)
/// y = x + rating                  with R = 0
/// Parameters: `rating.weight (C,R)`, where the last row is a hidden rating, `rating.join.weight`, `rating.join.bias`.
#[derive(Clone, Debug)]
pub struct Rated {
    table: Param,
    x: Var,
    /// (N,R) the vectors of the ratings.
    of: Var,
    /// The dense layer over [x | rating].
    join: Option<Linear>,
    /// The output (N,D).
    pub y: Var,
    by: Sorted,
    input: Input,
    d: usize,
}

impl Rated {
    /// Plans the layer over an input `x` (N,D) with the ratings of [`Input::class`].
    pub fn plan(p: &mut Planner, x: Var, d: usize, input: &Input, c: &RatedConfig) -> Self {
        p.label("rating");
        let n = input.capacity.n;
        let width = if c.width > 0 { c.width } else { d };
        let table = p.param("rating.weight", &[c.classes, width], Init::TruncatedNormal(c.std));
        let (of, join, y) = if c.width > 0 {
            let (of, all) = (p.var(n * width), p.var(n * (d + width)));
            let join = Linear::plan(p, "rating.join", all, n, d + width, d, c.std);
            p.columns("rating.join.weight", vec![(INPUT.into(), d), ("rating".into(), width)]);
            let y = join.y;
            (of, Some(join), y)
        } else {
            p.columns("rating.weight", vec![("rating".into(), width)]);
            // The gradient of a sum is that of both terms.
            let (of, y) = (p.act(n * width), p.act(n * d));
            (Var { y: of, dy: x.dy }, None, Var { y, dy: x.dy })
        };
        Rated { table, x, of, join, y, by: Sorted::plan(p, n), input: *input, d }
    }

    fn width(&self) -> usize {
        self.table.shape[1]
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (n, d, v) = (s.n, self.width(), self.table.shape[0]);
        b.run(&GatherTable { y: self.of.y, table: self.table.w, id: self.input.class, n, d, v });
        match &self.join {
            Some(join) => {
                let widths = [self.d, self.width(), 0];
                b.run(&ConcatFwd { y: join.x.y, a: self.x.y, b: self.of.y, c: Span::empty(), n, widths });
                join.forward(b, s);
            }
            None => {
                let (residual, x, step) = (self.x.y, self.of.y, self.input.step);
                b.run(&DropoutAddFwd { y: self.y.y, residual, x, step, n: n * self.d, drop: Dropout::NONE });
            }
        }
    }

    /// Computes the gradients of the input (`y.dy` itself for a sum) and of the parameters from `y.dy`.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (n, classes) = (s.n, self.table.shape[0]);
        if let Some(join) = &self.join {
            join.backward(b, s, Mode::Write);
            let [da, db] = [self.x, self.of].map(|part| Dst::Write(part.dy));
            b.run(&ConcatBwd { da, db, dc: Dst::Skip, dy: join.x.dy, n, widths: [self.d, self.width(), 0] });
        }
        if !self.table.frozen {
            b.run(&self.by.sort(&[(self.input.class, n)], classes));
            b.run(&SegmentSum::of(self.table.grad(), self.of.dy, &self.by, [n, self.width(), classes]));
        }
    }
}
