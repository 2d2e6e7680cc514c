//! Launchers of `kernels/scale_rows.cu`: one kernel there and back.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{Op, Run, ScaleRowsBwd, ScaleRowsFwd};

impl Simt {
    /// to_i = w_i from_i for `n` rows of `d` activations, or added.
    fn scale_rows(&mut self, to: Ptr, from: Ptr, w: Ptr, n: usize, d: usize, add: i32) {
        let (lanes, grid) = row_grid(n, d);
        let params = ScaleRowsParams { to, from, w, n: n as i64, d: d as i32, lanes, add };
        self.launch(self.of(SCALE_ROWS), grid, 0, params);
    }
}

impl Run<ScaleRowsFwd> for Simt {
    fn run(&mut self, op: &ScaleRowsFwd) {
        op.assert_disjoint();
        self.scale_rows(self.at(op.y), self.at(op.x), self.at(op.w), op.n, op.d, 0);
    }
}

impl Run<ScaleRowsBwd> for Simt {
    fn run(&mut self, op: &ScaleRowsBwd) {
        op.assert_disjoint();
        let (dx, add) = self.grad(op.dx);
        if dx != 0 {
            self.scale_rows(dx, self.at(op.dy), self.at(op.w), op.n, op.d, add);
        }
    }
}
