/*! The residual block of NextItNet (Yuan et al. 2019, figure 3b) and PeterRec (Yuan et al. 2020). It consists of two
dilated convolutions, the second with twice the dilation, each with layer norm and ReLU. The input is added at the end:

  h = relu(LN(conv_R(x))),  y = x + relu(LN(conv_2R(h)))

Causal convolutions give NextItNet. Centred ones see both sides, for masked items.

Patches (PeterRec, figure 4), with f a convolution with its norm and ReLU: serial f + patch(f), parallel f(x) +
patch(x). The published code puts a serial patch between a convolution and its norm. Here the two are one op, and the
patch follows the ReLU.
*/

use super::{BatchShape, Input, Patch, PatchConfig, PatchPlace};
use crate::{
    base::{Error, Result},
    mem::{Act, Dst, F32, Init, Mode, Param, Planner, Span, Var},
    ops::{Backend, DilatedConvBwd, DilatedConvFwd, DropoutAddFwd, DropoutBwd, dilated_conv::Taps, dropout::Dropout},
};

/// The shape of a block.
#[derive(Clone, Copy, Debug)]
pub struct ConvBlockConfig {
    /// Channels in and out (C).
    pub channels: usize,
    /// Taps of each convolution (W).
    pub taps: usize,
    /// Dilation of the first convolution (R). The second has 2R.
    pub dilation: usize,
    pub causal: bool,
    /// Standard deviation of the initial weights.
    pub std: f32,
    pub patch: Option<PatchConfig>,
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

    fn forward(&self, b: &mut dyn Backend, s: &BatchShape, residual: Span<Act>) {
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

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        b.run(&DilatedConvBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dw: self.w.grad(),
            db: self.b.grad(),
            dgamma: self.gamma.grad(),
            dbeta: self.beta.grad(),
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

/// A patch of one of the two convolutions.
#[derive(Clone, Debug)]
struct Patched {
    patch: Patch,
    place: PatchPlace,
    /// (N,C) the addend of the patch, and the sum.
    from: Span<Act>,
    sum: Span<Act>,
}

/// A planned block.
/// Parameters: `NAME.conv1.weight (W,C,C)`, `NAME.conv1.bias (C)`, `NAME.conv1_norm.*`, `NAME.conv2.*`,
/// `NAME.conv2_norm.*`. With patches also `NAME.conv1.patch.*`, `NAME.conv2.patch.*`.
#[derive(Clone, Debug)]
pub struct ConvBlock {
    first: Conv,
    second: Conv,
    /// The patches of the first and the second convolution.
    patched: [Option<Patched>; 2],
    /// The output (N,C). Its gradient is that of the input.
    pub y: Var,
    input: Input,
    c: usize,
}

impl ConvBlock {
    /// Added to the variance, as in the published code of both models.
    pub const EPS: f32 = 1e-8;

    /// Plans the block over `x` (N,C).
    ///
    /// # Errors
    /// There are no taps or no channels, or the dilation is so long that no row of any sequence has a tap other than
    /// its own.
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
                    "{name}: the {conv} convolution has dilation {dilation}: its nearest tap is {rows} positions away, \
                     and sequences hold at most {t}"
                ))
                .hint(match t.saturating_sub(1) / 2 {
                    0 => "lengthen the sequences, or use one tap".to_string(),
                    most => format!("lower the dilation to {most} or less, or lengthen the sequences"),
                }));
            }
        }
        let (n, d) = (input.capacity.n, c.channels);
        let nd = n * d;
        let config = |half: usize| c.patch.filter(|patch| patch.per_block == 2 || half == 2);
        p.label(&format!("{name}.conv1"));
        let h = p.var(nd);
        let first = Conv::plan(p, &format!("{name}.conv1"), (x, h), input, c, c.dilation);
        let patched = |p: &mut Planner, conv: &str, from: Var, to: Var, config: PatchConfig| {
            let x = if config.place.is_serial() { to } else { from };
            let patch = Patch::plan(p, &format!("{name}.{conv}"), x, to.dy, (n, d), config.width);
            Patched { patch, place: config.place, from: to.y, sum: p.act(nd) }
        };
        let patch1 = config(1).map(|config| patched(p, "conv1", x, h, config));
        let h = patch1.as_ref().map_or(h, |patch| Var { y: patch.sum, dy: h.dy });
        p.label(&format!("{name}.conv2"));
        // The sum x + f(x) has its own memory. Its gradient is that of x.
        let y = Var { y: p.act(nd), dy: x.dy };
        let (second, patch2) = match config(2) {
            // f and its gradient are stored separately from the sum.
            Some(config) if config.place.is_serial() => {
                let f = p.var(nd);
                let second = Conv::plan(p, &format!("{name}.conv2"), (h, f), input, c, 2 * c.dilation);
                (second, Some(patched(p, "conv2", h, f, config)))
            }
            config => {
                let second = Conv::plan(p, &format!("{name}.conv2"), (h, y), input, c, 2 * c.dilation);
                // Added to the residual before the convolution.
                let beside = |config| Patched { from: x.y, ..patched(p, "conv2", h, y, config) };
                (second, config.map(beside))
            }
        };
        Ok(ConvBlock { first, second, patched: [patch1, patch2], y, input: *input, c: d })
    }

    /// Computes y = a + b.
    fn plus(&self, b: &mut dyn Backend, s: &BatchShape, y: Span<Act>, [residual, x]: [Span<Act>; 2]) {
        b.run(&DropoutAddFwd { y, residual, x, step: self.input.step, n: s.n * self.c, drop: Dropout::NONE });
    }

    fn patch(&self, b: &mut dyn Backend, s: &BatchShape, half: &Patched) {
        half.patch.forward(b, s);
        self.plus(b, s, half.sum, [half.from, half.patch.y()]);
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let x = self.first.x.y;
        self.first.forward(b, s, x.first(0));
        if let Some(half) = &self.patched[0] {
            self.patch(b, s, half);
        }
        match &self.patched[1] {
            None => self.second.forward(b, s, x),
            Some(half) if half.place.is_serial() => {
                self.second.forward(b, s, x.first(0));
                self.patch(b, s, half);
                self.plus(b, s, self.y.y, [x, half.sum]);
            }
            Some(half) => {
                self.patch(b, s, half);
                self.second.forward(b, s, half.sum);
            }
        }
    }

    /// Computes the gradient of the block's input from `y.dy`, with which it is shared.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        match &self.patched[1] {
            None => self.second.backward(b, s, Mode::Write),
            Some(half) if half.place.is_serial() => {
                let (dx, n) = (Dst::Write(self.second.y.dy), s.n * self.c);
                b.run(&DropoutBwd { dx, dy: self.y.dy, step: self.input.step, n, drop: Dropout::NONE });
                half.patch.begin_backward(b, s);
                half.patch.end_backward(b, s);
                self.second.backward(b, s, Mode::Write);
            }
            Some(half) => {
                half.patch.begin_backward(b, s);
                self.second.backward(b, s, Mode::Write);
                half.patch.end_backward(b, s);
            }
        }
        if let Some(half) = &self.patched[0] {
            half.patch.begin_backward(b, s);
            if half.place.is_serial() {
                half.patch.end_backward(b, s);
            }
        }
        self.first.backward(b, s, Mode::Accumulate);
        if let Some(half) = self.patched[0].as_ref().filter(|half| !half.place.is_serial()) {
            half.patch.end_backward(b, s);
        }
    }
}
