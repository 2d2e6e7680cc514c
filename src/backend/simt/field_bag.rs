//! Launcher of `kernels/field_bag.cu`. The gradient is a sum of sorted rows by `kernels/segment.cu`.

use super::{Simt, kernels::*, rows::row_grid, segment};
use crate::ops::{BagBwd, BagFwd, Run, Valid};

impl Run<BagFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, BagFwd>) {
        let pairs = op.n * op.size.fields;
        let (lanes, grid) = row_grid(pairs, op.d);
        let params = BagFwdParams {
            y: self.at(op.y),
            table: self.weight(op.table),
            item: self.at(op.item),
            start: self.at(op.start),
            value: self.at(op.value),
            share: self.at(op.share),
            n: pairs as i64,
            v: op.size.items as u32,
            f: op.size.fields as u32,
            d: op.d as i32,
            lanes,
        };
        self.launch(self.of(BAG_FWD), grid, 0, params);
    }
}

impl Run<BagBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, BagBwd>) {
        let (dtable, add) = self.grad(op.dtable);
        if dtable == 0 {
            return;
        }
        // The pairs of `segment_sum`, one per row: the coefficient and row of place z are those of its owner. Both are
        // f32 in any precision of activations, since they are sums of gradients.
        let params = SegmentParams {
            out: dtable,
            partial: 0,
            crossing: 0,
            dy: 0,
            panel: 0,
            g: self.at(op.share),
            h: self.at(op.ditem),
            order: self.at(op.owner),
            key: self.at(op.key),
            n: 0,
            pairs: 0,
            p: 1,
            rows: op.size.values as u32,
            v: op.size.rows as u32,
            d: op.d as i32,
            by_place: 0,
            add,
        };
        self.sum_sorted(SEGMENT_SUM.f32, params);
    }

    fn need(&self, op: &BagBwd) -> Result<usize, String> {
        segment::need(op.size.values, op.d)
    }
}
