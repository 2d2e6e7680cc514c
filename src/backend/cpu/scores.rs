/*! Scores of vectors against the whole catalogue, tile by tile, in the arithmetic of [`crate::ops::top_k`]. Top-k and
rank counting build on it. It stores neither a matrix of scores nor a copy of the table: [`TILE`] items are packed at a
time and scored for all users in parallel, four users per read of a panel.

A lane of the tile kernel and the single pair of [`score_items`] perform the same operations in the same order, so they
agree to the bit with any instruction set.
*/

use rayon::prelude::*;

use super::{
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::NO_ROW;

/// Items scored at a time; also the item extent of the scratch.
const TILE: usize = 4096;
/// Items per packed panel: one AVX-512 register, two AVX2 registers, four of 128 bits.
const LANES: usize = 16;
/// Users that share one read of a panel.
pub const USERS: usize = 4;

/// Vectors and the items to score them against.
#[derive(Clone, Copy)]
pub struct Catalogue<'a> {
    /// (B,D)
    pub h: &'a [f32],
    /// (V,D)
    pub table: &'a [f32],
    /// (V)
    pub bias: &'a [f32],
    pub d: usize,
    /// Excluded items: ascending, distinct, those of user b from `excluded_start[b]` on.
    pub excluded: &'a [u32],
    /// (B+1)
    pub excluded_start: &'a [u32],
}

/// A packed range of catalogue items.
pub struct Tile<'a> {
    catalogue: Catalogue<'a>,
    /// The first item.
    pub first: usize,
    /// (panels, D, LANES): each panel holds LANES items, transposed. The data past the items is undefined.
    packed: &'a [f32],
    /// (items)
    bias: &'a [f32],
}

impl<'a> Catalogue<'a> {
    /// Calls `body` with every tile of items, ascending.
    pub fn each_tile(self, mut body: impl FnMut(&Tile)) {
        let (d, v) = (self.d, self.bias.len());
        scratch::borrow(TILE.min(v).next_multiple_of(LANES) * d, |room| {
            for first in (0..v).step_by(TILE) {
                let items = TILE.min(v - first);
                let packed = &mut room[..items.next_multiple_of(LANES) * d];
                let rows = &self.table[first * d..][..items * d];
                packed.par_chunks_mut(d * LANES).with_min_len(8).zip(rows.par_chunks(d * LANES)).for_each(
                    |(panel, rows)| {
                        for (lane, row) in rows.chunks_exact(d).enumerate() {
                            for (k, x) in row.iter().enumerate() {
                                panel[k * LANES + lane] = *x;
                            }
                        }
                    },
                );
                body(&Tile { catalogue: self, first, packed, bias: &self.bias[first..][..items] });
            }
        });
    }

    /// Returns the excluded items of one user.
    fn excluded(&self, user: usize) -> &'a [u32] {
        &self.excluded[self.excluded_start[user] as usize..self.excluded_start[user + 1] as usize]
    }
}

impl Tile<'_> {
    /// Scores at most [`USERS`] users from number `first` on.
    /// `each(place in the block, scores of the tile's items)` is called for each user. Excluded items have the score
    /// NaN. `bad` (users) receives the first item with a non-finite score, if no earlier tile had one.
    pub fn score(&self, first: usize, bad: &mut [u32], mut each: impl FnMut(usize, &[f32])) {
        let (c, d, items) = (&self.catalogue, self.catalogue.d, self.bias.len());
        // A last block of fewer users scores its first user again in the free places.
        let count = bad.len();
        let user = |u: usize| &c.h[(first + if u < count { u } else { 0 }) * d..][..d];
        let stride = items.next_multiple_of(LANES);
        scratch::borrow(USERS * stride, |scores| {
            let users = std::array::from_fn(user);
            dispatch(Score { users, packed: self.packed, bias: self.bias, scores: &mut *scores, stride });
            for (u, bad) in bad.iter_mut().enumerate() {
                let scores = &mut scores[u * stride..][..items];
                if !dispatch(AllFinite(scores)) {
                    for (i, s) in scores.iter_mut().enumerate().filter(|(_, s)| !s.is_finite()) {
                        *bad = (*bad).min((self.first + i) as u32);
                        *s = f32::NAN;
                    }
                }
                let excluded = c.excluded(first + u);
                let from = excluded.partition_point(|i| (*i as usize) < self.first);
                for i in excluded[from..].iter().map(|i| *i as usize - self.first).take_while(|i| *i < items) {
                    scores[i] = f32::NAN;
                }
                each(u, scores);
            }
        });
    }
}

/// Marks that no bad item has been found yet.
pub fn none_bad(bad: &mut [u32]) {
    bad.fill(NO_ROW);
}

/// Computes scores (USERS, stride) = users (USERS, D) x packed (panels, D, LANES) + bias (items).
struct Score<'a> {
    users: [&'a [f32]; USERS],
    packed: &'a [f32],
    bias: &'a [f32],
    scores: &'a mut [f32],
    stride: usize,
}

impl Kernel for Score<'_> {
    type Out = ();
    // Plain counters keep the sums in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, vectors) = (self.users[0].len(), LANES / S::LANES);
        let users: [&[f32]; USERS] = std::array::from_fn(|u| &self.users[u][..d]);
        for (p, bias) in self.bias.chunks(LANES).enumerate() {
            let panel = self.packed[p * d * LANES..][..d * LANES].as_ptr();
            // A full-length copy: the bias ends with the items.
            let mut offset = [0.0f32; LANES];
            offset[..bias.len()].copy_from_slice(bias);
            // The kernel uses one inner place per vector of a panel. The compiler removes the rest.
            let mut sum = [[s.zero(); 4]; USERS];
            for k in 0..d {
                for v in 0..vectors {
                    // SAFETY: column k of the panel, LANES long.
                    let column = unsafe { s.load(panel.add(k * LANES + v * S::LANES)) };
                    for u in 0..USERS {
                        // Never `fma`: its single rounding would give another score.
                        sum[u][v] = s.add(sum[u][v], s.mul(s.splat(users[u][k]), column));
                    }
                }
            }
            for (u, sum) in sum.iter().enumerate() {
                let out = self.scores[u * self.stride + p * LANES..][..LANES].as_mut_ptr();
                for (v, sum) in sum.iter().enumerate().take(vectors) {
                    // SAFETY: places v*LANES.. of LANES.
                    unsafe { s.store(out.add(v * S::LANES), s.add(*sum, s.load(offset.as_ptr().add(v * S::LANES)))) };
                }
            }
        }
    }
}

/// Returns whether no score is NaN or infinite.
struct AllFinite<'a>(&'a [f32]);

impl Kernel for AllFinite<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        // x * 0 is 0 for every finite x and NaN otherwise, so the usual case needs no branches.
        let blocks = self.0.as_chunks::<LANES>();
        let mut any = [0.0f32; LANES];
        for block in blocks.0 {
            for lane in 0..LANES {
                any[lane] += block[lane] * 0.0;
            }
        }
        any.iter().all(|x| *x == 0.0) && blocks.1.iter().all(|x| x.is_finite())
    }
}

/// Counts the scores that are at least the threshold. NaN never counts, neither as score nor as threshold.
pub struct CountAtLeast<'a>(pub &'a [f32], pub f32);

impl Kernel for CountAtLeast<'_> {
    type Out = u32;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u32 {
        let mut count = 0;
        for s in self.0 {
            count += u32::from(*s >= self.1);
        }
        count
    }
}

/// Computes the scores of one vector for a list of items, bitwise equal to those of a [`Tile`].
pub fn score_items(c: &Catalogue, h: &[f32], items: &[u32], scores: &mut [f32]) {
    /// Independent sums in flight. The order within a sum is fixed, so several sums run at once for speed.
    const AT_ONCE: usize = 8;
    for (items, scores) in items.chunks(AT_ONCE).zip(scores.chunks_mut(AT_ONCE)) {
        let row = |i: usize| &c.table[items[i.min(items.len() - 1)] as usize * c.d..][..c.d];
        let rows: [&[f32]; AT_ONCE] = std::array::from_fn(row);
        let mut sum = [0.0f32; AT_ONCE];
        for (k, x) in h.iter().enumerate() {
            for lane in 0..AT_ONCE {
                sum[lane] += x * rows[lane][k];
            }
        }
        for ((score, item), sum) in scores.iter_mut().zip(items).zip(sum) {
            *score = sum + c.bias[*item as usize];
        }
    }
}
