//! Launchers of `kernels/ceilings.cu`: a thread takes eight elements.

use super::{Simt, kernels::*};
use crate::ops::{ExpChain, Op, Run, StreamCopy};

/// Elements of a block.
const BLOCK: usize = 256 * 8;

impl Run<StreamCopy> for Simt {
    fn run(&mut self, op: &StreamCopy) {
        op.assert_disjoint();
        let params = StreamCopyParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64 };
        self.launch(Kernel::StreamCopy, [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}

impl Run<ExpChain> for Simt {
    fn run(&mut self, op: &ExpChain) {
        op.assert_disjoint();
        let params = ExpChainParams { y: self.at(op.y), x: self.at(op.x), n: op.n as i64, rounds: op.rounds as i32 };
        self.launch(Kernel::ExpChain, [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}
