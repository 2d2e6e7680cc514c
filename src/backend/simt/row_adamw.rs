//! Launchers of `kernels/row_adamw.cu`.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{AdamWRows, CatchUpRows, Run, Valid};

/// Checks that places fit the kernels' 32-bit counters.
fn counted(n: usize) -> Result<usize, String> {
    match n < 1 << 32 {
        true => Ok(0),
        false => Err(format!("{n} rows: at most 2^32 - 1 can be updated one by one")),
    }
}

impl Run<CatchUpRows> for Simt {
    fn execute(&mut self, op: &Valid<'_, CatchUpRows>) {
        let places = op.places();
        let (lanes, grid) = row_grid(places, op.d);
        let (b1, b2) = (op.beta1 as f64, op.beta2 as f64);
        let ratio = b1 / b2.sqrt();
        let params = CatchUpRowsParams {
            p: self.at(op.p),
            m: self.at(op.m),
            v: self.at(op.v),
            shadow: self.shadow(op.p.raw()).unwrap_or(0),
            last: self.at(op.last),
            key: self.at(op.key),
            history: self.at(op.history),
            ok: self.at(op.ok),
            step: self.at(op.step),
            n: places as u32,
            rows: op.rows as u32,
            ring: op.ring as u32,
            d: op.d as i32,
            lanes,
            all: op.all as i32,
            beta1: op.beta1,
            beta2: op.beta2,
            eps: op.eps,
            weight_decay: op.weight_decay,
            log_beta1: b1.log2() as f32,
            log_beta2: b2.log2() as f32,
            log_ratio: ratio.log2() as f32,
            odds: (ratio / (1.0 - ratio)) as f32,
        };
        self.launch(Kernel::CatchUpRows, grid, 0, params);
    }

    fn need(&self, op: &CatchUpRows) -> Result<usize, String> {
        counted(op.places())
    }
}

impl Run<AdamWRows> for Simt {
    fn execute(&mut self, op: &Valid<'_, AdamWRows>) {
        let (lanes, grid) = row_grid(op.n, op.d);
        let params = AdamwRowsParams {
            p: self.at(op.p),
            m: self.at(op.m),
            v: self.at(op.v),
            shadow: self.shadow(op.p.raw()).unwrap_or(0),
            last: self.at(op.last),
            g: self.at(op.g),
            key: self.at(op.key),
            norm: self.at(op.norm),
            ok: self.at(op.ok),
            hyper: self.at(op.hyper),
            step: self.at(op.step),
            n: op.n as u32,
            rows: op.rows as u32,
            d: op.d as i32,
            lanes,
            beta1: op.beta1,
            beta2: op.beta2,
            eps: op.eps,
            weight_decay: op.weight_decay,
            max_norm: op.max_norm,
        };
        self.launch(Kernel::AdamwRows, grid, 0, params);
    }

    fn need(&self, op: &AdamWRows) -> Result<usize, String> {
        counted(op.n)
    }
}
