/*! Where a quoted field ends.

A field that begins with `"` (blanks before it do not count) is quoted when its closing quote is followed by a delimiter or
a line end, blanks apart. `""` inside stands for one quote. Three cases need a rule of their own:

- **Text follows the closing quote** (`"Heroes" live`). On one line and without a delimiter between the quotes there is only
  one way to split the line, and the quotes are ordinary characters. Otherwise the row is broken.
- **The field goes on over a line end.** It may be a text with line breaks, or a lone quote that would swallow all rows up to
  the next one. It is broken when one of the further lines it touches is a row by itself: it has as many fields as the
  file, its keys are not empty, its time is a time and its rating a number.
- **No closing quote within [`LONGEST`] bytes**: broken.

A broken row ends at the end of the line where its quote opened, so that one line is lost at most. What is decided depends
on the bytes from the quote on, never on where the text was cut into blocks.
*/

use serde::Serialize;

use super::records::{Delimiter, Grammar};

/// What quotes mean in delimited text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quotes {
    /// They enclose fields; where it is not clear which text they enclose, the row is bad
    #[default]
    Auto,
    /// They enclose fields, and line breaks inside belong to the field whatever the lines look like
    Csv,
    /// They enclose fields that end on their line; all others are ordinary characters
    Line,
    /// They are ordinary characters
    None,
}

/// The longest quoted field, in bytes.
pub(crate) const LONGEST: usize = 1 << 20;

/// What the quote at the beginning of a field means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Quoted {
    /// It encloses `text[from..to]`; the field's delimiter, line end or end of text is at `next`.
    Closed { from: usize, to: usize, escaped: bool, next: usize },
    /// An ordinary character.
    Plain,
    /// It cannot be known which text is meant.
    Broken,
    /// More text is needed to decide.
    More,
}

/// Reads the quoted field whose opening quote is at `open`. `ended`: no text follows `text`.
pub(crate) fn quoted(text: &[u8], open: usize, grammar: &Grammar, ended: bool) -> Quoted {
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
        if grammar.is_row(&text[line..end]) {
            return Quoted::Broken;
        }
        line = end + 1;
    }
    closed
}
