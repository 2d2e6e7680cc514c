//! A transformer block: self-attention and feed-forward network, each with dropout, residual connection and norm.

use serde::{Deserialize, Serialize};

use super::{BatchShape, Ffn, Input, Norm, Patch, PatchConfig, PatchPlace, SelfAttention, Sites, when};
use crate::{
    mem::{Act, Dst, Mode, Planner, Span, Var},
    ops::{Backend, DropoutAddFwd, DropoutBwd, dropout::Dropout},
};

/// The position of the norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// y = LN(x + f(x)): the original transformer, BERT, BERT4Rec.
    Post,
    /// y = x + f(LN(x)), with one more norm after the last block.
    Pre,
}

impl NormPlace {
    /// Whether a norm precedes each sub-layer.
    pub fn is_pre(self) -> bool {
        match self {
            NormPlace::Pre => true,
            NormPlace::Post => false,
        }
    }
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
    pub patch: Option<PatchConfig>,
}

/// A patch of one half of a block.
#[derive(Clone, Debug)]
struct Patched {
    patch: Patch,
    place: PatchPlace,
    /// (N,D) f + patch(f) for a serial patch, x + patch for a parallel one.
    sum: Span<Act>,
}

/// One half of a block. f is attention or the feed-forward network.
#[derive(Clone, Debug)]
struct Residual {
    norm: Norm,
    /// The residual: the block's input, with a gradient span that it shares with the sum.
    x: Var,
    /// The output of f.
    branch: Var,
    sum: Var,
    drop: Dropout,
    patched: Option<Patched>,
}

/// A planned transformer block.
/// Parameters: `NAME.attention.*`, `NAME.attention_norm.*`, `NAME.ffn.*`, `NAME.ffn_norm.*`. With patches also
/// `NAME.attention.patch.*`, `NAME.ffn.patch.*`.
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
        // The sum x + f(x) has its own memory. Its gradient is that of x.
        let sum_over = |p: &mut Planner, x: Var| Var { y: p.act(n * d), dy: x.dy };
        let attention = |p: &mut Planner, x: Var, sites: &mut Sites| {
            let name = format!("{name}.attention");
            SelfAttention::plan(p, &name, x, input, (d, c.heads), c.causal, c.attention_dropout, c.std, sites)
        };
        let ffn = |p: &mut Planner, x: Var| Ffn::plan(p, &format!("{name}.ffn"), x, n, d, c.f, c.std);
        let (norm1, norm2) = (format!("{name}.attention_norm"), format!("{name}.ffn_norm"));
        // `from`: the input of f; `half`: 1 or 2.
        let patched = |p: &mut Planner, half: usize, from: Var, branch: Var, sum: Var| {
            let config = c.patch.filter(|patch| patch.per_block == 2 || half == 2)?;
            let name = format!("{name}.{}", if half == 1 { "attention" } else { "ffn" });
            let (x, dy) = match config.place {
                PatchPlace::Serial => (branch, branch.dy),
                PatchPlace::Parallel => (from, sum.dy),
            };
            let patch = Patch::plan(p, &name, x, dy, (n, d), config.width);
            Some(Patched { patch, place: config.place, sum: p.act(n * d) })
        };
        match c.norm {
            NormPlace::Post => {
                let attention = attention(p, x, sites);
                let (sum, branch) = (sum_over(p, x), attention.y());
                let patch = patched(p, 1, x, branch, sum);
                let norm = Norm::plan(p, &norm1, sum, n, d);
                let first = Residual { x, branch, sum, drop: sites.take(c.dropout), norm, patched: patch };
                let x = first.norm.y;
                let ffn = ffn(p, x);
                let (sum, branch) = (sum_over(p, x), ffn.y());
                let patch = patched(p, 2, x, branch, sum);
                let norm = Norm::plan(p, &norm2, sum, n, d);
                let second = Residual { x, branch, sum, drop: sites.take(c.dropout), norm, patched: patch };
                let y = second.norm.y;
                Block { attention, ffn, first, second, place: c.norm, input: *input, d, y }
            }
            NormPlace::Pre => {
                let norm = Norm::plan(p, &norm1, x, n, d);
                let attention = attention(p, norm.y, sites);
                let (sum, branch) = (sum_over(p, x), attention.y());
                let patch = patched(p, 1, norm.y, branch, sum);
                let first = Residual { x, branch, sum, drop: sites.take(c.dropout), norm, patched: patch };
                let x = first.sum;
                let norm = Norm::plan(p, &norm2, x, n, d);
                let ffn = ffn(p, norm.y);
                let (sum, branch) = (sum_over(p, x), ffn.y());
                let patch = patched(p, 2, norm.y, branch, sum);
                let second = Residual { x, branch, sum, drop: sites.take(c.dropout), norm, patched: patch };
                let y = second.sum;
                Block { attention, ffn, first, second, place: c.norm, input: *input, d, y }
            }
        }
    }

    /// Computes y = a + b.
    fn plus(&self, b: &mut dyn Backend, s: &BatchShape, y: Span<Act>, [residual, x]: [Span<Act>; 2]) {
        let n = s.n * self.d;
        b.run(&DropoutAddFwd { y, residual, x, step: self.input.step, n, drop: Dropout::NONE });
    }

    /// Computes sum = x + dropout(f), with the patch of f if there is one.
    fn add(&self, b: &mut dyn Backend, s: &BatchShape, half: &Residual) {
        let (mut residual, mut x) = (half.x.y, half.branch.y);
        if let Some(Patched { patch, place, sum }) = &half.patched {
            patch.forward(b, s);
            let other = if place.is_serial() { &mut x } else { &mut residual };
            self.plus(b, s, *sum, [*other, patch.y()]);
            *other = *sum;
        }
        let (step, n) = (self.input.step, s.n * self.d);
        b.run(&DropoutAddFwd { y: half.sum.y, residual, x, step, n, drop: when(s.training, half.drop) });
    }

    /// Computes the gradient of f from that of the sum.
    fn add_backward(&self, b: &mut dyn Backend, s: &BatchShape, half: &Residual) {
        b.run(&DropoutBwd {
            dx: Dst::Write(half.branch.dy),
            dy: half.sum.dy,
            step: self.input.step,
            n: s.n * self.d,
            drop: when(s.training, half.drop),
        });
        if let Some(Patched { patch, place, .. }) = &half.patched {
            patch.begin_backward(b, s);
            if place.is_serial() {
                patch.end_backward(b, s);
            }
        }
    }

    /// Adds the gradient of a parallel patch to that of its input, after f has written its own.
    fn beside_backward(&self, b: &mut dyn Backend, s: &BatchShape, half: &Residual) {
        if let Some(Patched { patch, .. }) = half.patched.as_ref().filter(|half| !half.place.is_serial()) {
            patch.end_backward(b, s);
        }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        match self.place {
            NormPlace::Post => {
                self.attention.forward(b, s);
                self.add(b, s, &self.first);
                self.first.norm.forward(b, s);
                self.ffn.forward(b, s);
                self.add(b, s, &self.second);
                self.second.norm.forward(b, s);
            }
            NormPlace::Pre => {
                self.first.norm.forward(b, s);
                self.attention.forward(b, s);
                self.add(b, s, &self.first);
                self.second.norm.forward(b, s);
                self.ffn.forward(b, s);
                self.add(b, s, &self.second);
            }
        }
    }

    /// Computes the gradient of the block's input from `y.dy`.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        match self.place {
            NormPlace::Post => {
                self.second.norm.backward(b, s, Mode::Write);
                self.add_backward(b, s, &self.second);
                self.ffn.backward(b, s, Mode::Accumulate);
                self.beside_backward(b, s, &self.second);
                self.first.norm.backward(b, s, Mode::Write);
                self.add_backward(b, s, &self.first);
                self.attention.backward(b, s, Mode::Accumulate);
                self.beside_backward(b, s, &self.first);
            }
            NormPlace::Pre => {
                self.add_backward(b, s, &self.second);
                self.ffn.backward(b, s, Mode::Write);
                self.beside_backward(b, s, &self.second);
                self.second.norm.backward(b, s, Mode::Accumulate);
                self.add_backward(b, s, &self.first);
                self.attention.backward(b, s, Mode::Write);
                self.beside_backward(b, s, &self.first);
                self.first.norm.backward(b, s, Mode::Accumulate);
            }
        }
    }
}
