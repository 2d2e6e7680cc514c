//! A block: what a piece of a log becomes, whatever its format.

use super::{bad_rows::BadRow, filter::Tally, moments::Times, rows::EventRow, time::TimeKind};

/// A piece of a log, parsed.
#[derive(Default)]
pub(crate) struct Block {
    /// The text that `EventRow` keys point into.
    pub text: Vec<u8>,
    pub rows: Vec<EventRow>,
    /// The first few bad rows of the piece.
    pub bad: Vec<BadRow>,
    pub bad_rows: u64,
    /// Rows left out by `--min-rating`.
    pub below_rating: u64,
    /// What `--where` counted and dropped.
    pub tally: Tally,
    /// Rows dropped because a key is missing.
    pub missing: u64,
    /// Rows with more fields than the file has columns, and the line of the first.
    pub wide: u64,
    pub first_wide: u64,
    /// Rows that repeat the header, and the line of the first.
    pub headers: u64,
    pub first_header: u64,
    /// Rows with an unbalanced quote in a key, and the first such key with its line.
    pub lone_quotes: u64,
    /// Whether to look for such keys: the text has quotes, and they may enclose fields.
    pub look_for_quotes: bool,
    pub first_lone: Option<(String, u64)>,
    /// Rows whose time has a fraction, and the fraction.
    pub fractions: Vec<(u32, u64)>,
    pub times: Times,
    /// Decimals of the rows' times.
    pub decimals: u8,
}

/// Number of bad rows of a block that are described; the rest are only counted.
const BAD_SHOWN: usize = 5;

impl Block {
    #[cold]
    pub fn reject(&mut self, line: u64, column: impl Into<String>, reason: impl Into<String>) {
        self.bad_rows += 1;
        if self.bad.len() < BAD_SHOWN {
            self.bad.push(BadRow { line, column: column.into(), reason: reason.into() });
        }
    }

    /// Adds a row whose time is whole units, and the fraction of its time.
    #[inline]
    pub fn push(&mut self, row: EventRow, fraction: u64) {
        if fraction > 0 {
            self.fractions.push((self.rows.len() as u32, fraction));
        }
        self.rows.push(row);
    }

    /// Call after the last row: gives the rows' times as many decimals as they need.
    pub fn close(&mut self, kind: Option<TimeKind>) {
        if let Some(kind) = kind {
            (self.times, self.decimals) = Times::of_block(&mut self.rows, &self.fractions, kind);
        }
        self.fractions = Vec::new();
    }

    pub fn key(&self, at: (u32, u32)) -> &[u8] {
        &self.text[at.0 as usize..(at.0 + at.1) as usize]
    }
}
