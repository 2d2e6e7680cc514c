//! Dates and date-times as text, read to the fraction of a second: in logs, and where a split is cut.

/// A parsed time: whole units, rounded down, and the fraction in 10^-18 of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub whole: i64,
    pub fraction: u64,
}

/// Decimals of a fraction: it counts 10^-18 of a unit.
pub(crate) const MOST_DECIMALS: u8 = 18;

impl Moment {
    pub fn of(whole: i64) -> Moment {
        Moment { whole, fraction: 0 }
    }
}

/// The digits after a decimal point; those beyond 18 are dropped.
pub(crate) fn fraction_of(digits: &[u8]) -> u64 {
    (0..MOST_DECIMALS as usize).fold(0, |n, i| n * 10 + digits.get(i).map_or(0, |d| (d - b'0') as u64))
}

/// A date in microseconds since 1970-01-01 UTC.
pub(crate) fn parse_date(cell: &[u8]) -> Option<i64> {
    parse_moment(cell).map(|m| m.whole * 1_000_000 + (m.fraction / 1_000_000_000_000) as i64)
}

/// An ISO 8601 date or date-time in seconds since 1970-01-01 UTC. Accepted: `YYYY-MM-DD` (or `/`), then
/// optionally `T` or a space, `HH:MM[:SS[.fraction]]`, then optionally ` UTC`, `Z` or `±HH[:]MM`. Without a zone: UTC.
pub(crate) fn parse_moment(cell: &[u8]) -> Option<Moment> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = cell.get(from..to)?;
        digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + (d - b'0') as i64))
    };
    let separator = *cell.get(4)?;
    if !matches!(separator, b'-' | b'/') || cell.get(7) != Some(&separator) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month[month as usize - 1] {
        return None;
    }
    let midnight = days_from_1970(year, month, day) * 86_400;
    if cell.len() == 10 {
        return Some(Moment::of(midnight));
    }
    if !matches!(cell[10], b'T' | b't' | b' ') || cell.get(13) != Some(&b':') {
        return None;
    }
    let (hour, minute, mut second, mut at) = (number(11, 13)?, number(14, 16)?, 0, 16);
    if cell.get(at) == Some(&b':') {
        (second, at) = (number(17, 19)?, 19);
    }
    // A leap second (60) is the first second of the next minute, as Unix time counts.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut fraction = 0;
    if let Some(b'.' | b',') = cell.get(at) {
        let digits = cell[at + 1..].iter().take_while(|d| d.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        fraction = fraction_of(&cell[at + 1..at + 1 + digits]);
        at += 1 + digits;
    }
    let east = match cell[at..].trim_ascii() {
        b"" | b"Z" | b"z" | b"UTC" => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let digits: Vec<i64> = zone.iter().filter(|&&b| b != b':').map(|b| *b as i64 - '0' as i64).collect();
            if !matches!(digits.len(), 2 | 4) || digits.iter().any(|d| !(0..=9).contains(d)) {
                return None;
            }
            let minutes = digits.get(2..).map_or(0, |m| m.iter().fold(0, |n, d| n * 10 + d));
            let seconds = (digits[0] * 10 + digits[1]) * 3600 + minutes * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    Some(Moment { whole: midnight + hour * 3600 + minute * 60 + second - east, fraction })
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years start in March so that the leap day is
/// last.
pub(crate) fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // Each five months March-July and August-December have 153 days: (153 m + 2) / 5 days come before month m.
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1 - 719_468
}
