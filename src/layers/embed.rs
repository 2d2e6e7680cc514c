//! The input of a sequence model: items, with their positions where the model wants them, with what is known beside them
//! where there is such a thing, normed and with dropout.

use super::{Facts, Input, Norm, Shape, Side, SideConfig, Sites, when};
use crate::{
    base::Result,
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{Backend, DropoutBwd, DropoutFwd, EmbeddingFwd, GatherTable, PositionSum, dropout::Drop},
};

/// What goes into an input.
#[derive(Clone, Copy, Debug)]
pub struct EmbedConfig {
    /// Items plus special ids.
    pub rows: usize,
    /// Width (D).
    pub d: usize,
    /// Rows of the item table that a step touches, see [`Planner::table`].
    pub touched: Option<usize>,
    /// Whether positions are added.
    pub positions: bool,
    /// Side fields and user vectors, where there are any.
    pub side: Option<SideConfig>,
    pub norm: bool,
    pub dropout: f32,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// y = dropout(LN(side(item[id] + position[pos]))), without the norm for pre-norm models; `side` ([`Side`]) only where it is
/// asked for. Parameters: `item.weight (rows,D)`, `position.weight (T,D)`, those of [`Side`], `embedding_norm.*`.
#[derive(Clone, Debug)]
pub struct Embed {
    pub item: Param,
    position: Option<Param>,
    /// What the two rows add up to (N,D). Its gradient is that of the rows taken from either table.
    pub sum: Var,
    side: Option<Side>,
    norm: Option<Norm>,
    /// The output (N,D).
    pub y: Var,
    input: Input,
    d: usize,
    drop: Drop,
}

impl Embed {
    /// # Errors
    /// As [`Side::plan`].
    pub fn plan(p: &mut Planner, input: &Input, c: &EmbedConfig, sites: &mut Sites) -> Result<Self> {
        let (n, t, d) = (input.capacity.n, input.capacity.t, c.d);
        p.label("embedding");
        let item = p.table("item.weight", &[c.rows, d], Init::TruncatedNormal(c.std), c.touched);
        let position = c.positions.then(|| p.param("position.weight", &[t, d], Init::TruncatedNormal(c.std)));
        let sum = p.var(n * d);
        let side = c.side.map(|c| Side::plan(p, sum, d, input, &c)).transpose()?;
        let joined = side.as_ref().map_or(sum, |side| side.y);
        let norm = c.norm.then(|| Norm::plan(p, "embedding_norm", joined, n, d));
        p.label("embedding");
        Ok(Embed { item, position, sum, side, norm, y: p.var(n * d), input: *input, d, drop: sites.take(c.dropout) })
    }

    /// Writes which values each item has, once.
    ///
    /// # Errors
    /// As [`Side::write`].
    pub fn prepare(&self, b: &mut dyn Backend, facts: &Facts) -> Result<()> {
        self.side.as_ref().map_or(Ok(()), |side| side.write(b, &facts.fields))
    }

    fn before_drop(&self) -> Var {
        let joined = self.side.as_ref().map_or(self.sum, |side| side.y);
        self.norm.as_ref().map_or(joined, |norm| norm.y)
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &Shape) {
        let (y, item, n, d, v) = (self.sum.y, self.input.item, s.n, self.d, self.item.shape[0]);
        match &self.position {
            Some(position) => b.run(&EmbeddingFwd {
                y,
                item_table: self.item.w,
                pos_table: position.w,
                item,
                pos: self.input.pos,
                n,
                d,
                v,
                t: position.shape[0],
            }),
            None => b.run(&GatherTable { y, table: self.item.w, id: item, n, d, v }),
        }
        if let Some(side) = &self.side {
            side.forward(b, s);
        }
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
    pub fn backward(&self, b: &mut dyn Backend, s: &Shape) {
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
        if let Some(side) = &self.side {
            side.backward(b, s);
        }
        if let Some(position) = &self.position {
            b.run(&PositionSum {
                dtable: position.grad(),
                dy: self.sum.dy,
                cu: self.input.cu,
                n: s.n,
                d: self.d,
                b: s.b,
                t: position.shape[0],
            });
        }
    }
}
