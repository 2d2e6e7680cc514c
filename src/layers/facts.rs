//! What networks and tasks must know of the data before the first step.

use crate::ops::BagLists;

/// Sizes and tables of a data set.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Training interactions of each item (V).
    pub counts: Vec<u64>,
    /// Users who may have a vector of their own (U); 0 where nobody has.
    pub users: usize,
    /// Which values each item has in the side fields that are used; empty where none is.
    pub fields: BagLists,
}

impl Facts {
    /// Items of the catalogue (V).
    pub fn items(&self) -> usize {
        self.counts.len()
    }
}

impl<T: AsRef<[u64]>> From<&T> for Facts {
    /// A catalogue, and nothing else.
    fn from(counts: &T) -> Facts {
        Facts { counts: counts.as_ref().to_vec(), ..Facts::default() }
    }
}
