//! Parses and checks ratings, and detects a few ratings so much larger than all others that they are probably mistakes.

use super::{
    bad_rows::{BAD_RATING, DECIMAL_COMMA, NO_RATING, has_decimal_comma},
    keys::is_missing,
    messages::shown,
};

#[cold]
fn no_rating(cell: &str) -> String {
    match cell {
        "" => NO_RATING.into(),
        word if is_missing(word.as_bytes()) => format!("{NO_RATING} ('{word}')"),
        other => format!("'{other}' {BAD_RATING}"),
    }
}

/// Which ratings are valid and kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RatingRule {
    /// Rows rated below this are dropped.
    pub least: Option<f32>,
    /// Rows rated outside this range are bad.
    pub range: Option<[f32; 2]>,
    /// `True` is 1 and `False` is 0.
    pub words: bool,
}

/// A word that means yes or no.
pub(crate) fn boolean_word(cell: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| cell.eq_ignore_ascii_case(word));
    match cell {
        _ if is(&["true", "yes", "t", "y"]) => Some(true),
        _ if is(&["false", "no", "f", "n"]) => Some(false),
        _ => None,
    }
}

/// A word or a number that means yes or no.
pub(crate) fn boolean(cell: &str) -> Option<bool> {
    boolean_word(cell).or_else(|| match cell.parse::<f32>().ok()? {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    })
}

impl RatingRule {
    /// Checks that a rating is finite and within the range, if any; `shown` is the cell.
    #[inline]
    pub fn check(self, rating: Option<f32>, shown: impl FnOnce() -> String) -> Result<f32, String> {
        let Some(rating) = rating else { return Err(no_rating(&shown())) };
        if !rating.is_finite() {
            return Err(format!("rating '{}' is not a finite number", shown()));
        }
        match self.range {
            Some([least, most]) if !(least..=most).contains(&rating) => {
                Err(format!("rating '{}' is outside --rating-range {least},{most}", shown()))
            }
            _ => Ok(rating),
        }
    }

    /// Whether a row with this rating is dropped.
    #[inline]
    pub fn leaves_out(self, rating: f32) -> bool {
        self.least.is_some_and(|least| rating < least)
    }
}

/// Parses the rating in a cell of text; on failure, the reason.
#[inline]
pub(crate) fn parse_rating(cell: &[u8], rule: RatingRule) -> Result<f32, String> {
    // Fast path: most ratings are one digit, or a digit and a half.
    let rating = match cell {
        [d] if d.is_ascii_digit() => Some((d - b'0') as f32),
        [d, b'.', half @ (b'0' | b'5')] if d.is_ascii_digit() => {
            Some((d - b'0') as f32 + if *half == b'5' { 0.5 } else { 0.0 })
        }
        _ => std::str::from_utf8(cell).ok().and_then(|text| {
            let word = || boolean_word(text).filter(|_| rule.words).map(|yes| f32::from(u8::from(yes)));
            text.parse().ok().or_else(word)
        }),
    };
    match rating {
        None if has_decimal_comma(cell) => Err(format!("the rating '{}' {DECIMAL_COMMA}", shown(cell))),
        rating => rule.check(rating, || shown(cell)),
    }
}

/// A histogram of rating magnitudes by powers of two, of fixed size for any log.
pub(crate) struct Sizes {
    /// By the exponent of the f32.
    counts: [u64; 256],
    ones: u64,
}

/// Minimum distance, in powers of two, of an outlier from all others: more than 32 times as large.
const FAR: usize = 6;

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { counts: [0; 256], ones: 0 }
    }
}

impl Sizes {
    #[inline]
    pub fn add(&mut self, rating: f32) {
        self.counts[(rating.to_bits() >> 23 & 0xff) as usize] += 1;
        self.ones += u64::from(rating == 1.0);
    }

    /// If all ratings are 0 or 1: the number of zeros, and of all ratings.
    pub fn zeros_beside_ones(&self) -> Option<[u64; 2]> {
        let (zeros, all) = (self.counts[0], self.counts.iter().sum::<u64>());
        (zeros > 0 && zeros + self.ones == all).then_some([zeros, all])
    }

    /// If at most one rating in a hundred, or a single one, is far larger in magnitude than all others: the bound that
    /// the others are below. Zeros are ignored: in a log of clicks nearly all may be 0, and a 1 is not a mistake.
    pub fn others_below(&self) -> Option<f32> {
        let sized = &self.counts[1..];
        let few = (sized.iter().sum::<u64>() / 100).max(1);
        let largest = sized.iter().rposition(|n| *n > 0)?;
        let mut above = 0;
        let usual = sized.iter().rposition(|n| {
            above += n;
            above > few
        })?;
        // Band b of `sized` holds magnitudes in [2^(b-126), 2^(b-125)).
        (largest >= usual + FAR).then(|| f32::from_bits((usual as u32 + 2) << 23))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(ratings: impl IntoIterator<Item = f32>) -> Option<f32> {
        let mut sizes = Sizes::default();
        ratings.into_iter().for_each(|r| sizes.add(r));
        sizes.others_below()
    }

    #[test]
    fn a_few_that_are_far_larger_are_seen() {
        let stars = || (0..300).map(|i| (1 + i % 5) as f32);
        assert_eq!(below(stars()), None);
        for far in [1e30, -1e30, 999.0, -9999.0, f32::MAX] {
            assert_eq!(below(stars().chain([far])), Some(8.0), "{far}");
            assert_eq!(below(stars().chain([far; 3])), Some(8.0), "{far} in one of a hundred");
            assert_eq!(below(stars().chain([far; 30])), None, "{far} is usual");
        }
        // No outliers: half stars; a 10 and a 100 among half stars; rare clicks.
        assert_eq!(below(stars().map(|s| s / 2.0).chain([10.0, 100.0])), None);
        assert_eq!(below((0..1000).map(|i| f32::from(u8::from(i == 7)))), None);
        assert_eq!(below([5.0]), None);
        assert_eq!(below([]), None);
        assert_eq!(below([0.01, 0.02, 0.03, 5.0]), Some(0.03125));
    }

    #[test]
    fn the_range_includes_its_ends() {
        let rule = RatingRule { range: Some([0.5, 5.0]), ..Default::default() };
        for (rating, taken) in [(0.5, true), (5.0, true), (0.0, false), (5.001, false), (1e30, false), (-1.0, false)] {
            assert_eq!(rule.check(Some(rating), || rating.to_string()).is_ok(), taken, "{rating}");
        }
        assert!(rule.check(Some(7.0), || "7".into()).unwrap_err().contains("'7' is outside --rating-range 0.5,5"));
        assert!(RatingRule::default().check(Some(1e30), String::new).is_ok());
    }
}
