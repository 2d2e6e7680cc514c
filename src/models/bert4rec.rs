/*! BERT4Rec: a bidirectional transformer over item sequences (Sun et al., CIKM 2019).

x = dropout(LN(E[item] + P[pos]))               (N,D)
L blocks of self-attention and feed-forward     (N,D)
g = scored rows of the last block               (M,D)
h = LN(gelu(g W + b))  with the projection, else g
score of item v = <h, E[v]> + bias[v]           the table is tied: input and output share it

Departures from the paper: sequences are packed instead of padded. Positions are counted so that the newest item has
position T-1, as with left padding. GELU has its tanh form. The projection is optional and normalizes its output like
the authors' code. Special ids follow the catalogue: [MASK] = V. For next-item tasks the attention is causal. For
ratings the input is LN of item, position and rating (`rating.*`, [`Rated`](crate::layers::Rated)) and all items are
visible. A regression head replaces the item table (Zeng et al. 2021, with ratings 128 wide), and `item.bias` is not
used.
*/

use super::{Context, Model, Network, Representations, Takes};
use crate::{
    base::Result,
    layers::{BatchShape, DataSummary, Linear, Norm, ScoredRows, Sites, Transformer, View},
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{Backend, GeluBwd, GeluFwd},
};

/// Dense layer, GELU and norm over the scored rows.
#[derive(Clone, Debug)]
struct Projection {
    dense: Linear,
    act: Var,
    norm: Norm,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Bert4Rec {
    body: Transformer,
    scored: ScoredRows,
    projection: Option<Projection>,
    item_bias: Param,
    d: usize,
}

impl Model for Bert4Rec {
    const NAME: &'static str = "bert4rec";
    const ABOUT: &'static str = "bidirectional transformer (Sun et al. 2019)";
    const VIEWS: &'static [View] = &[View::Both, View::Past];
    const USES: &'static [&'static str] =
        &["blocks", "heads", "ffn-ratio", "norm", "projection", "attention-dropout", "join", "rating-width"];
    const PATCHES: bool = true;
    const TAKES: Takes = Takes::Both;
    const BASKETS: bool = true;

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, m) = (c.settings, c.settings.width, c.input.capacity.m);
        let body = Transformer::plan(p, c.input, &c.embed(true), s.blocks, &c.block(), &mut Sites::new(c.seed))?;
        let scored = ScoredRows::plan(p, body.y(), c.input, d);
        p.label("projection");
        let projection = s.projection.then(|| {
            let dense = Linear::plan(p, "projection.dense", scored.y, m, d, d, s.init_std).over_scored();
            let act = p.var(m * d);
            let norm = Norm::plan(p, "projection.norm", act, m, d).over_scored();
            Projection { dense, act, norm }
        });
        p.label("output");
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(Bert4Rec { body, scored, projection, item_bias, d })
    }
}

impl Network for Bert4Rec {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.body.forward(b, s);
        self.scored.forward(b, s);
        if let Some(p) = &self.projection {
            p.dense.forward(b, s);
            b.run(&GeluFwd { y: p.act.y, x: p.dense.y.y, n: s.m * self.d });
            p.norm.forward(b, s);
        }
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        if let Some(p) = &self.projection {
            p.norm.backward(b, s, Mode::Write);
            b.run(&GeluBwd { dx: Dst::Write(p.dense.y.dy), dy: p.act.dy, x: p.dense.y.y, n: s.m * self.d });
            p.dense.backward(b, s, Mode::Write);
        }
        self.scored.backward(b, s);
        self.body.backward(b, s);
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.body.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        let scored = self.projection.as_ref().map_or(self.scored.y, |p| p.norm.y);
        Representations::tied(&self.body.embed, &self.item_bias, scored)
    }
}
