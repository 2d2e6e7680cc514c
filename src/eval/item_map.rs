//! Maps the items of a dataset to those of a model by key, so a model can be evaluated on data it was not trained on.

use std::borrow::Cow;

use crate::{
    base::{Error, Result},
    data::{Vocab, whole_number},
};

const UNKNOWN: u32 = u32::MAX;

/// A map from the item ids of a dataset to those of a model. Items that the model does not know have no image.
#[derive(Clone, Debug)]
pub struct ItemMap {
    to_model: Vec<u32>,
    /// The number of items of the model's catalogue.
    pub catalogue: usize,
    /// The number of items of the dataset that the model knows.
    pub known: usize,
    identity: bool,
}

impl ItemMap {
    /// Matches items by key.
    ///
    /// # Errors
    /// The two vocabularies have no key in common.
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
            .hint(match otherwise(data, model).next() {
                Some((theirs, ours)) => format!(
                    "the model has '{ours}' where the data have '{theirs}': import the data with the original keys"
                ),
                None => "use the data the model was trained on, or data with the same item keys".into(),
            }));
        }
        let identity = data.len() == model.len() && to_model.iter().enumerate().all(|(i, to)| i as u32 == *to);
        Ok(ItemMap { to_model, catalogue: model.len(), known, identity })
    }

    /// Returns a message about items that are unknown only because their keys are written differently, if there are
    /// any.
    pub fn written_otherwise(&self, data: &Vocab, model: &Vocab) -> Option<String> {
        if self.unknown() == 0 {
            return None;
        }
        let mut others = otherwise(data, model);
        let (theirs, ours) = others.next()?;
        Some(format!(
            "{} items of the data are not matched because their keys are written differently: '{theirs}' in the data, \
             '{ours}' in the model",
            1 + others.count()
        ))
    }

    /// Returns the number of items of the dataset that the model does not know.
    pub fn unknown(&self) -> usize {
        self.to_model.len() - self.known
    }

    /// Returns the model's id of an item of the dataset.
    pub fn item(&self, item: u32) -> Option<u32> {
        Some(self.to_model[item as usize]).filter(|i| *i != UNKNOWN)
    }

    /// Returns a sequence in the model's ids without unknown items; borrowed if the ids are the same.
    pub fn sequence<'a>(&self, items: &'a [u32]) -> Cow<'a, [u32]> {
        if self.identity {
            return Cow::Borrowed(items);
        }
        items.iter().filter_map(|i| self.item(*i)).collect()
    }

    /// Converts counts per item of the dataset to counts per item of the model.
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

/// Returns the keys of `data` that `model` lacks, each with the model's key for the same value written differently.
fn otherwise<'v>(data: &'v Vocab, model: &'v Vocab) -> impl Iterator<Item = (&'v str, &'v str)> {
    data.keys().filter(|key| model.find(key).is_none()).filter_map(|key| Some((key, alike(key, model)?)))
}

/// Returns the key of `vocab` that is another spelling of `key`: `3` for `3.0` and `03`, `tea` for `Tea`.
pub fn alike<'v>(key: &str, vocab: &'v Vocab) -> Option<&'v str> {
    let bare = key.trim();
    let mut forms = vec![bare.to_string(), bare.to_lowercase(), bare.to_uppercase()];
    if let Some(whole) = whole_number(bare.as_bytes()) {
        let whole = &bare[..whole.len()];
        let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
        let digits = digits.trim_start_matches('0');
        let number = format!("{sign}{}", if digits.is_empty() { "0" } else { digits });
        for whole in [whole, &number] {
            forms.extend(["", ".0", ".00", ".000000"].map(|zeros| format!("{whole}{zeros}")));
        }
    }
    let known = forms.iter().filter(|form| *form != key).find_map(|form| vocab.find(form));
    known.map(|id| vocab.key(id as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_written_another_way_is_found() {
        let vocab = Vocab::from_keys(["3", "17.0", "tea", "a,b"]);
        for (key, known) in [
            ("3.0", Some("3")),
            ("03", Some("3")),
            (" 3", Some("3")),
            ("17", Some("17.0")),
            ("3.00", Some("3")),
            ("017.000", Some("17.0")),
            ("Tea", Some("tea")),
            ("3", None),
            ("4.0", None),
            ("3.5", None),
            ("nan", None),
            ("inf", None),
        ] {
            assert_eq!(alike(key, &vocab), known, "{key}");
        }
    }
}
