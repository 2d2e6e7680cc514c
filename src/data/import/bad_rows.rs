//! Rows that cannot be used: the reasons, and how to fix or skip such rows.

use std::borrow::Cow;

use super::{
    grammar::{Delimiter, Quotes},
    messages::{flattening, shown},
};

/// The reason for a broken quote.
pub(crate) const BROKEN_QUOTE: &str =
    "a quote is opened and never closed before a delimiter or line end, or only after other rows";

/// The beginning of the reason if a JSON object lacks a key.
pub(crate) const NO_KEY: &str = "the object has no";

/// Why a list of objects is rejected.
pub(crate) const LIST_OF_OBJECTS: &str = "the list holds objects, not keys";

/// The reason for a key that is not UTF-8.
pub(crate) const NOT_UTF8: &str = "not UTF-8 text; if the file is Latin-1, --encoding latin1 reads it";

/// The reason for a cell that is not a number.
pub(crate) const BAD_RATING: &str = "is not a rating (a number)";

/// The beginning of the reason for a missing rating.
pub(crate) const NO_RATING: &str = "the rating is empty";

/// The reason for a number written as 3,5.
pub(crate) const DECIMAL_COMMA: &str = "has a decimal comma; numbers are read with a decimal point";

const NO_TIME: &str = "the time is empty";
const BAD_TIME: &str = "is not a time (a number, or a date like 2015-03-09 18:30:00)";

/// A row that cannot be used, and the reason.
#[derive(Clone, Debug)]
pub(crate) struct BadRow {
    /// Line of a text file or row of a Parquet file, from 1.
    pub line: u64,
    /// The column for messages; empty if the whole row is meant.
    pub column: String,
    pub reason: String,
}

impl BadRow {
    /// Whether the time is the reason.
    pub fn of_time(&self) -> bool {
        self.reason == NO_TIME || self.reason.ends_with(BAD_TIME)
    }

    /// How to fix or skip such a row. `file`: its name, quoted for a shell; `delimiter`: the separator of its columns,
    /// for a text file.
    pub fn hint(&self, file: &str, delimiter: Option<Delimiter>, quotes: Quotes) -> Cow<'static, str> {
        if self.reason == LIST_OF_OBJECTS {
            let key = self.column.trim_matches('\'');
            return format!("write one line for each object: {}", flattening(key)).into();
        }
        if self.reason.ends_with(DECIMAL_COMMA) {
            // If commas separate columns, sed cannot tell them from decimal commas; a CSV reader can.
            let sed = match delimiter {
                None | Some(Delimiter::Json) => String::new(),
                Some(Delimiter::Byte(b',')) => String::new(),
                Some(_) => format!(
                    "sed -E 's/([0-9]),([0-9])/\\1.\\2/g' {file} | mipgpu import - --out DIR (this changes all \
                     columns), or "
                ),
            };
            return format!(
                "convert the numbers first: {sed}in pandas read_csv(..., decimal=',') and then to_csv; --skip-bad \
                 leaves all such rows out"
            )
            .into();
        }
        if self.reason.ends_with(NOT_UTF8) {
            return format!(
                "read the file with --encoding latin1, or with --encoding windows-1252 if it comes from Western \
                 European Windows; convert other encodings first: iconv -f WINDOWS-1251 -t UTF-8 {file} | mipgpu \
                 import - --out DIR; --skip-bad leaves all such rows out"
            )
            .into();
        }
        let hint = if self.reason == BROKEN_QUOTE {
            quotes_hint(quotes)
        } else if self.reason.starts_with(NO_KEY) {
            "correct the row, or leave such rows out with --skip-bad; --missing drop leaves out rows without a user or \
             an item"
        } else if self.reason.starts_with(NO_RATING) {
            "keep such rows as events without ratings with --rating-col none (this leaves out all ratings), or leave \
             the rows out with --skip-bad"
        } else if self.reason.ends_with(BAD_RATING) {
            "leave such rows out with --skip-bad, or keep them as events without ratings: --rating-col none"
        } else if ["the user is empty", "the item is empty"].contains(&self.reason.as_str()) {
            "correct the row, or leave rows without a user or an item out with --missing drop, all bad rows with \
             --skip-bad"
        } else {
            "correct the row, or leave such rows out with --skip-bad"
        };
        hint.into()
    }
}

/// The hint for a broken quote. `csv` is suggested last because a closing quote on a later line would merge all rows up
/// to it into one field; it is not suggested if it is already set.
pub(crate) fn quotes_hint(quotes: Quotes) -> &'static str {
    if quotes == Quotes::Csv {
        return "say what quotes mean: --quotes line (a quoted text ends on its line, all other quotes are ordinary \
                characters) or --quotes none (all are ordinary characters); or leave such rows out with --skip-bad";
    }
    "say what quotes mean: --quotes line (a quoted text ends on its line, all other quotes are ordinary characters) or \
     --quotes none (all are ordinary characters); or leave such rows out with --skip-bad; only if the quoted text \
     really holds lines that look like rows: --quotes csv, which reads everything up to the next quote as one field"
}

#[cold]
pub(crate) fn bad_time(cell: &[u8]) -> String {
    if cell.is_empty() {
        return NO_TIME.into();
    }
    if has_decimal_comma(cell) {
        return format!("the time '{}' {DECIMAL_COMMA}", shown(cell));
    }
    format!("'{}' {BAD_TIME}", shown(cell))
}

/// The reason for a time outside --time-range.
#[cold]
pub(crate) fn outside(cell: &[u8]) -> String {
    format!("time '{}' is outside --time-range", shown(cell))
}

/// Whether a cell is a number with a decimal comma.
pub(crate) fn has_decimal_comma(cell: &[u8]) -> bool {
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let cell = cell.strip_prefix(b"-").unwrap_or(cell);
    cell.iter().position(|&b| b == b',').is_some_and(|at| digits(&cell[..at]) && digits(&cell[at + 1..]))
}
