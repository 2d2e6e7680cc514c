//! Launchers of `kernels/vertical_conv.cu`: tiles of 32 rows, and the parts of the sums over all rows.

use super::{BLOCKS, Simt, kernels::*};
use crate::ops::{Run, Valid, VerticalConvBwd, VerticalConvFwd};

/// Rows per tile (kTile); filters and taps per block of the weight gradient (kFilters, kTaps).
const TILE: usize = 32;
const FILTERS: usize = 4;
const TAPS: usize = 8;

/// Returns the largest number of parts of the rows of a sum, for any batch of at most `n` rows.
fn most_parts(n: usize, f: usize, l: usize) -> usize {
    let groups = f.div_ceil(FILTERS) * l.div_ceil(TAPS);
    (2 * BLOCKS / groups).clamp(1, n.div_ceil(TILE).max(1))
}

/// Returns the number of parts, and the rows per part.
fn parts(n: usize, f: usize, l: usize) -> (usize, usize) {
    let rows = n.div_ceil(most_parts(n, f, l)).next_multiple_of(TILE).max(TILE);
    (n.div_ceil(rows).max(1), rows)
}

/// Checks that groups of filters and of taps fit a grid.
fn served(n: usize, f: usize, l: usize) -> Result<(), String> {
    match l.div_ceil(TAPS) >= 1 << 16 || f >= 1 << 30 || n.div_ceil(TILE) >= 1 << 31 {
        true => Err(format!("{f} vertical filters over windows of {l} rows, {n} rows in all: too large a grid")),
        false => Ok(()),
    }
}

impl Run<VerticalConvFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, VerticalConvFwd>) {
        let params = VerticalConvFwdParams {
            y: self.at(op.y),
            x: self.at(op.x),
            w: self.at(op.w),
            bias: self.at(op.bias),
            cu: self.at(op.cu),
            n: op.n as i64,
            b: op.b as i32,
            d: op.d as i32,
            l: op.l as i32,
            f: op.f as i32,
        };
        self.launch(self.of(VERTICAL_CONV_FWD), [op.n.div_ceil(TILE), 1, 1], 0, params);
    }

    fn need(&self, op: &VerticalConvFwd) -> Result<usize, String> {
        served(op.n, op.f, op.l).map(|()| 0)
    }
}

impl Run<VerticalConvBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, VerticalConvBwd>) {
        let ((dx, add), (dw, add_dw), (db, add_db)) = (self.grad(op.dx), self.grad(op.dw), self.grad(op.db));
        let (dy, cu, n) = (self.at(op.dy), self.at(op.cu), op.n as i64);
        let (b, d, l, f) = (op.b as i32, op.d as i32, op.l as i32, op.f as i32);
        if dx != 0 {
            let params = VerticalConvDxParams { dx, dy, w: self.at(op.w), cu, n, b, d, l, f, add };
            self.launch(self.of(VERTICAL_CONV_DX), [op.n.div_ceil(TILE), 1, 1], 0, params);
        }
        if dw == 0 && db == 0 {
            return;
        }
        let (parts, rows) = parts(op.n, op.f, op.l);
        let partial = self.scratch(scratch(op));
        let params = VerticalConvDwParams { partial, dy, x: self.at(op.x), cu, n, rows: rows as i64, b, d, l, f };
        // The first group of taps also computes db.
        let groups = if dw != 0 { op.l.div_ceil(TAPS) } else { 1 };
        self.launch(self.of(VERTICAL_CONV_DW), [op.f.div_ceil(FILTERS), groups, parts], 0, params);
        let finish = VerticalConvFinishParams { dw, db, partial, parts: parts as i32, l, f, add_dw, add_db };
        self.launch(Kernel::VerticalConvFinish, [(op.f * (op.l + 1)).div_ceil(8), 1, 1], 0, finish);
    }

    fn need(&self, op: &VerticalConvBwd) -> Result<usize, String> {
        served(op.n, op.f, op.l).map(|()| scratch(op))
    }
}

/// Returns the bytes of partial rows of dw and db.
fn scratch(op: &VerticalConvBwd) -> usize {
    4 * most_parts(op.n, op.f, op.l) * op.f * (op.l + 1)
}
