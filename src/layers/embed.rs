//! The input of a sequence model: items, with optional positions and side inputs, with optional norm, and with dropout.

use super::{BatchShape, DataSummary, Input, Norm, Rated, RatedConfig, Side, SideConfig, Sites, when};
use crate::{
    base::Result,
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{
        Backend, DropoutBwd, DropoutFwd, EmbeddingFwd, GatherTable, PositionSum, SegmentSum, dropout::Dropout,
        sort_ids::Sorted,
    },
};

/// The parts of an input.
#[derive(Clone, Copy, Debug)]
pub struct EmbedConfig {
    /// Items plus special ids.
    pub rows: usize,
    /// Width (D).
    pub d: usize,
    /// Number of item table rows that a step touches, see [`Planner::table`].
    pub touched: Option<usize>,
    /// Whether positions are added.
    pub positions: bool,
    /// The representation of the items' ratings; `None`: there is none.
    pub rated: Option<RatedConfig>,
    /// Number of segments, used instead of positions; 0: none.
    pub segments: usize,
    /// Side fields and user vectors, if any.
    pub side: Option<SideConfig>,
    pub norm: bool,
    pub dropout: f32,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// y = dropout(LN(rated(side(item[id] + position[pos])))), without the norm for pre-norm models.
/// `side` ([`Side`]) and `rated` ([`Rated`]) are optional. `pos` may number segments instead. Parameters: `item.weight
/// (rows,D)`, `position.weight (T,D)` or `segment.weight (2,D)`, those of [`Side`] and [`Rated`], `embedding_norm.*`.
#[derive(Clone, Debug)]
pub struct Embed {
    pub item: Param,
    /// The table of positions or of segments.
    position: Option<Param>,
    /// The rows sorted by segment, where there are segments.
    by_segment: Option<Sorted>,
    /// The sum of the two rows (N,D). Its gradient is that of the rows taken from either table.
    pub sum: Var,
    rated: Option<Rated>,
    side: Option<Side>,
    norm: Option<Norm>,
    /// The output (N,D).
    pub y: Var,
    input: Input,
    d: usize,
    drop: Dropout,
}

impl Embed {
    /// Plans the input.
    ///
    /// # Errors
    /// Those of [`Side::plan`].
    pub fn plan(p: &mut Planner, input: &Input, c: &EmbedConfig, sites: &mut Sites) -> Result<Self> {
        let (n, t, d) = (input.capacity.n, input.capacity.t, c.d);
        p.label("embedding");
        let item = p.table("item.weight", &[c.rows, d], Init::TruncatedNormal(c.std), c.touched);
        let (name, rows) = if c.segments > 0 { ("segment.weight", c.segments) } else { ("position.weight", t) };
        let placed = c.positions || c.segments > 0;
        let position = placed.then(|| p.param(name, &[rows, d], Init::TruncatedNormal(c.std)));
        let by_segment = (c.segments > 0).then(|| Sorted::plan(p, n));
        let sum = p.var(n * d);
        let side = c.side.map(|c| Side::plan(p, sum, d, input, &c)).transpose()?;
        let joined = side.as_ref().map_or(sum, |side| side.y);
        let rated = c.rated.map(|c| Rated::plan(p, joined, d, input, &c));
        let before_norm = rated.as_ref().map_or(joined, |rated| rated.y);
        let norm = c.norm.then(|| Norm::plan(p, "embedding_norm", before_norm, n, d));
        p.label("embedding");
        let (y, drop) = (p.var(n * d), sites.take(c.dropout));
        Ok(Embed { item, position, by_segment, sum, side, rated, norm, y, input: *input, d, drop })
    }

    /// Writes the values of each item, once.
    ///
    /// # Errors
    /// Those of [`Side::write`].
    pub fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.side.as_ref().map_or(Ok(()), |side| side.write(b, &summary.fields))
    }

    fn before_drop(&self) -> Var {
        let joined = self.side.as_ref().map_or(self.sum, |side| side.y);
        let before_norm = self.rated.as_ref().map_or(joined, |rated| rated.y);
        self.norm.as_ref().map_or(before_norm, |norm| norm.y)
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
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
        if let Some(rated) = &self.rated {
            rated.forward(b, s);
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

    /// Writes the gradients of the rows taken from the item table to `sum.dy`.
    /// A loss sums them together with those of the rows that it takes.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
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
        if let Some(rated) = &self.rated {
            rated.backward(b, s);
        }
        if let Some(side) = &self.side {
            side.backward(b, s);
        }
        if let (Some(segment), Some(by)) = (&self.position, &self.by_segment) {
            let segments = segment.shape[0];
            b.run(&by.sort(&[(self.input.pos, s.n)], segments));
            b.run(&SegmentSum::of(segment.grad(), self.sum.dy, by, [s.n, self.d, segments]));
        } else if let Some(position) = &self.position {
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
