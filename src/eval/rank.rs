//! Ranks of held-out items. Ties count against the model: `rank = 1 + number of other candidates with a score >= the
//! target's`. A model that gives every item the same score ranks every target last, not first.

/// The ranks (from 1) of a query's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranks {
    /// Rank among all candidates: the number that score at least as high, the target included. It is meaningless for a
    /// target that is not a candidate.
    pub full: Vec<usize>,
    /// Ranks among each of the query's lists and the targets themselves.
    pub among: Vec<Vec<usize>>,
}

/// Returns the ranks of `targets` among themselves and `others`, given their scores.
pub fn ranks_among(targets: &[f32], others: &[f32]) -> Vec<usize> {
    let rank = |t: &f32| others.iter().chain(targets).filter(|s| *s >= t).count();
    targets.iter().map(rank).collect()
}

/// Returns the items ascending and without duplicates.
pub fn distinct(items: &[u32]) -> Vec<u32> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_against_the_target() {
        assert_eq!(ranks_among(&[3.0], &[5.0, 1.0, 3.0, 3.0, 0.0, 4.0]), [5], "5 and 4 above, two tied");
        assert_eq!(ranks_among(&[2.0; 3], &[2.0; 4]), [7, 7, 7], "a constant model is last");
        assert_eq!(ranks_among(&[3.0, 1.0], &[2.0]), [1, 3]);
    }
}
