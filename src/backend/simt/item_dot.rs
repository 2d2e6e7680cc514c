//! Launchers of `kernels/item_dot.cu`: `lanes` threads per row.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{ItemDotBwd, ItemDotFwd, Run, Valid};

impl Run<ItemDotFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ItemDotFwd>) {
        let (lanes, grid) = row_grid(op.m, op.d);
        let params = ItemDotFwdParams {
            z: self.at(op.z),
            h: self.at(op.h),
            table: self.weight(op.table),
            bias: if op.bias.is_empty() { 0 } else { self.at(op.bias) },
            id: self.at(op.id),
            m: op.m as i64,
            d: op.d as i32,
            v: op.v as u32,
            shift: op.shift,
            lanes,
        };
        self.launch(self.of(ITEM_DOT_FWD), grid, 0, params);
    }
}

impl Run<ItemDotBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, ItemDotBwd>) {
        let (dh, add) = self.grad(op.dh);
        if dh == 0 {
            return;
        }
        let (lanes, grid) = row_grid(op.m, op.d);
        let params = ItemDotBwdParams {
            dh,
            dz: self.at(op.dz),
            table: self.weight(op.table),
            id: self.at(op.id),
            m: op.m as i64,
            d: op.d as i32,
            v: op.v as u32,
            lanes,
            add,
        };
        self.launch(self.of(ITEM_DOT_BWD), grid, 0, params);
    }
}
