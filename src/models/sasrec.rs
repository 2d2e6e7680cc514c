/*! SASRec: a causal transformer over item sequences (Kang and McAuley, ICDM 2018).

x = dropout(E[item] + P[pos])                              (N,D)
L causal blocks of self-attention and feed-forward         (N,D)
h = scored rows of the last block, normed                  (M,D)
score of item v = <h, E[v]> + bias[v]                      the table is tied

Departures from the paper: current pre-norm blocks (the residual bypasses the norm; the published code adds the normed
input), GELU instead of ReLU, and a bias per item. `--ffn-ratio` sets the width of the feed-forward layer (1 in the
paper). The published code multiplies the item vectors by sqrt(D); here `--init-std` has this effect. The task selects
the loss: the paper's is `--loss bce --negatives 1`, gSASRec's (Petrov and Macdonald 2023) `--loss gbce`, RecTools' the
full softmax.
*/

use super::{Context, Model, Network, Representations};
use crate::{
    base::Result,
    layers::{BatchShape, BlockConfig, DataSummary, NormPlace, ScoredRows, Sites, Transformer, View},
    mem::{Init, Param, Planner},
    ops::Backend,
};

/// The planned model.
#[derive(Clone, Debug)]
pub struct SasRec {
    body: Transformer,
    scored: ScoredRows,
    item_bias: Param,
}

impl Model for SasRec {
    const NAME: &'static str = "sasrec";
    const ABOUT: &'static str = "causal transformer (Kang and McAuley 2018)";
    const VIEWS: &'static [View] = &[View::Past];
    const USES: &'static [&'static str] = &["blocks", "heads", "ffn-ratio", "attention-dropout", "join"];
    const PATCHES: bool = true;

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d) = (c.settings, c.settings.width);
        let block = BlockConfig { norm: NormPlace::Pre, ..c.block() };
        let body = Transformer::plan(p, c.input, &c.embed(true), s.blocks, &block, &mut Sites::new(c.seed))?;
        let scored = ScoredRows::plan(p, body.y(), c.input, d);
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(SasRec { body, scored, item_bias })
    }
}

impl Network for SasRec {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.body.forward(b, s);
        self.scored.forward(b, s);
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.scored.backward(b, s);
        self.body.backward(b, s);
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.body.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        Representations::tied(&self.body.embed, &self.item_bias, self.scored.y)
    }
}
