//! How a text file is split into records and fields: the separator, the meaning of quotes, the width of its rows.

use std::{borrow::Cow, fmt};

use serde::Serialize;

/// The separator of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delimiter {
    Byte(u8),
    /// `::`, as in MovieLens `.dat` files.
    DoubleColon,
    /// Any run of spaces and tabs.
    Whitespace,
    /// One JSON object per line; values are found by key.
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

/// One field of a record: `text[start..end]`, without the quotes around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub start: usize,
    pub end: usize,
    /// Contains `""`, which stands for one quote.
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

/// How a file is split, and what its rows look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grammar {
    pub delimiter: Delimiter,
    pub quotes: Quotes,
    /// Fields of a row; 0: unknown.
    pub width: usize,
    /// The fewest fields with which the importer reads a line as a row, whatever its cells contain; 0: unknown.
    pub needed: usize,
}

impl Grammar {
    /// A table with only the delimiter known.
    pub fn of(delimiter: Delimiter, quotes: Quotes) -> Grammar {
        Grammar { delimiter, quotes, width: 0, needed: 0 }
    }

    /// Whether quotes can join lines of `text`.
    pub fn has_quotes(&self, text: &[u8]) -> bool {
        self.quotes != Quotes::None && matches!(self.delimiter, Delimiter::Byte(_)) && text.contains(&b'"')
    }
}
