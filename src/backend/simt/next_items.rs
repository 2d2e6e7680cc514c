//! Launcher of `kernels/next_items.cu`: one warp per sequence, and one more for the padding.

use super::{Simt, kernels::*};
use crate::ops::{NextItems, Run, Valid};

impl Run<NextItems> for Simt {
    fn execute(&mut self, op: &Valid<'_, NextItems>) {
        let params = NextItemsParams {
            item: self.at(op.item),
            pos: self.at(op.pos),
            row: self.at(op.row),
            target: self.at(op.target),
            weight: self.at(op.weight),
            raw: self.at(op.raw),
            cu: self.at(op.cu),
            scored: self.at(op.scored),
            b: op.b as i32,
            m: op.m as i32,
            t: op.t as u32,
            k: op.k as u32,
        };
        self.launch(Kernel::NextItems, [op.b + 1, 1, 1], 0, params);
    }
}
