/*! PeterRec and NextItNet: residual blocks of dilated convolutions over item sequences (Yuan et al., SIGIR 2020; Yuan
et al., WSDM 2019).

x = dropout(E[item])                                       (N,D)
L blocks, dilations R and 2R each, R cycling through `--dilations` (1,4 in the papers)       (N,D)
h = scored rows of the last block                          (M,D)
score of item v = <h, E[v]> + bias[v]                      the table is tied

For next-item tasks the convolutions are causal and the model is NextItNet. For tasks that mask items they are centred
and see both sides, as in PeterRec's pre-training. The taps encode the order, so there are no positions. Fine-tuned with
`--transfer patch` it is PeterRec as published, except for the place of a serial patch (after the ReLU, see
[`ConvBlock`]). Departures: the output table is tied (the published code has a second one).
*/

use super::{Context, Model, Network, Representations};
use crate::{
    base::Result,
    layers::{BatchShape, ConvBlock, ConvBlockConfig, DataSummary, Embed, ScoredRows, Sites, View},
    mem::{Init, Param, Planner},
    ops::Backend,
};

/// The planned model.
#[derive(Clone, Debug)]
pub struct PeterRec {
    embed: Embed,
    blocks: Vec<ConvBlock>,
    scored: ScoredRows,
    item_bias: Param,
}

impl Model for PeterRec {
    const NAME: &'static str = "peterrec";
    const ABOUT: &'static str = "dilated convolutions, causal (NextItNet) or centred (Yuan et al. 2019, 2020)";
    const NOTE: &'static str = "NextItNet with --task next-item";
    const VIEWS: &'static [View] = &[View::Both, View::Past];
    const USES: &'static [&'static str] = &["blocks", "taps", "dilations", "join"];
    const PATCHES: bool = true;

    fn plan(p: &mut Planner, c: &Context) -> Result<Self> {
        let (s, d) = (c.settings, c.settings.width);
        let embed = Embed::plan(p, c.input, &c.embed(false), &mut Sites::new(c.seed))?;
        let mut blocks: Vec<ConvBlock> = Vec::with_capacity(s.blocks);
        for (l, dilation) in (0..s.blocks).zip(s.dilations.iter().cycle()) {
            let x = blocks.last().map_or(embed.y, |b| b.y);
            let block = ConvBlockConfig {
                channels: d,
                taps: s.taps,
                dilation: *dilation,
                causal: c.view.is_causal(),
                std: s.init_std,
                patch: s.patch,
            };
            blocks.push(ConvBlock::plan(p, &format!("block.{l}"), x, c.input, &block)?);
        }
        let last = blocks.last().map_or(embed.y, |b| b.y);
        let scored = ScoredRows::plan(p, last, c.input, d);
        let item_bias = p.table("item.bias", &[c.items], Init::Constant(0.0), s.touched);
        Ok(PeterRec { embed, blocks, scored, item_bias })
    }
}

impl Network for PeterRec {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.embed.forward(b, s);
        self.blocks.iter().for_each(|block| block.forward(b, s));
        self.scored.forward(b, s);
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.scored.backward(b, s);
        self.blocks.iter().rev().for_each(|block| block.backward(b, s));
        self.embed.backward(b, s);
    }

    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        self.embed.prepare(b, summary)
    }

    fn representations(&self) -> Representations {
        Representations::tied(&self.embed, &self.item_bias, self.scored.y)
    }
}
