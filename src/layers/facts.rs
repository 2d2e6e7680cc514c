//! What networks and tasks must know of the data before the first step.

/// Sizes and tables of a data set.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Training interactions of each item (V).
    pub counts: Vec<u64>,
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
        Facts { counts: counts.as_ref().to_vec() }
    }
}
