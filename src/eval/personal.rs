/*! The personal baseline for baskets: it recommends to each user the items that their earlier baskets contain most
often.

People buy items repeatedly, so a basket model must be compared with this list: GP-TopFreq of Li et al., "A Next
Basket Recommendation Reality Check", TOIS 2023. Items are ordered by the number of earlier baskets that contain them.
Ties, and after them all items that the user never had, are ordered by popularity in training. The protocol is the
model's: same candidates, and ties of both counts count against the target.
*/

use super::{popularity::Popularity, rank::distinct};

/// The number of a user's earlier baskets that contain each item.
#[derive(Clone, Debug, Default)]
pub struct Personal {
    /// Item and count, ascending by item; every count is at least 1.
    baskets: Vec<(u32, u32)>,
}

impl Personal {
    /// `baskets`: items of each earlier basket; an item repeated in one basket counts once.
    pub fn new<B: AsRef<[u32]>>(baskets: impl Iterator<Item = B>) -> Personal {
        let mut all: Vec<u32> = baskets.flat_map(|basket| distinct(basket.as_ref())).collect();
        all.sort_unstable();
        Personal { baskets: all.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect() }
    }

    /// Returns the sort key of an item: its number of baskets, then its popularity.
    fn key(&self, item: u32, popularity: &Popularity) -> (u32, u32) {
        let at = self.baskets.binary_search_by_key(&item, |b| b.0);
        (at.map_or(0, |at| self.baskets[at].1), popularity.counts()[item as usize])
    }

    /// Returns the rank of `target` among all items except `excluded` (ascending, distinct; meaningless if it contains
    /// `target`).
    pub fn rank(&self, target: u32, excluded: &[u32], popularity: &Popularity) -> usize {
        let mine = self.key(target, popularity);
        let candidates = || self.baskets.iter().filter(|b| excluded.binary_search(&b.0).is_err());
        let popular = |item: u32| popularity.counts()[item as usize];
        let own = candidates().filter(|&&(item, baskets)| (baskets, popular(item)) >= mine).count();
        if mine.0 > 0 {
            return own;
        }
        // All of the user's own items rank above; popularity counts some of them a second time.
        let twice = candidates().filter(|b| popular(b.0) >= mine.1).count();
        own + popularity.rank(target, excluded) - twice
    }

    /// Returns the ranks of `targets` among themselves and `negatives`.
    pub fn ranks_among(&self, targets: &[u32], negatives: &[u32], popularity: &Popularity) -> Vec<usize> {
        let keys: Vec<(u32, u32)> = targets.iter().chain(negatives).map(|i| self.key(*i, popularity)).collect();
        let rank = |mine| keys.iter().filter(|key| *key >= mine).count();
        keys[..targets.len()].iter().map(rank).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let popularity = Popularity::new(vec![5, 9, 5, 0, 7, 7]);
        // Item 3 is in two baskets, 0 and 4 in one each; the repeated 3 in the first basket counts once.
        let p = Personal::new([&[3, 0, 3][..], &[4, 3]].into_iter());
        let ranks = |excluded: &[u32]| [3, 4, 0, 1, 5, 2].map(|t| p.rank(t, excluded, &popularity));
        assert_eq!(ranks(&[]), [1, 2, 3, 4, 5, 6], "own by count, then popularity; the others by popularity");
        assert_eq!(p.rank(0, &[3, 4], &popularity), 1);
        assert_eq!(p.rank(2, &[1, 3], &popularity), 4, "0 and 4 are the user's own, 5 is more popular");
        assert_eq!(p.ranks_among(&[0, 2], &[1, 5], &popularity), [1, 4]);
        // Equal in both counts: each ranks behind the other.
        let tied = Personal::new([[0, 2], [2, 0]].iter());
        assert_eq!([0, 2].map(|t| tied.rank(t, &[], &popularity)), [2, 2]);
        // A user without baskets gets the popular items.
        let nobody = Personal::default();
        assert!((0..6).all(|t| nobody.rank(t, &[1], &popularity) == popularity.rank(t, &[1])));
    }
}
