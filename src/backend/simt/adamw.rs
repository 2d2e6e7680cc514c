//! Launcher of `kernels/adamw.cu`: eight weights per thread. It also writes the bf16 shadow.

use super::{Simt, kernels::*};
use crate::ops::{AdamW, Guard, Run, Valid};

/// Weights per block.
const BLOCK: usize = 256 * 8;

impl Run<AdamW> for Simt {
    fn execute(&mut self, op: &Valid<'_, AdamW>) {
        let params = AdamwParams {
            p: self.at(op.p),
            m: self.at(op.m),
            v: self.at(op.v),
            shadow: self.shadow(op.p.raw()).unwrap_or(0),
            g: self.at(op.g),
            norm: self.at(op.norm),
            ok: self.at(op.ok),
            hyper: self.at(op.hyper),
            n: op.n as i64,
            beta1: op.beta1,
            beta2: op.beta2,
            eps: op.eps,
            weight_decay: op.weight_decay,
            max_norm: op.max_norm,
        };
        self.launch(Kernel::Adamw, [op.n.div_ceil(BLOCK), 1, 1], 0, params);
    }
}

impl Run<Guard> for Simt {
    fn execute(&mut self, op: &Valid<'_, Guard>) {
        let params = GuardParams { ok: self.at(op.ok), loss: self.at(op.loss), norm: self.at(op.norm) };
        self.launch(Kernel::Guard, [1, 1, 1], 0, params);
    }
}
