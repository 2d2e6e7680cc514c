/*! Splits text into records and fields in one pass over the bytes, without an allocation per record. `quotes.rs`
defines the meaning of quotes. Line ends are LF or CRLF here; `decode.rs` converts lone CRs to LF.
*/

use std::borrow::Cow;

use super::{
    grammar::{Delimiter, Field, Grammar, Quotes},
    quotes::{Quoted, quoted, quoted_word},
};

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At a line end.
    Line,
    /// The text ended first.
    Text,
    /// It has a quote whose extent is ambiguous; it ends with the line of that quote.
    Broken,
    /// More text is needed to know where it ends.
    More,
}

/// The result of splitting a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    /// Where the next record begins.
    pub next: usize,
    pub end: End,
    /// Number of fields of the record, including those beyond `most`.
    pub count: usize,
}

/// Whether a line is a complete row: a good one, or one that is bad because of a cell. A line with too few or too many
/// cells counts if it has the needed ones, as it does outside of quotes.
fn is_row(grammar: &Grammar, line: &[u8]) -> bool {
    let mut fields = Vec::new();
    let plain = Grammar { quotes: Quotes::Line, ..*grammar };
    let split = record(line, 0, &plain, true, usize::MAX, true, &mut fields);
    split.end != End::Broken && grammar.needed > 0 && fields.len() >= grammar.needed
}

/// Splits the record at `pos`. Its fields, trimmed of blanks, go to `fields` (at most `most` of them; the rest of the
/// record is skipped). `quotes`: whether the text has quotes that matter; without, the rest of a line is skipped
/// faster. `ended`: the text is not truncated at its end.
pub(crate) fn record(
    text: &[u8],
    pos: usize,
    grammar: &Grammar,
    quotes: bool,
    most: usize,
    ended: bool,
    fields: &mut Vec<Field>,
) -> Split {
    fields.clear();
    match grammar.delimiter {
        Delimiter::Byte(byte) if quotes => with_quotes(text, pos, byte, grammar, most, ended, fields),
        Delimiter::Byte(byte) => separated(text, pos, byte, most, fields),
        Delimiter::DoubleColon | Delimiter::Whitespace | Delimiter::Json => {
            let line = text[pos..].iter().position(|&b| b == b'\n');
            let (end, next) = line.map_or((text.len(), text.len()), |n| (pos + n, pos + n + 1));
            match grammar.delimiter {
                Delimiter::Whitespace => words(text, pos, end, grammar.quotes != Quotes::None, fields),
                Delimiter::Json => push(text, pos, end, fields),
                _ => colons(text, pos, end, grammar.quotes != Quotes::None, fields),
            }
            Split { next, end: if line.is_some() { End::Line } else { End::Text }, count: fields.len() }
        }
    }
}

#[inline]
fn push(text: &[u8], mut start: usize, mut end: usize, fields: &mut Vec<Field>) {
    while start < end && matches!(text[start], b' ' | b'\t' | b'\r') {
        start += 1;
    }
    while start < end && matches!(text[end - 1], b' ' | b'\t' | b'\r') {
        end -= 1;
    }
    fields.push(Field { start, end, escaped: false });
}

fn separated(text: &[u8], mut pos: usize, byte: u8, most: usize, fields: &mut Vec<Field>) -> Split {
    loop {
        let start = pos;
        while pos < text.len() && text[pos] != byte && text[pos] != b'\n' {
            pos += 1;
        }
        push(text, start, pos, fields);
        match text.get(pos) {
            None => return Split { next: pos, end: End::Text, count: fields.len() },
            Some(b'\n') => return Split { next: pos + 1, end: End::Line, count: fields.len() },
            Some(_) => pos += 1,
        }
        if fields.len() == most {
            let line = text[pos..].iter().position(|&b| b == b'\n');
            let rest = &text[pos..line.map_or(text.len(), |n| pos + n)];
            let count = most + 1 + rest.iter().filter(|&&b| b == byte).count();
            return match line {
                Some(n) => Split { next: pos + n + 1, end: End::Line, count },
                None => Split { next: text.len(), end: End::Text, count },
            };
        }
    }
}

fn with_quotes(
    text: &[u8],
    mut pos: usize,
    byte: u8,
    grammar: &Grammar,
    most: usize,
    ended: bool,
    fields: &mut Vec<Field>,
) -> Split {
    let mut count = 0;
    loop {
        let start = pos;
        let blank = |b: &u8| matches!(b, b' ' | b'\t') && *b != byte;
        let open = start + text[start..].iter().take_while(|b| blank(b)).count();
        let meaning = match text.get(open) {
            Some(b'"') => quoted(text, open, grammar, ended, is_row),
            _ => Quoted::Plain,
        };
        count += 1;
        match meaning {
            Quoted::Closed { from, to, escaped, next } => {
                if fields.len() < most {
                    fields.push(Field { start: from, end: to, escaped });
                }
                pos = next;
            }
            Quoted::Plain => {
                while pos < text.len() && text[pos] != byte && text[pos] != b'\n' {
                    pos += 1;
                }
                if fields.len() < most {
                    push(text, start, pos, fields);
                }
            }
            Quoted::Broken => {
                return match text[open..].iter().position(|&b| b == b'\n') {
                    Some(n) => Split { next: open + n + 1, end: End::Broken, count },
                    None if ended => Split { next: text.len(), end: End::Broken, count },
                    None => Split { next: text.len(), end: End::More, count },
                };
            }
            Quoted::More => return Split { next: text.len(), end: End::More, count },
        }
        match text.get(pos) {
            None => return Split { next: pos, end: End::Text, count },
            Some(b'\n') => return Split { next: pos + 1, end: End::Line, count },
            Some(_) => pos += 1,
        }
    }
}

fn colons(text: &[u8], pos: usize, end: usize, quotes: bool, fields: &mut Vec<Field>) {
    let (mut start, mut at) = (pos, pos);
    while at + 1 < end {
        if quotes
            && text[at] == b'"'
            && text[start..at].trim_ascii().is_empty()
            && let Some((field, next)) = quoted_word(text, at, end)
        {
            let rest = text[next..end].trim_ascii_start();
            if rest.is_empty() || rest.starts_with(b"::") {
                fields.push(field);
                if rest.is_empty() {
                    return;
                }
                at = end - rest.len() + 2;
                start = at;
                continue;
            }
        }
        if text[at] == b':' && text[at + 1] == b':' {
            push(text, start, at, fields);
            at += 2;
            start = at;
        } else {
            at += 1;
        }
    }
    push(text, start, end, fields);
}

fn words(text: &[u8], pos: usize, end: usize, quotes: bool, fields: &mut Vec<Field>) {
    let mut at = pos;
    while at < end {
        while at < end && text[at].is_ascii_whitespace() {
            at += 1;
        }
        let start = at;
        if quotes
            && at < end
            && text[at] == b'"'
            && let Some((field, next)) = quoted_word(text, at, end)
            && (next == end || text[next].is_ascii_whitespace())
        {
            fields.push(field);
            at = next;
            continue;
        }
        while at < end && !text[at].is_ascii_whitespace() {
            at += 1;
        }
        if start < at {
            fields.push(Field { start, end: at, escaped: false });
        }
    }
}

/// The end of the last complete record of a truncated text; `None` if there is none.
pub(crate) fn last_record_end(text: &[u8], grammar: &Grammar) -> Option<usize> {
    if !grammar.has_quotes(text) {
        return text.iter().rposition(|&b| b == b'\n').map(|at| at + 1);
    }
    let (mut pos, mut last, mut fields) = (0, None, Vec::new());
    while pos < text.len() {
        let split = record(text, pos, grammar, true, 0, false, &mut fields);
        match split.end {
            End::Line | End::Broken => last = Some(split.next),
            End::Text | End::More => break,
        }
        pos = split.next;
    }
    last
}

/// An incomplete record of a sample that is longer than this is split as it is.
const LONG: usize = 32 << 10;

/// A text split into records and cells.
#[derive(Default)]
pub(crate) struct Cells<'a> {
    /// All rows except blank lines and broken rows.
    pub rows: Vec<Vec<Cow<'a, [u8]>>>,
    /// Line numbers of broken rows, from 1.
    pub broken: Vec<usize>,
}

/// Splits a whole text, for samples and small files. A truncated text (`ended` is false) loses its last record if the
/// record's end is unknown. The first record defines the width.
pub(crate) fn cells(text: &[u8], delimiter: Delimiter, quotes: Quotes, ended: bool) -> Cells<'_> {
    let mut grammar = Grammar::of(delimiter, quotes);
    let has_quotes = grammar.has_quotes(text);
    let (mut pos, mut fields, mut cells, mut line) = (0, Vec::new(), Cells::default(), 1);
    while pos < text.len() {
        let mut split = record(text, pos, &grammar, has_quotes, usize::MAX, ended, &mut fields);
        if grammar.width == 0 && text[pos..split.next].iter().filter(|&&b| b == b'\n').count() > 1 {
            // The first record spans several lines: check whether they are rows of its own width.
            let known = Grammar { width: split.count, needed: split.count, ..grammar };
            split = record(text, pos, &known, has_quotes, usize::MAX, ended, &mut fields);
        }
        if split.end == End::More && text.len() - pos > LONG {
            // Probably a stray quote: the following text still shows the format of the file.
            split = record(text, pos, &grammar, has_quotes, usize::MAX, true, &mut fields);
        }
        match split.end {
            End::More => break,
            End::Broken => cells.broken.push(line),
            End::Line | End::Text => {
                if !is_blank(&fields) {
                    cells.rows.push(fields.iter().map(|f| f.bytes(text)).collect());
                    if grammar.width == 0 {
                        (grammar.width, grammar.needed) = (fields.len(), fields.len());
                    }
                }
            }
        }
        line += text[pos..split.next].iter().filter(|&&b| b == b'\n').count();
        pos = split.next;
    }
    cells
}

/// Whether a record is a blank line.
#[inline]
pub(crate) fn is_blank(fields: &[Field]) -> bool {
    match fields {
        [] => true,
        [only] => only.start == only.end,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, delimiter: Delimiter) -> Vec<Vec<String>> {
        let rows = cells(text.as_bytes(), delimiter, Quotes::Auto, true).rows;
        rows.iter().map(|r| r.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect()).collect()
    }

    #[test]
    fn comma_files_split_as_the_csv_crate_splits_them() {
        let text = "a,b,c\r\n1,\"x, y\",3\n\"say \"\"hi\"\"\",\"two\nlines\",\n,,\nlast,line,cut";
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        let theirs: Vec<Vec<String>> =
            reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(split(text, Delimiter::Byte(b',')), theirs);
    }

    #[test]
    fn colons_and_blanks() {
        assert_eq!(
            split("1::Heat (1995)::A|B\n\n2:: x : y ::C\n", Delimiter::DoubleColon),
            [["1", "Heat (1995)", "A|B"], ["2", "x : y", "C"]]
        );
        assert_eq!(split("  1   2\t3 \r\n4 5 6", Delimiter::Whitespace), [["1", "2", "3"], ["4", "5", "6"]]);
    }

    #[test]
    fn quoted_words_between_colons_and_blanks() {
        let blanks = "\"u1\" \"Blue item\"  5\n\"a\"\"b\" \"lone 12\"\n\"x\"y \"\" \"5\\\" disk\"\n";
        assert_eq!(
            split(blanks, Delimiter::Whitespace),
            [vec!["u1", "Blue item", "5"], vec!["a\"b", "lone 12"], vec!["\"x\"y", "", "5\\\" disk"]]
        );
        let colons = "\"u1\"::\"a::b\" ::5\n1::\"Great\" Cats::\"x\"\n\"lone::2::3\n";
        assert_eq!(
            split(colons, Delimiter::DoubleColon),
            [vec!["u1", "a::b", "5"], vec!["1", "\"Great\" Cats", "x"], vec!["\"lone", "2", "3"]]
        );
        let plain = cells(b"\"u1\" 5\n", Delimiter::Whitespace, Quotes::None, true).rows;
        assert_eq!(plain[0][0].as_ref(), b"\"u1\"");
    }

    #[test]
    fn a_quote_inside_a_field_is_an_ordinary_character() {
        assert_eq!(split("5\" disk\t7\n8\t9\n", Delimiter::Byte(b'\t')), [["5\" disk", "7"], ["8", "9"]]);
    }

    #[test]
    fn records_are_cut_at_line_ends_outside_quotes() {
        let comma = &Grammar::of(Delimiter::Byte(b','), Quotes::Auto);
        assert_eq!(last_record_end(b"a,b\nc,\"d\ne", comma), Some(4));
        assert_eq!(last_record_end(b"a,\"b\nc\"\nd", comma), Some(8));
        assert_eq!(last_record_end(b"a,b", comma), None);
        assert_eq!(last_record_end(b"a,b\nc", comma), Some(4));
    }

    #[test]
    fn fields_past_those_needed_are_skipped_quotes_and_all() {
        let text = b"1,2,\"a\nb\",4\n5,6";
        let mut fields = Vec::new();
        let comma = Grammar::of(Delimiter::Byte(b','), Quotes::Auto);
        let split = record(text, 0, &comma, true, 2, true, &mut fields);
        assert_eq!((split.next, split.end, fields.len(), split.count), (12, End::Line, 2, 4));
        let split = record(text, 12, &comma, true, 2, true, &mut fields);
        assert_eq!((split.next, split.end, fields.len(), split.count), (text.len(), End::Text, 2, 2));
    }
}
