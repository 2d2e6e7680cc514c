//! Launchers of `kernels/embedding.cu`. A gather from a table uses the gather of `kernels/rows.cu`.

use super::{Simt, kernels::*, rows::row_grid};
use crate::ops::{EmbeddingFwd, GatherTable, PositionSum, Run, Valid};

/// Columns per block.
const COLUMNS: usize = 64;

impl Run<EmbeddingFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, EmbeddingFwd>) {
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
    fn execute(&mut self, op: &Valid<'_, GatherTable>) {
        self.gather(self.at(op.y), self.weight(op.table), self.at(op.id), op.n, op.d);
    }
}

impl Run<PositionSum> for Simt {
    fn execute(&mut self, op: &Valid<'_, PositionSum>) {
        let (dtable, add) = self.grad(op.dtable);
        if dtable == 0 {
            return;
        }
        let (dy, cu) = (self.at(op.dy), self.at(op.cu));
        let params = PositionSumParams { dtable, dy, cu, b: op.b as i32, d: op.d as i32, t: op.t as i32, add };
        self.launch(self.of(POSITION_SUM), [op.t, op.d.div_ceil(COLUMNS), 1], 0, params);
    }
}
