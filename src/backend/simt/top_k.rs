//! Launchers of `kernels/top_k.cu`: convert vectors to f32, compute the lists of all ranges, merge them into one list.

use super::{
    Simt,
    cross_entropy::{over_batches, scratch_bytes},
    kernels::*,
    scores::{ITEMS, PANELS, ROWS, Ranges, row_len, served},
};
use crate::ops::{Run, TopK, Valid};

/// The longest list. Beyond it, merging would be slower than sorting all scores.
const MOST: usize = 16 * 1024;

/// Keys of all ranges' lists: 32 MB, and as much again for merging.
const KEYS: usize = 4 << 20;

/// Shared memory per block: panels, and for each row a queue of 32 keys, its limit, two counts and the bad item.
const SHARED: usize = PANELS + ROWS * (32 * 8 + 16);

/// Returns the ranges of items. A range with fewer items than a list holds would only be copied into the list.
fn ranges(op: &TopK) -> Ranges {
    Ranges::new(op.v, op.b.div_ceil(ROWS), ITEMS.max(2 * op.k), KEYS / (op.b * op.k).max(1))
}

/// Returns the lengths of the scratch, in f32: keys twice, bad items, vectors.
fn lengths(op: &TopK) -> [usize; 4] {
    let lists = ranges(op).count * op.b;
    [2 * lists * op.k, 2 * lists * op.k, lists, op.b * row_len(op.d)]
}

impl Run<TopK> for Simt {
    fn execute(&mut self, op: &Valid<'_, TopK>) {
        let (b, ranges) = (op.b, ranges(op));
        let [part, spare, part_bad, x] = self.arrays(lengths(op));
        self.score_rows(x, op.h, 0, b, op.d);
        let params = TopKParams {
            part,
            part_bad,
            x,
            table: self.at(op.table),
            bias: self.at(op.bias),
            excluded: self.at(op.excluded),
            excluded_start: self.at(op.excluded_start),
            b: b as i32,
            d: op.d as i32,
            ld: row_len(op.d) as i32,
            v: op.v as i32,
            k: op.k as i32,
            per_split: ranges.each as i32,
        };
        self.launch(Kernel::TopK, [b.div_ceil(ROWS), 1, ranges.count], SHARED, params);
        let merge = TopKMergeParams {
            item: self.at(op.item),
            score: self.at(op.score),
            bad: self.at(op.bad),
            part,
            spare,
            part_bad,
            b: b as i32,
            k: op.k as i32,
            splits: ranges.count as i32,
        };
        self.launch(Kernel::TopKMerge, [b, 1, 1], 0, merge);
    }

    fn need(&self, op: &TopK) -> Result<usize, String> {
        served(op.v, op.b.max(op.e))?;
        if op.k > MOST {
            return Err(format!("the best {} items: the kernel keeps at most {MOST}", op.k));
        }
        Ok(over_batches(op.b, |b| scratch_bytes(&lengths(&TopK { b, ..*op }))))
    }
}
