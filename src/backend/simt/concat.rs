//! Launchers of `kernels/concat.cu`: the grid covers rows with all columns.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{ConcatBwd, ConcatFwd, Run, Valid};

impl Run<ConcatFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ConcatFwd>) {
        let (lanes, grid) = row_grid(op.n, op.widths.iter().sum());
        let params = ConcatFwdParams {
            y: self.at(op.y),
            a: self.at(op.a),
            b: self.at(op.b),
            c: self.at(op.c),
            n: op.n as i64,
            a_width: op.widths[0] as i32,
            b_width: op.widths[1] as i32,
            c_width: op.widths[2] as i32,
            lanes,
        };
        self.launch(self.of(CONCAT_FWD), grid, 0, params);
    }
}

impl Run<ConcatBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ConcatBwd>) {
        let [(da, a_add), (db, b_add), (dc, c_add)] = [op.da, op.db, op.dc].map(|dst| self.grad(dst));
        if [da, db, dc] == [0; 3] {
            return;
        }
        let (lanes, grid) = row_grid(op.n, op.widths.iter().sum());
        let params = ConcatBwdParams {
            da,
            db,
            dc,
            dy: self.at(op.dy),
            n: op.n as i64,
            a_width: op.widths[0] as i32,
            b_width: op.widths[1] as i32,
            c_width: op.widths[2] as i32,
            lanes,
            a_add,
            b_add,
            c_add,
        };
        self.launch(self.of(CONCAT_BWD), grid, 0, params);
    }
}
