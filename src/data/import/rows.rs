//! Rows: as they are parsed, and as they lie in a spill.

use std::hash::{DefaultHasher, Hasher};

use crate::data::write::Has;

/// One parsed row; keys are (start, length) in the block's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRow {
    pub user: (u32, u32),
    pub item: (u32, u32),
    pub user_hash: u64,
    pub item_hash: u64,
    pub time: i64,
    pub rating: f32,
    /// The [`basket_label`] of the basket's cell; 0 without one.
    pub basket: u64,
}

/// The label of a basket: a 64-bit SipHash of its text, which only has to differ from the other labels of the same
/// user. Two of a user's 10,000 baskets get the same label with a probability below 10^-11; a table of all texts would
/// take more memory than all users and items.
pub(crate) fn basket_label(cell: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write(cell);
    hash.finish()
}

/// The layout of a row in a spill: user u32, item u32, then time i64, basket u64 (a label), rating f32 if the log has
/// them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCodec(pub Has);

impl RowCodec {
    pub fn width(self) -> usize {
        8 + 8 * usize::from(self.0.times) + 8 * usize::from(self.0.baskets) + 4 * usize::from(self.0.ratings)
    }

    #[inline]
    pub fn encode(self, user: u32, item: u32, time: i64, rating: f32, basket: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&(user as u64 | (item as u64) << 32).to_le_bytes());
        if self.0.times {
            out.extend_from_slice(&time.to_le_bytes());
        }
        if self.0.baskets {
            out.extend_from_slice(&basket.to_le_bytes());
        }
        if self.0.ratings {
            out.extend_from_slice(&rating.to_le_bytes());
        }
    }

    /// Changes the time of a row.
    pub fn map_time(self, row: &mut [u8], f: impl Fn(i64) -> i64) {
        if self.0.times {
            let time = i64::from_le_bytes(row[8..16].try_into().expect("eight bytes"));
            row[8..16].copy_from_slice(&f(time).to_le_bytes());
        }
    }

    /// User, item, time, rating and basket of a row; 0 for what the log does not have.
    #[inline]
    pub fn decode(self, row: &[u8]) -> (u32, u32, i64, f32, u64) {
        let word = |at: usize| u32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
        let wide = |at: usize| word(at) as u64 | (word(at + 4) as u64) << 32;
        let time = if self.0.times { wide(8) } else { 0 };
        let basket = if self.0.baskets { wide(if self.0.times { 16 } else { 8 }) } else { 0 };
        let rating = if self.0.ratings { f32::from_bits(word(self.width() - 4)) } else { 0.0 };
        (word(0), word(4), time as i64, rating, basket)
    }
}
