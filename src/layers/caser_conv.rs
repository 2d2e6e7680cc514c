/*! The convolutions of Caser (Tang and Wang 2018) over the L newest rows of every row: horizontal filters of all
heights, each with its maximum over the window, and vertical filters, weighted sums of the window's rows.

The paper concatenates both and applies one dense layer. Here they stay two outputs. The dense layer becomes the sum of
two layers, one per output, and no data is copied together.
*/

use super::{BatchShape, Input};
use crate::{
    base::{Error, Result},
    mem::{Dst, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{Backend, VerticalConvBwd, VerticalConvFwd, WindowConvBwd, WindowConvFwd, window_conv::taps},
};

/// The shape of the layer.
#[derive(Clone, Copy, Debug)]
pub struct CaserConvConfig {
    /// Width of the rows (D).
    pub width: usize,
    /// Rows of a window (L), including the row where it ends.
    pub window: usize,
    /// Horizontal filters of each height (F).
    pub horizontal: usize,
    /// Vertical filters.
    pub vertical: usize,
    /// Standard deviation of the initial weights.
    pub std: f32,
}

/// The planned layer.
/// Parameters: `NAME.horizontal.weight (L(L+1)/2,D,F)` (height after height, one matrix per tap, oldest first),
/// `NAME.horizontal.bias (L*F)`, `NAME.vertical.weight (F,L)` (oldest row first), `NAME.vertical.bias (F)`.
#[derive(Clone, Debug)]
pub struct CaserConv {
    x: Var,
    /// (N,L*F): the maximum over the window of each filter, height h at columns (h-1)*F .. .
    pub horizontal: Var,
    /// (N,F*D): the weighted sums of each filter, one filter after another.
    pub vertical: Var,
    at: Span<U32>,
    horizontal_w: Param,
    horizontal_b: Param,
    vertical_w: Param,
    vertical_b: Param,
    input: Input,
    c: CaserConvConfig,
}

impl CaserConv {
    /// Plans the layer over the rows of `x` (N,D).
    ///
    /// # Errors
    /// A size is 0, or a window is longer than every sequence.
    pub fn plan(p: &mut Planner, name: &str, x: Var, input: &Input, c: &CaserConvConfig) -> Result<Self> {
        let (n, t) = (input.capacity.n, input.capacity.t);
        let (d, l, f, v) = (c.width, c.window, c.horizontal, c.vertical);
        if d == 0 || l == 0 || f == 0 || v == 0 {
            let what = format!("{f} horizontal and {v} vertical filters over windows of {l} rows of width {d}");
            return Err(Error::user(format!("{name}: {what}")).hint("each is at least 1"));
        }
        if l > t {
            return Err(Error::user(format!("{name}: windows of {l} rows, and sequences hold at most {t}")).hint(
                format!("lower the window to {t} or less (--window {t}), or lengthen the sequences (--length {l})"),
            ));
        }
        p.label(&format!("{name}.horizontal"));
        let horizontal = p.var(n * l * f);
        let at = p.index(n * l * f);
        let normal = Init::TruncatedNormal(c.std);
        let horizontal_w = p.param(format!("{name}.horizontal.weight"), &[taps(l), d, f], normal);
        let horizontal_b = p.param(format!("{name}.horizontal.bias"), &[l * f], Init::Constant(0.0));
        p.label(&format!("{name}.vertical"));
        let vertical = p.var(n * v * d);
        let vertical_w = p.param(format!("{name}.vertical.weight"), &[v, l], normal);
        let vertical_b = p.param(format!("{name}.vertical.bias"), &[v], Init::Constant(0.0));
        let (input, c) = (*input, *c);
        Ok(CaserConv { x, horizontal, vertical, at, horizontal_w, horizontal_b, vertical_w, vertical_b, input, c })
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (x, cu, d, l) = (self.x.y, self.input.cu, self.c.width, self.c.window);
        b.run(&WindowConvFwd {
            y: self.horizontal.y,
            at: self.at,
            x,
            w: self.horizontal_w.w,
            bias: self.horizontal_b.w,
            cu,
            b: s.b,
            n: s.n,
            d,
            l,
            f: self.c.horizontal,
        });
        b.run(&VerticalConvFwd {
            y: self.vertical.y,
            x,
            w: self.vertical_w.w,
            bias: self.vertical_b.w,
            cu,
            b: s.b,
            n: s.n,
            d,
            l,
            f: self.c.vertical,
        });
    }

    /// Computes the gradients from `horizontal.dy` and `vertical.dy`. `dx` selects how the gradient of x is written.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        let (x, cu, d, l) = (self.x.y, self.input.cu, self.c.width, self.c.window);
        b.run(&WindowConvBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dw: self.horizontal_w.grad(),
            db: self.horizontal_b.grad(),
            dy: self.horizontal.dy,
            at: self.at,
            x,
            w: self.horizontal_w.w,
            cu,
            b: s.b,
            n: s.n,
            d,
            l,
            f: self.c.horizontal,
        });
        // The second gradient is added to the first.
        let dx = if dx == Mode::Skip { Mode::Skip } else { Mode::Accumulate };
        b.run(&VerticalConvBwd {
            dx: Dst::Write(self.x.dy).with_mode(dx),
            dw: self.vertical_w.grad(),
            db: self.vertical_b.grad(),
            dy: self.vertical.dy,
            x,
            w: self.vertical_w.w,
            cu,
            b: s.b,
            n: s.n,
            d,
            l,
            f: self.c.vertical,
        });
    }
}
