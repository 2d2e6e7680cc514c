//! Titles of items, from a side field of the data.

use super::{Dataset, ItemField, Vocab};

/// The titles of items, if a side field of the data provides them.
pub struct Titles<'a> {
    keys: &'a Vocab,
    field: ItemField<'a>,
}

impl<'a> Titles<'a> {
    /// Finds a field with the name title or name, or a name that ends in _title or _name.
    pub fn of(data: &'a Dataset) -> Option<Titles<'a>> {
        let called = |word: &str| {
            data.item_fields().iter().find(|f| {
                let name = f.name().to_lowercase();
                name == word || name.ends_with(&format!("_{word}"))
            })
        };
        called("title").or_else(|| called("name")).map(|field| Titles { keys: data.item_keys(), field })
    }

    /// Returns the title of the item with the given key.
    pub fn title(&self, key: &str) -> Option<String> {
        self.title_of(self.keys.find(key)? as usize)
    }

    /// Returns the title of an item of the data by its number.
    fn title_of(&self, item: usize) -> Option<String> {
        let values: Vec<&str> = self.field.values_of(item).collect();
        (!values.is_empty()).then(|| values.join("|"))
    }

    /// Returns the key of the first item with this title, ignoring case.
    pub fn key_of(&self, title: &str) -> Option<&'a str> {
        let title = title.trim().to_lowercase();
        let called = |item: &usize| self.title_of(*item).is_some_and(|t| t.to_lowercase() == title);
        (0..self.keys.len()).find(called).map(|item| self.keys.key(item))
    }
}
