/*! Launchers of `kernels/cross_entropy.cu`, and the split of the walk of `kernels/common/softmax.cuh` into blocks,
shared with [`sampled_softmax`](super::sampled_softmax). Every split is a function of sizes alone, so results are too.
*/

use super::{BLOCKS, Simt, kernels::*};
use crate::ops::{CrossEntropyBwd, CrossEntropyFwd, Run, Valid};

/// Rows and candidates of a tile.
pub(super) const TILE: usize = 64;

/// Bytes of a row per step of the walk.
const SLICE: usize = 128;

/// Slices per chunk of gradient columns.
const CHUNK: usize = 2;

/// The shared memory layout of the walk, in bytes: the part before its slices, and the room of a slice of 64 rows.
struct Layout {
    head: usize,
    place: usize,
}

/// `Warps`: two `TileColumns`, padded rows.
const WARPS: Layout = Layout { head: 2 * 3 * 4 * TILE, place: TILE * (SLICE + 16) };

/// `Group`: swizzled rows, every slice at a multiple of 1,024 bytes.
const GROUP: Layout = Layout { head: 2048, place: TILE * SLICE };

/// Shared memory per block on every supported GPU.
const SHARED: usize = 99 << 10;

/// The shared memory of one block's walk.
pub(super) struct Walk {
    /// Chunks of the width, one per block.
    pub chunks: usize,
    /// 1: the block's own rows stay in shared memory. 0: there is no room, and they are loaded with each step.
    pub resident: i32,
    pub shared_bytes: usize,
}

impl Walk {
    pub fn forward(d: usize, simt: &Simt) -> Walk {
        Walk::new((d * simt.act_bytes()).div_ceil(SLICE), 0, simt)
    }

    pub fn backward(d: usize, simt: &Simt) -> Walk {
        let slices = (d * simt.act_bytes()).div_ceil(SLICE);
        Walk::new(slices, slices.min(CHUNK), simt)
    }

    /// Lays out `slices` slices, of which `kept` outlive their step.
    fn new(slices: usize, kept: usize, simt: &Simt) -> Walk {
        let layout = if simt.uses_wgmma() { GROUP } else { WARPS };
        let far = if kept > 0 { kept + 1 } else { 0 } + if slices > kept { 2 } else { 0 };
        let bytes = |own: usize| layout.head + (own + far) * layout.place;
        let resident = bytes(slices) <= SHARED;
        Walk {
            chunks: slices.div_ceil(CHUNK),
            resident: resident as i32,
            shared_bytes: bytes(if resident { slices } else { 2 }),
        }
    }
}

/// The split of the streamed rows or candidates among blocks, for cases with too few owning tiles to fill a GPU.
#[derive(Clone, Copy)]
pub(super) struct Ranges {
    pub count: usize,
    /// A multiple of [`TILE`].
    pub each: usize,
}

impl Ranges {
    /// Splits `n` into ranges of about `least` or more, so that with `tiles` the device is full. There is at least one
    /// range, possibly empty.
    pub fn new(n: usize, tiles: usize, least: usize) -> Ranges {
        let wanted = BLOCKS.div_ceil(tiles.max(1)).min(n.div_ceil(least)).max(1);
        let each = n.div_ceil(wanted).next_multiple_of(TILE).max(TILE);
        Ranges { count: n.div_ceil(each).max(1), each }
    }

    /// Splits candidates streamed past row tiles. A range must justify loading the rows and adding its part.
    pub fn of_candidates(candidates: usize, tiles: usize) -> Ranges {
        Ranges::new(candidates, tiles, 512)
    }

    /// Splits rows streamed past candidate tiles.
    pub fn of_rows(rows: usize, tiles: usize) -> Ranges {
        Ranges::new(rows, tiles, 128)
    }

    /// Returns the f32 elements of the parts of `n` sums: none where one range writes to the destination itself.
    pub fn parts(&self, n: usize) -> usize {
        if self.count > 1 { self.count * n } else { 0 }
    }
}

/// Returns the largest need of any batch of up to `m` rows.
/// Fewer rows are cut into more ranges, so the largest batch does not always need the most. Only whole tiles matter,
/// and the last row of each is the worst case.
pub(super) fn over_batches(m: usize, bytes: impl Fn(usize) -> usize) -> usize {
    (1..=m.div_ceil(TILE)).map(|tiles| bytes((tiles * TILE).min(m))).max().unwrap_or_else(|| bytes(0))
}

/// Returns the bytes of scratch for arrays of these lengths. Each starts at a multiple of 256 bytes.
pub(super) fn scratch_bytes(lengths: &[usize]) -> usize {
    lengths.iter().map(|n| (4 * n).next_multiple_of(256)).sum()
}

impl Simt {
    /// Allocates scratch for f32 arrays of these lengths.
    pub(super) fn arrays<const N: usize>(&mut self, lengths: [usize; N]) -> [Ptr; N] {
        let base = self.scratch(scratch_bytes(&lengths));
        std::array::from_fn(|i| base + scratch_bytes(&lengths[..i]) as Ptr)
    }

    /// Computes out (n) = or += the parts of all ranges, in order.
    pub(super) fn sum_parts(&mut self, kernel: Kernel, out: Ptr, part: Ptr, n: usize, ranges: Ranges, add: i32) {
        let params = CrossEntropySumParams { out, part, n: n as i64, parts: ranges.count as i32, add };
        self.launch(kernel, [n.div_ceil(256), 1, 1], 0, params);
    }
}

/// Returns the ranges of items in the forward pass, and the lengths of its scratch: max, sum, hit.
fn forward(op: &CrossEntropyFwd) -> (Ranges, [usize; 3]) {
    let ranges = Ranges::of_candidates(op.v, op.m.div_ceil(TILE));
    (ranges, [ranges.count * op.m, ranges.count * op.m, op.m])
}

/// Returns the ranges of items for dh and of rows for dtable, and the length of the scratch that the two share in turn.
fn backward(op: &CrossEntropyBwd, chunks: usize) -> (Ranges, Ranges, usize) {
    let items = Ranges::of_candidates(op.v, op.m.div_ceil(TILE) * chunks);
    let rows = Ranges::of_rows(op.m, op.v.div_ceil(TILE) * chunks);
    (items, rows, items.parts(op.m * op.d).max(rows.parts(op.v * op.d) + rows.parts(op.v)))
}

impl Run<CrossEntropyFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, CrossEntropyFwd>) {
        let (m, walk) = (op.m, Walk::forward(op.d, self));
        let (ranges, lengths) = forward(op);
        let [max, sum, hit] = self.arrays(lengths);
        let params = CrossEntropyFwdParams {
            max,
            sum,
            hit,
            h: self.at(op.h),
            table: self.weight(op.table),
            bias: self.at(op.bias),
            target: self.at(op.target),
            m: m as i32,
            d: op.d as i32,
            v: op.v as i32,
            per_split: ranges.each as i32,
            resident: walk.resident,
        };
        let grid = [m.div_ceil(TILE), 1, ranges.count];
        self.launch(self.of(CROSS_ENTROPY_FWD), grid, walk.shared_bytes, params);
        let combine = CrossEntropyCombineParams {
            loss: self.at(op.loss),
            lse: self.at(op.lse),
            max,
            sum,
            hit,
            m: m as i32,
            parts: ranges.count as i32,
            count_hit: 0,
        };
        self.launch(Kernel::CrossEntropyCombine, [m.div_ceil(256), 1, 1], 0, combine);
    }

    fn need(&self, op: &CrossEntropyFwd) -> Result<usize, String> {
        Ok(over_batches(op.m, |m| scratch_bytes(&forward(&CrossEntropyFwd { m, ..*op }).1)))
    }
}

impl Run<CrossEntropyBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, CrossEntropyBwd>) {
        let (m, d, v) = (op.m, op.d, op.v);
        let walk = Walk::backward(d, self);
        let (items, rows, parts) = backward(op, walk.chunks);
        let [part] = self.arrays([parts]);
        let (dh, add) = self.grad(op.dh);
        let (dtable, add_dtable) = self.grad(op.dtable);
        let (dbias, add_dbias) = self.grad(op.dbias);
        if dh != 0 {
            let split = items.count > 1;
            let params = CrossEntropyDhParams {
                dh,
                part: if split { part } else { 0 },
                dloss: self.at(op.dloss),
                h: self.at(op.h),
                table: self.weight(op.table),
                bias: self.at(op.bias),
                target: self.at(op.target),
                lse: self.at(op.lse),
                m: m as i32,
                d: d as i32,
                v: v as i32,
                per_split: items.each as i32,
                resident: walk.resident,
                add,
            };
            let grid = [m.div_ceil(TILE), walk.chunks, items.count];
            self.launch(self.of(CROSS_ENTROPY_DH), grid, walk.shared_bytes, params);
            if split {
                self.sum_parts(self.of(CROSS_ENTROPY_SUM), dh, part, m * d, items, add);
            }
        }
        if dtable != 0 || dbias != 0 {
            // Sums of the parts of rows are f32 in both precisions.
            let (split, part_bias) = (rows.count > 1, part + 4 * rows.parts(v * d) as Ptr);
            let to = |wanted: Ptr, part: Ptr| if wanted != 0 && split { part } else { wanted };
            let params = CrossEntropyDtableParams {
                dtable: to(dtable, part),
                dbias: to(dbias, part_bias),
                dloss: self.at(op.dloss),
                h: self.at(op.h),
                table: self.weight(op.table),
                bias: self.at(op.bias),
                target: self.at(op.target),
                lse: self.at(op.lse),
                m: m as i32,
                d: d as i32,
                v: v as i32,
                per_split: rows.each as i32,
                resident: walk.resident,
                add_dtable: if split { 0 } else { add_dtable },
                add_dbias: if split { 0 } else { add_dbias },
            };
            let chunks = if dtable != 0 { walk.chunks } else { 1 };
            let grid = [v.div_ceil(TILE), chunks, rows.count];
            self.launch(self.of(CROSS_ENTROPY_DTABLE), grid, walk.shared_bytes, params);
            if split && dtable != 0 {
                self.sum_parts(Kernel::CrossEntropySumF32, dtable, part, v * d, rows, add_dtable);
            }
            if split && dbias != 0 {
                self.sum_parts(Kernel::CrossEntropySumF32, dbias, part_bias, v, rows, add_dbias);
            }
        }
    }

    fn need(&self, op: &CrossEntropyBwd) -> Result<usize, String> {
        let walk = Walk::backward(op.d, self);
        Ok(over_batches(op.m, |m| scratch_bytes(&[backward(&CrossEntropyBwd { m, ..*op }, walk.chunks).2])))
    }
}
