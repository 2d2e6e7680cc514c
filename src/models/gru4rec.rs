/*! GRU4Rec: gated recurrent units over item sequences (Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018).

x = dropout(E[item])                                       (N,D)
L layers of gated recurrent units, dropout between them    (N,D)
h = scored rows of the last layer                          (M,D)
score of item v = <h, E[v]> + bias[v]                      tied table, as the authors' `constrained_embedding`

Departures: whole sequences instead of session-parallel steps. The task selects the loss (`--loss bpr`, or
`--loss sampled-softmax --sampler in-batch` as in the first paper). TOP1 is not implemented.
*/

use super::{Context, Model, Network, Representations};
use crate::{
    base::{Error, Result},
    layers::{BatchShape, DataSummary, Embed, Gru, ScoredRows, Sites, View},
    mem::{Dst, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{Backend, DropoutBwd, DropoutFwd, dropout::Dropout},
};

/// A recurrent layer, followed by dropout.
#[derive(Clone, Debug)]
struct Layer {
    gru: Gru,
    y: Var,
    drop: Dropout,
}

/// The planned model.
#[derive(Clone, Debug)]
pub struct Gru4Rec {
    embed: Embed,
    layers: Vec<Layer>,
    scored: ScoredRows,
    item_bias: Param,
    step: Span<U32>,
    d: usize,
}

impl Gru4Rec {
    fn drop(&self, layer: &Layer, training: bool) -> Dropout {
        if training { layer.drop } else { Dropout::NONE }
    }
}

impl Model for Gru4Rec {
    const NAME: &'static str = "gru4rec";
    const ABOUT: &'static str = "gated recurrent units (Hidasi et al. 2016)";
    const VIEWS: &'static [View] = &[View::Past];
    const USES: &'static [&'static str] = &["blocks", "join"];

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d, n) = (c.settings, c.settings.width, c.input.capacity.n);
        if s.blocks == 0 {
            return Err(Error::user("gru4rec without a recurrent layer").hint("set --blocks to 1 or more"));
        }
        let mut sites = Sites::new(c.seed);
        let embed = Embed::plan(p, c.input, &c.embed(false), &mut sites)?;
        let mut layers: Vec<Layer> = Vec::with_capacity(s.blocks);
        for l in 0..s.blocks {
            let x = layers.last().map_or(embed.y, |layer| layer.y);
            let gru = Gru::plan(p, &format!("block.{l}.gru"), x, c.input, (d, d));
            layers.push(Layer { gru, y: p.var(n * d), drop: sites.take(s.dropout) });
        }
        let last = layers.last().map_or(embed.y, |layer| layer.y);
        let scored = ScoredRows::plan(p, last, c.input, d);
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(Gru4Rec { embed, layers, scored, item_bias, step: c.input.step, d })
    }
}

impl Network for Gru4Rec {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.embed.forward(b, s);
        for layer in &self.layers {
            layer.gru.forward(b, s);
            let (step, n, drop) = (self.step, s.n * self.d, self.drop(layer, s.training));
            b.run(&DropoutFwd { y: layer.y.y, x: layer.gru.y.y, step, n, drop });
        }
        self.scored.forward(b, s);
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.scored.backward(b, s);
        for layer in self.layers.iter().rev() {
            let (step, n, drop) = (self.step, s.n * self.d, self.drop(layer, s.training));
            b.run(&DropoutBwd { dx: Dst::Write(layer.gru.y.dy), dy: layer.y.dy, step, n, drop });
            layer.gru.backward(b, s, Mode::Write);
        }
        self.embed.backward(b, s);
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        Representations::tied(&self.embed, &self.item_bias, self.scored.y)
    }
}
