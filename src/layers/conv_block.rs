/*! The residual block of NextItNet (Yuan et al. 2019, figure 3b) and PeterRec (Yuan et al. 2020): two dilated convolutions,
the second twice as far apart, each with layer norm and ReLU, and the input added at the end:

  h = relu(LN(conv_R(x))),  y = x + relu(LN(conv_2R(h)))

Causal convolutions are NextItNet's; centred ones see both sides, for masked items.
*/

use super::{Input, Shape};
use crate::{
    base::{Error, Result},
    mem::{Act, Dst, F32, Init, Mode, Param, Planner, Span, Var},
    ops::{DilatedConvBwd, DilatedConvFwd, Run, dilated_conv::Taps},
};

/// The shape of a block.
#[derive(Clone, Copy, Debug)]
pub struct ConvBlockConfig {
    /// Channels in and out (C).
    pub channels: usize,
    /// Taps of each convolution (W).
    pub taps: usize,
    /// Dilation of the first convolution (R); the second has 2R.
    pub dilation: usize,
    pub causal: bool,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// y = relu(LN(conv(x))) (+ residual).
/// Parameters: `NAME.weight (W,C,C)`, `NAME.bias (C)`, `NAME_norm.gamma (C)`, `NAME_norm.beta (C)`.
#[derive(Clone, Debug)]
struct Conv {
    x: Var,
    y: Var,
    z: Span<Act>,
    mean: Span<F32>,
    rstd: Span<F32>,
    w: Param,
    b: Param,
    gamma: Param,
    beta: Param,
    taps: Taps,
    input: Input,
    c: usize,
}

impl Conv {
    fn plan(
        p: &mut Planner,
        name: &str,
        (x, y): (Var, Var),
        input: &Input,
        c: &ConvBlockConfig,
        dilation: usize,
    ) -> Self {
        let (n, d) = (input.capacity.n, c.channels);
        let taps = Taps { count: c.taps, dilation, causal: c.causal };
        Conv {
            x,
            y,
            z: p.act(n * d),
            mean: p.stat(n),
            rstd: p.stat(n),
            w: p.param(format!("{name}.weight"), &[c.taps, d, d], Init::TruncatedNormal(c.std)),
            b: p.param(format!("{name}.bias"), &[d], Init::Constant(0.0)),
            gamma: p.param(format!("{name}_norm.gamma"), &[d], Init::Constant(1.0)),
            beta: p.param(format!("{name}_norm.beta"), &[d], Init::Constant(0.0)),
            taps,
            input: *input,
            c: d,
        }
    }

    fn forward<B: Run<DilatedConvFwd>>(&self, b: &mut B, s: &Shape, residual: Span<Act>) {
        b.run(&DilatedConvFwd {
            y: self.y.y,
            z: self.z,
            mean: self.mean,
            rstd: self.rstd,
            x: self.x.y,
            w: self.w.w,
            bias: self.b.w,
            gamma: self.gamma.w,
            beta: self.beta.w,
            residual,
            cu: self.input.cu,
            b: s.b,
            n: s.n,
            i: self.c,
            o: self.c,
            taps: self.taps,
            eps: ConvBlock::EPS,
        });
    }

    fn backward<B: Run<DilatedConvBwd>>(&self, b: &mut B, s: &Shape, dx: Mode) {
        b.run(&DilatedConvBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dw: Dst::Write(self.w.dw),
            db: Dst::Write(self.b.dw),
            dgamma: Dst::Write(self.gamma.dw),
            dbeta: Dst::Write(self.beta.dw),
            dy: self.y.dy,
            z: self.z,
            x: self.x.y,
            w: self.w.w,
            gamma: self.gamma.w,
            beta: self.beta.w,
            mean: self.mean,
            rstd: self.rstd,
            cu: self.input.cu,
            b: s.b,
            n: s.n,
            i: self.c,
            o: self.c,
            taps: self.taps,
        });
    }
}

/// Parameters: `NAME.conv1.weight (W,C,C)`, `NAME.conv1.bias (C)`, `NAME.conv1_norm.*`, `NAME.conv2.*`, `NAME.conv2_norm.*`.
#[derive(Clone, Debug)]
pub struct ConvBlock {
    first: Conv,
    second: Conv,
    /// The output (N,C); its gradient is that of the input.
    pub y: Var,
}

impl ConvBlock {
    /// Added to the variance: that of the published code of both models.
    pub const EPS: f32 = 1e-8;

    /// # Errors
    /// No taps or no channels; a dilation so long that no row of any sequence has a tap beside its own.
    pub fn plan(p: &mut Planner, name: &str, x: Var, input: &Input, c: &ConvBlockConfig) -> Result<Self> {
        if c.taps == 0 || c.channels == 0 || c.dilation == 0 {
            let what = format!("{} taps, {} channels and dilation {}", c.taps, c.channels, c.dilation);
            return Err(Error::user(format!("{name}: a convolution of {what}")).hint("each is at least 1"));
        }
        let t = input.capacity.t;
        for (conv, dilation) in [("first", c.dilation), ("second", c.dilation.saturating_mul(2))] {
            let taps = Taps { count: c.taps, dilation, causal: c.causal };
            taps.check().map_err(|e| Error::user(format!("{name}: {e}")).hint("lower the taps or the dilation"))?;
            let beside = (0..c.taps).map(|w| taps.offset(w).unsigned_abs()).filter(|rows| *rows > 0).min();
            if let Some(rows) = beside.filter(|rows| *rows >= t) {
                return Err(Error::user(format!(
                    "{name}: the {conv} convolution has dilation {dilation}: its nearest tap is {rows} positions away, and \
                     sequences hold at most {t}"
                ))
                .hint(match t.saturating_sub(1) / 2 {
                    0 => "lengthen the sequences, or use one tap".to_string(),
                    most => format!("lower the dilation to {most} or less, or lengthen the sequences"),
                }));
            }
        }
        let nd = input.capacity.n * c.channels;
        p.label(&format!("{name}.conv1"));
        let h = p.var(nd);
        let first = Conv::plan(p, &format!("{name}.conv1"), (x, h), input, c, c.dilation);
        p.label(&format!("{name}.conv2"));
        // The sum x + f(x) has memory of its own, its gradient is that of x.
        let y = Var { y: p.act(nd), dy: x.dy };
        let second = Conv::plan(p, &format!("{name}.conv2"), (h, y), input, c, 2 * c.dilation);
        Ok(ConvBlock { first, second, y })
    }

    pub fn forward<B: Run<DilatedConvFwd>>(&self, b: &mut B, s: &Shape) {
        self.first.forward(b, s, self.first.x.y.first(0));
        self.second.forward(b, s, self.first.x.y);
    }

    /// From `y.dy` to the gradient of the block's input, which it shares.
    pub fn backward<B: Run<DilatedConvBwd>>(&self, b: &mut B, s: &Shape) {
        self.second.backward(b, s, Mode::Write);
        self.first.backward(b, s, Mode::Accumulate);
    }
}
