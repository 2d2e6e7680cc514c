//! Launchers of `kernels/activation.cu`: eight elements per thread.

use super::{Simt, kernels::*};
use crate::ops::{ActivationBwd, ActivationFwd, Run, Valid, activation::Activation};

/// Elements per block.
const BLOCK: usize = 256 * 8;

/// Returns the kernel's number of an activation function.
fn kind(kind: Activation) -> i32 {
    match kind {
        Activation::Relu => 0,
        Activation::Sigmoid => 1,
        Activation::Tanh => 2,
    }
}

impl Run<ActivationFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ActivationFwd>) {
        let params = ActivationFwdParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64, kind: kind(op.kind) };
        self.launch(self.of(ACTIVATION_FWD), [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}

impl Run<ActivationBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ActivationBwd>) {
        let (dx, add) = self.grad(op.dx);
        if dx == 0 {
            return;
        }
        let (dy, y) = (self.at(op.dy), self.at(op.y));
        let params = ActivationBwdParams { dx, dy, y, n: op.n as i64, kind: kind(op.kind), add };
        self.launch(self.of(ACTIVATION_BWD), [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}
