/*! Finds the end of a quoted field.

A field that begins with `"` (ignoring blanks before it) is quoted if its closing quote is followed by a delimiter or a
line end (ignoring blanks). `""` inside stands for one quote. Three cases need a separate rule:

- **Text follows the closing quote** (`"Heroes" live`). If the quotes are on one line without a delimiter between them,
  there is only one way to split the line, and the quotes are ordinary characters. Otherwise the row is broken.
- **The field continues past a line end.** It may be a text with line breaks, or a stray quote that would swallow all
  rows up to the next one. The row is broken if one of the further lines that the field covers would be a complete row:
  it has the fields that the importer needs, whatever they contain.
- **No closing quote within [`LONGEST`] bytes**: broken.

A broken row ends at the end of the line where its quote opened, so that at most one line is lost. The decision depends
only on the bytes from the quote on, never on where the text was cut into blocks.

With blanks or `::` as the delimiter a quoted word ends on its line; all other quotes are ordinary characters.
*/

use super::grammar::{Delimiter, Field, Grammar, Quotes};

/// Maximum length of a quoted field, in bytes.
pub(crate) const LONGEST: usize = 1 << 20;

/// What a quote at the beginning of a field means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Quoted {
    /// It encloses `text[from..to]`; the field's delimiter, line end or end of text is at `next`.
    Closed { from: usize, to: usize, escaped: bool, next: usize },
    /// An ordinary character.
    Plain,
    /// It is ambiguous which text is quoted.
    Broken,
    /// More text is needed to decide.
    More,
}

/// Reads the quoted field whose opening quote is at `open`. `ended`: no text follows `text`. `is_row`: whether a line
/// would be a complete row; the caller says it, since splitting a line needs this function.
pub(crate) fn quoted(
    text: &[u8],
    open: usize,
    grammar: &Grammar,
    ended: bool,
    is_row: fn(&Grammar, &[u8]) -> bool,
) -> Quoted {
    let limit = text.len().min(open + LONGEST);
    let undecided =
        || if ended || limit < text.len() || limit == open + LONGEST { Quoted::Broken } else { Quoted::More };
    let line_end = |from: usize| text[from..limit].iter().position(|&b| b == b'\n').map(|n| from + n);
    let byte = match grammar.delimiter {
        Delimiter::Byte(byte) => byte,
        _ => return Quoted::Plain,
    };
    let one_line = grammar.quotes == Quotes::Line;
    let stop = if one_line { line_end(open).unwrap_or(limit) } else { limit };
    let (mut close, mut escaped) = (open + 1, false);
    loop {
        match text[close..stop].iter().position(|&b| b == b'"') {
            None if one_line => return Quoted::Plain,
            None => return undecided(),
            Some(n) => close += n,
        }
        if close + 1 == limit && limit == text.len() && !ended {
            return Quoted::More;
        }
        if close + 1 < stop && text[close + 1] == b'"' {
            (close, escaped) = (close + 2, true);
        } else {
            break;
        }
    }
    let blank = |b: u8| matches!(b, b' ' | b'\t' | b'\r') && b != byte;
    let next = text[close + 1..limit].iter().position(|&b| !blank(b)).map_or(limit, |n| close + 1 + n);
    let first_line = line_end(open).unwrap_or(limit);
    let closes = match text.get(next).filter(|_| next < limit) {
        Some(&b) => b == byte || b == b'\n',
        None if next == text.len() && ended => true,
        None => return undecided(),
    };
    if !closes {
        let splits_one_way = close < first_line && !text[open..close].contains(&byte);
        return if splits_one_way || one_line { Quoted::Plain } else { Quoted::Broken };
    }
    let closed = Quoted::Closed { from: open + 1, to: close, escaped, next };
    if grammar.quotes != Quotes::Auto {
        return closed;
    }
    let mut line = first_line + 1;
    while line <= close {
        let end = match line_end(line) {
            Some(end) => end,
            None if limit == text.len() && !ended && limit < open + LONGEST => return Quoted::More,
            None => limit,
        };
        if is_row(grammar, &text[line..end]) {
            return Quoted::Broken;
        }
        line = end + 1;
    }
    closed
}

/// The quoted word that begins at `open` and ends before `end`, and the position after it. A backslash before a quote
/// keeps it inside, as R writes it.
pub(crate) fn quoted_word(text: &[u8], open: usize, end: usize) -> Option<(Field, usize)> {
    let (mut at, mut escaped) = (open + 1, false);
    while at < end {
        match text[at] {
            b'\\' if text[at + 1..end].first() == Some(&b'"') && text[at + 2..end].contains(&b'"') => at += 2,
            b'"' if text[at + 1..end].first() == Some(&b'"') => (at, escaped) = (at + 2, true),
            b'"' => return Some((Field { start: open + 1, end: at, escaped }, at + 1)),
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::{
        base::rng::{Purpose, Stream},
        data::import::{
            options::ImportOptions,
            rules::Rules,
            sniff::{TextLayout, text_layout},
            source::Source,
            text::read,
        },
    };

    /// User, item and time of the rows, and the lines of the bad ones.
    type Read = (Vec<[String; 3]>, Vec<u64>);

    fn read_in_blocks(layout: &TextLayout, size: usize) -> Read {
        let (send, receive) = sync_channel(256);
        read(layout, &Rules::default(), size, &send).unwrap();
        drop(send);
        let mut all = Read::default();
        for block in receive {
            let block = block.unwrap();
            let key = |at| String::from_utf8(block.key(at).to_vec()).unwrap();
            all.0.extend(block.rows.iter().map(|r| [key(r.user), key(r.item), r.time.to_string()]));
            all.1.extend(block.bad.iter().map(|b| b.line));
            // A block describes only its first bad rows.
            all.1.extend((block.bad.len() as u64..block.bad_rows).map(|_| u64::MAX));
        }
        all
    }

    /// A reference parser for one field at the beginning of `rest`: its value and length in bytes; `None`: broken.
    fn field(rest: &str, delimiter: char, quotes: Quotes, needed: usize) -> Option<(String, usize)> {
        let plain = || {
            let end = rest.find([delimiter, '\n']).unwrap_or(rest.len());
            Some((rest[..end].trim_matches(' ').to_owned(), end))
        };
        let Some(body) = rest.trim_start_matches(' ').strip_prefix('"').filter(|_| quotes != Quotes::None) else {
            return plain();
        };
        let before = rest.len() - body.len();
        let broken = || if quotes == Quotes::Line { plain() } else { None };
        // Replace doubled quotes; the first remaining quote closes the field.
        let aside = body.replace("\"\"", "\u{1}\u{1}");
        let Some(close) = aside.find('"') else { return broken() };
        let (raw, after) = (&aside[..close], &aside[close + 1..]);
        let blanks = after.len() - after.trim_start_matches(' ').len();
        let lines = raw.matches('\n').count();
        if !(after[blanks..].is_empty() || after[blanks..].starts_with([delimiter, '\n'])) {
            return if raw.contains([delimiter, '\n']) { broken() } else { plain() };
        }
        let swallows =
            |line: &str| split(line, delimiter, Quotes::Line, needed).is_some_and(|(row, _)| row.len() >= needed);
        if lines > 0 && quotes == Quotes::Line
            || quotes == Quotes::Auto && rest.split('\n').skip(1).take(lines).any(swallows)
        {
            return broken();
        }
        Some((raw.replace("\u{1}\u{1}", "\""), before + close + 1 + blanks))
    }

    /// The time is the last needed column.
    fn is_good(row: &[String], needed: usize) -> bool {
        row.len() >= needed && !row[0].is_empty() && !row[1].is_empty() && row[needed - 1].parse::<i64>().is_ok()
    }

    /// The fields of the record at the beginning of `rest` and its length; `None`: broken.
    fn split(rest: &str, delimiter: char, quotes: Quotes, needed: usize) -> Option<(Vec<String>, usize)> {
        let (mut row, mut at) = (Vec::new(), 0);
        loop {
            let (value, length) = field(&rest[at..], delimiter, quotes, needed)?;
            row.push(value);
            at += length;
            match rest[at..].chars().next() {
                Some('\n') => return Some((row, at + 1)),
                Some(_) => at += 1,
                None => return Some((row, at)),
            }
        }
    }

    /// A naive reference for the whole file.
    fn by_hand(text: &str, delimiter: char, quotes: Quotes, needed: usize) -> Read {
        let (mut rest, mut line, mut all) = (text, 1, Read::default());
        while !rest.is_empty() {
            let mut length = 0;
            match split(rest, delimiter, quotes, needed) {
                Some((row, end)) => {
                    length = end;
                    if line > 1 && is_good(&row, needed) {
                        all.0.push([&row[0], &row[1], &row[needed - 1]].map(Clone::clone));
                    } else if line > 1 && row != [""] {
                        all.1.push(line);
                    }
                }
                // It ends with the first line whose quote is not closed.
                None => loop {
                    length += rest[length..].find('\n').map_or(rest.len() - length, |n| n + 1);
                    let open = rest[..length].matches('\n').count();
                    if length == rest.len() || split_to(rest, delimiter, quotes, needed) < length {
                        all.1.push(line + open as u64 - u64::from(rest[..length].ends_with('\n')));
                        break;
                    }
                },
            }
            line += rest[..length].matches('\n').count() as u64;
            rest = &rest[length..];
        }
        all
    }

    /// Where the first broken field of a record begins.
    fn split_to(rest: &str, delimiter: char, quotes: Quotes, needed: usize) -> usize {
        let mut at = 0;
        while let Some((_, length)) = field(&rest[at..], delimiter, quotes, needed) {
            at += length + 1;
        }
        at
    }

    #[test]
    fn quotes_mean_the_same_whatever_the_block_size() {
        let texts = [
            "tea",
            "\"\"",
            "\"tea\"",
            "\"tea# cup\"",
            "\"two\nlines\"",
            "\"a#b\nc#d#e\n\"",
            "\"lone",
            "lone\"",
            "5\" disk",
            "\"say \"\"hi\"\"\"",
            "\"Heroes\" live",
            "\"a# b\" c",
            " \"pad\" ",
            "\"",
            "\"\"\"",
            "",
            "\"x\n\n\ny\"",
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut draw = Stream::new(5, Purpose::Test, 0);
        let mut seen = [0; 3];
        let (rounds, sizes): (usize, &[usize]) = match cfg!(miri) {
            true => (1, &[7, 200]),
            false => (240, &[1, 2, 3, 7, 16, 31, 64, 100, 200, 333, 500, 1 << 20]),
        };
        for (round, delimiter) in [',', '\t', ';', '|'].into_iter().cycle().take(rounds).enumerate() {
            // The text comes before the time, or is a last cell that is not needed.
            let needed = if round / 4 % 2 == 0 { 4 } else { 3 };
            // Some files have short rows, wide rows and rows without a time.
            let uneven = round / 8 % 4 == 0;
            let row = |user: &str, i: i32, words: &str, time: &str| {
                if needed == 4 { format!("{user}#i{i}#{words}#{time}") } else { format!("{user}#i{i}#{time}#{words}") }
            };
            let mut text = if needed == 4 { "user#item#text#time\n" } else { "user#item#time#text\n" }.to_owned();
            // The first rows are good, so that the columns can be detected.
            (0..8).for_each(|i| text += &(row(&format!("u{i}"), i, "tea", &format!("{}", 1_700_000_000 + i)) + "\n"));
            for i in 0..25 {
                let odd = draw.below(3) == 0;
                let words = if odd { texts[draw.below(texts.len() as u64) as usize] } else { "cup" };
                let user = if draw.below(12) == 0 { "\"u\"\"9\"".into() } else { format!("u{i}") };
                let time = if uneven && draw.below(12) == 0 { String::new() } else { (1_700_000_000 + i).to_string() };
                let mut line = row(&user, i, words, &time);
                match draw.below(8) {
                    0 if uneven && words == "cup" => line.truncate(line.rfind('#').expect("it has several cells")),
                    1 if uneven => line += "#more",
                    _ => {}
                }
                text += &(line + "\n");
            }
            if round % 2 == 1 {
                text.pop();
            }
            let text = text.replace('#', &delimiter.to_string());
            let path = dir.path().join("log.csv");
            std::fs::write(&path, &text).unwrap();
            for quotes in [Quotes::Auto, Quotes::Csv, Quotes::Line, Quotes::None] {
                let options = ImportOptions { quotes, ..ImportOptions::default() };
                let source = Source::new(&path, dir.path(), "log", &options).unwrap();
                let layout = text_layout(source, &options, None).unwrap().unwrap();
                let expected = by_hand(&text, delimiter, quotes, needed);
                seen[0] += expected.0.len();
                seen[1] += expected.1.len();
                seen[2] += usize::from(expected.1.is_empty());
                for &size in sizes {
                    let mut found = read_in_blocks(&layout, size);
                    found.1.iter_mut().zip(&expected.1).filter(|(f, _)| **f == u64::MAX).for_each(|(f, e)| *f = *e);
                    assert_eq!(found, expected, "{quotes:?}, blocks of {size}:\n{text}");
                }
            }
        }
        assert!(cfg!(miri) || seen.iter().all(|&n| n > 50), "good rows, bad rows and whole files: {seen:?}");
    }
}
