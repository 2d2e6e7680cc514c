//! Launchers of `kernels/reduce.cu`: one launch where a block is enough, else partial sums and a launch over those.

use super::{BLOCKS, Simt, kernels::*};
use crate::ops::{GradNorm, Mean, Op, Run};

/// Blocks for `n` elements; a function of `n` alone, so that sums are cut the same way everywhere.
fn blocks(n: usize) -> usize {
    if n <= 16 * 1024 { 1 } else { n.div_ceil(4096).min(2 * BLOCKS) }
}

fn scratch(n: usize) -> usize {
    4 * blocks(n)
}

impl Simt {
    /// The sum of x, divided by `count`, or the root of the sum of squares.
    fn reduce(&mut self, out: Ptr, x: Ptr, n: usize, count: f32, norm: bool) {
        let (squares, root, blocks) = (norm as i32, norm as i32, blocks(n));
        let last = ReduceParams { out, x, n: n as i64, count, squares, root };
        if blocks == 1 {
            return self.launch(Kernel::Reduce, [1, 1, 1], 0, last);
        }
        let partial = self.scratch(scratch(n));
        let first = ReduceParams { out: partial, count: 1.0, root: 0, ..last };
        self.launch(Kernel::Reduce, [blocks, 1, 1], 0, first);
        self.launch(Kernel::Reduce, [1, 1, 1], 0, ReduceParams { x: partial, n: blocks as i64, squares: 0, ..last });
    }
}

impl Run<Mean> for Simt {
    fn run(&mut self, op: &Mean) {
        op.assert_disjoint();
        self.reduce(self.at(op.y), self.at(op.x), op.n, op.n.max(1) as f32, false);
    }

    fn need(&self, op: &Mean) -> Result<usize, String> {
        Ok(scratch(op.n))
    }
}

impl Run<GradNorm> for Simt {
    fn run(&mut self, op: &GradNorm) {
        op.assert_disjoint();
        self.reduce(self.at(op.norm), self.at(op.g), op.n, 1.0, true);
    }

    fn need(&self, op: &GradNorm) -> Result<usize, String> {
        Ok(scratch(op.n))
    }
}
