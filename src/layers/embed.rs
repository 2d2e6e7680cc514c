//! Item plus position, normalised, with dropout: the input of a transformer over items.

use super::{Input, Norm, Shape, Sites, when};
use crate::{
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{Backend, DropoutBwd, DropoutFwd, EmbeddingFwd, PositionSum, dropout::Drop},
};

/// y = dropout(LN(item[id] + position[pos])), without the norm for pre-norm models.
/// Parameters: `item.weight (rows,D)`, `position.weight (T,D)`, `embedding_norm.*`.
#[derive(Clone, Debug)]
pub struct Embed {
    pub item: Param,
    pub position: Param,
    /// What the two rows add up to (N,D). Its gradient is that of the rows taken from either table.
    pub sum: Var,
    norm: Option<Norm>,
    /// The output (N,D).
    pub y: Var,
    input: Input,
    d: usize,
    drop: Drop,
}

impl Embed {
    /// `rows`: items plus special ids; `touched`: see [`Planner::table`].
    #[allow(clippy::too_many_arguments)]
    pub fn plan(
        p: &mut Planner,
        input: &Input,
        (rows, d): (usize, usize),
        touched: Option<usize>,
        norm: bool,
        dropout: f32,
        std: f32,
        sites: &mut Sites,
    ) -> Self {
        let (n, t) = (input.capacity.n, input.capacity.t);
        p.label("embedding");
        let item = p.table("item.weight", &[rows, d], Init::TruncatedNormal(std), touched);
        let position = p.param("position.weight", &[t, d], Init::TruncatedNormal(std));
        let sum = p.var(n * d);
        let norm = norm.then(|| Norm::plan(p, "embedding_norm", sum, n, d));
        p.label("embedding");
        Embed { item, position, sum, norm, y: p.var(n * d), input: *input, d, drop: sites.take(dropout) }
    }

    fn before_drop(&self) -> Var {
        self.norm.as_ref().map_or(self.sum, |norm| norm.y)
    }

    pub fn forward<B: Backend>(&self, b: &mut B, s: &Shape) {
        b.run(&EmbeddingFwd {
            y: self.sum.y,
            item_table: self.item.w,
            pos_table: self.position.w,
            item: self.input.item,
            pos: self.input.pos,
            n: s.n,
            d: self.d,
            v: self.item.shape[0],
            t: self.position.shape[0],
        });
        if let Some(norm) = &self.norm {
            norm.forward(b, s);
        }
        b.run(&DropoutFwd {
            y: self.y.y,
            x: self.before_drop().y,
            step: self.input.step,
            n: s.n * self.d,
            drop: when(s.training, self.drop),
        });
    }

    /// Leaves the gradients of the rows taken from the item table in `sum.dy`: a loss sums them together with those of the
    /// rows that it takes.
    pub fn backward<B: Backend>(&self, b: &mut B, s: &Shape) {
        b.run(&DropoutBwd {
            dx: Dst::Write(self.before_drop().dy),
            dy: self.y.dy,
            step: self.input.step,
            n: s.n * self.d,
            drop: when(s.training, self.drop),
        });
        if let Some(norm) = &self.norm {
            norm.backward(b, s, Mode::Write);
        }
        b.run(&PositionSum {
            dtable: Dst::Write(self.position.dw),
            dy: self.sum.dy,
            cu: self.input.cu,
            n: s.n,
            d: self.d,
            b: s.b,
            t: self.position.shape[0],
        });
    }
}
