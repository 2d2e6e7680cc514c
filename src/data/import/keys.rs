/*! Checks of keys: keys that stand for a missing value, whole numbers written as reals, and lists. Such a key can only
be judged by comparison with all other keys, so these checks run after the log is read.
*/

use std::collections::HashSet;

use serde::Serialize;

use super::intern::Interner;
use crate::data::{digits, whole_number};

/// What to do with rows whose user or item is missing: an empty cell, a null, or a word like NA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Leave such rows out, and count them
    Drop,
    /// The words are keys like others; an empty key is a bad row
    Keep,
}

/// Common spellings of a missing value.
const MISSING: &[&[u8]] = &[
    b"NA",
    b"N/A",
    b"n/a",
    b"#N/A",
    b"NaN",
    b"nan",
    b"-nan",
    b"NaT",
    b"None",
    b"none",
    b"NONE",
    b"null",
    b"Null",
    b"NULL",
    b"(null)",
    b"nil",
    b"undefined",
    b"<NA>",
    b"\\N",
];

/// Whether a key spells a missing value.
pub(crate) fn is_missing(key: &[u8]) -> bool {
    key.len() <= 9 && MISSING.contains(&key)
}

/// A list of keys in one cell: `[3, 4, 5]`.
pub(crate) fn is_list(cell: &[u8]) -> bool {
    let inside = match cell {
        [b'[', inside @ .., b']'] | [b'(', inside @ .., b')'] | [b'{', inside @ .., b'}'] => inside,
        _ => return false,
    };
    let number = |word: &[u8]| std::str::from_utf8(word).is_ok_and(|word| word.parse::<f64>().is_ok());
    inside.contains(&b',') || inside.split(u8::is_ascii_whitespace).all(number)
}

/// A key that spells a missing value is reported if it has more than this many times the rows of any other key.
const FAR_MORE: u64 = 2;

/// Warnings about the keys of users or items. `counts`: rows of each.
pub(crate) fn doubts(keys: &Interner, counts: &[u32], role: &str, missing: Option<Missing>) -> Vec<String> {
    let mut lines: Vec<String> = match missing {
        None => missing_keys(keys, counts, role).into_iter().collect(),
        Some(_) => Vec::new(),
    };
    lines.extend(whole_numbers(keys, role));
    let mut lists = (0..keys.len()).map(|id| keys.key(id)).filter(|key| is_list(key));
    if let Some(first) = lists.next() {
        lines.push(format!(
            "{} of {} {role}s look like lists, such as '{}': write one row for each entry",
            digits(1 + lists.count() as u64),
            digits(keys.len() as u64),
            String::from_utf8_lossy(first).chars().take(40).collect::<String>()
        ));
    }
    lines
}

/// Keys that spell a missing value and probably stand for one: they have far more rows than any other key, or all other
/// keys contain a digit. An artist called "nan" among other names is not reported.
fn missing_keys(keys: &Interner, counts: &[u32], role: &str) -> Option<String> {
    let spelled: Vec<usize> = MISSING.iter().filter_map(|word| keys.find(word)).map(|id| id as usize).collect();
    if spelled.is_empty() {
        return None;
    }
    let others = || (0..keys.len()).filter(|id| !spelled.contains(id));
    let most = others().map(|id| counts[id]).max().unwrap_or(0) as u64;
    let numbered = others().all(|id| keys.key(id).iter().any(u8::is_ascii_digit));
    let sum: u64 = spelled.iter().map(|&id| counts[id] as u64).sum();
    if !numbered && (sum <= FAR_MORE * most || sum < 3) {
        return None;
    }
    let all: u64 = counts.iter().map(|&n| n as u64).sum();
    let words: Vec<_> = spelled.iter().map(|&id| format!("'{}'", String::from_utf8_lossy(keys.key(id)))).collect();
    Some(format!(
        "{} of {} rows ({:.1} %) have the {role} {}, which looks like a missing one, and are read as one \
         {role}: --missing drop leaves such rows out, --missing keep takes them as they are",
        digits(sum),
        digits(all),
        100.0 * sum as f64 / all.max(1) as f64,
        words.join(" or ")
    ))
}

/// Whole numbers written as reals (`3.0`): together with the same number written as `3` they make two keys, and other
/// data may write them as `3`.
fn whole_numbers(keys: &Interner, role: &str) -> Option<String> {
    let real = |id: &usize| whole_number(keys.key(*id)).is_some_and(|whole| whole.len() < keys.key(*id).len());
    let reals = (0..keys.len()).filter(real).count();
    if reals == 0 {
        return None;
    }
    // `3.0` duplicates both `3` and `3.00`.
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let wholes = (0..keys.len()).filter(|id| !real(id)).filter_map(|id| whole_number(keys.key(id)));
    seen.extend(wholes);
    let duplicate = |id: &usize| whole_number(keys.key(*id)).is_some_and(|whole| !seen.insert(whole));
    let duplicates: Vec<usize> = (0..keys.len()).filter(real).filter(duplicate).collect();
    let settle = "--whole-keys reads 3.0 as 3 in both columns of keys";
    if let Some(&first) = duplicates.first() {
        let key = String::from_utf8_lossy(keys.key(first));
        let whole = key.split('.').next().unwrap_or_default();
        return Some(format!(
            "{} {role}s occur in the log twice, as whole numbers and as reals, such as '{whole}' and '{key}', \
             and are two {role}s each: {settle}",
            digits(duplicates.len() as u64)
        ));
    }
    (2 * reals > keys.len()).then(|| {
        format!(
            "{} of {} {role}s are whole numbers written as reals, such as '{}': other data may write them \
             without the '.0', and keys are compared as text; {settle}",
            digits(reals as u64),
            digits(keys.len() as u64),
            (0..keys.len()).find(real).map_or("".into(), |id| String::from_utf8_lossy(keys.key(id)))
        )
    })
}
