/*! Lists: rows that hold a user's whole history, oldest first.

Three shapes: a line is a user and their items (`user item item item`; `whole_lines.rs` finds such files); a cell is a
list (`user<TAB>item item item`, RecBole's `token_seq`, `[3, 4, 5]`), optionally with a list of times of the same length
in another column; a value of JSON or Parquet is a list. A list is read as one if it cannot be anything else, or if
`--list-sep` says so; if it is ambiguous, the import stops with an error that asks the user. Lists are never silently
read as histories of length one.
*/

use std::collections::HashSet;

use crate::{
    base::{Error, Result, error::typed},
    data::import::{
        columns::{Columns, Role, bare, is_list_name},
        doubts::all_moments,
        grammar::{Delimiter, Field},
        options::ImportOptions,
        source::Source,
    },
};

/// Sample rows needed to recognize a file of sequences.
pub(crate) const ENOUGH: usize = 20;

/// The separator of list elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Separator {
    Blanks,
    Byte(u8),
}

impl Separator {
    pub fn delimiter(self) -> Delimiter {
        match self {
            Separator::Blanks => Delimiter::Whitespace,
            Separator::Byte(byte) => Delimiter::Byte(byte),
        }
    }

    pub fn of_delimiter(delimiter: Delimiter) -> Option<Separator> {
        match delimiter {
            Delimiter::Whitespace => Some(Separator::Blanks),
            Delimiter::Byte(byte) => Some(Separator::Byte(byte)),
            _ => None,
        }
    }

    /// The value for `--list-sep`.
    pub fn word(self) -> String {
        match self {
            Separator::Blanks => "space".into(),
            Separator::Byte(b'\t') => "tab".into(),
            Separator::Byte(b',') => "comma".into(),
            Separator::Byte(b';') => "semicolon".into(),
            Separator::Byte(b'|') => "pipe".into(),
            Separator::Byte(byte) => char::from(byte).to_string(),
        }
    }

    fn describe(self) -> String {
        match self {
            Separator::Blanks => "blanks".into(),
            Separator::Byte(byte) => format!("'{}'", char::from(byte)),
        }
    }

    pub fn split(self, text: &str) -> Vec<&str> {
        match self {
            Separator::Blanks => text.split_ascii_whitespace().collect(),
            Separator::Byte(byte) => {
                let mut parts: Vec<&str> = text.split(char::from(byte)).map(str::trim).collect();
                while parts.last().is_some_and(|last| last.is_empty()) {
                    parts.pop();
                }
                parts
            }
        }
    }
}

/// The value of `--list-sep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The flag is not given.
    Guess,
    /// There are no lists.
    Table,
    Lists(Separator),
}

impl Asked {
    pub fn of(flag: Option<&str>) -> Result<Asked> {
        Ok(match flag {
            None => Asked::Guess,
            Some("none") => Asked::Table,
            Some("space" | " " | "blank" | "blanks") => Asked::Lists(Separator::Blanks),
            Some("tab" | "\\t" | "\t") => Asked::Lists(Separator::Byte(b'\t')),
            Some("comma") => Asked::Lists(Separator::Byte(b',')),
            Some("semicolon") => Asked::Lists(Separator::Byte(b';')),
            Some("pipe") => Asked::Lists(Separator::Byte(b'|')),
            Some(one) if one.len() == 1 && !one.contains(['"', '\n', '\r']) => {
                Asked::Lists(Separator::Byte(one.as_bytes()[0]))
            }
            Some(other) => {
                return Err(Error::user(format!("--list-sep '{other}' is not one character"))
                    .hint("it may be one ASCII character, or space, comma, pipe, semicolon, tab, none"));
            }
        })
    }
}

/// How lists are stored in a text file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lists {
    separator: Separator,
    /// A line is a user and their items: the list is the item column and all after it.
    pub whole_lines: bool,
    /// The columns with lists; the first one is the item's.
    columns: Vec<usize>,
}

pub(crate) fn holds_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

/// Whether a text may be a key in a list: titles contain blanks, and words without digits.
pub(crate) fn is_key(text: &str) -> bool {
    holds_digit(text) && !text.contains(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '|'))
}

impl Lists {
    pub fn of_whole_lines(delimiter: Delimiter, item: usize) -> Lists {
        let separator =
            Separator::of_delimiter(delimiter).expect("lines of lists have a separator of one byte or blanks");
        Lists { separator, whole_lines: true, columns: vec![item] }
    }

    /// Lists in cells of a table, if any. In `rows` each list is replaced by its first element, so that checks of cells
    /// see elements.
    ///
    /// # Errors
    /// The cells may be lists or names.
    pub fn in_cells(
        names: &[String],
        rows: &mut [Vec<String>],
        columns: &Columns,
        asked: Asked,
        source: &Source,
    ) -> Result<Option<Lists>> {
        let declared = |c: usize| names[c].ends_with("_seq");
        let separator = match asked {
            Asked::Table => return Ok(None),
            Asked::Lists(separator) => separator,
            Asked::Guess if declared(columns.item) => Separator::Blanks,
            Asked::Guess => match look_at_cells(rows, columns, source, &names[columns.item])? {
                Some(separator) => separator,
                None => return Ok(None),
            },
        };
        let mut lists = Lists { separator, whole_lines: false, columns: vec![columns.item] };
        let length = |row: &Vec<String>, c: usize| row.get(c).map_or(0, |cell| lists.split(cell).len());
        // Times and ratings are lists if most have as many elements as the items.
        let also = [Role::Time, Role::Rating].into_iter().filter_map(|role| columns.of(role)).filter(|&c| {
            let longer = || rows.iter().filter(|r| length(r, columns.item) > 1);
            let same = || longer().filter(|r| length(r, c) == length(r, columns.item)).count();
            declared(c) || same() > 0 && 2 * same() >= longer().count()
        });
        let also: Vec<usize> = also.collect();
        lists.columns.extend(also);
        for row in rows {
            for &c in &lists.columns {
                if let Some(cell) = row.get_mut(c) {
                    let first = lists.split(cell).first().map_or(String::new(), |f| f.to_string());
                    *cell = first;
                }
            }
        }
        Ok(Some(lists))
    }

    /// A warning about an unused list of times that matches the list of items.
    pub fn ignored_times(
        &self,
        source: &Source,
        names: &[String],
        rows: &[Vec<String>],
        columns: &Columns,
        options: &ImportOptions,
    ) -> Option<String> {
        if columns.time.is_some() || options.time_col.is_some() || self.whole_lines {
            return None;
        }
        let list = |row: &Vec<String>, c: usize| row.get(c).map_or(Vec::new(), |cell| own(self.split(cell)));
        let unused = |c: &usize| Role::ALL.iter().all(|role| columns.of(*role) != Some(*c));
        let found = (0..names.len()).filter(unused).find(|&c| {
            rows.iter().any(|r| list(r, c).len() > 1)
                && rows.iter().all(|r| {
                    let times = list(r, c);
                    times.len() == list(r, columns.item).len() && all_moments(times.iter().map(String::as_str))
                })
        })?;
        Some(format!(
            "{}: column '{}' holds a list of times for each list of items and is ignored: add --time-col {}, \
             or --time-col none if the lists are in order",
            source.display(),
            bare(&names[found]),
            typed(bare(&names[found]))
        ))
    }

    fn split<'a>(&self, cell: &'a str) -> Vec<&'a str> {
        let mut fields = Vec::new();
        self.elements(cell.as_bytes(), Field { start: 0, end: cell.len(), escaped: false }, &mut fields);
        fields.iter().map(|f| &cell[f.start..f.end]).collect()
    }

    /// The lists of one record; escaped quotes in them are unescaped in place.
    pub fn of_record(&self, text: &mut [u8], fields: &[Field]) -> Vec<(usize, Vec<Field>)> {
        let item = self.columns[0];
        if self.whole_lines {
            let mut all = fields.get(item..).unwrap_or_default().to_vec();
            while all.last().is_some_and(|f| f.start == f.end) {
                all.pop();
            }
            return vec![(item, all)];
        }
        let mut lists = Vec::new();
        for &c in &self.columns {
            let Some(&(mut field)) = fields.get(c) else { continue };
            if field.escaped {
                let plain = field.bytes(text).into_owned();
                text[field.start..field.start + plain.len()].copy_from_slice(&plain);
                field = Field { start: field.start, end: field.start + plain.len(), escaped: false };
            }
            let mut elements = Vec::new();
            self.elements(text, field, &mut elements);
            lists.push((c, elements));
        }
        lists
    }

    /// The elements of one list, without its brackets and their quotes.
    fn elements(&self, text: &[u8], field: Field, out: &mut Vec<Field>) {
        let trimmed = |mut start: usize, mut end: usize| {
            while start < end && text[start].is_ascii_whitespace() {
                start += 1;
            }
            while start < end && text[end - 1].is_ascii_whitespace() {
                end -= 1;
            }
            (start, end)
        };
        let (mut start, mut end) = trimmed(field.start, field.end);
        let mut separator = self.separator;
        if end - start >= 2 && matches!((text[start], text[end - 1]), (b'[', b']') | (b'(', b')')) {
            (start, end) = (start + 1, end - 1);
            if separator == Separator::Blanks && text[start..end].contains(&b',') {
                separator = Separator::Byte(b',');
            }
        }
        let mut push = |from: usize, to: usize| {
            let (mut from, mut to) = trimmed(from, to);
            if to - from >= 2 && matches!(text[from], b'"' | b'\'') && text[to - 1] == text[from] {
                (from, to) = (from + 1, to - 1);
            }
            out.push(Field { start: from, end: to, escaped: false });
        };
        let mut from = start;
        for (at, letter) in text.iter().enumerate().take(end).skip(start) {
            let cut = match separator {
                Separator::Blanks => letter.is_ascii_whitespace(),
                Separator::Byte(byte) => *letter == byte,
            };
            if cut {
                if separator != Separator::Blanks || from < at {
                    push(from, at);
                }
                from = at + 1;
            }
        }
        if from < end {
            push(from, end);
        }
    }

    /// The description appended to that of the item column.
    pub fn describe(&self) -> String {
        let place = if self.whole_lines { " and all after it" } else { "" };
        format!("{place}, a list separated by {}, oldest first", self.separator.describe())
    }
}

fn own(cells: Vec<&str>) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

/// Returns the separator if the cells of the item column are lists.
fn look_at_cells(rows: &[Vec<String>], columns: &Columns, source: &Source, name: &str) -> Result<Option<Separator>> {
    let cells: Vec<&str> = rows.iter().filter_map(|r| r.get(columns.item)).map(|c| c.trim()).collect();
    let users: HashSet<&String> = rows.iter().filter_map(|r| r.get(columns.user)).collect();
    let once = users.len() == cells.len() && cells.len() >= ENOUGH;
    let ask = |example: &str, separator: Separator| {
        let short: String = example.chars().take(40).collect();
        Err(Error::user(format!("{}: the item '{short}' (column {name}) may be a list or one name", source.display()))
            .hint(format!(
                "say which: --list-sep {} reads it as a list of items, oldest first; --list-sep none as one item",
                separator.word()
            )))
    };
    let bracketed = |cell: &&&str| cell.starts_with('[') && cell.ends_with(']');
    if 2 * cells.iter().filter(bracketed).count() > cells.len() {
        let comma = cells.iter().filter(bracketed).any(|cell| cell.contains(','));
        let separator = if comma { Separator::Byte(b',') } else { Separator::Blanks };
        return ask(cells.iter().find(bracketed).expect("there are several"), separator);
    }
    for separator in [Separator::Blanks, Separator::Byte(b','), Separator::Byte(b'|'), Separator::Byte(b';')] {
        let lists: Vec<Vec<&str>> = cells.iter().map(|c| separator.split(c)).collect();
        let several = lists.iter().filter(|l| l.len() > 1).count();
        let several_of = || cells.iter().find(|c| separator.split(c).len() > 1).expect("there are several");
        // Regardless of users and times: most cells hold several keys, or nearly all hold keys and some hold several.
        let keys = |l: &&Vec<&str>| l.iter().all(|e| is_key(e));
        let all = lists.iter().filter(keys).count();
        let lists_of_keys = lists.iter().filter(|l| l.len() > 1).filter(keys).count();
        let keyed = 2 * lists_of_keys > cells.len() || 10 * lists_of_keys > cells.len() && 20 * all >= 19 * cells.len();
        if keyed && 2 * several <= cells.len() {
            return ask(several_of(), separator);
        }
        if cells.is_empty() || 2 * several <= cells.len() {
            continue;
        }
        let numbers = lists.iter().flatten().all(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit()));
        // Lists of times match those of the items; a single time makes the row an event.
        let count = |row: &Vec<String>, c: usize| row.get(c).map_or(0, |cell| separator.split(cell).len());
        let timed = columns.time.is_some_and(|c| rows.iter().any(|row| count(row, c) != count(row, columns.item)));
        if numbers && once && !timed {
            return Ok(Some(separator));
        }
        // Words may be titles. An item key never consists of several numbers.
        if numbers || keyed || once && columns.time.is_none() {
            return ask(several_of(), separator);
        }
    }
    Ok(None)
}

/// A warning about an ignored list of items, if the item is another column.
pub(crate) fn ignored_lists(
    source: &Source,
    names: &[String],
    lists: impl Iterator<Item = usize>,
    columns: &Columns,
) -> Option<String> {
    let unused = |c: &usize| Role::ALL.iter().all(|role| columns.of(*role) != Some(*c));
    let ignored: Vec<&str> = lists.filter(unused).map(|c| bare(&names[c])).collect();
    let first = ignored.iter().find(|n| is_list_name(n)).or(ignored.first())?;
    Some(format!(
        "{}: the list{} {} {} ignored: only '{}' is read as the item; for the list: --item-col {first}",
        source.display(),
        if ignored.len() == 1 { "" } else { "s" },
        ignored.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", "),
        if ignored.len() == 1 { "is" } else { "are" },
        bare(&names[columns.item])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_without_brackets_and_quotes() {
        let lists = |separator| Lists { separator, whole_lines: false, columns: vec![0] };
        let (comma, blanks) = (lists(Separator::Byte(b',')), lists(Separator::Blanks));
        assert_eq!(comma.split("3, 4,5"), ["3", "4", "5"]);
        assert_eq!(comma.split("['a b', \"c\"]"), ["a b", "c"]);
        assert_eq!(comma.split("a,,b,"), ["a", "", "b"]);
        assert_eq!(comma.split("[]"), [""; 0]);
        assert_eq!(blanks.split("[3, 4]"), ["3", "4"]);
        assert_eq!(blanks.split("[ 3  4\n 5]"), ["3", "4", "5"]);
        assert_eq!(blanks.split(""), [""; 0]);
    }
}
