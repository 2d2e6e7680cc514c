//! What networks and tasks must know of the data before the first step.

use serde::{Deserialize, Serialize};

use crate::ops::BagLists;

/// Sizes and tables of a data set.
#[derive(Clone, Debug, Default)]
pub struct DataSummary {
    /// Training interactions of each item (V).
    pub counts: Vec<u64>,
    /// What ratings there are; `None`: not known, or there are none.
    pub ratings: Option<RatingScale>,
    /// Users who may have a vector of their own (U); 0 where nobody has.
    pub users: usize,
    /// Which values each item has in the side fields that are used; empty where none is.
    pub fields: BagLists,
}

impl DataSummary {
    /// Items of the catalogue (V).
    pub fn items(&self) -> usize {
        self.counts.len()
    }
}

impl<T: AsRef<[u64]>> From<&T> for DataSummary {
    /// A catalogue, and nothing else.
    fn from(counts: &T) -> DataSummary {
        DataSummary { counts: counts.as_ref().to_vec(), ..DataSummary::default() }
    }
}

/// The ratings that a network is made for. It sees a rating as a class, the level nearest to it, and predicts numbers, counted
/// from the mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatingScale {
    /// Ascending: what the data have, or where that is too many, as many evenly between the least and the greatest.
    pub levels: Vec<f32>,
    /// Of the training events.
    pub mean: f32,
}

impl RatingScale {
    /// Levels there can be.
    pub const MOST: usize = 64;

    /// The class of a rating: the nearest level, of two that are equally near the lower.
    pub fn class(&self, rating: f32) -> u32 {
        let above = self.levels.partition_point(|level| *level < rating);
        let nearer_below = |at: usize| rating - self.levels[at - 1] <= self.levels[at] - rating;
        match above {
            0 => 0,
            at if at == self.levels.len() || nearer_below(at) => at as u32 - 1,
            at => at as u32,
        }
    }

    /// The class behind all levels: a rating that is not shown.
    pub fn hidden(&self) -> u32 {
        self.levels.len() as u32
    }

    /// The least and the greatest rating.
    pub fn range(&self) -> (f32, f32) {
        let end = |level: Option<&f32>| level.copied().unwrap_or(self.mean);
        (end(self.levels.first()), end(self.levels.last()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rating_is_of_the_nearest_class() {
        let scale = RatingScale { levels: vec![1.0, 2.0, 4.0], mean: 2.5 };
        let classes = [-3.0, 1.0, 1.4, 1.5, 1.6, 2.9, 3.0, 3.1, 4.0, 9.0].map(|r| scale.class(r));
        assert_eq!(classes, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!((scale.hidden(), scale.range()), (3, (1.0, 4.0)));
    }
}
