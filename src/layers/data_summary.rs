//! The properties of the data that networks and tasks need before the first step.

use serde::{Deserialize, Serialize};

use crate::ops::BagLists;

/// Sizes and tables of a data set.
#[derive(Clone, Debug, Default)]
pub struct DataSummary {
    /// Training interactions of each item (V).
    pub counts: Vec<u64>,
    /// The rating scale; `None`: unknown, or there are no ratings.
    pub ratings: Option<RatingScale>,
    /// Number of users with a possible vector (U); 0 where there are none.
    pub users: usize,
    /// The values of each item in the used side fields; empty where no fields are used.
    pub fields: BagLists,
}

impl DataSummary {
    /// Items of the catalogue (V).
    pub fn items(&self) -> usize {
        self.counts.len()
    }
}

impl<T: AsRef<[u64]>> From<&T> for DataSummary {
    /// Creates a summary of a catalogue alone.
    fn from(counts: &T) -> DataSummary {
        DataSummary { counts: counts.as_ref().to_vec(), ..DataSummary::default() }
    }
}

/// The ratings that a network is made for.
/// The network sees a rating as a class, the nearest level. It predicts numbers relative to the mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatingScale {
    /// Ascending: the ratings in the data, or if these are too many, evenly spaced ones between the least and the
    /// greatest.
    pub levels: Vec<f32>,
    /// Mean of the training events.
    pub mean: f32,
}

impl RatingScale {
    /// Largest number of levels.
    pub const MOST: usize = 64;

    /// Returns the class of a rating: the nearest level, or the lower of two equally near ones.
    pub fn class(&self, rating: f32) -> u32 {
        let above = self.levels.partition_point(|level| *level < rating);
        let nearer_below = |at: usize| rating - self.levels[at - 1] <= self.levels[at] - rating;
        match above {
            0 => 0,
            at if at == self.levels.len() || nearer_below(at) => at as u32 - 1,
            at => at as u32,
        }
    }

    /// Returns the class after all levels: a hidden rating.
    pub fn hidden(&self) -> u32 {
        self.levels.len() as u32
    }

    /// Returns the least and the greatest rating.
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
