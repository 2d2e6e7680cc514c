//! Launchers of `kernels/segment.cu`.

use super::{Simt, kernels::*};
use crate::{
    mem::{Act, Span},
    ops::{Op, Run, SegmentRows, SegmentSum, segment::Sources},
};

/// Sorted rows that one warp sums, and columns of it.
const CHUNK: usize = 64;
const COLUMNS: usize = 64;

/// (chunks, tiles of columns, bytes of partial rows, bytes of what is known of crossing runs).
fn cut(of: &Sources) -> (usize, usize, usize, usize) {
    let (chunks, tiles) = (of.rows().div_ceil(CHUNK), of.d.div_ceil(COLUMNS));
    (chunks, tiles, chunks * 2 * of.d * 4, chunks * 2 * 4)
}

fn need(of: &Sources) -> Result<usize, String> {
    if of.rows() >= 1 << 31 {
        return Err(format!("{} rows: at most 2^31 - 1 can be summed by id", of.rows()));
    }
    let (_, _, partial, crossing) = cut(of);
    Ok(partial + crossing)
}

impl Simt {
    /// Sums every run into row `id` of `out` (V,D), or into the row of the place where it begins of `out` (R,D).
    fn sum_runs(&mut self, of: &Sources, out: Ptr, add: i32, by_place: bool) {
        if add == 0 {
            self.zero(out, if by_place { of.rows() } else { of.v } * of.d * 4);
        }
        let (chunks, tiles, partial_bytes, crossing_bytes) = cut(of);
        let partial = self.scratch(partial_bytes + crossing_bytes);
        let or_null = |span: Span<Act>| if span.is_empty() { 0 } else { self.at(span) };
        let params = SegmentParams {
            out,
            partial,
            crossing: partial + partial_bytes as Ptr,
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
        // Four warps a block.
        self.launch(self.of(SEGMENT_SUM), [(chunks * tiles).div_ceil(4), 1, 1], 0, params);
        self.launch(Kernel::SegmentCrossing, [chunks, tiles, 1], 0, params);
    }
}

impl Run<SegmentSum> for Simt {
    fn run(&mut self, op: &SegmentSum) {
        op.assert_disjoint();
        let (dtable, add) = self.grad(op.dtable);
        if dtable != 0 {
            self.sum_runs(&op.sources(), dtable, add, false);
        }
    }

    fn need(&self, op: &SegmentSum) -> Result<usize, String> {
        need(&op.sources())
    }
}

impl Run<SegmentRows> for Simt {
    fn run(&mut self, op: &SegmentRows) {
        op.assert_disjoint();
        self.sum_runs(&op.sources(), self.at(op.rows), 0, true);
    }

    fn need(&self, op: &SegmentRows) -> Result<usize, String> {
        need(&op.sources())
    }
}
