//! Multi-head self-attention with its two projections.

use super::{BatchShape, Input, Linear, Sites, when};
use crate::{
    mem::{Dst, F32, Mode, Planner, Span, Var},
    ops::{AttentionBwd, AttentionFwd, Backend, dropout::Dropout},
};

/// y = W_o attention(W_qkv x).
/// Parameters: `NAME.qkv.weight (3D,D)`, `NAME.qkv.bias`, `NAME.out.weight (D,D)`, `NAME.out.bias`.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    qkv: Linear,
    out: Linear,
    o: Var,
    lse: Span<F32>,
    input: Input,
    h: usize,
    k: usize,
    causal: bool,
    drop: Dropout,
}

impl SelfAttention {
    pub fn plan(
        p: &mut Planner,
        name: &str,
        x: Var,
        input: &Input,
        (d, h): (usize, usize),
        causal: bool,
        p_drop: f32,
        std: f32,
        sites: &mut Sites,
    ) -> Self {
        let n = input.capacity.n;
        let qkv = Linear::plan(p, &format!("{name}.qkv"), x, n, d, 3 * d, std);
        p.label(name);
        let (o, lse) = (p.var(n * d), p.stat(h * n));
        let out = Linear::plan(p, &format!("{name}.out"), o, n, d, d, std);
        SelfAttention { qkv, out, o, lse, input: *input, h, k: d / h, causal, drop: sites.take(p_drop) }
    }

    /// Returns the output (N,D).
    pub fn y(&self) -> Var {
        self.out.y
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.qkv.forward(b, s);
        b.run(&AttentionFwd {
            o: self.o.y,
            lse: self.lse,
            qkv: self.qkv.y.y,
            cu: self.input.cu,
            step: self.input.step,
            b: s.b,
            n: s.n,
            h: self.h,
            k: self.k,
            t: self.input.capacity.t,
            causal: self.causal,
            drop: when(s.training, self.drop),
        });
        self.out.forward(b, s);
    }

    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        self.out.backward(b, s, Mode::Write);
        b.run(&AttentionBwd {
            dqkv: Dst::Write(self.qkv.y.dy),
            d_o: self.o.dy,
            o: self.o.y,
            qkv: self.qkv.y.y,
            lse: self.lse,
            cu: self.input.cu,
            step: self.input.step,
            b: s.b,
            n: s.n,
            h: self.h,
            k: self.k,
            t: self.input.capacity.t,
            causal: self.causal,
            drop: when(s.training, self.drop),
        });
        self.qkv.backward(b, s, dx);
    }
}
