/*! Times in logs: numbers (seconds, milliseconds, … since 1970) and ISO 8601 dates and date-times.

A log's unit is kept as it is and noted in the manifest: dividing milliseconds down to seconds would make ties.
*/

use crate::data::import::clock::Clock;

/// How the time column of a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeKind {
    /// Numbers, in `unit`.
    Number { unit: &'static str },
    /// `2015-03-09`, `2015-03-09T18:30:00.5Z`, …; kept in seconds, or microseconds where fractions were seen.
    Date { micros: bool },
    /// Dates of a layout or a zone that the user named; in seconds or microseconds, as above.
    Clock { clock: &'static Clock, micros: bool },
    /// Not one cell of the sample is either; should one be met later, it is read as a number.
    Unread,
}

impl TimeKind {
    /// The unit as the manifest writes it.
    pub fn unit(self) -> &'static str {
        match self {
            TimeKind::Number { unit } => unit,
            TimeKind::Date { micros: true } | TimeKind::Clock { micros: true, .. } => "us",
            TimeKind::Date { micros: false } | TimeKind::Clock { micros: false, .. } => "s",
            TimeKind::Unread => "unknown",
        }
    }

    /// The unit in words.
    pub fn describe(self) -> String {
        let text = match self {
            TimeKind::Clock { clock, .. } => return clock.describe(),
            TimeKind::Number { unit: "s" } => "seconds since 1970",
            TimeKind::Number { unit: "ms" } => "milliseconds since 1970",
            TimeKind::Number { unit: "us" } => "microseconds since 1970",
            TimeKind::Number { unit: "ns" } => "nanoseconds since 1970",
            TimeKind::Number { .. } => "numbers that order the log (too small to be dates)",
            TimeKind::Date { .. } => "dates",
            TimeKind::Unread => "but no cell looked at is a time",
        };
        text.into()
    }

    /// What a column of text holds, by its first cells and by what the user said of it.
    pub fn of_column<'a>(
        cells: impl Iterator<Item = &'a str> + Clone,
        clock: Option<&'static Clock>,
    ) -> crate::base::Result<TimeKind> {
        let kind = TimeKind::of_sample(cells.clone());
        let Some(clock) = clock else { return Ok(kind) };
        if clock.reads_iso() && matches!(kind, TimeKind::Number { .. }) {
            return Err(crate::base::Error::user("--time-zone is for dates, and the times are numbers")
                .hint("numbers count from 1970 UTC wherever they were written; leave --time-zone out"));
        }
        let micros = cells.filter_map(|cell| clock.micros(cell.as_bytes())).any(|t| t % 1_000_000 != 0);
        Ok(TimeKind::Clock { clock, micros })
    }

    /// The same times in microseconds, where they are dates.
    pub fn in_micros(self) -> TimeKind {
        match self {
            TimeKind::Date { .. } => TimeKind::Date { micros: true },
            TimeKind::Clock { clock, .. } => TimeKind::Clock { clock, micros: true },
            other => other,
        }
    }

    /// What most cells of a sample look like.
    pub fn of_sample<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> TimeKind {
        let numbers = cells.clone().filter_map(|cell| parse_number(cell.as_bytes()));
        let dates = cells.filter(|cell| parse_date(cell.as_bytes()).is_some());
        if dates.clone().count() > numbers.clone().count() {
            let micros = dates.clone().any(|cell| parse_date(cell.as_bytes()).is_some_and(|t| t % 1_000_000 != 0));
            return TimeKind::Date { micros };
        }
        numbers.map(i64::unsigned_abs).max().map_or(TimeKind::Unread, Self::of_largest)
    }

    /// The unit that puts the largest number seen between 1973 and 5138; below it, numbers are mere order.
    pub fn of_largest(largest: u64) -> TimeKind {
        let unit = match largest {
            0..100_000_000 => "unknown",
            100_000_000..100_000_000_000 => "s",
            100_000_000_000..100_000_000_000_000 => "ms",
            100_000_000_000_000..100_000_000_000_000_000 => "us",
            _ => "ns",
        };
        TimeKind::Number { unit }
    }

    /// A cell in this kind's unit.
    #[inline]
    pub fn parse(self, cell: &[u8]) -> Option<i64> {
        match self {
            TimeKind::Number { .. } | TimeKind::Unread => parse_number(cell),
            TimeKind::Date { micros: true } => parse_date(cell),
            TimeKind::Date { micros: false } => parse_date(cell).map(|t| t.div_euclid(1_000_000)),
            TimeKind::Clock { clock, micros: true } => clock.micros(cell),
            TimeKind::Clock { clock, micros: false } => clock.micros(cell).map(|t| t.div_euclid(1_000_000)),
        }
    }
}

/// A whole number, or a decimal one rounded down (`978300760.0`, `9.7e8`).
#[inline]
pub(crate) fn parse_number(cell: &[u8]) -> Option<i64> {
    let (negative, digits) = match cell {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, cell),
    };
    // 18 digits always fit; longer ones and anything but digits take the careful way.
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return parse_decimal(cell);
    }
    let value = digits.iter().fold(0i64, |value, digit| value * 10 + (digit - b'0') as i64);
    Some(if negative { -value } else { value })
}

#[cold]
fn parse_decimal(cell: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(cell).ok()?;
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole);
    }
    // Words that f64 knows ("inf", "nan") are no times.
    let number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)).then(|| text.parse::<f64>())?;
    let floor = number.ok()?.floor();
    // Beyond 2^62 an f64 no longer tells neighbouring times apart, and near 2^63 it would saturate.
    (floor.abs() < (1i64 << 62) as f64).then_some(floor as i64)
}

/// An ISO 8601 date or date-time in microseconds since 1970-01-01 UTC. Accepted: `YYYY-MM-DD` (or `/`), then
/// optionally `T` or a space, `HH:MM[:SS[.fraction]]`, then optionally ` UTC`, `Z` or `±HH[:]MM`. Without a zone: UTC.
pub(crate) fn parse_date(cell: &[u8]) -> Option<i64> {
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
        return Some(midnight * 1_000_000);
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
    let mut micros = 0;
    if let Some(b'.' | b',') = cell.get(at) {
        let digits = cell[at + 1..].iter().take_while(|d| d.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for i in 0..6 {
            micros = micros * 10 + if i < digits { (cell[at + 1 + i] - b'0') as i64 } else { 0 };
        }
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
    Some((midnight + hour * 3600 + minute * 60 + second - east) * 1_000_000 + micros)
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar, counting years from March so that the leap day
/// comes last.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // 153 days make the five months March-July, and again August-December: (153 m + 2) / 5 days before month m.
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        TimeKind::Date { micros: false }.parse(text.as_bytes())
    }

    #[test]
    fn known_dates() {
        assert_eq!(seconds("1970-01-01"), Some(0));
        assert_eq!(seconds("2000-02-29"), Some(951_782_400));
        assert_eq!(seconds("1969-12-31T23:59:59Z"), Some(-1));
        assert_eq!(seconds("2009-02-13 23:31:30"), Some(1_234_567_890));
        assert_eq!(seconds("2009/02/13 23:31"), Some(1_234_567_860));
        assert_eq!(seconds("2009-02-14T05:01:30+05:30"), Some(1_234_567_890));
        assert_eq!(seconds("2009-02-13T15:31:30-0800"), Some(1_234_567_890));
        assert_eq!(seconds("2009-02-13 23:31:30.999 UTC"), Some(1_234_567_890));
        assert_eq!(parse_date(b"2009-02-13T23:31:30.25Z"), Some(1_234_567_890_250_000));
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut expected = parse_date(b"1800-01-01").unwrap() / 86_400_000_000;
        for year in 1800..2200i64 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    if let Some(micros) = parse_date(text.as_bytes()) {
                        assert_eq!(micros / 86_400_000_000, expected, "{text}");
                        expected += 1;
                    }
                }
            }
        }
        // 400 Gregorian years are 146,097 days.
        assert_eq!(expected - parse_date(b"1800-01-01").unwrap() / 86_400_000_000, 146_097);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in ["", "2000", "2001-02-29", "2000-13-01", "2000-1-1", "2000-01-01x", "2000-01-01T25:00", "1/2/2000"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_whole_decimal_and_neither() {
        assert_eq!(parse_number(b"978300760"), Some(978_300_760));
        assert_eq!(parse_number(b"-5"), Some(-5));
        assert_eq!(parse_number(b"978300760.9"), Some(978_300_760));
        assert_eq!(parse_number(b"9.7e8"), Some(970_000_000));
        assert_eq!(parse_number(b"9223372036854775807"), Some(i64::MAX));
        for bad in ["", "-", "12a", "nan", "inf", "1e30", "99999999999999999999", "0x10"] {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn units_are_told_by_size() {
        let unit = |cells: &[&'static str]| TimeKind::of_sample(cells.iter().copied()).unit();
        assert_eq!(unit(&["1", "2", "3"]), "unknown");
        assert_eq!(unit(&["978300760"]), "s");
        assert_eq!(unit(&["978300760000"]), "ms");
        assert_eq!(unit(&["978300760000000"]), "us");
        assert_eq!(unit(&["978300760000000000"]), "ns");
        assert_eq!(unit(&["2020-01-01", "2020-01-02 10:00:00"]), "s");
        assert_eq!(unit(&["2020-01-01 00:00:00.125"]), "us");
        assert_eq!(TimeKind::of_sample(["01/02/2023", "web"].into_iter()), TimeKind::Unread);
    }
}
