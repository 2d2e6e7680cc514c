//! Launchers of `kernels/sequence_rows.cu`: the backward pass of each op is the forward pass of the other.

use super::{BLOCKS, Simt, kernels::*, rows::row_grid};
use crate::{
    mem::{F32, Span},
    ops::{PoolBwd, PoolFwd, Run, SpreadBwd, SpreadFwd, Valid},
};

/// Columns per block of a sum.
const COLUMNS: usize = 64;

impl Simt {
    /// Computes y_n = or += w_n x_b.
    /// One block per sequence and one for the rows past them, or several where one would not fill the GPU.
    fn spread(&mut self, y: Ptr, add: i32, x: Ptr, w: Span<F32>, cu: Ptr, [b, n, d]: [usize; 3]) {
        let (lanes, [blocks, ..]) = row_grid(n, d);
        let parts = (BLOCKS / (b + 1)).clamp(1, blocks.max(1));
        let w = if w.is_empty() { 0 } else { self.at(w) };
        let params = SpreadRowsParams { y, x, w, cu, n: n as i64, b: b as i32, d: d as i32, lanes, add };
        self.launch(self.of(SPREAD_ROWS), [b + 1, parts, 1], 0, params);
    }

    /// Computes y_b = or += sum of w_n x_n.
    fn pool(&mut self, y: Ptr, add: i32, x: Ptr, w: Span<F32>, cu: Ptr, [b, d]: [usize; 2]) {
        let w = if w.is_empty() { 0 } else { self.at(w) };
        let params = PoolRowsParams { y, x, w, cu, d: d as i32, add };
        self.launch(self.of(POOL_ROWS), [b, d.div_ceil(COLUMNS), 1], 0, params);
    }
}

impl Run<SpreadFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, SpreadFwd>) {
        let (y, x, cu) = (self.at(op.y), self.at(op.x), self.at(op.cu));
        self.spread(y, 0, x, Span::empty(), cu, [op.b, op.n, op.d]);
    }
}

impl Run<SpreadBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, SpreadBwd>) {
        let (dx, add) = self.grad(op.dx);
        if dx != 0 {
            let (dy, cu) = (self.at(op.dy), self.at(op.cu));
            self.pool(dx, add, dy, Span::empty(), cu, [op.b, op.d]);
        }
    }
}

impl Run<PoolFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, PoolFwd>) {
        let (y, x, cu) = (self.at(op.y), self.at(op.x), self.at(op.cu));
        self.pool(y, 0, x, op.w, cu, [op.b, op.d]);
    }
}

impl Run<PoolBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, PoolBwd>) {
        let (dx, add) = self.grad(op.dx);
        if dx != 0 {
            let (dy, cu) = (self.at(op.dy), self.at(op.cu));
            self.spread(dx, add, dy, op.w, cu, [op.b, op.n, op.d]);
        }
    }
}
