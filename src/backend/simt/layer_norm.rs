//! Launchers of `kernels/layer_norm.cu`: the kernel that holds a row of D in registers.

use super::{BLOCKS, Simt, kernels::*};
use crate::ops::{LayerNormBwd, LayerNormFwd, Run, Valid};

/// The kernels for rows up to some width.
struct Width {
    /// Longest row.
    most: usize,
    /// Lanes per row.
    lanes: usize,
    fwd: Pair,
    bwd: Pair,
}

const WIDTHS: [Width; 6] = [
    Width { most: 64, lanes: 8, fwd: LAYER_NORM_FWD_D64, bwd: LAYER_NORM_BWD_D64 },
    Width { most: 128, lanes: 16, fwd: LAYER_NORM_FWD_D128, bwd: LAYER_NORM_BWD_D128 },
    Width { most: 256, lanes: 32, fwd: LAYER_NORM_FWD_D256, bwd: LAYER_NORM_BWD_D256 },
    Width { most: 512, lanes: 32, fwd: LAYER_NORM_FWD_D512, bwd: LAYER_NORM_BWD_D512 },
    Width { most: 1024, lanes: 32, fwd: LAYER_NORM_FWD_D1024, bwd: LAYER_NORM_BWD_D1024 },
    LONG,
];

/// For rows too long for registers: dgamma and dbeta have their own kernel.
const LONG: Width = Width { most: usize::MAX, lanes: 32, fwd: LAYER_NORM_FWD_LONG, bwd: LAYER_NORM_BWD_LONG };

fn width(d: usize) -> &'static Width {
    WIDTHS.iter().find(|w| d <= w.most).expect("the last takes all")
}

/// Returns the number of blocks for `n` rows, each processed by a group of lanes.
fn blocks(n: usize, lanes: usize, kernel: Kernel) -> usize {
    n.div_ceil(kernel.info().threads as usize / lanes)
}

/// Returns the number of partial rows of dgamma and of dbeta: one per block, a function of the sizes alone.
fn parts(n: usize, d: usize) -> usize {
    let w = width(d);
    if w.most > 1024 { n.div_ceil(64).min(64) } else { blocks(n, w.lanes, w.bwd.f32).min(2 * BLOCKS) }
}

impl Run<LayerNormFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, LayerNormFwd>) {
        let w = width(op.d);
        let params = LayerNormFwdParams {
            y: self.at(op.y),
            mean: self.at(op.mean),
            rstd: self.at(op.rstd),
            x: self.at(op.x),
            gamma: self.at(op.gamma),
            beta: self.at(op.beta),
            n: op.n as i64,
            d: op.d as i32,
            eps: op.eps,
        };
        let kernel = self.of(w.fwd);
        self.launch(kernel, [blocks(op.n, w.lanes, kernel), 1, 1], 0, params);
    }
}

impl Run<LayerNormBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, LayerNormBwd>) {
        let (w, parts) = (width(op.d), parts(op.n, op.d));
        let (dx, add_dx) = self.grad(op.dx);
        let (dgamma, add_dgamma) = self.grad(op.dgamma);
        let (dbeta, add_dbeta) = self.grad(op.dbeta);
        let sums = dgamma != 0 || dbeta != 0;
        if dx == 0 && !sums {
            return;
        }
        let partial = if sums { self.scratch(8 * parts * op.d) } else { 0 };
        let params = LayerNormBwdParams {
            dx,
            partial,
            dy: self.at(op.dy),
            x: self.at(op.x),
            gamma: self.at(op.gamma),
            mean: self.at(op.mean),
            rstd: self.at(op.rstd),
            n: op.n as i64,
            d: op.d as i32,
            parts: parts as i32,
            add_dx,
        };
        let kernel = self.of(w.bwd);
        if w.most == LONG.most {
            if dx != 0 {
                self.launch(kernel, [blocks(op.n, w.lanes, kernel), 1, 1], 0, params);
            }
            if sums {
                self.launch(self.of(LAYER_NORM_BWD_COLUMNS), [op.d.div_ceil(128), parts, 1], 0, params);
            }
        } else {
            self.launch(kernel, [parts, 1, 1], 0, params);
        }
        if sums {
            let finish = LayerNormFinishParams {
                dgamma,
                dbeta,
                partial,
                parts: parts as i32,
                d: op.d as i32,
                add_dgamma,
                add_dbeta,
            };
            self.launch(Kernel::LayerNormBwdFinish, [op.d.div_ceil(32), 2, 1], 0, finish);
        }
    }

    fn need(&self, op: &LayerNormBwd) -> Result<usize, String> {
        Ok(8 * parts(op.n, op.d) * op.d)
    }
}
