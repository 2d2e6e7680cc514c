/*! Splitting text into records and fields: one pass over the bytes, no allocation a record.

Quotes follow RFC 4180 as spreadsheets write it: a field that begins with `"` runs to the closing `"`, `""` inside
stands for one quote, and line ends inside belong to the field. Only files with a one-byte delimiter have quotes.
*/

use std::{borrow::Cow, fmt};

/// What stands between fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delimiter {
    Byte(u8),
    /// `::`, as in MovieLens `.dat` files.
    DoubleColon,
    /// Any run of spaces and tabs.
    Whitespace,
    /// One JSON object a line; its values are found by their keys.
    Json,
}

impl fmt::Display for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delimiter::Byte(b',') => f.write_str("comma-separated"),
            Delimiter::Byte(b'\t') => f.write_str("tab-separated"),
            Delimiter::Byte(b';') => f.write_str("semicolon-separated"),
            Delimiter::Byte(byte) => write!(f, "separated by '{}'", char::from(*byte)),
            Delimiter::DoubleColon => f.write_str("separated by '::'"),
            Delimiter::Whitespace => f.write_str("separated by spaces"),
            Delimiter::Json => f.write_str("JSON lines"),
        }
    }
}

/// One field of a record: `text[start..end]`, without the quotes around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub start: usize,
    pub end: usize,
    /// Holds `""`, which stands for one quote.
    pub escaped: bool,
}

impl Field {
    pub fn bytes<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let raw = &text[self.start..self.end];
        if !self.escaped {
            return Cow::Borrowed(raw);
        }
        let mut plain = Vec::with_capacity(raw.len());
        let mut bytes = raw.iter();
        while let Some(&byte) = bytes.next() {
            plain.push(byte);
            if byte == b'"' && bytes.as_slice().first() == Some(&b'"') {
                bytes.next();
            }
        }
        Cow::Owned(plain)
    }
}

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At a line end.
    Line,
    /// The text ended first.
    Text,
    /// The text ended inside quotes.
    OpenQuote,
}

/// Splits the record at `pos`: its fields, trimmed of blanks around them, go to `fields` (at most `most` of them; the
/// rest of the record is skipped). Gives the position after the record and how it ended. `quotes`: whether the text
/// holds any quote at all; without, the rest of a line is skipped faster.
pub(crate) fn record(
    text: &[u8],
    pos: usize,
    delimiter: Delimiter,
    quotes: bool,
    most: usize,
    fields: &mut Vec<Field>,
) -> (usize, End) {
    fields.clear();
    match delimiter {
        Delimiter::Byte(byte) => separated(text, pos, byte, quotes, most, fields),
        Delimiter::DoubleColon | Delimiter::Whitespace | Delimiter::Json => {
            let line = text[pos..].iter().position(|&b| b == b'\n');
            let (end, next) = line.map_or((text.len(), text.len()), |n| (pos + n, pos + n + 1));
            match delimiter {
                Delimiter::Whitespace => words(text, pos, end, fields),
                Delimiter::Json => push(text, pos, end, fields),
                _ => colons(text, pos, end, fields),
            }
            (next, if line.is_some() { End::Line } else { End::Text })
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

fn separated(
    text: &[u8],
    mut pos: usize,
    byte: u8,
    quotes: bool,
    most: usize,
    fields: &mut Vec<Field>,
) -> (usize, End) {
    loop {
        let start = pos;
        if quotes && text.get(pos) == Some(&b'"') {
            // To the closing quote.
            let mut escaped = false;
            pos += 1;
            loop {
                match text.get(pos) {
                    None => {
                        fields.push(Field { start: start + 1, end: pos, escaped });
                        return (pos, End::OpenQuote);
                    }
                    Some(b'"') if text.get(pos + 1) == Some(&b'"') => (escaped, pos) = (true, pos + 2),
                    Some(b'"') => break,
                    Some(_) => pos += 1,
                }
            }
            let pushed = fields.len() < most;
            if pushed {
                fields.push(Field { start: start + 1, end: pos, escaped });
            }
            pos += 1;
            let closed = pos;
            while pos < text.len() && text[pos] != byte && text[pos] != b'\n' {
                pos += 1;
            }
            // Blanks after the closing quote mean nothing. Anything else does: the field is then taken as it stands,
            // quotes and all, so that no two keys become one by a dropped end.
            let rest = text[closed..pos].trim_ascii_end();
            if pushed && !rest.is_empty() {
                let last = fields.len() - 1;
                fields[last] = Field { start, end: closed + rest.len(), escaped: false };
            }
        } else {
            while pos < text.len() && text[pos] != byte && text[pos] != b'\n' {
                pos += 1;
            }
            if fields.len() < most {
                push(text, start, pos, fields);
            }
        }
        match text.get(pos) {
            None => return (pos, End::Text),
            Some(b'\n') => return (pos + 1, End::Line),
            Some(_) => pos += 1,
        }
        if fields.len() == most && !quotes {
            return match text[pos..].iter().position(|&b| b == b'\n') {
                Some(n) => (pos + n + 1, End::Line),
                None => (text.len(), End::Text),
            };
        }
    }
}

fn colons(text: &[u8], pos: usize, end: usize, fields: &mut Vec<Field>) {
    let (mut start, mut at) = (pos, pos);
    while at + 1 < end {
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

fn words(text: &[u8], pos: usize, end: usize, fields: &mut Vec<Field>) {
    let mut at = pos;
    while at < end {
        while at < end && text[at].is_ascii_whitespace() {
            at += 1;
        }
        let start = at;
        while at < end && !text[at].is_ascii_whitespace() {
            at += 1;
        }
        if start < at {
            fields.push(Field { start, end: at, escaped: false });
        }
    }
}

/// Where the last whole record of a text ends; `None` when it holds none.
pub(crate) fn last_record_end(text: &[u8], delimiter: Delimiter) -> Option<usize> {
    if !matches!(delimiter, Delimiter::Byte(_)) || !text.contains(&b'"') {
        return text.iter().rposition(|&b| b == b'\n').map(|at| at + 1);
    }
    let (mut pos, mut last, mut fields) = (0, None, Vec::new());
    while pos < text.len() {
        let (next, end) = record(text, pos, delimiter, true, usize::MAX, &mut fields);
        if end == End::Line {
            last = Some(next);
        }
        pos = next;
    }
    last
}

/// Splits a whole text into records of text cells; blank lines are left out. For samples and small files.
pub(crate) fn cells(text: &[u8], delimiter: Delimiter) -> Vec<Vec<Cow<'_, [u8]>>> {
    let (mut pos, mut fields, mut rows) = (0, Vec::new(), Vec::new());
    while pos < text.len() {
        let (next, _) = record(text, pos, delimiter, true, usize::MAX, &mut fields);
        if !is_blank(&fields) {
            rows.push(fields.iter().map(|f| f.bytes(text)).collect());
        }
        pos = next;
    }
    rows
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
        let rows = cells(text.as_bytes(), delimiter);
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
    fn a_quote_inside_a_field_is_an_ordinary_character() {
        assert_eq!(split("5\" disk\t7\n8\t9\n", Delimiter::Byte(b'\t')), [["5\" disk", "7"], ["8", "9"]]);
    }

    #[test]
    fn records_are_cut_at_line_ends_outside_quotes() {
        let comma = Delimiter::Byte(b',');
        assert_eq!(last_record_end(b"a,b\nc,\"d\ne", comma), Some(4));
        assert_eq!(last_record_end(b"a,\"b\nc\"\nd", comma), Some(8));
        assert_eq!(last_record_end(b"a,b", comma), None);
        assert_eq!(last_record_end(b"a,b\nc", comma), Some(4));
    }

    #[test]
    fn fields_past_those_needed_are_skipped_quotes_and_all() {
        let text = b"1,2,\"a\nb\",4\n5,6";
        let mut fields = Vec::new();
        let (next, end) = record(text, 0, Delimiter::Byte(b','), true, 2, &mut fields);
        assert_eq!((next, end, fields.len()), (12, End::Line, 2));
        let (next, end) = record(text, 12, Delimiter::Byte(b','), true, 2, &mut fields);
        assert_eq!((next, end, fields.len()), (text.len(), End::Text, 2));
    }
}
