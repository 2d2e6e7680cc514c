//! Launchers of `kernels/scores.cu`, and the split of the walk of `kernels/common/scores.cuh` into blocks: a function
//! of sizes alone.

use super::{BLOCKS, Simt, kernels::*};
use crate::{
    mem::{Act, Span},
    ops::{Run, ScoreItems, Valid},
};

/// Rows and items of a tile.
pub(super) const ROWS: usize = 64;
pub(super) const ITEMS: usize = 128;

/// Shared memory of the walk: two stages of 16 columns, padded to 20, of f32.
pub(super) const PANELS: usize = 2 * (ROWS + ITEMS) * 20 * 4;

/// Returns the row length of vectors in the walk: the width, rounded up to 16 bytes.
pub(super) fn row_len(d: usize) -> usize {
    d.next_multiple_of(4)
}

/// Ranges of items that blocks divide among themselves.
#[derive(Clone, Copy)]
pub(super) struct Ranges {
    pub count: usize,
    /// A multiple of [`ITEMS`].
    pub each: usize,
}

impl Ranges {
    /// Splits `v` items into at most `most` ranges of at least `least` items. With `tiles` row tiles they fill a GPU.
    pub fn new(v: usize, tiles: usize, least: usize, most: usize) -> Ranges {
        let wanted = (2 * BLOCKS).div_ceil(tiles.max(1)).min(v.div_ceil(least)).min(most).max(1);
        let each = v.div_ceil(wanted).next_multiple_of(ITEMS).max(ITEMS);
        Ranges { count: v.div_ceil(each).max(1), each }
    }
}

/// Checks that counts fit the kernels' 31 bits.
pub(super) fn served(v: usize, list: usize) -> Result<(), String> {
    match v.max(list) < (1 << 31) - ITEMS {
        true => Ok(()),
        false => Err(format!("{v} items and lists of {list}: the kernels count below 2^31")),
    }
}

impl Simt {
    /// Writes the vectors of users in f32 to x (rows, [`row_len`]). A null `user` means all users in order.
    pub(super) fn score_rows(&mut self, x: Ptr, h: Span<Act>, user: Ptr, rows: usize, d: usize) {
        let ld = row_len(d);
        let params = ScoreRowsParams { x, h: self.at(h), user, rows: rows as i64, d: d as i32, ld: ld as i32 };
        self.launch(self.of(SCORE_ROWS), [(rows * ld).div_ceil(256), 1, 1], 0, params);
    }
}

impl Run<ScoreItems> for Simt {
    fn execute(&mut self, op: &Valid<'_, ScoreItems>) {
        let params = ScoreItemsParams {
            score: self.at(op.score),
            h: self.at(op.h),
            table: self.at(op.table),
            bias: self.at(op.bias),
            item: self.at(op.item),
            start: self.at(op.start),
            b: op.b as i32,
            d: op.d as i32,
            p: op.p as i32,
        };
        self.launch(self.of(SCORE_ITEMS), [op.p.div_ceil(128), 1, 1], 0, params);
    }

    fn need(&self, op: &ScoreItems) -> Result<usize, String> {
        served(op.v, op.p).map(|()| 0)
    }
}
