/*! The popularity baseline: it recommends to every user the items that occur most often in training.

The protocol is the model's (same candidates, ties against the target). It ranks by the integer counts themselves, so
rounding neither creates nor breaks a tie.
*/

/// Item counts of the training part, unsorted and sorted; a rank is a binary search and not a pass over all items.
#[derive(Clone, Debug)]
pub struct Popularity {
    /// Training count of each item (V).
    counts: Vec<u32>,
    ascending: Vec<u32>,
}

impl Popularity {
    pub fn new(counts: Vec<u32>) -> Popularity {
        let mut ascending = counts.clone();
        ascending.sort_unstable();
        Popularity { counts, ascending }
    }

    /// Returns the training count of each item (V).
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Returns the rank of `target` among all items except `excluded` (distinct; meaningless if it contains `target`).
    pub fn rank(&self, target: u32, excluded: &[u32]) -> usize {
        let mine = self.counts[target as usize];
        let at_least = self.ascending.len() - self.ascending.partition_point(|c| *c < mine);
        at_least - excluded.iter().filter(|i| self.counts[**i as usize] >= mine).count()
    }

    /// Returns the ranks of `targets` among themselves and `negatives`.
    pub fn ranks_among(&self, targets: &[u32], negatives: &[u32]) -> Vec<usize> {
        let count = |i: &u32| self.counts[*i as usize];
        let rank = |t| targets.iter().chain(negatives).filter(|i| count(i) >= count(t)).count();
        targets.iter().map(rank).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let p = Popularity::new(vec![5, 9, 5, 0, 7]);
        assert_eq!(p.rank(1, &[]), 1);
        assert_eq!(p.rank(0, &[]), 4, "the tie with item 2 counts against it");
        assert_eq!(p.rank(0, &[1, 2, 3]), 2, "only item 4 is left above it");
        assert_eq!(p.rank(3, &[]), 5);
        assert_eq!(p.ranks_among(&[0, 3], &[2, 4]), [3, 4]);
    }
}
