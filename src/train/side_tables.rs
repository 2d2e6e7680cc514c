/*! The users with vectors and the side fields of a run. Both are taken from the data when a run begins and
stored in its folder, so that the run can be queried, resumed and transferred after its data are deleted or
changed.

`users.safetensors`: the keys of the rows of `user.weight`. `fields.safetensors`: the values of the rows of
`field.weight`, field by field, and the values of each item of the run.
*/

use sha2::{Digest, Sha256};

use super::{folder::RunFolder, settings::Settings};
use crate::{
    base::{Error, Result, error::nearest},
    data::{Dataset, ItemFields, Vocab, digits, hex},
    layers::DataSummary,
    ops::BagLists,
};

/// Maximum number of distinct values of all side fields. Every step updates the whole table.
const MOST_VALUES: usize = 1 << 22;

/// Users and side fields of a run.
#[derive(Debug, Default)]
pub struct SideTables {
    /// Keys of the users with vectors, in table order.
    pub users: Option<Vocab>,
    pub fields: Option<ItemFields>,
    /// The values of all fields as `FIELD<TAB>VALUE`, in table order.
    pub values: Option<Vocab>,
}

/// Replaces the side fields in `settings` by the names in the data; `all` becomes the list of all fields.
///
/// # Errors
/// The data lack a field (the error names all missing ones), or the fields have too many distinct values for a
/// table.
pub fn name_fields(settings: &mut Settings, data: &ItemFields) -> Result<()> {
    let asked = settings.field_names();
    if asked.is_empty() {
        settings.fields = "none".into();
        return Ok(());
    }
    let flag = format!("--fields {}", settings.fields);
    if data.is_empty() {
        return Err(Error::user(format!("{flag}: the items of this data have no side fields")).hint(
            "import them with `mipgpu import --items FILE --item-fields NAME,NAME`, or omit them with --fields none",
        ));
    }
    let known: Vec<&str> = data.iter().map(|field| field.name()).collect();
    if let Some(name) = known.iter().find(|name| asked == ["all"] && name.contains(',')) {
        return Err(Error::user(format!("{flag}: the field '{name}' has a comma in its name"))
            .hint("rename the column and import again, or name the other fields"));
    }
    let named = if asked == ["all"] { known.clone() } else { asked };
    let missing: Vec<&str> = named.iter().copied().filter(|name| !known.contains(name)).collect();
    if let Some(first) = missing.first() {
        let what = format!("{flag}: no item field '{}' (there are: {})", missing.join("', '"), known.join(", "));
        return Err(match nearest(first, known.iter().copied()) {
            Some(near) => Error::user(what).hint(format!("did you mean '{near}'?")),
            None => Error::user(what).hint("name fields of this data, or omit --fields (--fields none)"),
        });
    }
    if let Some(twice) = named.iter().enumerate().find_map(|(i, name)| named[..i].contains(name).then_some(name)) {
        return Err(Error::user(format!("{flag}: '{twice}' is given twice")).hint("name each field once"));
    }
    let values = |name: &&str| data.get(name).map_or(0, |field| field.values());
    check_values(&flag, &named.iter().map(|name| (*name, values(name))).collect::<Vec<_>>())?;
    settings.fields = named.join(",");
    Ok(())
}

/// Checks that the values of all given fields fit into a table.
///
/// # Errors
/// They do not fit; the error names the widest field.
fn check_values(flag: &str, fields: &[(&str, usize)]) -> Result<()> {
    let (all, widest) = (fields.iter().map(|f| f.1).sum::<usize>(), fields.iter().max_by_key(|f| f.1));
    let Some((widest, values)) = widest.filter(|_| all > MOST_VALUES) else { return Ok(()) };
    let others: Vec<&str> = fields.iter().map(|f| f.0).filter(|name| name != widest).collect();
    let others = if others.is_empty() { "none".into() } else { others.join(",") };
    Err(Error::user(format!(
        "{flag}: {} distinct values, {} of them in '{widest}': at most {} have vectors",
        digits(all as u64),
        digits(*values as u64),
        digits(MOST_VALUES as u64)
    ))
    .hint(format!("a field with a value for nearly every item says no more than the item: --fields {others}")))
}

impl SideTables {
    /// Opens the tables of a run with `settings` and `items` items.
    ///
    /// # Errors
    /// A file is missing, foreign or damaged, or the fields belong to other items.
    pub fn open(settings: &Settings, folder: &RunFolder, items: usize) -> Result<SideTables> {
        let hint = "take the file from a copy of the run folder, or train again";
        let users = (settings.user_width > 0).then(|| Vocab::open(&folder.users())).transpose();
        let asked = !settings.field_names().is_empty();
        let fields = asked.then(|| ItemFields::open(&folder.fields(), items)).transpose();
        let (users, fields) = (users.map_err(|e| e.hint(hint))?, fields.map_err(|e| e.hint(hint))?);
        let values = fields.as_ref().map(ItemFields::keys);
        Ok(SideTables { users, fields, values })
    }

    /// Returns the summary that a plan needs. `counts`: training interactions of each item.
    ///
    /// # Errors
    /// As [`BagLists::new`].
    pub fn summary(&self, counts: Vec<u64>) -> Result<DataSummary> {
        let fields: Vec<_> = self.fields.iter().flat_map(ItemFields::iter).collect();
        let known: Vec<usize> = fields.iter().map(|field| field.values()).collect();
        let lists = match fields.is_empty() {
            true => BagLists::default(),
            false => BagLists::new(counts.len(), &known, |item, f| fields[f].ids_of(item))?,
        };
        Ok(DataSummary { counts, users: self.users.as_ref().map_or(0, Vocab::len), fields: lists, ratings: None })
    }

    /// Returns the summary that a plan needs for a new run with `settings` on `data`.
    ///
    /// # Errors
    /// As [`BagLists::new`].
    pub fn data_summary(settings: &Settings, data: &Dataset) -> Result<DataSummary> {
        let names = settings.field_names();
        let fields: Vec<_> = names.iter().filter_map(|name| data.item_fields().get(name)).collect();
        let known: Vec<usize> = fields.iter().map(|field| field.values()).collect();
        let lists = match fields.is_empty() {
            true => BagLists::default(),
            false => BagLists::new(data.items(), &known, |item, f| fields[f].ids_of(item))?,
        };
        let users = if settings.user_width > 0 { data.users() } else { 0 };
        Ok(DataSummary { counts: vec![1; data.items()], users, fields: lists, ratings: None })
    }

    /// Identifies the rows of the tables in a checkpoint: a fingerprint of items, users and field values.
    pub fn fingerprint(&self, items: &Vocab) -> String {
        let beside = [self.users.as_ref().map(Vocab::fingerprint), self.fields.as_ref().map(ItemFields::fingerprint)];
        if beside.iter().all(Option::is_none) {
            return items.fingerprint();
        }
        let parts: Vec<String> =
            [Some(items.fingerprint())].into_iter().chain(beside).map(Option::unwrap_or_default).collect();
        hex(&Sha256::digest(parts.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_too_many_values_is_named() {
        let check = |tags| check_values("--fields all", &[("tags", tags), ("year", 2)]);
        check(MOST_VALUES - 2).unwrap();
        let e = check(MOST_VALUES + 1).unwrap_err().to_string();
        assert!(e.contains("4,194,305 of them in 'tags'") && e.contains("--fields year"), "{e}");
    }
}
