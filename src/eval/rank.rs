/*! The rank of held-out items among the candidates of a user, counted while the tiles of scores go by.

Ties count against the model: `rank = 1 + number of other candidates with a score >= the target's`. A model that gives
every item the same score is last everywhere, not first.
*/

use super::score::{Table, count_at_least, score_items};

/// One user on the way through the tiles.
#[derive(Clone, Debug)]
pub struct Counter {
    /// Items that are no candidates: ascending, distinct. The rank of a target among them means nothing.
    excluded: Vec<u32>,
    /// Position in `excluded` of the first item of the next tile.
    cursor: usize,
    /// Scores of the targets.
    thresholds: Vec<f32>,
    /// How many candidates score at least the threshold; the target itself is one of them.
    at_least: Vec<usize>,
    /// For many targets: indices of `thresholds` by ascending score, and the sorted scores.
    order: Vec<u32>,
    sorted: Vec<f32>,
}

/// Up to this many targets, a pass over the tile for each beats sorting every score in among them.
const PASSES: usize = 8;

impl Counter {
    /// `targets` distinct; `excluded` ascending, distinct.
    pub fn new(table: Table<'_>, vector: &[f32], targets: &[u32], excluded: Vec<u32>) -> Counter {
        let mut thresholds = Vec::new();
        score_items(table, vector, targets, &mut thresholds);
        let mut order: Vec<u32> = (0..targets.len() as u32).collect();
        order.sort_by(|a, b| thresholds[*a as usize].total_cmp(&thresholds[*b as usize]));
        let sorted = order.iter().map(|t| thresholds[*t as usize]).collect();
        Counter { excluded, cursor: 0, at_least: vec![0; targets.len()], thresholds, order, sorted }
    }

    /// Takes in the tile of scores of the items from `first` on.
    pub fn visit(&mut self, first: usize, scores: &mut [f32]) {
        self.cursor = exclude(&self.excluded, self.cursor, first, scores);
        if self.thresholds.len() <= PASSES {
            for (n, threshold) in self.at_least.iter_mut().zip(&self.thresholds) {
                *n += count_at_least(scores, *threshold);
            }
            return;
        }
        // passed[j]: scores that reach exactly the j lowest thresholds.
        let mut passed = vec![0usize; self.sorted.len() + 1];
        scores.iter().for_each(|s| passed[self.sorted.partition_point(|t| t <= s)] += 1);
        let mut reach = 0;
        for j in (0..self.sorted.len()).rev() {
            reach += passed[j + 1];
            self.at_least[self.order[j] as usize] += reach;
        }
    }

    /// The ranks (from 1) of the targets among all candidates, once every tile has gone by.
    pub fn ranks(&self) -> &[usize] {
        &self.at_least
    }

    /// The ranks of the targets among themselves and `negatives`.
    pub fn ranks_among(&self, table: Table<'_>, vector: &[f32], negatives: &[u32]) -> Vec<usize> {
        let mut scores = Vec::new();
        score_items(table, vector, negatives, &mut scores);
        let rank = |t: &f32| scores.iter().chain(&self.thresholds).filter(|s| *s >= t).count();
        self.thresholds.iter().map(rank).collect()
    }
}

/// Sets the scores of excluded items in this tile below every finite score; gives the cursor for the next tile.
///
/// `excluded` ascending; `cursor` is the position of its first item at or after `first`.
pub fn exclude(excluded: &[u32], mut cursor: usize, first: usize, scores: &mut [f32]) -> usize {
    while let Some(&item) = excluded.get(cursor)
        && (item as usize) < first + scores.len()
    {
        scores[item as usize - first] = f32::NEG_INFINITY;
        cursor += 1;
    }
    cursor
}

/// Ascending and distinct.
pub fn distinct(items: &[u32]) -> Vec<u32> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One user with vector (1): the table's rows are the scores.
    fn ranks(scores: &[f32], targets: &[u32], excluded: &[u32]) -> Vec<usize> {
        let bias = vec![0.0; scores.len()];
        let table = Table { rows: scores, bias: &bias, width: 1 };
        let mut counter = Counter::new(table, &[1.0], targets, excluded.to_vec());
        // In tiles of 3, to cross borders.
        for first in (0..scores.len()).step_by(3) {
            let mut tile = scores[first..scores.len().min(first + 3)].to_vec();
            counter.visit(first, &mut tile);
        }
        counter.ranks().to_vec()
    }

    #[test]
    fn ties_count_against_the_target() {
        let scores = [5.0, 1.0, 3.0, 3.0, 3.0, 0.0, 4.0];
        assert_eq!(ranks(&scores, &[2], &[]), [5], "items 0, 6 above, 3 and 4 tied");
        assert_eq!(ranks(&scores, &[2], &[3, 6]), [3], "excluded items are no candidates");
        assert_eq!(ranks(&[2.0; 7], &[4], &[]), [7], "a constant model is last");
    }

    #[test]
    fn many_targets_count_as_few_do() {
        let scores: Vec<f32> = (0..60).map(|i| ((i * 37) % 23) as f32).collect();
        let targets: Vec<u32> = (0..20).map(|i| i * 3).collect();
        let excluded: Vec<u32> = (0..20).map(|i| i * 3 + 1).collect();
        let together = ranks(&scores, &targets, &excluded);
        let alone: Vec<usize> = targets.iter().map(|t| ranks(&scores, &[*t], &excluded)[0]).collect();
        assert_eq!(together, alone);
    }
}
