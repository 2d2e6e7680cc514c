//! Launchers of `kernels/rank.cu`: rows of a user and some of its targets, their counts, and the correction for
//! excluded items.

use super::{
    Simt,
    cross_entropy::scratch_bytes,
    kernels::*,
    scores::{ITEMS, PANELS, ROWS, Ranges, row_len, served},
};
use crate::ops::{CountAtLeast, Run, ScoreItems, Valid};

/// Targets per row.
const TARGETS: usize = 8;

/// Shared memory per block: panels, thresholds and counts of each row, and the bad item.
const SHARED: usize = PANELS + ROWS * (2 * TARGETS * 4 + 4);

/// Returns the number of rows that hold all targets, for any distribution of the targets over the users.
fn rows(op: &CountAtLeast) -> usize {
    op.b + op.n / TARGETS
}

/// Returns the lengths of the scratch: the rows' vectors, users and first targets.
fn lengths(op: &CountAtLeast) -> [usize; 3] {
    let rows = rows(op);
    [rows * row_len(op.d), rows, rows]
}

impl Run<CountAtLeast> for Simt {
    fn execute(&mut self, op: &Valid<'_, CountAtLeast>) {
        let CountAtLeast { h, table, bias, b, d, v, n, .. } = **op;
        if b == 0 {
            return;
        }
        self.run(&ScoreItems {
            score: op.score,
            h,
            table,
            bias,
            item: op.target,
            start: op.target_start,
            b,
            d,
            v,
            p: n,
        });
        let [x, user, first] = self.arrays(lengths(op));
        let (count, bad, score, target) =
            (self.at(op.count), self.at(op.bad), self.at(op.score), self.at(op.target_start));
        let (table, bias, rows) = (self.at(table), self.at(bias), rows(op));
        let layout = RankRowsParams { user, first, count, bad, target, rows: rows as i32, b: b as i32, n: n as i32 };
        self.launch(Kernel::RankRows, [1, 1, 1], 0, layout);
        self.score_rows(x, h, user, rows, d);
        let tiles = rows.div_ceil(ROWS);
        let ranges = Ranges::new(v, tiles, ITEMS, usize::MAX);
        let params = RankCountParams {
            count,
            bad,
            score,
            x,
            table,
            bias,
            user,
            first,
            target,
            rows: rows as i32,
            d: d as i32,
            ld: row_len(d) as i32,
            v: v as i32,
            per_split: ranges.each as i32,
        };
        self.launch(Kernel::RankCount, [tiles, 1, ranges.count], SHARED, params);
        let params = RankExcludedParams {
            count,
            score,
            h: self.at(h),
            table,
            bias,
            target,
            excluded: self.at(op.excluded),
            excluded_start: self.at(op.excluded_start),
            b: b as i32,
            d: d as i32,
            e: op.e as i32,
        };
        self.launch(self.of(RANK_EXCLUDED), [op.e.div_ceil(128), 1, 1], 0, params);
    }

    fn need(&self, op: &CountAtLeast) -> Result<usize, String> {
        served(op.v, op.n.max(op.e).max(op.b))?;
        Ok(scratch_bytes(&lengths(op)))
    }
}
