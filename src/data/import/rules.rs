//! Rules for bad rows, dropped rows and keys.

use super::{
    columns::Columns,
    keys::{Missing, is_missing},
    options::ImportOptions,
    ratings::RatingRule,
    time::{Moment, TimeKind, parse_moment, parse_number},
};
use crate::{
    base::{Error, Result},
    data::whole_number,
};

/// The rules for the rows of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub rating: RatingRule,
    /// The earliest and the latest valid time.
    times: Option<[Moment; 2]>,
    missing: Option<Missing>,
    whole_keys: bool,
}

impl Rules {
    /// # Errors
    /// An invalid time range.
    pub fn of(options: &ImportOptions, columns: &Columns, kind: Option<TimeKind>) -> Result<Rules> {
        let rating = RatingRule { least: options.min_rating, range: options.rating_range, words: columns.words };
        let times = match (&options.time_range, kind) {
            (Some([from, to]), Some(kind)) => Some([end(from, kind)?, end(to, kind)?]),
            _ => None,
        };
        Ok(Rules { rating, times, missing: options.missing, whole_keys: options.whole_keys })
    }

    /// Whether a time is outside --time-range.
    #[inline]
    pub fn refuses(&self, time: Moment) -> bool {
        self.times.is_some_and(|[from, to]| time < from || time > to)
    }

    /// Whether a row with this key is dropped as missing.
    #[inline]
    pub fn misses(&self, key: &[u8]) -> bool {
        self.missing == Some(Missing::Drop) && (key.is_empty() || is_missing(key))
    }

    /// Length of the part of a key that is kept, in bytes.
    #[inline]
    pub fn length(&self, key: &[u8]) -> usize {
        let whole = if self.whole_keys { whole_number(key) } else { None };
        whole.unwrap_or(key).len()
    }
}

/// Parses one end of a time range: a number in the file's unit, or a date.
fn end(text: &str, kind: TimeKind) -> Result<Moment> {
    let text = text.trim();
    let per_second = match kind.unit() {
        "s" => Some(1),
        "ms" => Some(1_000),
        "us" => Some(1_000_000),
        "ns" => Some(1_000_000_000),
        _ => None,
    };
    let date = || parse_moment(text.as_bytes()).zip(per_second);
    let scaled = |(m, factor): (Moment, i64)| Some(Moment { whole: m.whole.checked_mul(factor)?, fraction: 0 });
    parse_number(text.as_bytes()).or_else(|| scaled(date()?)).ok_or_else(|| {
        Error::user(format!("--time-range: '{text}' is not a time")).hint(
            "write two numbers in the unit of the log's times, or two dates where that unit is known: \
             --time-range 2000-01-01,2030-01-01",
        )
    })
}
