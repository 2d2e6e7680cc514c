//! Launchers of `kernels/dilated_conv.cu` and `kernels/dilated_conv_bwd.cu`: the kernel for rows of O channels, the
//! split of the rows of dW's sum, and the shared memory of the tiles.

use super::{BLOCKS, Simt, kernels::*};
use crate::{
    mem::Precision,
    ops::{DilatedConvBwd, DilatedConvFwd, Run, Valid, dilated_conv::Taps},
};

/// The kernels with blocks of up to `most` columns.
struct Width {
    most: usize,
    fwd: Pair,
    norm: Pair,
    dx: Pair,
}

const WIDTHS: [Width; 3] = [
    Width { most: 64, fwd: DILATED_CONV_FWD_C64, norm: DILATED_CONV_BWD_NORM_C64, dx: DILATED_CONV_BWD_DX_C64 },
    Width { most: 128, fwd: DILATED_CONV_FWD_C128, norm: DILATED_CONV_BWD_NORM_C128, dx: DILATED_CONV_BWD_DX_C128 },
    Width { most: 256, fwd: DILATED_CONV_FWD_C256, norm: DILATED_CONV_BWD_NORM_C256, dx: DILATED_CONV_BWD_DX_C256 },
];

/// The kernels with the widest blocks.
const WIDEST: &Width = &WIDTHS[2];

/// Returns the kernels for `columns`. Wider rows use several blocks.
fn width(columns: usize) -> &'static Width {
    WIDTHS.iter().find(|w| columns <= w.most).unwrap_or(WIDEST)
}

/// Mirrors ConvTiles of `kernels/common/conv.cuh`.
struct Tiles {
    rows: usize,
    depth: usize,
}

impl Tiles {
    fn of(precision: Precision) -> Tiles {
        match precision {
            Precision::Bf16 => Tiles { rows: 128, depth: 32 },
            Precision::F32 => Tiles { rows: 64, depth: 16 },
        }
    }

    /// Returns the bytes of three stages of rows and weights. Each row of a tile has 16 bytes of padding. `across`: the
    /// summed index is contiguous in the weights.
    fn bytes(&self, columns: usize, across: bool, act_bytes: usize) -> usize {
        let (rows, row) = if across { (columns, self.depth) } else { (self.depth, columns) };
        3 * (self.rows * (self.depth * act_bytes + 16) + rows * (row * act_bytes + 16))
    }
}

/// The split of the sum over the rows of dW, by the sizes alone.
struct DwCut {
    /// Channels per tile of a block.
    size: usize,
    tiles: usize,
    /// Rows per part: whole spans of the kernel.
    rows: usize,
    parts: usize,
}

/// Rows with bounds that a block of `dw` holds at a time.
const SPAN: usize = 512;

impl DwCut {
    fn new(c: &Conv) -> DwCut {
        let size = if c.i.max(c.o) <= 64 { 64 } else { 128 };
        let tiles = c.taps.count * c.i.div_ceil(size) * c.o.div_ceil(size);
        let rows = c.n.div_ceil(DwCut::most(c.n, tiles)).next_multiple_of(SPAN).max(SPAN);
        DwCut { size, tiles, rows, parts: c.n.div_ceil(rows).max(1) }
    }

    /// Returns the largest number of parts of any batch of up to `n` rows.
    fn most(n: usize, tiles: usize) -> usize {
        (BLOCKS / tiles).clamp(1, n.div_ceil(SPAN).max(1))
    }

    fn bytes(&self, precision: Precision, act_bytes: usize) -> usize {
        let stages = if precision == Precision::Bf16 { 3 } else { 2 };
        stages * 2 * 32 * (self.size * act_bytes + 16)
    }
}

/// The convolution alone, for the two products of a backward pass.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    pub n: usize,
    pub b: usize,
    pub i: usize,
    pub o: usize,
    pub taps: Taps,
}

impl Conv {
    fn of(op: &DilatedConvBwd) -> Conv {
        Conv { n: op.n, b: op.b, i: op.i, o: op.o, taps: op.taps }
    }

    /// Returns the number of parts that [`Simt::conv_dw`] writes.
    pub fn parts(&self) -> usize {
        DwCut::new(self).parts
    }

    /// Returns the largest number of parts of any batch of at most as many rows.
    pub fn most_parts(&self) -> usize {
        DwCut::most(self.n, DwCut::new(self).tiles)
    }

    /// Checks that row tiles and channels fit a grid.
    ///
    /// # Errors
    /// They do not fit.
    pub fn served(&self) -> Result<(), String> {
        served(self.n, self.i, self.o, self.taps.count)
    }
}

impl Simt {
    /// Computes dx (N,I) = or += the products of dz (N,O) with the weights (W,I,O) of the rows that see it.
    pub(super) fn conv_dx(&mut self, c: &Conv, (dx, add): (Ptr, i32), dz: Ptr, w: Ptr, cu: Ptr) {
        let (wide, tiles) = (width(c.i), Tiles::of(self.precision));
        let params = DilatedConvDxParams {
            dx,
            dz,
            w,
            cu,
            n: c.n as i64,
            b: c.b as i32,
            i: c.i as i32,
            o: c.o as i32,
            taps: c.taps.count as i32,
            dilation: dilation(c.taps),
            lead: c.taps.lead() as i32,
            add,
        };
        let bytes = tiles.bytes(wide.most, true, self.act_bytes());
        self.launch(self.of(wide.dx), [c.n.div_ceil(tiles.rows), c.i.div_ceil(wide.most), 1], bytes, params);
    }

    /// Computes the parts (parts,W,I,O) of dW. A single part may be dW itself, with `add` to accumulate.
    pub(super) fn conv_dw(&mut self, c: &Conv, (out, add): (Ptr, i32), x: Ptr, dz: Ptr, cu: Ptr) {
        let cut = DwCut::new(c);
        let params = DilatedConvDwParams {
            out,
            x,
            dz,
            cu,
            n: c.n as i64,
            rows: cut.rows as i64,
            b: c.b as i32,
            i: c.i as i32,
            o: c.o as i32,
            taps: c.taps.count as i32,
            dilation: dilation(c.taps),
            lead: c.taps.lead() as i32,
            add,
        };
        let pair = if cut.size == 64 { DILATED_CONV_BWD_DW_C64 } else { DILATED_CONV_BWD_DW_C128 };
        let bytes = cut.bytes(self.precision, self.act_bytes());
        self.launch(self.of(pair), [cut.tiles, cut.parts, 1], bytes, params);
    }
}

/// Returns the dilation. With one tap it has no effect and may be any number.
fn dilation(taps: Taps) -> i32 {
    taps.dilation.min(i32::MAX as usize) as i32
}

/// Returns the shared memory of the forward product's tiles of `columns`, and the rows of such a tile.
pub(super) fn tiles(precision: Precision, columns: usize, act_bytes: usize) -> (usize, usize) {
    let tiles = Tiles::of(precision);
    (tiles.bytes(columns, false, act_bytes), tiles.rows)
}

/// Returns the number of partial rows of dgamma, of dbeta and of db.
fn norm_parts(n: usize, o: usize) -> usize {
    if o > WIDEST.most { n.div_ceil(64).min(64) } else { n.div_ceil(256 / norm_lanes(o)).min(2 * BLOCKS) }
}

/// Returns the lanes per row in the norm's kernels.
fn norm_lanes(o: usize) -> usize {
    width(o).most / 8
}

/// Byte sizes of the scratch of the backward pass, one array after another, each at a multiple of 256 bytes.
struct Scratch {
    dz: usize,
    means: usize,
    partial: usize,
    dw: usize,
}

impl Scratch {
    fn new(op: &DilatedConvBwd, act_bytes: usize) -> Scratch {
        let parts = Conv::of(op).most_parts();
        let room = |bytes: usize| bytes.next_multiple_of(256);
        Scratch {
            dz: room(op.n * op.o * act_bytes),
            means: room(if op.o > WIDEST.most { 8 * op.n } else { 0 }),
            partial: room(12 * norm_parts(op.n, op.o) * op.o),
            dw: room(if parts > 1 { 4 * parts * op.taps.count * op.i * op.o } else { 0 }),
        }
    }

    fn bytes(&self) -> usize {
        self.dz + self.means + self.partial + self.dw
    }
}

/// Returns the bytes of the statistics that neighbouring blocks write for each row.
fn stats_bytes(op: &DilatedConvFwd) -> usize {
    if op.o > WIDEST.most { 8 * op.o.div_ceil(WIDEST.most) * op.n } else { 0 }
}

/// Checks that row tiles and channels fit a grid.
fn served(n: usize, i: usize, o: usize, taps: usize) -> Result<(), String> {
    let tiles = taps * i.div_ceil(64) * o.div_ceil(64);
    match i.max(o) > 1 << 20 || n.div_ceil(8) >= 1 << 31 || tiles >= 1 << 31 {
        true => Err(format!("a convolution of {n} rows from {i} to {o} channels with {taps} taps: too large a grid")),
        false => Ok(()),
    }
}

impl Run<DilatedConvFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, DilatedConvFwd>) {
        let tiles = Tiles::of(self.precision);
        let params = DilatedConvFwdParams {
            y: self.at(op.y),
            z: self.at(op.z),
            mean: self.at(op.mean),
            rstd: self.at(op.rstd),
            x: self.at(op.x),
            w: self.weight(op.w),
            bias: self.at(op.bias),
            gamma: self.at(op.gamma),
            beta: self.at(op.beta),
            residual: if op.residual.is_empty() { 0 } else { self.at(op.residual) },
            cu: self.at(op.cu),
            stats: if op.o > WIDEST.most { self.scratch(stats_bytes(op)) } else { 0 },
            n: op.n as i64,
            b: op.b as i32,
            i: op.i as i32,
            o: op.o as i32,
            by_o: 1.0 / op.o as f32,
            taps: op.taps.count as i32,
            dilation: dilation(op.taps),
            lead: op.taps.lead() as i32,
            eps: op.eps,
        };
        let blocks = op.n.div_ceil(tiles.rows);
        if op.o <= WIDEST.most {
            let w = width(op.o);
            let bytes = tiles.bytes(w.most, false, self.act_bytes());
            self.launch(self.of(w.fwd), [blocks, 1, 1], bytes, params);
        } else {
            let bytes = tiles.bytes(WIDEST.most, false, self.act_bytes());
            self.launch(self.of(DILATED_CONV_FWD_Z), [blocks, op.o.div_ceil(WIDEST.most), 1], bytes, params);
            self.launch(self.of(DILATED_CONV_FWD_NORM), [op.n.div_ceil(8), 1, 1], 0, params);
        }
    }

    fn need(&self, op: &DilatedConvFwd) -> Result<usize, String> {
        served(op.n, op.i, op.o, op.taps.count).map(|()| stats_bytes(op))
    }
}

impl Run<DilatedConvBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, DilatedConvBwd>) {
        let ((dx, add_dx), (dw, add_dw)) = (self.grad(op.dx), self.grad(op.dw));
        let ((dgamma, add_dgamma), (dbeta, add_dbeta), (db, add_db)) =
            (self.grad(op.dgamma), self.grad(op.dbeta), self.grad(op.db));
        let (sums, products) = (dgamma != 0 || dbeta != 0 || db != 0, dx != 0 || dw != 0);
        if !sums && !products {
            return;
        }
        let room = Scratch::new(op, self.act_bytes());
        let base = self.scratch(room.bytes());
        let means = base + room.dz as Ptr;
        let partial = means + room.means as Ptr;
        let dw_partial = partial + room.partial as Ptr;
        let dz = if products { base } else { 0 };
        let (n, o) = (op.n as i64, op.o as i32);

        let parts = norm_parts(op.n, op.o);
        let norm = DilatedConvNormParams {
            dz,
            partial: if sums { partial } else { 0 },
            means: if op.o > WIDEST.most { means } else { 0 },
            dy: self.at(op.dy),
            z: self.at(op.z),
            gamma: self.at(op.gamma),
            beta: self.at(op.beta),
            mean: self.at(op.mean),
            rstd: self.at(op.rstd),
            n,
            o,
            parts: parts as i32,
        };
        if op.o <= WIDEST.most {
            self.launch(self.of(width(op.o).norm), [parts, 1, 1], 0, norm);
        } else {
            self.launch(self.of(DILATED_CONV_BWD_NORM_LONG), [op.n.div_ceil(8), 1, 1], 0, norm);
            if sums {
                self.launch(self.of(DILATED_CONV_BWD_COLUMNS), [op.o.div_ceil(128), parts, 1], 0, norm);
            }
        }
        if sums {
            let parts = parts as i32;
            let finish =
                DilatedConvFinishParams { dgamma, dbeta, db, partial, parts, o, add_dgamma, add_dbeta, add_db };
            self.launch(Kernel::DilatedConvBwdFinish, [op.o.div_ceil(32), 3, 1], 0, finish);
        }
        let (conv, cu) = (Conv::of(op), self.at(op.cu));
        if dx != 0 {
            self.conv_dx(&conv, (dx, add_dx), dz, self.weight(op.w), cu);
        }
        if dw != 0 {
            let parts = conv.parts();
            let out = if parts > 1 { (dw_partial, 0) } else { (dw, add_dw) };
            self.conv_dw(&conv, out, self.at(op.x), dz, cu);
            if parts > 1 {
                let len = op.taps.count * op.i * op.o;
                let params =
                    DilatedConvSumParams { dw, partial: dw_partial, len: len as i64, parts: parts as i32, add: add_dw };
                self.launch(Kernel::DilatedConvBwdSum, [len.div_ceil(256), 1, 1], 0, params);
            }
        }
    }

    fn need(&self, op: &DilatedConvBwd) -> Result<usize, String> {
        served(op.n, op.i, op.o, op.taps.count).map(|()| Scratch::new(op, self.act_bytes()).bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sm_89 and sm_120 give a block 99 KiB, the least of all compiled architectures. Bounds and sums use up to 5 KiB
    /// of it.
    #[test]
    fn tiles_fit_into_the_smallest_shared_memory() {
        for (precision, act_bytes) in [(Precision::F32, 4), (Precision::Bf16, 2)] {
            for w in &WIDTHS {
                for across in [false, true] {
                    assert!(Tiles::of(precision).bytes(w.most, across, act_bytes) <= 94 << 10);
                }
            }
            let cut = DwCut { size: 128, tiles: 1, rows: SPAN, parts: 1 };
            assert!(cut.bytes(precision, act_bytes) <= 94 << 10);
        }
    }
}
