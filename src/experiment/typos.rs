//! Errors in a grid file: the line of the error and the name that was probably meant.

use crate::base::{Error, error::nearest};

/// Converts an error of the TOML parser. For an unknown key or word, the nearest known one is suggested.
pub(super) fn unreadable(text: &str, place: &str, e: &toml::de::Error) -> Error {
    let message = e.to_string();
    let error = Error::user(format!("{place}: {}", message.trim_end()));
    // "unknown field `sedes`, expected one of `name`, `title`": names are in backticks, the wrong one first.
    let said = e.message();
    let names: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
    let Some((wrong, known)) = names.split_first().filter(|_| said.starts_with("unknown ")) else { return error };
    // The message has no line number if variants were merged into the table.
    let line = line_of(text, wrong).filter(|_| !message.contains(" line "));
    let error = match line {
        Some(line) => Error::user(format!("{place}: line {line}: {}", message.trim_end())),
        None => error,
    };
    match nearest(wrong, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error,
    }
}

/// Returns the error for an unknown name, with the nearest known one.
pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    let e = Error::user(format!("there is no {what} '{name}'"));
    match nearest(name, known.clone()) {
        Some(near) => e.hint(format!("did you mean '{near}'?")),
        None => e.hint(format!("known names: {}", known.collect::<Vec<_>>().join(", "))),
    }
}

/// Prefixes an error about a quoted name with the place, and with the line of that name if it occurs in one line only.
pub(super) fn at_line(text: &str, place: &str, e: Error) -> Error {
    let line = e.what.rsplit('\'').nth(1).and_then(|name| line_of(text, name));
    match line {
        Some(line) => e.at(format!("{place}: line {line}")),
        None => e.at(place),
    }
}

/// Returns the number, from 1, of the only line that has `name` as a string or as a key.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let quoted = [format!("\"{name}\""), format!("'{name}'")];
    let has = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let key = |part: &str| part.trim_end().strip_suffix(name).is_some_and(ends_a_word);
        quoted.iter().any(|q| line.contains(q)) || line.match_indices('=').any(|(at, _)| key(&line[..at]))
    };
    let mut lines = text.lines().enumerate().filter(|(_, line)| has(line)).map(|(at, _)| at + 1);
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

/// Returns whether a name after this text is not the end of a longer key.
fn ends_a_word(before: &str) -> bool {
    before.chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || "-_".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_where_it_stands_alone() {
        let text = "name = \"a\"\n# wide = 3\n[t]\nwide = 2\nrows = [{ name = \"b\", from = 'c' }]\n";
        assert_eq!(line_of(text, "wide"), Some(4));
        assert_eq!((line_of(text, "b"), line_of(text, "c"), line_of(text, "from")), (Some(5), Some(5), Some(5)));
        assert_eq!(line_of(text, "name"), None, "in two lines");
        assert_eq!((line_of(text, "ide"), line_of(text, "zz")), (None, None));
    }
}
