//! Launchers of `kernels/gelu.cu`: eight elements per thread.

use super::{Simt, kernels::*};
use crate::ops::{GeluBwd, GeluFwd, Run, Valid};

/// Elements per block.
const BLOCK: usize = 256 * 8;

impl Run<GeluFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, GeluFwd>) {
        let params = GeluFwdParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64 };
        self.launch(self.of(GELU_FWD), [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}

impl Run<GeluBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, GeluBwd>) {
        let (dx, add) = self.grad(op.dx);
        if dx == 0 {
            return;
        }
        let params = GeluBwdParams { dx, dy: self.at(op.dy), x: self.at(op.x), n: op.n as i64, add };
        self.launch(self.of(GELU_BWD), [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}
