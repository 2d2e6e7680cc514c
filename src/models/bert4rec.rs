/*! BERT4Rec: a bidirectional transformer over item sequences (Sun et al., CIKM 2019).

x = dropout(LN(E[item] + P[pos]))               (N,D)
L blocks of self-attention and feed-forward     (N,D)
g = scored rows of the last block               (M,D)
h = LN(gelu(g W + b))  with the projection, else g
score of item v = <h, E[v]> + bias[v]           the table is tied: input and output share it

Departures from the paper: sequences are packed instead of padded; positions are counted so that the newest item stands at
T-1, as left padding would have it; GELU in its tanh form; the projection is optional and norms its output as the authors'
code does. Special ids follow the catalogue: [MASK] = V.
*/

use crate::{
    base::{Error, Result},
    layers::{Block, BlockConfig, Embed, Input, Linear, Norm, NormPlace, Shape, Sites},
    mem::{Dst, Init, Mode, Param, Planner, Var},
    ops::{Backend, GatherRows, GeluBwd, GeluFwd, ScatterRows},
};

use super::{Model, ModelSettings, Representations};

/// Dense, GELU, norm over the scored rows.
#[derive(Clone, Debug)]
struct Projection {
    dense: Linear,
    act: Var,
    norm: Norm,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Bert4Rec {
    embed: Embed,
    blocks: Vec<Block>,
    /// After the last block of a pre-norm model.
    last_norm: Option<Norm>,
    gathered: Var,
    projection: Option<Projection>,
    item_bias: Param,
    input: Input,
    d: usize,
    v: usize,
}

impl Bert4Rec {
    /// The output of the last block (N,D).
    fn sequence(&self) -> Var {
        match (&self.last_norm, self.blocks.last()) {
            (Some(norm), _) => norm.y,
            (None, Some(block)) => block.y,
            (None, None) => self.embed.y,
        }
    }
}

impl Model for Bert4Rec {
    const NAME: &'static str = "bert4rec";

    fn plan(p: &mut Planner, c: &ModelSettings, items: usize, input: &Input, seed: u64) -> Result<Self> {
        if c.heads == 0 || !c.width.is_multiple_of(c.heads) {
            return Err(Error::user(format!("{} heads do not divide a width of {}", c.heads, c.width))
                .hint("choose a width that is a multiple of the number of heads, e.g. --width 64 --heads 2"));
        }
        let (d, n, m) = (c.width, input.capacity.n, input.capacity.m);
        let mut sites = Sites::new(seed);
        let pre = c.norm == NormPlace::Pre;
        let embed = Embed::plan(p, input, (items + 1, d), c.touched, !pre, c.dropout, c.init_std, &mut sites);
        let config = BlockConfig {
            d,
            heads: c.heads,
            f: d * c.ffn_ratio,
            norm: c.norm,
            causal: false,
            dropout: c.dropout,
            attention_dropout: c.attention_dropout,
            std: c.init_std,
        };
        let mut blocks: Vec<Block> = Vec::with_capacity(c.blocks);
        for l in 0..c.blocks {
            let x = blocks.last().map_or(embed.y, |b| b.y);
            blocks.push(Block::plan(p, &format!("block.{l}"), x, input, &config, &mut sites));
        }
        let last = blocks.last().map_or(embed.y, |b| b.y);
        let last_norm = pre.then(|| Norm::plan(p, "last_norm", last, n, d));
        p.label("projection");
        let gathered = p.var(m * d);
        let projection = c.projection.then(|| {
            let dense = Linear::plan(p, "projection.dense", gathered, m, d, d, c.init_std).over_scored();
            let act = p.var(m * d);
            let norm = Norm::plan(p, "projection.norm", act, m, d).over_scored();
            Projection { dense, act, norm }
        });
        p.label("output");
        let item_bias = p.table("item.bias", &[items], Init::Constant(0.0), c.touched);
        Ok(Bert4Rec { embed, blocks, last_norm, gathered, projection, item_bias, input: *input, d, v: items })
    }

    fn forward<B: Backend>(&self, b: &mut B, s: &Shape) {
        self.embed.forward(b, s);
        for block in &self.blocks {
            block.forward(b, s);
        }
        if let Some(norm) = &self.last_norm {
            norm.forward(b, s);
        }
        let (x, row) = (self.sequence().y, self.input.row);
        b.run(&GatherRows { y: self.gathered.y, x, row, m: s.m, n: s.n, d: self.d });
        if let Some(p) = &self.projection {
            p.dense.forward(b, s);
            b.run(&GeluFwd { y: p.act.y, x: p.dense.y.y, n: s.m * self.d });
            p.norm.forward(b, s);
        }
    }

    fn backward<B: Backend>(&self, b: &mut B, s: &Shape) {
        if let Some(p) = &self.projection {
            p.norm.backward(b, s, Mode::Write);
            b.run(&GeluBwd { dx: Dst::Write(p.dense.y.dy), dy: p.act.dy, x: p.dense.y.y, n: s.m * self.d });
            p.dense.backward(b, s, Mode::Write);
        }
        let (dx, row) = (Dst::Write(self.sequence().dy), self.input.row);
        b.run(&ScatterRows { dx, dy: self.gathered.dy, row, m: s.m, n: s.n, d: self.d });
        if let Some(norm) = &self.last_norm {
            norm.backward(b, s, Mode::Write);
        }
        for block in self.blocks.iter().rev() {
            block.backward(b, s);
        }
        self.embed.backward(b, s);
    }

    fn representations(&self) -> Representations {
        Representations {
            item: self.embed.item.clone(),
            item_bias: self.item_bias.clone(),
            rows: self.embed.sum,
            scored: self.projection.as_ref().map_or(self.gathered, |p| p.norm.y),
            d: self.d,
            v: self.v,
        }
    }
}
