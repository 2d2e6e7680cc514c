//! Launcher of `kernels/mask_items.cu`: one warp per sequence, with its shuffle in shared memory, and one more warp for
//! the padding.

use super::{Simt, kernels::*};
use crate::ops::{MaskItems, Run, Valid};

/// Shared memory per position, and the longest sequence that fits on every GPU.
const POSITION_BYTES: usize = 9;
const MOST: usize = 8 * 1024;

impl Run<MaskItems> for Simt {
    fn execute(&mut self, op: &Valid<'_, MaskItems>) {
        let params = MaskItemsParams {
            item: self.at(op.item),
            pos: self.at(op.pos),
            weight: self.at(op.weight),
            row: self.at(op.row),
            target: self.at(op.target),
            raw: self.at(op.raw),
            cu: self.at(op.cu),
            scored: self.at(op.scored),
            user: self.at(op.user),
            epoch: self.at(op.epoch),
            items: op.items as u32,
            mask_last: op.mask_last,
            seed_lo: op.seed as u32,
            seed_hi: (op.seed >> 32) as u32,
            b: op.b as i32,
            m: op.m as i32,
            t: op.t as i32,
        };
        self.launch(Kernel::MaskItems, [op.b + 1, 1, 1], POSITION_BYTES * op.t, params);
    }

    fn need(&self, op: &MaskItems) -> Result<usize, String> {
        match op.t <= MOST {
            true => Ok(0),
            false => Err(format!("sequences of {} items: the kernel masks at most {MOST}", op.t)),
        }
    }
}
