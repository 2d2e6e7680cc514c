//! Embedding and a stack of transformer blocks, shared by BERT4Rec and SASRec.

use super::{BatchShape, Block, BlockConfig, Embed, EmbedConfig, Input, Norm, Sites};
use crate::{
    base::{Error, Result},
    mem::{Mode, Planner, Var},
    ops::Backend,
};

/// The planned network. Parameters: those of [`Embed`], `block.L.*` ([`Block`]), `last_norm.*` (pre-norm).
#[derive(Clone, Debug)]
pub struct Transformer {
    pub embed: Embed,
    blocks: Vec<Block>,
    /// The norm after the last block of a pre-norm network.
    last_norm: Option<Norm>,
}

impl Transformer {
    /// Plans `blocks` blocks of shape `c` over the input `embed`, which is normed before post-norm blocks.
    ///
    /// # Errors
    /// The heads do not divide the width. Also those of [`Embed::plan`].
    pub fn plan(
        p: &mut Planner,
        input: &Input,
        embed: &EmbedConfig,
        blocks: usize,
        c: &BlockConfig,
        sites: &mut Sites,
    ) -> Result<Self> {
        if c.heads == 0 || !c.d.is_multiple_of(c.heads) {
            return Err(Error::user(format!("{} heads do not divide a width of {}", c.heads, c.d))
                .hint("choose a width that is a multiple of the number of heads, e.g. --width 64 --heads 2"));
        }
        let pre = c.norm.is_pre();
        let embed = Embed::plan(p, input, &EmbedConfig { norm: !pre, ..*embed }, sites)?;
        let mut stack: Vec<Block> = Vec::with_capacity(blocks);
        for l in 0..blocks {
            let x = stack.last().map_or(embed.y, |b| b.y);
            stack.push(Block::plan(p, &format!("block.{l}"), x, input, c, sites));
        }
        let last = stack.last().map_or(embed.y, |b| b.y);
        let last_norm = pre.then(|| Norm::plan(p, "last_norm", last, input.capacity.n, c.d));
        Ok(Transformer { embed, blocks: stack, last_norm })
    }

    /// Returns the output (N,D).
    pub fn y(&self) -> Var {
        match (&self.last_norm, self.blocks.last()) {
            (Some(norm), _) => norm.y,
            (None, Some(block)) => block.y,
            (None, None) => self.embed.y,
        }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.embed.forward(b, s);
        self.blocks.iter().for_each(|block| block.forward(b, s));
        if let Some(norm) = &self.last_norm {
            norm.forward(b, s);
        }
    }

    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        if let Some(norm) = &self.last_norm {
            norm.backward(b, s, Mode::Write);
        }
        self.blocks.iter().rev().for_each(|block| block.backward(b, s));
        self.embed.backward(b, s);
    }
}
