//! Parses keys: separated by commas, as a JSON list, or one per line of a file.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    base::{Error, Result, error::IoContext},
    data::Vocab,
    recommender::key_of,
};

/// Returns the keys in the values of a flag. A value that begins with `[` is a JSON list, and its keys may contain
/// commas. Other values are split at commas, unless the whole value is a key of `vocab` and its parts are not.
///
/// # Errors
/// A list is not valid JSON.
pub fn keys_of(flag: &str, values: &[String], vocab: &Vocab) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for value in values {
        let text = value.trim();
        if text.starts_with('[') {
            keys.extend(json_list(text).map_err(|e| e.at(flag))?);
            continue;
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        let known = |key: &&str| vocab.find(key).is_some();
        match known(&text) && !parts.iter().all(known) {
            true => keys.push(text.to_string()),
            false => keys.extend(parts.into_iter().map(String::from)),
        }
    }
    Ok(keys)
}

fn json_list(text: &str) -> Result<Vec<String>> {
    let value: Value = serde_json::from_str(text).map_err(|e| {
        Error::user(format!("not a JSON list: {e}"))
            .hint(r#"write '["key","key"]'; a key that begins with [ must be written as such a list too"#)
    })?;
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(key_of).collect()
}

/// Reads the keys of a file, one per line and unchanged. Blank lines are skipped.
///
/// # Errors
/// The file cannot be read or is not UTF-8 text.
pub fn keys_in(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).at_path(path)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::user(format!("{}: not UTF-8 text", path.display())).hint("write the keys as UTF-8, one per line")
    })?;
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines();
    Ok(lines.filter(|line| !line.trim().is_empty()).map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_commas_can_be_named() {
        let vocab = Vocab::from_keys(["a", "b", "a,b", "New York, NY", "7"]);
        let keys = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|v| v.to_string()).collect();
            keys_of("--history", &values, &vocab).map_err(|e| e.to_string())
        };
        assert_eq!(keys(&["a,b", " 7 ,"]).unwrap(), ["a", "b", "7"]);
        assert_eq!(keys(&[r#"["a,b", 7, "New York, NY"]"#]).unwrap(), ["a,b", "7", "New York, NY"]);
        assert_eq!(keys(&["New York, NY", "a"]).unwrap(), ["New York, NY", "a"], "known only as a whole");
        assert!(keys(&["[a,b]"]).unwrap_err().contains("--history: not a JSON list"));
        assert!(keys(&["[1.5]"]).unwrap_err().contains("1.5 is not an item key"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.txt");
        fs::write(&file, "\u{feff}a,b\r\n\n New York, NY\n7").unwrap();
        assert_eq!(keys_in(&file).unwrap(), ["a,b", " New York, NY", "7"]);
    }
}
