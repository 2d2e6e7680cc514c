//! Model patches: small bottlenecks next to or after the parts of a trained network, which itself stays unchanged
//! (PeterRec, Yuan et al. 2020; adapters, Houlsby et al. 2019).

use serde::{Deserialize, Serialize};

use super::{BatchShape, Linear};
use crate::{
    mem::{Act, Dst, Init, Mode, Planner, Span, Var},
    ops::{Backend, GeluBwd, GeluFwd},
};

/// The position of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PatchPlace {
    /// f + patch(f), after a part f.
    Serial,
    /// f(x) + patch(x), parallel to a part f.
    Parallel,
}

impl PatchPlace {
    /// Whether a patch follows a part, rather than running parallel to it.
    pub fn is_serial(self) -> bool {
        match self {
            PatchPlace::Serial => true,
            PatchPlace::Parallel => false,
        }
    }
}

/// The patches of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchConfig {
    pub place: PatchPlace,
    /// Patches per block: 1 (in its second half) or 2.
    pub per_block: usize,
    /// Width of the bottleneck (C).
    pub width: usize,
}

/// patch(x) = W_up gelu(W_down x).
/// Parameters: `NAME.down.weight (C,D)`, `NAME.down.bias (C)`, `NAME.up.weight (D,C)`, `NAME.up.bias (D)`. The upper
/// weight starts as zero, so a network with new patches equals the network without them.
#[derive(Clone, Debug)]
pub struct Patch {
    down: Linear,
    act: Var,
    up: Linear,
    c: usize,
}

impl Patch {
    /// The part of the name that all parameters of patches share.
    pub const NAME: &'static str = ".patch.";

    /// Plans a patch of `x` (N,D). The gradient of its output is in `dy`, which another layer writes.
    pub fn plan(p: &mut Planner, name: &str, x: Var, dy: Span<Act>, (n, d): (usize, usize), c: usize) -> Self {
        let name = format!("{name}{}", Self::NAME.trim_end_matches('.'));
        // As in the published code. Only the lower weight is drawn.
        let std = 0.02;
        let down = Linear::plan(p, &format!("{name}.down"), x, n, d, c, std);
        let act = p.var(n * c);
        let y = Var { y: p.act(n * d), dy };
        let up = Linear::plan_into(p, &format!("{name}.up"), act, y, [c, d], Init::Constant(0.0));
        Patch { down, act, up, c }
    }

    /// Returns the output (N,D).
    pub fn y(&self) -> Span<Act> {
        self.up.y.y
    }

    pub fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.down.forward(b, s);
        b.run(&GeluFwd { y: self.act.y, x: self.down.y.y, n: s.n * self.c });
        self.up.forward(b, s);
    }

    /// Computes the first half of the backward pass. It is the last reader of the output's gradient.
    pub fn begin_backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.up.backward(b, s, Mode::Write);
        b.run(&GeluBwd { dx: Dst::Write(self.down.y.dy), dy: self.act.dy, x: self.down.y.y, n: s.n * self.c });
    }

    /// Adds to the gradient of the input.
    pub fn end_backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.down.backward(b, s, Mode::Accumulate);
    }
}
