//! Which item of a model an item of a dataset is: by key, so a model can be asked about data it was not trained on.

use std::borrow::Cow;

use crate::{
    base::{Error, Result},
    data::Vocab,
};

const UNKNOWN: u32 = u32::MAX;

/// From the item ids of a dataset to those of a model. Items the model does not know have no image.
#[derive(Clone, Debug)]
pub struct ItemMap {
    to_model: Vec<u32>,
    /// How many items of the model's catalogue there are.
    pub catalogue: usize,
    /// Items of the dataset that the model knows.
    pub known: usize,
    identity: bool,
}

impl ItemMap {
    /// Matches by key.
    ///
    /// # Errors
    /// Not one key in common: another vocabulary altogether.
    pub fn between(data: &Vocab, model: &Vocab) -> Result<ItemMap> {
        let to_model: Vec<u32> = data.keys().map(|key| model.find(key).unwrap_or(UNKNOWN)).collect();
        let known = to_model.iter().filter(|i| **i != UNKNOWN).count();
        if known == 0 {
            let example = |v: &Vocab| if v.len() == 0 { "none".into() } else { format!("such as '{}'", v.key(0)) };
            return Err(Error::user(format!(
                "the model knows none of the data's {} items: their keys ({}) are not the model's ({})",
                data.len(),
                example(data),
                example(model)
            ))
            .hint("give the data the model was trained on, or data with the same item keys"));
        }
        let identity = data.len() == model.len() && to_model.iter().enumerate().all(|(i, to)| i as u32 == *to);
        Ok(ItemMap { to_model, catalogue: model.len(), known, identity })
    }

    /// Items of the dataset that the model does not know.
    pub fn unknown(&self) -> usize {
        self.to_model.len() - self.known
    }

    /// The model's id of an item of the dataset.
    pub fn item(&self, item: u32) -> Option<u32> {
        Some(self.to_model[item as usize]).filter(|i| *i != UNKNOWN)
    }

    /// A sequence in the model's ids, unknown items left out; borrowed where the ids are the same.
    pub fn sequence<'a>(&self, items: &'a [u32]) -> Cow<'a, [u32]> {
        if self.identity {
            return Cow::Borrowed(items);
        }
        items.iter().filter_map(|i| self.item(*i)).collect()
    }

    /// Counts per item of the dataset as counts per item of the model.
    pub fn counts(&self, counts: &[u32]) -> Vec<u32> {
        let mut mapped = vec![0; self.catalogue];
        for (item, count) in counts.iter().enumerate() {
            if let Some(to) = self.item(item as u32) {
                mapped[to as usize] += count;
            }
        }
        mapped
    }
}
