/*! DACF, a deep autoencoder of rating rows for collaborative filtering (Kuchaiev and Ginsburg 2017). It uses sigmoids,
like the code that Zeng et al. 2021 trained.

h1 = sigmoid(sum over the visible ratings of (r - mean) E[item] + b)        (B,D)   the first layer of a sparse row
hi = sigmoid(h W^T + b), the other hidden layers                            (B,D)   `--blocks` layers in all
h  = dropout(hi) at the scored rows of its sequence                         (M,D)
rating of item v = <h, E'[v]> + c[v] + mean                                 the two tables are separate

Hidden ratings add nothing to the sum, and the loss covers only the predicted ones. A row of a hundred ratings costs a
hundred rows of E and of E', for any size of the catalogue. With `--mask 0` it is the autoencoder as published: all
ratings of a row are input and output, and dropout prevents copying. Departures: ratings are counted from the mean, so
that an item without a rating and one with a usual rating carry similarly little information. All hidden layers have the
same width. SELU and the second, dense step of Kuchaiev and Ginsburg are not implemented. L2 is AdamW's weight decay.
The model ignores order.
*/

use super::{Context, Model, Network, Representations, Takes};
use crate::{
    base::{Error, Result},
    layers::{BatchShape, DataSummary, Input, Linear, Sites, View, when},
    mem::{Act, Dst, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{
        ActivationBwd, ActivationFwd, Backend, DropoutAddFwd, DropoutBwd, DropoutFwd, GatherTable, PoolBwd, PoolFwd,
        SegmentSum, SpreadBwd, SpreadFwd, activation::Activation, dropout::Dropout, sort_ids::Sorted,
    },
};

/// The first layer: table rows, one per visible rating and scaled by it, and a bias.
#[derive(Clone, Debug)]
struct Sparse {
    table: Param,
    bias: Param,
    /// (N,D) the rows of the items.
    rows: Var,
    /// (B,D) the sums of the rows.
    pooled: Var,
    /// (B,D) the bias, once per sequence.
    biases: Span<Act>,
    /// (B,D) the sum plus the bias. Its gradient is that of either.
    y: Var,
    /// (B) the id of the bias, always 0.
    zero: Span<U32>,
    by_item: Sorted,
    by_zero: Sorted,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Dacf {
    first: Sparse,
    /// The dense layers after the first.
    dense: Vec<Linear>,
    /// (B,D) the activations of all layers.
    hidden: Vec<Var>,
    /// (B,D)
    dropped: Var,
    drop: Dropout,
    /// (M,D)
    scored: Var,
    output: Param,
    output_bias: Param,
    input: Input,
    d: usize,
}

impl Model for Dacf {
    const NAME: &'static str = "dacf";
    const ABOUT: &'static str = "deep autoencoder of rating rows (Kuchaiev and Ginsburg 2017)";
    const NOTE: &'static str = "ratings";
    const VIEWS: &'static [View] = &[View::Both];
    const USES: &'static [&'static str] = &["blocks"];
    const TAKES: Takes = Takes::Ratings;

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, v) = (c.settings, c.settings.width, c.items);
        if s.blocks == 0 {
            return Err(Error::user("dacf without a hidden layer").hint("set --blocks to 1 or more"));
        }
        if c.embed(false).side.is_some() {
            return Err(Error::user("dacf reads only ratings: it supports neither user vectors nor side fields")
                .hint("omit --user-width and --fields, or use --model bert4rec --task rating"));
        }
        let (b, n, m) = (c.input.capacity.b, c.input.capacity.n, c.input.capacity.m);
        let init = Init::TruncatedNormal(s.init_std);
        p.label("ratings");
        let pooled = p.var(b * d);
        let first = Sparse {
            table: p.param("item.weight", &[v, d], init),
            bias: p.param("hidden.0.bias", &[d], Init::Constant(0.0)),
            rows: p.var(n * d),
            pooled,
            biases: p.act(b * d),
            y: Var { y: p.act(b * d), dy: pooled.dy },
            zero: p.index(b),
            by_item: Sorted::plan(p, n),
            by_zero: Sorted::plan(p, b),
        };
        let mut hidden = vec![p.var(b * d)];
        let mut dense = Vec::with_capacity(s.blocks - 1);
        for l in 1..s.blocks {
            let layer = Linear::plan(p, &format!("hidden.{l}"), hidden[l - 1], b, d, d, s.init_std);
            dense.push(layer.over_sequences());
            hidden.push(p.var(b * d));
        }
        p.label("output");
        Ok(Dacf {
            first,
            dense,
            hidden,
            dropped: p.var(b * d),
            drop: Sites::new(c.seed).take(s.dropout),
            scored: p.var(m * d),
            output: p.param("item.output.weight", &[v, d], init),
            output_bias: p.param("item.output.bias", &[v], Init::Constant(0.0)),
            input: *c.input,
            d,
        })
    }
}

impl Sparse {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape, input: &Input, d: usize) {
        let (v, step) = (self.table.shape[0], input.step);
        b.run(&GatherTable { y: self.rows.y, table: self.table.w, id: input.item, n: s.n, d, v });
        b.run(&PoolFwd { y: self.pooled.y, x: self.rows.y, w: input.rating, cu: input.cu, b: s.b, n: s.n, d });
        b.run(&GatherTable { y: self.biases, table: self.bias.w, id: self.zero, n: s.b, d, v: 1 });
        let (residual, x) = (self.pooled.y, self.biases);
        b.run(&DropoutAddFwd { y: self.y.y, residual, x, step, n: s.b * d, drop: Dropout::NONE });
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape, input: &Input, d: usize) {
        let v = self.table.shape[0];
        if !self.bias.frozen {
            b.run(&self.by_zero.sort(&[(self.zero, s.b)], 1));
            b.run(&SegmentSum::of(self.bias.grad(), self.y.dy, &self.by_zero, [s.b, d, 1]));
        }
        if !self.table.frozen {
            let dx = Dst::Write(self.rows.dy);
            b.run(&PoolBwd { dx, dy: self.y.dy, w: input.rating, cu: input.cu, b: s.b, n: s.n, d });
            b.run(&self.by_item.sort(&[(input.item, s.n)], v));
            b.run(&SegmentSum::of(self.table.grad(), self.rows.dy, &self.by_item, [s.n, d, v]));
        }
    }
}

impl Dacf {
    /// Returns the input of the activation of layer `l`.
    fn before(&self, l: usize) -> Var {
        if l == 0 { self.first.y } else { self.dense[l - 1].y }
    }

    fn last(&self) -> Var {
        self.hidden[self.hidden.len() - 1]
    }
}

impl Network for Dacf {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (d, n, input) = (self.d, s.b * self.d, &self.input);
        for (l, hidden) in self.hidden.iter().enumerate() {
            match l {
                0 => self.first.forward(b, s, input, d),
                l => self.dense[l - 1].forward(b, s),
            }
            b.run(&ActivationFwd { y: hidden.y, x: self.before(l).y, n, kind: Activation::Sigmoid });
        }
        let (y, x, drop) = (self.dropped.y, self.last().y, when(s.training, self.drop));
        b.run(&DropoutFwd { y, x, step: input.step, n, drop });
        b.run(&SpreadFwd { y: self.scored.y, x: y, cu: input.scored, b: s.b, n: s.m, d });
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (d, n, input) = (self.d, s.b * self.d, &self.input);
        let dx = Dst::Write(self.dropped.dy);
        b.run(&SpreadBwd { dx, dy: self.scored.dy, cu: input.scored, b: s.b, n: s.m, d });
        let (dx, drop) = (Dst::Write(self.last().dy), when(s.training, self.drop));
        b.run(&DropoutBwd { dx, dy: self.dropped.dy, step: input.step, n, drop });
        for (l, hidden) in self.hidden.iter().enumerate().rev() {
            let dx = Dst::Write(self.before(l).dy);
            b.run(&ActivationBwd { dx, dy: hidden.dy, y: hidden.y, n, kind: Activation::Sigmoid });
            match l {
                0 => self.first.backward(b, s, input, d),
                l => self.dense[l - 1].backward(b, s, Mode::Write),
            }
        }
    }

    fn representations(&self) -> Representations {
        Representations::own(&self.output, &self.output_bias, self.scored)
    }

    fn prepare(&self, b: &mut dyn Backend, _: &DataSummary) -> Result<()> {
        b.write_ids(self.first.zero, &vec![0; self.first.zero.len()]);
        Ok(())
    }
}
