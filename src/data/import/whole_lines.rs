//! Files in which a line is a user and all their items. They are told from tables by the shape of their lines.

use std::collections::HashSet;

use crate::{
    base::{Error, Result},
    data::import::{
        columns::{Columns, Role},
        grammar::{Delimiter, Quotes},
        options::ImportOptions,
        records::cells,
        sequences::{Asked, ENOUGH, Separator, holds_digit, is_key},
        source::Source,
        table::SAMPLE_ROWS,
        time::{TimeKind, parse_number},
    },
};

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

fn unquoted(word: &str) -> &str {
    word.strip_prefix('"').and_then(|w| w.strip_suffix('"')).unwrap_or(word)
}

fn shape_digits(cell: &str) -> &str {
    cell.trim_start_matches(char::is_alphabetic)
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
}
