//! Launchers of `kernels/negative_loss.cu`: one warp per scored row, `lanes` of its threads per candidate.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{NegativeLossBwd, NegativeLossFwd, Run, Valid, negative_loss::Contrast};

/// Returns the kernel's number of a contrast, and beta.
fn contrast(contrast: Contrast) -> (i32, f32) {
    match contrast {
        Contrast::Bce { beta } => (0, beta),
        Contrast::Bpr => (1, 1.0),
        Contrast::Softmax => (2, 1.0),
    }
}

/// Returns the grid of blocks of eight warps.
fn grid(m: usize) -> [usize; 3] {
    [m.div_ceil(8), 1, 1]
}

impl Run<NegativeLossFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, NegativeLossFwd>) {
        let (contrast, beta) = contrast(op.contrast);
        let params = NegativeLossFwdParams {
            loss: self.at(op.loss),
            z: self.at(op.z),
            h: self.at(op.h),
            table: self.weight(op.table),
            bias: self.at(op.bias),
            log_q: if op.log_q.is_empty() { 0 } else { self.at(op.log_q) },
            free: if op.free.is_empty() { 0 } else { self.at(op.free) },
            id: self.at(op.id),
            m: op.m as i32,
            d: op.d as i32,
            s: op.s as i32,
            v: op.v as u32,
            contrast,
            beta,
            lanes: row_grid(op.m, op.d).0,
        };
        self.launch(self.of(NEGATIVE_LOSS_FWD), grid(op.m), 0, params);
    }
}

impl Run<NegativeLossBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, NegativeLossBwd>) {
        let (contrast, beta) = contrast(op.contrast);
        let (dh, add) = self.grad(op.dh);
        let params = NegativeLossBwdParams {
            g: self.at(op.g),
            dh,
            dloss: self.at(op.dloss),
            z: self.at(op.z),
            table: self.weight(op.table),
            id: self.at(op.id),
            m: op.m as i32,
            d: op.d as i32,
            s: op.s as i32,
            v: op.v as u32,
            contrast,
            beta,
            lanes: row_grid(op.m, op.d).0,
            add,
        };
        self.launch(self.of(NEGATIVE_LOSS_BWD), grid(op.m), 0, params);
    }
}
