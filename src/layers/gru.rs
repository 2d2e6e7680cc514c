/*! A layer of gated recurrent units (Cho et al. 2014) over packed sequences, like PyTorch's `nn.GRU`. Each sequence is
processed from its first row to its last, starting from a zero state.

The input's part of all gates is one product over all rows, computed in advance. Only the state's part is computed row
by row.
*/

use super::{BatchShape, Input, Linear};
use crate::{
    mem::{Act, Dst, Init, Mode, Param, Planner, Span, Var},
    ops::{Backend, GruBwd, GruFwd, LinearBwd},
};

/// A planned layer.
/// Parameters, gates in the order r, z, n: `NAME.input.weight (3H,D)`, `NAME.input.bias (3H)`, `NAME.hidden.weight
/// (3H,H)`, `NAME.hidden.bias (3H)`. They equal PyTorch's `weight_ih`, `bias_ih`, `weight_hh` and `bias_hh`.
#[derive(Clone, Debug)]
pub struct Gru {
    /// The state after each row (N,H).
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
    /// Returns the standard deviation of the initial weights.
    /// The weights are normal numbers, truncated at two standard deviations. Their variance equals that of PyTorch's,
    /// which are uniform up to 1/sqrt(H).
    pub fn std(h: usize) -> f32 {
        0.656 / (h as f32).sqrt()
    }

    /// Plans a layer from `d` columns of `x` (N,D) to `h`.
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

    /// Computes the gradients. `dx` selects whether the gradient of x is written or, after a residual connection, added
    /// to.
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
        // The state before a row passed through a dense layer. Its gradient is already in the rows before.
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
