//! Launchers of `kernels/dropout.cu`: the three ops are one kernel that adds to different bases.

use super::{Simt, kernels::*};
use crate::ops::{DropoutAddFwd, DropoutBwd, DropoutFwd, Run, Valid, dropout};

/// Elements per block.
const BLOCK: usize = 256 * 8;

impl From<dropout::Dropout> for Drop {
    fn from(drop: dropout::Dropout) -> Drop {
        Drop {
            threshold: drop.threshold(),
            site: drop.site,
            seed_lo: drop.seed as u32,
            seed_hi: (drop.seed >> 32) as u32,
            scale: drop.scale() as f32,
        }
    }
}

impl Simt {
    fn dropout(&mut self, n: usize, params: DropoutParams) {
        self.launch(self.of(DROPOUT), [n.div_ceil(BLOCK), 1, 1], 0, DropoutParams { n: n as i64, ..params });
    }
}

impl Run<DropoutFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, DropoutFwd>) {
        let (y, x, step) = (self.at(op.y), self.at(op.x), self.at(op.step));
        self.dropout(op.n, DropoutParams { y, x, base: 0, step, n: 0, drop: op.drop.into() });
    }
}

impl Run<DropoutAddFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, DropoutAddFwd>) {
        let (y, x, step) = (self.at(op.y), self.at(op.x), self.at(op.step));
        self.dropout(op.n, DropoutParams { y, x, base: self.at(op.residual), step, n: 0, drop: op.drop.into() });
    }
}

impl Run<DropoutBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, DropoutBwd>) {
        let (dx, add) = self.grad(op.dx);
        if dx == 0 {
            return;
        }
        let (base, dy, step) = (if add == 1 { dx } else { 0 }, self.at(op.dy), self.at(op.step));
        self.dropout(op.n, DropoutParams { y: dx, x: dy, base, step, n: 0, drop: op.drop.into() });
    }
}
