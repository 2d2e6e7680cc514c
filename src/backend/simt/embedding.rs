//! Launchers of `kernels/embedding.cu`; a gather from a table is the gather of `kernels/rows.cu`.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{EmbeddingFwd, GatherTable, Op, Run, SegmentSum};

/// Sorted rows that one warp sums, and columns of it.
const CHUNK: usize = 64;
const COLUMNS: usize = 64;

/// (chunks, tiles of columns, bytes of partial rows, bytes of what is known of crossing runs).
fn cut(op: &SegmentSum) -> (usize, usize, usize, usize) {
    let (chunks, tiles) = (op.n.div_ceil(CHUNK), op.d.div_ceil(COLUMNS));
    (chunks, tiles, chunks * 2 * op.d * 4, chunks * 2 * 4)
}

impl Run<EmbeddingFwd> for Simt {
    fn run(&mut self, op: &EmbeddingFwd) {
        op.assert_disjoint();
        let (lanes, grid) = row_grid(op.n, op.d);
        let params = EmbeddingFwdParams {
            y: self.at(op.y),
            item_table: self.weight(op.item_table),
            pos_table: self.weight(op.pos_table),
            item: self.at(op.item),
            pos: self.at(op.pos),
            n: op.n as i64,
            d: op.d as i32,
            lanes,
        };
        self.launch(self.of(EMBEDDING_FWD), grid, 0, params);
    }
}

impl Run<GatherTable> for Simt {
    fn run(&mut self, op: &GatherTable) {
        op.assert_disjoint();
        self.gather(self.at(op.y), self.weight(op.table), self.at(op.id), op.n, op.d);
    }
}

impl Run<SegmentSum> for Simt {
    fn run(&mut self, op: &SegmentSum) {
        op.assert_disjoint();
        let (dtable, add) = self.grad(op.dtable);
        if dtable == 0 {
            return;
        }
        if add == 0 {
            self.zero(dtable, op.v * op.d * 4);
        }
        let (chunks, tiles, partial_bytes, crossing_bytes) = cut(op);
        let partial = self.scratch(partial_bytes + crossing_bytes);
        let params = SegmentSumParams {
            dtable,
            partial,
            crossing: partial + partial_bytes as Ptr,
            dy: self.at(op.dy),
            order: self.at(op.order),
            start: self.at(op.start),
            id: self.at(op.id),
            n: op.n as i32,
            s: op.s as i32,
            d: op.d as i32,
            add,
        };
        // Four warps a block.
        self.launch(self.of(SEGMENT_SUM), [(chunks * tiles).div_ceil(4), 1, 1], 0, params);
        self.launch(Kernel::SegmentSumCrossing, [chunks, tiles, 1], 0, params);
    }

    fn need(&self, op: &SegmentSum) -> Result<usize, String> {
        if op.n >= 1 << 31 {
            return Err(format!("{} rows: at most 2^31 - 1 can be summed by segments", op.n));
        }
        let (_, _, partial, crossing) = cut(op);
        Ok(partial + crossing)
    }
}
