//! Launchers of `kernels/reduce.cu`: one launch where one block is enough, else partial sums and a launch over those.

use super::{BLOCKS, Simt, kernels::*};
use crate::ops::{GradNorm, Run, Valid, WeightedMean};

/// Returns the blocks for `n` elements. They are a function of `n` alone, so that sums are cut the same way everywhere.
fn blocks(n: usize) -> usize {
    if n <= 16 * 1024 { 1 } else { n.div_ceil(4096).min(2 * BLOCKS) }
}

fn scratch(n: usize) -> usize {
    4 * blocks(n)
}

impl Simt {
    /// Computes the sum of x w, or its square root.
    fn reduce(&mut self, out: Ptr, x: Ptr, w: Ptr, n: usize, root: bool) {
        let blocks = blocks(n);
        let last = ReduceParams { out, x, w, n: n as i64, root: root as i32 };
        if blocks == 1 {
            return self.launch(Kernel::Reduce, [1, 1, 1], 0, last);
        }
        let partial = self.scratch(scratch(n));
        let first = ReduceParams { out: partial, root: 0, ..last };
        self.launch(Kernel::Reduce, [blocks, 1, 1], 0, first);
        self.launch(Kernel::Reduce, [1, 1, 1], 0, ReduceParams { x: partial, w: 0, n: blocks as i64, ..last });
    }
}

impl Run<WeightedMean> for Simt {
    fn execute(&mut self, op: &Valid<'_, WeightedMean>) {
        self.reduce(self.at(op.y), self.at(op.x), self.at(op.w), op.n, false);
    }

    fn need(&self, op: &WeightedMean) -> Result<usize, String> {
        Ok(scratch(op.n))
    }
}

impl Run<GradNorm> for Simt {
    fn execute(&mut self, op: &Valid<'_, GradNorm>) {
        self.reduce(self.at(op.norm), self.at(op.g), self.at(op.g), op.n, true);
    }

    fn need(&self, op: &GradNorm) -> Result<usize, String> {
        Ok(scratch(op.n))
    }
}
