/*! rank: the ranks of given items among the candidates of a user, with the arithmetic and the candidates of
[`top_k`](super::top_k).
count_at_least: for each target t of user b: score_t = s_bt, count_t = number of candidates of b with s >= score_t.
   A target that is a candidate counts itself, so count is its rank with ties against it. For any other target, count is
   the number of candidates with at least its score. 0 where score_t is NaN or +inf.
   target, score, count (N): those of b are target_start_b .. target_start_b+1.   bad (B) as for top_k.
score_items: score_p = s_bp of the pairs (b, item_p), those of b being start_b .. start_b+1.   item, score (P)
*/

use super::{
    Cost, Op, area,
    case::{Case, affordable},
    fits,
    top_k::{Plant, Shelf, candidates, check_catalogue, score},
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, U32},
};

op! {
    /// Counts the candidates that score at least as high as each target.
    CountAtLeast = "count_at_least" {
        write { /** (N) */ count: U32, /** (N) of the targets */ score: F32, /** (B) */ bad: U32 }
        read {
            /** (B,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32, /** (N) */ target: U32,
            /** (B+1) */ target_start: U32, /** (E) */ excluded: U32, /** (B+1) */ excluded_start: U32
        }
        with { b: usize, d: usize, v: usize, /** targets of all users */ n: usize, /** excluded items */ e: usize }
    }
}

op! {
    /// Computes the scores of chosen items.
    ScoreItems = "score_items" {
        write { /** (P) */ score: F32 }
        read {
            /** (B,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32, /** (P) */ item: U32,
            /** (B+1) */ start: U32
        }
        with { b: usize, d: usize, v: usize, p: usize }
    }
}

impl Op for CountAtLeast {
    fn check(&self) -> Result<(), String> {
        let (b, d, v, n) = (self.b, self.d, self.v, self.n);
        check_catalogue(d, v)?;
        fits(&[
            ("count", self.count.len(), n),
            ("score", self.score.len(), n),
            ("bad", self.bad.len(), b),
            ("h", self.h.len(), area([b, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("target", self.target.len(), n),
            ("target_start", self.target_start.len(), b.saturating_add(1)),
            ("excluded", self.excluded.len(), self.e),
            ("excluded_start", self.excluded_start.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, d, v, n) = (self.b, self.d, self.v, self.n);
        // The score of every pair, including those of the targets, and one comparison per target and item.
        Cost::work((b * v * (2 * d + 1) + n * v) as f64, 0.0)
            .moves(self.count, n)
            .moves(self.score, n)
            .moves(self.bad, b)
            .moves(self.h, b * d)
            .moves(self.table, v * d)
            .moves(self.bias, v)
            .moves(self.target, n)
            .moves(self.target_start, b + 1)
            .moves(self.excluded, self.e)
            .moves(self.excluded_start, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, v) = (self.d, self.v);
        let (h, table, bias) = (m.get(self.h), m.get(self.table), m.get(self.bias));
        let (target, target_start) = (m.ids(self.target), m.ids(self.target_start));
        let (excluded, start) = (m.ids(self.excluded), m.ids(self.excluded_start));
        let (count, scores, bad) = (m.ids_mut(self.count), m.get_mut(self.score), m.ids_mut(self.bad));
        for b in 0..self.b {
            let (h, excluded) = (&h[b * d..][..d], &excluded[start[b] as usize..start[b + 1] as usize]);
            let (all, first_bad) = candidates(h, &table[..v * d], &bias[..v], excluded);
            bad[b] = first_bad;
            for t in target_start[b] as usize..target_start[b + 1] as usize {
                let item = target[t] as usize;
                scores[t] = score(h, &table[item * d..][..d], bias[item]);
                count[t] = all.iter().filter(|s| **s >= scores[t]).count() as u32;
            }
        }
    }
}

impl Op for ScoreItems {
    fn check(&self) -> Result<(), String> {
        let (b, d, v, p) = (self.b, self.d, self.v, self.p);
        check_catalogue(d, v)?;
        fits(&[
            ("score", self.score.len(), p),
            ("h", self.h.len(), area([b, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("item", self.item.len(), p),
            ("start", self.start.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, d, p) = (self.b, self.d, self.p);
        let rows = p.min(self.v);
        Cost::work((p * (2 * d + 1)) as f64, 0.0)
            .moves(self.score, p)
            .moves(self.h, b.min(p) * d)
            .moves(self.table, rows * d)
            .moves(self.bias, rows)
            .moves(self.item, p)
            .moves(self.start, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, h, table, bias) = (self.d, m.get(self.h), m.get(self.table), m.get(self.bias));
        let (item, start) = (m.ids(self.item), m.ids(self.start));
        let scores = m.get_mut(self.score);
        for b in 0..self.b {
            for p in start[b] as usize..start[b + 1] as usize {
                let item = item[p] as usize;
                scores[p] = score(&h[b * d..][..d], &table[item * d..][..d], bias[item]);
            }
        }
    }
}

/// Returns lists of items, with `lengths` cycling over the users.
fn lists(b: usize, v: usize, lengths: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let mut draw = Stream::new(9, Purpose::Test, (b * 10_000 + v) as u32);
    let (mut item, mut start) = (Vec::new(), vec![0]);
    for user in 0..b {
        item.extend((0..lengths[user % lengths.len()]).map(|_| draw.below(v as u64) as u32));
        start.push(item.len() as u32);
    }
    (item, start)
}

pub fn cases() -> Vec<Case> {
    use Plant::*;
    // The usual case: one target. Also none, and more than one row of a kernel's tile or one pass of the CPU holds.
    const FEW: &[usize] = &[1];
    const MIXED: &[usize] = &[3, 0, 1, 8, 9, 80];
    [
        (0, 8, 5, Whole, FEW),
        (1, 1, 1, Whole, FEW),
        (3, 7, 11, Fine, MIXED),
        (2, 8, 20, Seen, MIXED),
        (4, 3, 300, Equal, MIXED),
        (6, 20, 150, Bad, MIXED),
        (65, 12, 129, Whole, FEW),
        (12, 64, 515, Fine, MIXED),
        (70, 16, 260, Whole, MIXED),
        (3, 2, 4200, Whole, MIXED),
        (130, 33, 1031, Whole, FEW),
    ]
    .into_iter()
    .filter(|(b, d, v, ..)| affordable(v * (b + d)))
    .map(|(b, d, v, plant, lengths)| {
        let mut p = Planner::new();
        let shelf = Shelf::plan(&mut p, b, d, v, plant);
        let (target, target_start) = lists(b, v, lengths);
        let n = target.len();
        let op = CountAtLeast {
            count: p.index(n),
            score: p.stat(n),
            bad: p.index(b),
            h: shelf.h,
            table: shelf.table,
            bias: shelf.bias,
            target: p.index(n),
            target_start: p.index(b + 1),
            excluded: shelf.excluded,
            excluded_start: shelf.excluded_start,
            b,
            d,
            v,
            n,
            e: shelf.e,
        };
        let case = Case::forward(format!("b{b} d{d} v{v} n{n} {plant:?}"), p, op);
        shelf.fill(case.ids(op.target, target).ids(op.target_start, target_start))
    })
    .collect()
}

pub fn score_cases() -> Vec<Case> {
    [
        (0, 4, 6, Plant::Whole, &[0][..]),
        (1, 1, 1, Plant::Whole, &[1]),
        (5, 7, 30, Plant::Fine, &[0, 1, 19]),
        (20, 64, 90, Plant::Fine, &[100, 3, 0]),
        (3, 130, 40, Plant::Whole, &[300]),
    ]
    .into_iter()
    .filter(|(b, d, v, ..)| affordable(v * (b + d)))
    .map(|(b, d, v, plant, lengths)| {
        let mut p = Planner::new();
        let shelf = Shelf::plan(&mut p, b, d, v, plant);
        let (item, start) = lists(b, v, lengths);
        let n = item.len();
        let op = ScoreItems {
            score: p.stat(n),
            h: shelf.h,
            table: shelf.table,
            bias: shelf.bias,
            item: p.index(n),
            start: p.index(b + 1),
            b,
            d,
            v,
            p: n,
        };
        let case = Case::forward(format!("b{b} d{d} v{v} p{n} {plant:?}"), p, op);
        shelf.fill(case.ids(op.item, item).ids(op.start, start))
    })
    .collect()
}
