/*! NDCG, Recall, HR, MRR and MAP, computed from the ranks of a user's held-out items.

With T distinct held-out items at ranks r_1 < ... (1 = best) in a list of candidates:

| metric | value | one held-out item |
|---|---|---|
| HR@k | 1 if any r_t <= k, else 0 | 1 if r <= k |
| Recall@k | (number of r_t <= k) / T | = HR@k |
| NDCG@k | (sum over r_t <= k of g(r_t)) / (sum over i = 1..min(k, T) of g(i)), g(r) = 1/log2(1 + r) | g(r) if r <= k |
| MRR | 1 / min r_t, without a cutoff | 1/r |
| MAP | mean over t = 1..T of t / r_t, without a cutoff: the precision at each hit | 1/r |

Each metric is averaged over users. NDCG: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
TOIS 2002, with binary gains.
*/

use serde::Serialize;

/// NDCG, Recall and HR of one user, or their means, at one k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct AtK {
    pub k: usize,
    pub ndcg: f64,
    pub recall: f64,
    pub hr: f64,
}

/// Means over `cases` users (or, in a slice by item popularity, over pairs of user and held-out item).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    pub cases: u64,
    pub at: Vec<AtK>,
    pub mrr: f64,
    pub map: f64,
}

impl Metrics {
    /// Returns the entry at `k`, if it was requested.
    pub fn at(&self, k: usize) -> Option<&AtK> {
        self.at.iter().find(|m| m.k == k)
    }
}

/// Returns the gain of a hit at `rank` (from 1).
fn gain(rank: usize) -> f64 {
    1.0 / (1.0 + rank as f64).log2()
}

/// The rank of a held-out item that no list can show: never a hit, reciprocal rank 0.
pub const MISS: usize = usize::MAX;

/// Computes the metrics of one user at one k; `ranks` of the distinct held-out items, at least one, in any order.
pub fn at_k(ranks: &[usize], k: usize) -> AtK {
    let hits = ranks.iter().filter(|r| **r <= k).count();
    // The fold starts at +0: the sum of an empty f64 iterator is -0 and would be printed as such.
    let gained = ranks.iter().filter(|r| **r <= k).fold(0.0, |sum, r| sum + gain(*r));
    let ideal: f64 = (1..=k.min(ranks.len())).map(gain).sum();
    AtK { k, ndcg: gained / ideal, recall: hits as f64 / ranks.len() as f64, hr: f64::from(u8::from(hits > 0)) }
}

/// Returns the reciprocal of the best rank, 0 if all are misses.
pub fn reciprocal_rank(ranks: &[usize]) -> f64 {
    ranks.iter().filter(|r| **r != MISS).min().map_or(0.0, |r| 1.0 / *r as f64)
}

/// Returns the mean of the precision at each held-out item, without a cutoff; a miss counts 0.
pub fn average_precision(ranks: &[usize]) -> f64 {
    let mut shown: Vec<usize> = ranks.iter().copied().filter(|r| *r != MISS).collect();
    shown.sort_unstable();
    let precision = |(hits, rank): (usize, &usize)| (hits + 1) as f64 / *rank as f64;
    shown.iter().enumerate().map(precision).fold(0.0, |a, b| a + b) / ranks.len() as f64
}

/// Running sums of [`Metrics`]; the same additions in the same order give the same bits.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    cases: u64,
    at: Vec<AtK>,
    reciprocal: f64,
    precision: f64,
}

impl Sums {
    pub fn new(ks: &[usize]) -> Sums {
        Sums { at: ks.iter().map(|&k| AtK { k, ..AtK::default() }).collect(), ..Sums::default() }
    }

    /// Adds one user, given the ranks of the held-out items.
    pub fn add(&mut self, ranks: &[usize]) {
        self.cases += 1;
        self.reciprocal += reciprocal_rank(ranks);
        self.precision += average_precision(ranks);
        for sum in &mut self.at {
            let one = at_k(ranks, sum.k);
            sum.ndcg += one.ndcg;
            sum.recall += one.recall;
            sum.hr += one.hr;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.cases == 0
    }

    /// Returns the means; all are 0 if nothing was added.
    pub fn means(&self) -> Metrics {
        let n = self.cases.max(1) as f64;
        let mean = |s: &AtK| AtK { k: s.k, ndcg: s.ndcg / n, recall: s.recall / n, hr: s.hr / n };
        let at = self.at.iter().map(mean).collect();
        Metrics { cases: self.cases, at, mrr: self.reciprocal / n, map: self.precision / n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn one_item_by_hand() {
        // Rank 3: gain 1/log2(4) = 1/2.
        assert_eq!(at_k(&[3], 10), AtK { k: 10, ndcg: 0.5, recall: 1.0, hr: 1.0 });
        assert_eq!(at_k(&[3], 2), AtK { k: 2, ndcg: 0.0, recall: 0.0, hr: 0.0 });
        assert_eq!(at_k(&[3], 2).ndcg.to_string(), "0");
        assert_eq!(at_k(&[1], 1).ndcg, 1.0);
        assert_eq!(reciprocal_rank(&[4]), 0.25);
    }

    #[test]
    fn several_items_by_hand() {
        // Ranks 2 and 5 of 3 items (the third at 40), k = 5: DCG = 1/log2(3) + 1/log2(6); ideal 1 + 1/log2(3) + 1/2.
        let (l3, l6) = (3f64.log2(), 6f64.log2());
        let m = at_k(&[5, 40, 2], 5);
        assert!(close(m.ndcg, (1.0 / l3 + 1.0 / l6) / (1.0 + 1.0 / l3 + 0.5)), "{}", m.ndcg);
        assert!(close(m.recall, 2.0 / 3.0) && m.hr == 1.0);
        assert_eq!(reciprocal_rank(&[5, 40, 2]), 0.5);
        // The precisions are 1/2 at rank 2, 2/5 at rank 5 and 3/40 at rank 40.
        assert!(close(average_precision(&[5, 40, 2]), (0.5 + 0.4 + 3.0 / 40.0) / 3.0));
        assert!(close(average_precision(&[MISS, 1]), 0.5) && average_precision(&[MISS]) == 0.0);
        // With k below T the ideal list is truncated too: ranks 1, 2 of T = 3 at k = 2 are perfect.
        assert!(close(at_k(&[1, 2, 9], 2).ndcg, 1.0));
    }

    #[test]
    fn means_are_over_users() {
        let mut sums = Sums::new(&[1, 10]);
        sums.add(&[1]);
        sums.add(&[3]);
        sums.add(&[100]);
        let m = sums.means();
        assert_eq!(m.cases, 3);
        assert!(close(m.at(1).unwrap().ndcg, 1.0 / 3.0) && close(m.at(10).unwrap().ndcg, 0.5));
        assert!(close(m.at(10).unwrap().hr, 2.0 / 3.0) && close(m.mrr, (1.0 + 1.0 / 3.0 + 0.01) / 3.0));
        assert!(close(m.map, m.mrr), "of one item they are the same");
    }
}
