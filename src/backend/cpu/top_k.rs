//! The best k items. Each user's destination is a heap of k entries with the worst at its root, updated tile by tile.

use rayon::prelude::*;

use super::{
    Cpu,
    scores::{Catalogue, USERS, none_bad},
};
use crate::ops::{NO_ROW, Run, TopK, Valid};

/// The list of one user.
struct Heap<'a> {
    item: &'a mut [u32],
    score: &'a mut [f32],
}

impl Heap<'_> {
    /// Returns whether the entry at `a` ranks behind that at `b`: it has a lower score, or an equal score and a larger
    /// id.
    fn worse(&self, a: usize, b: usize) -> bool {
        self.score[a] < self.score[b] || (self.score[a] == self.score[b] && self.item[a] > self.item[b])
    }

    /// Sinks the entry at the root of the first `n` to its place.
    fn sink(&mut self, n: usize) {
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut least = at;
            if left < n && self.worse(left, least) {
                least = left;
            }
            if right < n && self.worse(right, least) {
                least = right;
            }
            if least == at {
                return;
            }
            self.item.swap(at, least);
            self.score.swap(at, least);
            at = least;
        }
    }

    /// Adds the scores of the items from `first` on. NaN marks excluded items.
    fn take(&mut self, first: usize, scores: &[f32]) {
        let k = self.item.len();
        for (i, &score) in scores.iter().enumerate() {
            // Ids ascend through the tiles, so a score equal to the worst one kept never displaces it.
            if score > self.score[0] {
                (self.item[0], self.score[0]) = ((first + i) as u32, score);
                self.sink(k);
            }
        }
    }

    /// Sorts best first: moves the worst entry to the end, again and again.
    fn sort(&mut self) {
        for n in (1..self.item.len()).rev() {
            self.item.swap(0, n);
            self.score.swap(0, n);
            self.sink(n);
        }
    }
}

impl Run<TopK> for Cpu {
    fn execute(&mut self, op: &Valid<'_, TopK>) {
        let mem = self.lend(op);
        let (b, d, v, k) = (op.b, op.d, op.v, op.k);
        let (item, score, bad) =
            (mem.lent.ids_mut(op.item.first(b * k)), mem.out(op.score, b * k), mem.lent.ids_mut(op.bad.first(b)));
        let catalogue = Catalogue {
            h: mem.get(op.h, b * d),
            table: mem.get(op.table, v * d),
            bias: mem.get(op.bias, v),
            d,
            excluded: mem.ids(op.excluded, op.e),
            excluded_start: mem.ids(op.excluded_start, b + 1),
        };
        // Entries that every candidate displaces.
        item.fill(NO_ROW);
        score.fill(f32::NEG_INFINITY);
        none_bad(bad);
        if b == 0 {
            return;
        }
        catalogue.each_tile(|tile| {
            let lists = item.par_chunks_mut(USERS * k).zip(score.par_chunks_mut(USERS * k));
            lists.zip(bad.par_chunks_mut(USERS)).enumerate().for_each(|(block, ((item, score), bad))| {
                tile.score(block * USERS, bad, |u, scores| {
                    let (item, score) = (&mut item[u * k..][..k], &mut score[u * k..][..k]);
                    Heap { item, score }.take(tile.first, scores);
                });
            });
        });
        item.par_chunks_mut(k).zip(score.par_chunks_mut(k)).for_each(|(item, score)| Heap { item, score }.sort());
    }
}
