/*! A layer of gated recurrent units (Cho et al. 2014) over packed sequences, as PyTorch's `nn.GRU` has it: each sequence is
walked from its first row to its last, from a state of zeros.

The input's part of all gates is one product over all rows and made before; only the state's part goes row by row.
*/

use super::{BatchShape, Input, Linear};
use crate::{
    mem::{Act, Dst, Init, Mode, Param, Planner, Span, Var},
    ops::{Backend, GruBwd, GruFwd, LinearBwd},
};

/// Parameters, gates in the order r, z, n: `NAME.input.weight (3H,D)`, `NAME.input.bias (3H)`, `NAME.hidden.weight (3H,H)`,
/// `NAME.hidden.bias (3H)`. They are PyTorch's `weight_ih`, `bias_ih`, `weight_hh` and `bias_hh` as they stand.
#[derive(Clone, Debug)]
pub struct Gru {
    /// The state behind each row (N,H).
    pub y: Var,
    gx: Linear,
    /// (N,H)
    before: Span<Act>,
    /// (N,4H)
    gates: Span<Act>,
    /// (N,3H)
    dgh: Span<Act>,
    w: Param,
    b: Param,
    input: Input,
    h: usize,
}

impl Gru {
    /// Standard deviation of the initial weights: normal numbers, cut at two of it, that vary as much as PyTorch's, which
    /// are uniform up to 1/sqrt(H).
    pub fn std(h: usize) -> f32 {
        0.656 / (h as f32).sqrt()
    }

    /// From `d` columns of `x` (N,D) to `h`.
    pub fn plan(p: &mut Planner, name: &str, x: Var, input: &Input, (d, h): (usize, usize)) -> Self {
        let (n, std) = (input.capacity.n, Gru::std(h));
        let gx = Linear::plan(p, &format!("{name}.input"), x, n, d, 3 * h, std);
        p.label(&format!("{name}.hidden"));
        Gru {
            y: p.var(n * h),
            gx,
            before: p.act(n * h),
            gates: p.act(4 * n * h),
            dgh: p.act(3 * n * h),
            w: p.param(format!("{name}.hidden.weight"), &[3 * h, h], Init::TruncatedNormal(std)),
            b: p.param(format!("{name}.hidden.bias"), &[3 * h], Init::Constant(0.0)),
            input: *input,
            h,
        }
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.gx.forward(b, s);
        b.run(&GruFwd {
            y: self.y.y,
            before: self.before,
            gates: self.gates,
            gx: self.gx.y.y,
            w: self.w.w,
            bias: self.b.w,
            cu: self.input.cu,
            b: s.b,
            n: s.n,
            h: self.h,
        });
    }

    /// `dx`: whether the gradient of x is written or, after a residual connection, added to.
    pub fn backward(&self, b: &mut dyn Backend, s: &BatchShape, dx: Mode) {
        b.run(&GruBwd {
            dgx: Dst::Write(self.gx.y.dy),
            dgh: Dst::Write(self.dgh),
            dy: self.y.dy,
            before: self.before,
            gates: self.gates,
            w: self.w.w,
            cu: self.input.cu,
            b: s.b,
            n: s.n,
            h: self.h,
        });
        // The state before a row went through a dense layer; what it gets back is already in the rows before.
        b.run(&LinearBwd {
            dx: Dst::Skip,
            dw: self.w.grad(),
            db: self.b.grad(),
            dy: self.dgh,
            x: self.before,
            w: self.w.w,
            n: s.n,
            i: self.h,
            o: 3 * self.h,
        });
        self.gx.backward(b, s, dx);
    }
}
