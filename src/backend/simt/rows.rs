//! Launchers of `kernels/rows.cu`, and the grid of all row-wise kernels.

use super::{Simt, kernels::*};
use crate::ops::{GatherRows, Run, ScatterRows, Valid};

/// Returns the lanes that share a row of `d` (eight elements per lane and iteration), and the grid for `n` such rows in
/// blocks of 256 threads.
pub(super) fn row_grid(n: usize, d: usize) -> (i32, [usize; 3]) {
    let lanes = d.div_ceil(8).next_power_of_two().clamp(1, 32);
    (lanes as i32, [n.div_ceil(256 / lanes), 1, 1])
}

impl Simt {
    /// Computes y_i = x[row_i] for `m` rows of `d` activations.
    pub(super) fn gather(&mut self, y: Ptr, x: Ptr, row: Ptr, m: usize, d: usize) {
        let (lanes, grid) = row_grid(m, d);
        self.launch(self.of(GATHER_ROWS), grid, 0, GatherRowsParams { y, x, row, m: m as i64, d: d as i32, lanes });
    }
}

impl Run<GatherRows> for Simt {
    fn execute(&mut self, op: &Valid<'_, GatherRows>) {
        self.gather(self.at(op.y), self.at(op.x), self.at(op.row), op.m, op.d);
    }
}

impl Run<ScatterRows> for Simt {
    fn execute(&mut self, op: &Valid<'_, ScatterRows>) {
        let (dx, add) = self.grad(op.dx);
        if dx == 0 {
            return;
        }
        if add == 0 {
            self.zero(dx, op.n * op.d * self.act_bytes());
        }
        let (lanes, grid) = row_grid(op.m, op.d);
        let (dy, row) = (self.at(op.dy), self.at(op.row));
        let params = ScatterRowsParams { dx, dy, row, m: op.m as i64, d: op.d as i32, lanes, add };
        self.launch(self.of(SCATTER_ROWS), grid, 0, params);
    }
}
