//! The interactions of one user, as slices and while they are collected.

/// Interactions of one user, oldest first; columns that the log does not have are empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History<'a> {
    pub items: &'a [u32],
    pub times: &'a [i64],
    pub ratings: &'a [f32],
    /// Adjacent equal numbers form one basket.
    pub baskets: &'a [u32],
}

/// Interactions of one user while they are collected.
#[derive(Default)]
pub(crate) struct Gathered {
    pub items: Vec<u32>,
    pub times: Vec<i64>,
    pub ratings: Vec<f32>,
    pub baskets: Vec<u32>,
}

impl Gathered {
    pub fn clear(&mut self) {
        self.items.clear();
        self.times.clear();
        self.ratings.clear();
        self.baskets.clear();
    }

    /// Appends interaction `at` of a history, with the item's new id.
    pub fn take(&mut self, from: History, at: usize, item: u32) {
        self.items.push(item);
        self.times.extend(from.times.get(at));
        self.ratings.extend(from.ratings.get(at));
        self.baskets.extend(from.baskets.get(at));
    }

    pub fn history(&self) -> History<'_> {
        History { items: &self.items, times: &self.times, ratings: &self.ratings, baskets: &self.baskets }
    }
}
