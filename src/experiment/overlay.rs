//! Overrides of a grid before it is parsed: its variants, and settings from the command line.

use super::typos::unknown;
use crate::base::{Error, Result};

/// Merges `over` into `table`. Tables are merged key by key; other values are replaced. A data set is replaced as a
/// whole, because its keys exclude each other.
pub(super) fn lay_over(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) if key != "data" => lay_over(under, over),
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => under.extend(over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Changes a setting of a group: `GROUP.KEY=VALUE`.
///
/// # Errors
/// The text has another form, or the group does not exist.
pub(super) fn override_setting(table: &mut toml::Table, text: &str) -> Result<()> {
    let wrong = || {
        Error::user(format!("--set {text} is not of the form GROUP.KEY=VALUE"))
            .hint("use the name of a group under [settings], such as source.epochs=20")
    };
    let (place, value) = text.split_once('=').ok_or_else(wrong)?;
    let (group, key) = place.split_once('.').ok_or_else(wrong)?;
    let groups = table.get_mut("settings").and_then(toml::Value::as_table_mut).ok_or_else(wrong)?;
    let names: Vec<String> = groups.keys().cloned().collect();
    let Some(group) = groups.get_mut(group).and_then(toml::Value::as_table_mut) else {
        return Err(unknown("group of settings", group, names.iter().map(String::as_str)));
    };
    // Parsed as TOML if possible (numbers, true), else as a string.
    let parsed: Option<toml::Table> = toml::from_str(&format!("x = {value}")).ok();
    let value = parsed.and_then(|mut t| t.remove("x")).unwrap_or_else(|| toml::Value::String(value.into()));
    group.insert(key.into(), value);
    Ok(())
}
