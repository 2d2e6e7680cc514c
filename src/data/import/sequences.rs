/*! Lists: rows that hold a user's whole history, oldest first.

Three shapes: a line is a user and their items (`user item item item`); a cell is a list (`user<TAB>item item item`,
RecBole's `token_seq`, `[3, 4, 5]`), optionally with a list of times of the same length in another column; a value of
JSON or Parquet is a list. A list is read as one if it cannot be anything else, or if `--list-sep` says so; if it is
ambiguous, the import stops with an error that asks the user. Lists are never silently read as histories of length one.
*/

use std::collections::HashSet;

use crate::{
    base::{Error, Result, error::typed},
    data::import::{
        ImportOptions,
        columns::{Columns, Role, bare, is_list_name},
        doubts::{WARNING, all_moments},
        quotes::Quotes,
        records::{Delimiter, Field, cells},
        sniff::SAMPLE_ROWS,
        source::Source,
        time::{TimeKind, parse_number},
    },
};

/// Sample rows needed to recognize a file of sequences.
const ENOUGH: usize = 20;

/// The separator of list elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Separator {
    Blanks,
    Byte(u8),
}

impl Separator {
    fn delimiter(self) -> Delimiter {
        match self {
            Separator::Blanks => Delimiter::Whitespace,
            Separator::Byte(byte) => Delimiter::Byte(byte),
        }
    }

    fn of_delimiter(delimiter: Delimiter) -> Option<Separator> {
        match delimiter {
            Delimiter::Whitespace => Some(Separator::Blanks),
            Delimiter::Byte(byte) => Some(Separator::Byte(byte)),
            _ => None,
        }
    }

    /// The value for `--list-sep`.
    fn word(self) -> String {
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

    fn split(self, text: &str) -> Vec<&str> {
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

/// Returns the delimiter if each line is a user and their items. `guess`: the delimiter if the file is a table.
///
/// # Errors
/// The lines are ambiguous.
pub(crate) fn whole_lines(
    text: &[u8],
    guess: Option<Delimiter>,
    asked: Asked,
    source: &Source,
) -> Result<Option<Delimiter>> {
    let candidates = match (asked, guess) {
        (Asked::Table, _) => return Ok(None),
        (Asked::Lists(separator), guess) => {
            let delimiter = separator.delimiter();
            // Quoted cells that contain the separator are lists themselves.
            let in_cells = |byte: u8| {
                cells(text, delimiter, Quotes::Auto, true).rows.iter().flatten().any(|cell| cell.contains(&byte))
            };
            let lossy = String::from_utf8_lossy(text);
            let lines = lossy.lines().map(|l| separator.split(l)).filter(|l| !l.is_empty());
            refuse_colon(&lines.take(SAMPLE_ROWS).collect::<Vec<_>>(), separator, source)?;
            let whole = guess.is_none_or(|g| g == delimiter)
                && !matches!(separator, Separator::Byte(byte) if guess.is_some() && in_cells(byte));
            return Ok(whole.then_some(delimiter));
        }
        (Asked::Guess, Some(guess)) => vec![guess],
        (Asked::Guess, None) => [b' ', b'\t', b',', b';', b'|']
            .map(|b| if b == b' ' { Delimiter::Whitespace } else { Delimiter::Byte(b) })
            .to_vec(),
    };
    let text = String::from_utf8_lossy(text);
    for delimiter in candidates {
        let Some(separator) = Separator::of_delimiter(delimiter) else { continue };
        let words = |l| separator.split(l).into_iter().map(unquoted).collect::<Vec<&str>>();
        let rows: Vec<Vec<&str>> = text.lines().map(words).filter(|l| !l.is_empty()).take(SAMPLE_ROWS).collect();
        let found = look_at_lines(&rows, guess.is_some());
        if found != Lines::Table {
            refuse_colon(&rows, separator, source)?;
        }
        match found {
            Lines::Table => {}
            Lines::Lists if separator == Separator::Blanks || separator == Separator::Byte(b'\t') => {
                return Ok(Some(delimiter));
            }
            Lines::Lists | Lines::Either => {
                let widths = || rows.iter().map(Vec::len);
                let (least, most) = (widths().min().unwrap_or(0), widths().max().unwrap_or(0));
                let many = if least == most { format!("{most}") } else { format!("{least} to {most}") };
                return Err(Error::user(format!(
                    "{}: lines of {many} keys each: a line may be a user and their items, or a row of a table",
                    source.display()
                ))
                .hint(format!(
                    "say which: --list-sep {} reads a line as a user and all their items, oldest first; --list-sep \
                     none reads it as one interaction",
                    separator.word()
                )));
            }
        }
    }
    Ok(None)
}

/// The columns for lines of a user and their items.
///
/// # Errors
/// A flag names another column.
pub(crate) fn columns_of_lines(options: &ImportOptions) -> Result<Columns> {
    let wishes = Role::wishes(options);
    for role in [Role::Time, Role::Rating, Role::Basket] {
        if let Some(wish) = wishes[role as usize].filter(|wish| *wish != "none") {
            let name = role.name();
            return Err(Error::user(format!(
                "--{name}-col {wish}: each line is a user and their items, without a {name}"
            ))
            .hint("leave it out; or --list-sep none, if it is a table"));
        }
    }
    Ok(Columns { user: 0, item: 1, time: None, rating: None, basket: None, words: false })
}

#[derive(Debug, PartialEq)]
enum Lines {
    Table,
    Lists,
    Either,
}

/// Rejects `user:item,item`, which has a different separator after the user.
fn refuse_colon(rows: &[Vec<&str>], separator: Separator, source: &Source) -> Result<()> {
    let after_user = |row: &&Vec<&str>| row[0].split(':').filter(|part| !part.is_empty()).count() == 2;
    let elsewhere = rows.iter().flat_map(|r| &r[1..]).any(|cell| cell.contains(':'));
    if elsewhere || 2 * rows.iter().filter(after_user).count() <= rows.len() {
        return Ok(());
    }
    let sign = if let Separator::Byte(byte) = separator { char::from(byte) } else { ' ' };
    let command =
        format!("sed 's/:/{sign}/' {} | mipgpu import - --list-sep {} --out DIR", source.typed(), separator.word());
    Err(Error::user(format!("{}: a ':' separates the user from the items", source.display()))
        .hint(format!("replace it by the separator of the items: {command}")))
}

/// Classifies lines that were split at a separator.
fn look_at_lines(rows: &[Vec<&str>], table_fits: bool) -> Lines {
    let number = |cell: &&str| !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    // A header row: words without digits, or words above a column of numbers.
    let header = rows.len() > 1
        && !rows[0].iter().any(number)
        && (!rows[0].iter().any(|cell| holds_digit(cell))
            || (0..rows[0].len()).any(|c| rows[1..].iter().all(|r| r.get(c).is_some_and(number))));
    if header && table_fits {
        return Lines::Table;
    }
    let rows = if header { &rows[1..] } else { rows };
    if rows.is_empty() || rows.iter().any(|r| r.len() < 2) {
        return Lines::Table;
    }
    let numbers = rows.iter().all(|r| r.iter().all(number));
    let mut widths: Vec<usize> = rows.iter().map(Vec::len).collect();
    widths.sort_unstable();
    let (usual, same) =
        widths.chunk_by(|a, b| a == b).map(|w| (w[0], w.len())).max_by_key(|(_, n)| *n).expect("there are rows");
    let column = |c: usize| rows.iter().filter_map(move |r| r.get(c).copied());
    // Keys contain digits. In a list, keys in all positions share their prefixes; columns of a table mostly have
    // different prefixes.
    let keys: Vec<&str> = rows.iter().flat_map(|r| r[1..].iter().copied()).collect();
    let begins = |c: usize| {
        column(c).filter_map(|k| k.find(|d: char| d.is_ascii_digit()).map(|n| &k[..n])).collect::<HashSet<_>>()
    };
    let first = begins(1);
    if 20 * keys.iter().filter(|k| is_key(k)).count() < 19 * keys.len()
        || (2..usual).any(|c| begins(c).is_disjoint(&first))
    {
        return Lines::Table;
    }
    let lettered = 10 * keys.iter().filter(|k| k.contains(char::is_alphabetic)).count() >= 9 * keys.len();
    let distinct = rows.len() > 1 && rows.iter().map(|r| r[0]).collect::<HashSet<_>>().len() == rows.len();
    // In a table some columns are times; in a list all items look like times or none do.
    let moments =
        |c: usize| !matches!(TimeKind::of_sample(column(c)), TimeKind::Number { unit: "unknown" } | TimeKind::Unread);
    let timed = (1..usual).filter(|&c| moments(c)).count();
    if timed > 0 && timed + 1 < usual || usual == 2 && timed == 1 {
        return Lines::Table;
    }
    if same < rows.len() {
        let most = *widths.last().expect("there are rows");
        // One row in twenty may be broken.
        let ragged = 20 * same < 19 * rows.len();
        return if most > 2 && ragged && numbers && distinct && rows.len() >= ENOUGH {
            Lines::Lists
        } else if most > 2 && (usual > 3 || !table_fits || ragged && lettered) {
            Lines::Either
        } else {
            Lines::Table
        };
    }
    // Columns of the same kind have similar maxima; a rating has a smaller one than an item number.
    let top = |c: usize| {
        column(c).filter_map(|cell| parse_number(shape_digits(cell).as_bytes())).map(|m| m.whole).max().unwrap_or(0)
    };
    let tops = (1..usual).map(top);
    let even = lettered || tops.clone().max().unwrap_or(0) <= 4 * tops.min().unwrap_or(0);
    let many = match distinct && rows.len() > 2 {
        _ if lettered => 3,
        true => 4,
        false => 5,
    };
    if even && usual >= many { Lines::Either } else { Lines::Table }
}

fn holds_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

/// Whether a text may be a key in a list: titles contain blanks, and words without digits.
fn is_key(text: &str) -> bool {
    holds_digit(text) && !text.contains(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '|'))
}

fn unquoted(word: &str) -> &str {
    word.strip_prefix('"').and_then(|w| w.strip_suffix('"')).unwrap_or(word)
}

fn shape_digits(cell: &str) -> &str {
    cell.trim_start_matches(char::is_alphabetic)
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
            "{WARNING}{}: column '{}' holds a list of times for each list of items and is ignored: add --time-col {}, \
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
        "{WARNING}{}: the list{} {} {} ignored: only '{}' is read as the item; for the list: --item-col {first}",
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

    fn lines(text: &str, separator: Separator, table_fits: bool) -> Lines {
        let rows: Vec<Vec<&str>> = text.lines().map(|l| separator.split(l)).collect();
        look_at_lines(&rows, table_fits)
    }

    fn many(line: impl Fn(usize) -> String) -> String {
        (0..25).map(|n| line(n) + "\n").collect()
    }

    #[test]
    fn ragged_lines_of_numbers_are_lists_and_equal_ones_may_be_either() {
        let list = |n: usize, length: usize| {
            format!("{n} {}", (0..length).map(|i| (n * 7 + i * 5 + 20).to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(lines(&many(|n| list(n, 3 + n % 4)), Separator::Blanks, false), Lines::Lists);
        // Most lines are truncated to the same length.
        assert_eq!(lines(&many(|n| list(n, if n % 5 == 0 { 4 } else { 9 })), Separator::Blanks, true), Lines::Lists);
        assert_eq!(lines(&many(|n| list(n, 6)), Separator::Blanks, true), Lines::Either);
        assert_eq!(lines(&many(|n| list(n / 2, 6)), Separator::Blanks, true), Lines::Either, "sessions of users");
        // Names with digits, with any prefix and suffix; columns of a table have different prefixes.
        for item in [|n: usize| format!("it_{n}"), |n| format!("B{n:06}X"), |n| format!("{}{n}", ["p", "c-"][n % 2])] {
            let all =
                |n: usize, many: usize| (0..many).map(|i| item((n * 7 + i * 13) % 53)).collect::<Vec<_>>().join(" ");
            for fits in [true, false] {
                let text = many(|n| format!("u{} {}", n % 9, all(n, 4)));
                assert_eq!(lines(&text, Separator::Blanks, fits), Lines::Either, "{text:.40}");
                let text = many(|n| format!("u{n} {}", all(n, 1 + n % 3)));
                assert_eq!(lines(&text, Separator::Blanks, fits), Lines::Either, "{text:.40}");
            }
            let text = many(|n| format!("u{n} {} shop{} k{}", item(n), n % 3, n % 7));
            assert_eq!(lines(&text, Separator::Blanks, true), Lines::Table, "{text:.40}");
        }
        // A table of numbers in which one row lacks a cell.
        let text = many(|n| if n == 7 { "7 8 4 9".into() } else { format!("{n} {} 3 {} {}", n + 90, n + 50, n % 40) });
        assert_eq!(lines(&text, Separator::Blanks, true), Lines::Either);
        assert_eq!(lines("1 20 30 25\n2 21 22\n3 25 26 27 28\n", Separator::Blanks, false), Lines::Either, "too few");
        assert_eq!(
            lines(&many(|n| format!("u{n} i{} i{} i{}", n % 9 + 9, n % 7 + 9, n % 8 + 9)), Separator::Blanks, true),
            Lines::Either
        );
    }

    #[test]
    fn tables_stay_tables() {
        for line in [
            |n: usize| format!("{n} {}", n * 7 % 100),
            |n: usize| format!("{n} {} {}", n * 7 % 100 + 9, n % 5 + 1),
            |n: usize| format!("{n} {} {} {}", n * 7 % 100 + 9, n % 5 + 1, 978_300_760 + n),
            |n: usize| format!("{n} {} {} {}", n * 7 % 100 + 9, n % 5 + 1, 12_000 + n),
            |n: usize| if n == 7 { "7 8".into() } else { format!("{n} {} {}", n * 7 % 100 + 9, n % 5 + 1) },
        ] {
            assert_eq!(lines(&many(line), Separator::Blanks, true), Lines::Table, "{}", line(3));
        }
    }

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
