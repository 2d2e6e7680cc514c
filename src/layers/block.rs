//! A transformer block: self-attention and feed-forward network, each with dropout, residual connection and norm.

use serde::{Deserialize, Serialize};

use super::{Ffn, Input, Norm, SelfAttention, Shape, Sites, when};
use crate::{
    mem::{Dst, Mode, Planner, Var},
    ops::{Backend, DropoutAddFwd, DropoutBwd, dropout::Drop},
};

/// Where the norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// y = LN(x + f(x)): the original transformer, BERT, BERT4Rec.
    Post,
    /// y = x + f(LN(x)), one more norm after the last block.
    Pre,
}

/// The shape of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    pub d: usize,
    pub heads: usize,
    pub f: usize,
    pub norm: NormPlace,
    pub causal: bool,
    pub dropout: f32,
    pub attention_dropout: f32,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// One of the two halves: f is attention or the feed-forward network.
#[derive(Clone, Debug)]
struct Residual {
    norm: Norm,
    /// What is added to: the block's input, whose gradient span the sum shares.
    x: Var,
    sum: Var,
    drop: Drop,
}

/// Parameters: `NAME.attention.*`, `NAME.attention_norm.*`, `NAME.ffn.*`, `NAME.ffn_norm.*`.
#[derive(Clone, Debug)]
pub struct Block {
    attention: SelfAttention,
    ffn: Ffn,
    first: Residual,
    second: Residual,
    place: NormPlace,
    input: Input,
    d: usize,
    /// The output (N,D).
    pub y: Var,
}

impl Block {
    pub fn plan(p: &mut Planner, name: &str, x: Var, input: &Input, c: &BlockConfig, sites: &mut Sites) -> Self {
        let (n, d) = (input.capacity.n, c.d);
        // The sum x + f(x) has memory of its own, its gradient is that of x.
        let sum_over = |p: &mut Planner, x: Var| Var { y: p.act(n * d), dy: x.dy };
        let attention = |p: &mut Planner, x: Var, sites: &mut Sites| {
            let name = format!("{name}.attention");
            SelfAttention::plan(p, &name, x, input, (d, c.heads), c.causal, c.attention_dropout, c.std, sites)
        };
        let ffn = |p: &mut Planner, x: Var| Ffn::plan(p, &format!("{name}.ffn"), x, n, d, c.f, c.std);
        let (norm1, norm2) = (format!("{name}.attention_norm"), format!("{name}.ffn_norm"));
        match c.norm {
            NormPlace::Post => {
                let attention = attention(p, x, sites);
                let sum1 = sum_over(p, x);
                let n1 = Norm::plan(p, &norm1, sum1, n, d);
                let first = Residual { x, sum: sum1, drop: sites.take(c.dropout), norm: n1 };
                let ffn = ffn(p, first.norm.y);
                let sum2 = sum_over(p, first.norm.y);
                let n2 = Norm::plan(p, &norm2, sum2, n, d);
                let second = Residual { x: first.norm.y, sum: sum2, drop: sites.take(c.dropout), norm: n2 };
                let y = second.norm.y;
                Block { attention, ffn, first, second, place: c.norm, input: *input, d, y }
            }
            NormPlace::Pre => {
                let n1 = Norm::plan(p, &norm1, x, n, d);
                let attention = attention(p, n1.y, sites);
                let first = Residual { x, sum: sum_over(p, x), drop: sites.take(c.dropout), norm: n1 };
                let n2 = Norm::plan(p, &norm2, first.sum, n, d);
                let ffn = ffn(p, n2.y);
                let second =
                    Residual { x: first.sum, sum: sum_over(p, first.sum), drop: sites.take(c.dropout), norm: n2 };
                let y = second.sum;
                Block { attention, ffn, first, second, place: c.norm, input: *input, d, y }
            }
        }
    }

    fn add<B: Backend>(&self, b: &mut B, s: &Shape, half: &Residual, branch: Var) {
        b.run(&DropoutAddFwd {
            y: half.sum.y,
            residual: half.x.y,
            x: branch.y,
            step: self.input.step,
            n: s.n * self.d,
            drop: when(s.training, half.drop),
        });
    }

    fn add_backward<B: Backend>(&self, b: &mut B, s: &Shape, half: &Residual, branch: Var) {
        b.run(&DropoutBwd {
            dx: Dst::Write(branch.dy),
            dy: half.sum.dy,
            step: self.input.step,
            n: s.n * self.d,
            drop: when(s.training, half.drop),
        });
    }

    pub fn forward<B: Backend>(&self, b: &mut B, s: &Shape) {
        match self.place {
            NormPlace::Post => {
                self.attention.forward(b, s);
                self.add(b, s, &self.first, self.attention.y());
                self.first.norm.forward(b, s);
                self.ffn.forward(b, s);
                self.add(b, s, &self.second, self.ffn.y());
                self.second.norm.forward(b, s);
            }
            NormPlace::Pre => {
                self.first.norm.forward(b, s);
                self.attention.forward(b, s);
                self.add(b, s, &self.first, self.attention.y());
                self.second.norm.forward(b, s);
                self.ffn.forward(b, s);
                self.add(b, s, &self.second, self.ffn.y());
            }
        }
    }

    /// From `y.dy` to the gradient of the block's input.
    pub fn backward<B: Backend>(&self, b: &mut B, s: &Shape) {
        match self.place {
            NormPlace::Post => {
                self.second.norm.backward(b, s, Mode::Write);
                self.add_backward(b, s, &self.second, self.ffn.y());
                self.ffn.backward(b, s, Mode::Accumulate);
                self.first.norm.backward(b, s, Mode::Write);
                self.add_backward(b, s, &self.first, self.attention.y());
                self.attention.backward(b, s, Mode::Accumulate);
            }
            NormPlace::Pre => {
                self.add_backward(b, s, &self.second, self.ffn.y());
                self.ffn.backward(b, s, Mode::Write);
                self.second.norm.backward(b, s, Mode::Accumulate);
                self.add_backward(b, s, &self.first, self.attention.y());
                self.attention.backward(b, s, Mode::Write);
                self.first.norm.backward(b, s, Mode::Accumulate);
            }
        }
    }
}
