//! Launchers of `kernels/ceilings.cu`: eight elements per thread.

use super::{Simt, kernels::*};
use crate::ops::{ExpChain, Run, StreamCopy, Valid};

/// Elements per block.
const BLOCK: usize = 256 * 8;

impl Run<StreamCopy> for Simt {
    fn execute(&mut self, op: &Valid<'_, StreamCopy>) {
        let params = StreamCopyParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64 };
        self.launch(Kernel::StreamCopy, [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}

impl Run<ExpChain> for Simt {
    fn execute(&mut self, op: &Valid<'_, ExpChain>) {
        let params = ExpChainParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64, rounds: op.rounds as i32 };
        self.launch(Kernel::ExpChain, [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}
