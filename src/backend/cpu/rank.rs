//! Ranks by counting over tiles of scores, and the scores of single pairs.

use std::{cell::Cell, ops::Range};

use rayon::prelude::*;

use super::{
    Cpu,
    scores::{self, Catalogue, Tile, USERS, none_bad, score_items},
    scratch,
    simd::dispatch,
};
use crate::ops::{CountAtLeast, Run, ScoreItems, Valid};

/// Up to this many targets, one pass over the tile per target is faster than sorting every score in among them.
const PASSES: usize = 64;

/// Pairs scored per task.
const PAIRS: usize = 512;

thread_local! {
    /// Counts of one user in the order of the sorted thresholds. Grows once.
    static REACH: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Computes the scores of chosen pairs. The pairs of user b are `start[b]..start[b+1]`.
fn score_pairs(c: &Catalogue, item: &[u32], start: &[u32], score: &mut [f32]) {
    score.par_chunks_mut(PAIRS).zip(item.par_chunks(PAIRS)).enumerate().for_each(|(chunk, (score, item))| {
        let (first, mut at) = (chunk * PAIRS, 0);
        while at < item.len() {
            // The last user that begins here or before. Users without a pair begin and end at the same place.
            let user = start.partition_point(|s| *s as usize <= first + at) - 1;
            let end = (start[user + 1] as usize - first).min(item.len());
            score_items(c, &c.h[user * c.d..][..c.d], &item[at..end], &mut score[at..end]);
            at = end;
        }
    });
}

/// Adds a tile to the intermediate counts of a user with many targets.
/// `thresholds` ascend, with NaN as +inf. `count[j]` is the number of scores that reach exactly the first j+1
/// thresholds.
fn sort_in(scores: &[f32], thresholds: &[f32], count: &mut [u32]) {
    for s in scores.iter().filter(|s| !s.is_nan()) {
        let reached = thresholds.partition_point(|t| t <= s);
        if reached > 0 {
            count[reached - 1] += 1;
        }
    }
}

/// Converts the intermediate counts to the counts of the targets in their own order.
fn unsort(score: &[f32], thresholds: &[f32], count: &mut [u32]) {
    let mut reach = REACH.take();
    reach.clear();
    reach.extend_from_slice(count);
    for j in (1..reach.len()).rev() {
        reach[j - 1] += reach[j];
    }
    for (count, score) in count.iter_mut().zip(score) {
        // A score that reaches one of several equal thresholds reaches all of them.
        *count = if score.is_nan() { 0 } else { reach[thresholds.partition_point(|t| t < score)] };
    }
    REACH.set(reach);
}

/// The counting state of all users: targets, their scores, and sorted scores of users with many targets.
struct Counting<'a> {
    start: &'a [u32],
    score: &'a [f32],
    sorted: &'a [f32],
}

impl Counting<'_> {
    fn targets(&self, user: usize) -> Range<usize> {
        self.start[user] as usize..self.start[user + 1] as usize
    }

    /// Counts one tile for `users`. The range is halved until one block is left. `count` and `bad` belong to these
    /// users alone.
    fn take(&self, tile: &Tile, users: Range<usize>, count: &mut [u32], bad: &mut [u32]) {
        if users.len() > USERS {
            let half = users.start + (users.len() / 2).next_multiple_of(USERS);
            let (count, later_count) = count.split_at_mut((self.start[half] - self.start[users.start]) as usize);
            let (bad, later_bad) = bad.split_at_mut(half - users.start);
            rayon::join(
                || self.take(tile, users.start..half, count, bad),
                || self.take(tile, half..users.end, later_count, later_bad),
            );
            return;
        }
        let first = self.start[users.start] as usize;
        tile.score(users.start, bad, |u, scores| {
            let targets = self.targets(users.start + u);
            let count = &mut count[targets.start - first..targets.end - first];
            if targets.len() > PASSES {
                return sort_in(scores, &self.sorted[targets], count);
            }
            for (count, threshold) in count.iter_mut().zip(&self.score[targets]) {
                *count += dispatch(scores::CountAtLeast(scores, *threshold));
            }
        });
    }
}

impl Run<CountAtLeast> for Cpu {
    fn execute(&mut self, op: &Valid<'_, CountAtLeast>) {
        let mem = self.lend(op);
        let (b, d, v, n) = (op.b, op.d, op.v, op.n);
        let (count, score, bad) =
            (mem.lent.ids_mut(op.count.first(n)), mem.out(op.score, n), mem.lent.ids_mut(op.bad.first(b)));
        let catalogue = Catalogue {
            h: mem.get(op.h, b * d),
            table: mem.get(op.table, v * d),
            bias: mem.get(op.bias, v),
            d,
            excluded: mem.ids(op.excluded, op.e),
            excluded_start: mem.ids(op.excluded_start, b + 1),
        };
        let start = mem.ids(op.target_start, b + 1);
        score_pairs(&catalogue, mem.ids(op.target, n), start, score);
        count.fill(0);
        none_bad(bad);
        if b == 0 {
            return;
        }
        scratch::borrow(n, |sorted| {
            let counting = Counting { start, score, sorted: &[] };
            let many = |user: &usize| counting.targets(*user).len() > PASSES;
            for targets in (0..b).filter(many).map(|user| counting.targets(user)) {
                let sorted = &mut sorted[targets.clone()];
                sorted.copy_from_slice(&score[targets]);
                // No score reaches +inf, so it counts nothing, as NaN must.
                sorted.iter_mut().filter(|t| t.is_nan()).for_each(|t| *t = f32::INFINITY);
                sorted.sort_unstable_by(f32::total_cmp);
            }
            let counting = Counting { sorted, ..counting };
            catalogue.each_tile(|tile| counting.take(tile, 0..b, count, bad));
            for targets in (0..b).filter(many).map(|user| counting.targets(user)) {
                unsort(&score[targets.clone()], &counting.sorted[targets.clone()], &mut count[targets]);
            }
        });
    }
}

impl Run<ScoreItems> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ScoreItems>) {
        let mem = self.lend(op);
        let score = mem.out(op.score, op.p);
        let catalogue = Catalogue {
            h: mem.get(op.h, op.b * op.d),
            table: mem.get(op.table, op.v * op.d),
            bias: mem.get(op.bias, op.v),
            d: op.d,
            excluded: &[],
            excluded_start: &[],
        };
        score_pairs(&catalogue, mem.ids(op.item, op.p), mem.ids(op.start, op.b + 1), score);
    }
}
