//! Launchers of `kernels/segment.cu`.

use super::{Simt, kernels::*};
use crate::{
    mem::{Act, Span},
    ops::{Run, SegmentRows, SegmentSum, Valid, segment::Sources},
};

/// Sorted rows per warp, and columns of its sum.
const CHUNK: usize = 64;
const COLUMNS: usize = 64;

/// Returns the split of `rows` sorted rows of `d`.
/// The values are (chunks, tiles of columns, bytes of partial rows, bytes of the data on crossing runs).
fn cut(rows: usize, d: usize) -> (usize, usize, usize, usize) {
    let (chunks, tiles) = (rows.div_ceil(CHUNK), d.div_ceil(COLUMNS));
    (chunks, tiles, chunks * 2 * d * 4, chunks * 2 * 4)
}

/// Returns the bytes of scratch for a sum of `rows` rows of `d`.
pub(super) fn need(rows: usize, d: usize) -> Result<usize, String> {
    if rows >= 1 << 31 {
        return Err(format!("{rows} rows: at most 2^31 - 1 can be summed by id"));
    }
    let (_, _, partial, crossing) = cut(rows, d);
    Ok(partial + crossing)
}

impl Simt {
    /// Sums every run into row `id` of `out` (V,D), or into the row of the place of `out` (R,D) where it begins.
    fn sum_runs(&mut self, of: &Sources, out: Ptr, add: i32, by_place: bool) {
        let or_null = |span: Span<Act>| if span.is_empty() { 0 } else { self.at(span) };
        let params = SegmentParams {
            out,
            partial: 0,
            crossing: 0,
            dy: or_null(of.dy),
            panel: or_null(of.panel),
            g: self.at(of.g),
            h: or_null(of.h),
            order: self.at(of.order),
            key: self.at(of.key),
            n: of.n as u32,
            pairs: (of.n + of.s) as u32,
            p: of.p as u32,
            rows: of.rows() as u32,
            v: of.v as u32,
            d: of.d as i32,
            by_place: by_place as i32,
            add,
        };
        self.sum_sorted(self.of(SEGMENT_SUM), params);
    }

    /// Sums the given rows in the same way, and sets the addresses of partial sums. `kernel` matches the rows' element
    /// type.
    pub(super) fn sum_sorted(&mut self, kernel: Kernel, mut params: SegmentParams) {
        let (rows, d) = (params.rows as usize, params.d as usize);
        if params.add == 0 {
            let all = if params.by_place == 1 { params.rows } else { params.v } as usize;
            self.zero(params.out, all * d * 4);
        }
        let (chunks, tiles, partial_bytes, crossing_bytes) = cut(rows, d);
        params.partial = self.scratch(partial_bytes + crossing_bytes);
        params.crossing = params.partial + partial_bytes as Ptr;
        // Four warps per block.
        self.launch(kernel, [(chunks * tiles).div_ceil(4), 1, 1], 0, params);
        self.launch(Kernel::SegmentCrossing, [chunks, tiles, 1], 0, params);
    }
}

impl Run<SegmentSum> for Simt {
    fn execute(&mut self, op: &Valid<'_, SegmentSum>) {
        let (dtable, add) = self.grad(op.dtable);
        if dtable != 0 {
            self.sum_runs(&op.sources(), dtable, add, false);
        }
    }

    fn need(&self, op: &SegmentSum) -> Result<usize, String> {
        need(op.sources().rows(), op.d)
    }
}

impl Run<SegmentRows> for Simt {
    fn execute(&mut self, op: &Valid<'_, SegmentRows>) {
        self.sum_runs(&op.sources(), self.at(op.rows), 0, true);
    }

    fn need(&self, op: &SegmentRows) -> Result<usize, String> {
        need(op.sources().rows(), op.d)
    }
}
