/*! Times in logs: numbers (seconds, milliseconds, … since 1970) and ISO 8601 dates and date-times.

A log's unit is kept and noted in the manifest: rounding milliseconds to seconds would create ties. Fractions are kept
too, in a finer unit for the whole log: parsers return whole units and the fraction (a [`Moment`]), and the number of
decimals that the log needs is known at its end.
*/

use crate::data::{
    date::{days_from_1970, fraction_of},
    import::clock::Clock,
};

pub(crate) use crate::data::date::{MOST_DECIMALS, Moment, parse_date, parse_moment};

/// 10^18: fraction parts per unit.
pub(crate) const PARTS: u64 = 1_000_000_000_000_000_000;

impl Moment {
    /// Converts `ticks`, with `per_unit` ticks per unit.
    pub fn of_ticks(ticks: i64, per_unit: i64) -> Moment {
        let rest = ticks.rem_euclid(per_unit) as u64;
        Moment { whole: ticks.div_euclid(per_unit), fraction: rest * (PARTS / per_unit as u64) }
    }

    /// Converts a real number through its shortest decimal form.
    pub fn of_real(x: f64) -> Option<Moment> {
        // Beyond 2^62 an f64 cannot distinguish neighbouring times, and near 2^63 the conversion would saturate.
        if !x.is_finite() || x.abs() >= (1i64 << 62) as f64 {
            None
        } else if x.fract() == 0.0 {
            Some(Moment::of(x as i64))
        } else {
            parse_decimal(x.to_string().as_bytes())
        }
    }
}

/// The format of a log's time column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeKind {
    /// Numbers, in `unit`.
    Number { unit: &'static str },
    /// `2015-03-09`, `2015-03-09T18:30:00.5Z`, …, in seconds.
    Date,
    /// Dates in the user's format or time zone, in seconds.
    Clock { clock: &'static Clock },
    /// No cell of the sample is a time; later cells are read as numbers.
    Unread,
}

/// Units, each 1,000 times finer than the one before.
const UNITS: [&str; 4] = ["s", "ms", "us", "ns"];

impl TimeKind {
    /// The unit of whole numbers.
    pub fn unit(self) -> &'static str {
        match self {
            TimeKind::Number { unit } => unit,
            TimeKind::Date | TimeKind::Clock { .. } => "s",
            TimeKind::Unread => "unknown",
        }
    }

    fn place(self) -> Option<usize> {
        UNITS.iter().position(|unit| *unit == self.unit())
    }

    /// The most decimals that can be kept: down to nanoseconds.
    pub fn most_decimals(self) -> u8 {
        self.place().map_or(MOST_DECIMALS, |place| 9 - 3 * place as u8)
    }

    /// How many decimals a log keeps, and the resulting unit as written to the manifest. `needed`: decimals that occur;
    /// `room`: decimals that fit into 64 bits. Known units are refined in steps of 1,000.
    pub fn kept(self, needed: u8, room: u8) -> (u8, &'static str) {
        match self.place() {
            Some(place) => {
                let kept = (needed.div_ceil(3) * 3).min(self.most_decimals()).min(room / 3 * 3);
                (kept, UNITS[place + kept as usize / 3])
            }
            None => (needed.min(room), "unknown"),
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
            TimeKind::Date => "dates",
            TimeKind::Unread => "but no cell looked at is a time",
        };
        text.into()
    }

    /// The kind of a text column, from its first cells and the user's clock.
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
        Ok(TimeKind::Clock { clock })
    }

    /// Formats a time of this kind as the log writes it: a number, or a date.
    pub fn show(self, time: i64) -> String {
        let date = || iso(Moment::of(time)).map(|text| text[..19].replace('T', " "));
        let written = match self {
            TimeKind::Clock { clock } => clock.show(time).or_else(date),
            TimeKind::Date => date(),
            TimeKind::Number { .. } | TimeKind::Unread => None,
        };
        written.unwrap_or_else(|| time.to_string())
    }

    /// Whether the times are dates.
    pub fn is_dates(self) -> bool {
        matches!(self, TimeKind::Date | TimeKind::Clock { .. })
    }

    /// The kind of most cells of a sample.
    pub fn of_sample<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> TimeKind {
        let numbers = cells.clone().filter_map(|cell| parse_number(cell.as_bytes()));
        let dates = cells.filter(|cell| parse_moment(cell.as_bytes()).is_some());
        if dates.count() > numbers.clone().count() {
            return TimeKind::Date;
        }
        // The most frequent unit wins: one mistaken time must not change it. Zeros stand for missing times.
        let mut counts: Vec<(u64, usize)> = Vec::new();
        for size in numbers.map(|n| n.whole.unsigned_abs()) {
            match counts.iter_mut().find(|(one, _)| Self::of_largest(*one) == Self::of_largest(size)) {
                Some((largest, count)) => (*largest, *count) = (size.max(*largest), *count + (size > 0) as usize),
                None => counts.push((size, (size > 0) as usize)),
            }
        }
        let most = counts.into_iter().max_by_key(|&(largest, count)| (count, largest));
        most.map_or(TimeKind::Unread, |(largest, _)| Self::of_largest(largest))
    }

    /// The unit that puts the largest number between 1973 and 5138; smaller numbers only define an order.
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

    /// Parses a cell in this kind's unit.
    #[inline]
    pub fn parse(self, cell: &[u8]) -> Option<Moment> {
        match self {
            TimeKind::Number { .. } | TimeKind::Unread => parse_number(cell),
            TimeKind::Date => parse_moment(cell),
            TimeKind::Clock { clock } => clock.micros(cell).map(|t| Moment::of_ticks(t, 1_000_000)),
        }
    }
}

/// A number: `978300760`, `978300760.25`, `9.7e8`.
#[inline]
pub(crate) fn parse_number(cell: &[u8]) -> Option<Moment> {
    let (negative, digits) = match cell {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, cell),
    };
    // 18 digits always fit; longer numbers and anything but digits take the slow path.
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return parse_decimal(cell);
    }
    let value = digits.iter().fold(0i64, |value, digit| value * 10 + (digit - b'0') as i64);
    Some(Moment::of(if negative { -value } else { value }))
}

#[cold]
fn parse_decimal(cell: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(cell).ok()?;
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Moment::of(whole));
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.contains(['e', 'E']) {
        // Words that f64 parses ("inf", "nan") have no digit; f64's own output has no exponent.
        let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.').then(|| text.parse::<f64>())?;
        return Moment::of_real(number.ok()?);
    }
    let (whole, decimals) = digits.split_once('.')?;
    if whole.len() + decimals.len() == 0 || !whole.bytes().chain(decimals.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok().filter(|n| *n < 1 << 62)? };
    let fraction = fraction_of(decimals.as_bytes());
    // Rounded down, so that the fraction is never negative.
    Some(match (negative, fraction) {
        (false, _) => Moment { whole, fraction },
        (true, 0) => Moment::of(-whole),
        (true, _) => Moment { whole: -whole - 1, fraction: PARTS - fraction },
    })
}

/// How many decimals a fraction needs.
pub(crate) fn decimals_of(mut fraction: u64) -> u8 {
    if fraction == 0 {
        return 0;
    }
    let mut decimals = MOST_DECIMALS;
    while fraction.is_multiple_of(10) {
        (fraction, decimals) = (fraction / 10, decimals - 1);
    }
    decimals
}

/// Formats a moment in seconds as a date-time; `None` outside the years 0 to 9999.
pub(crate) fn iso(moment: Moment) -> Option<String> {
    let (days, second) = (moment.whole.div_euclid(86_400), moment.whole.rem_euclid(86_400));
    // A lower bound of the year.
    let mut year = 1970 + days.div_euclid(if days < 0 { 365 } else { 366 }).max(-1970);
    while days_from_1970(year + 1, 1, 1) <= days && year < 10_000 {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days_from_1970(year, month, 1) <= days)?;
    let day = days - days_from_1970(year, month, 1) + 1;
    (0..10_000).contains(&year).then(|| {
        let clock = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{clock}.{:018}", moment.fraction)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        TimeKind::Date.parse(text.as_bytes()).map(|m| m.whole)
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
    #[cfg_attr(miri, ignore = "146,097 days take Miri an hour")]
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
        for seconds in [-1, 0, 951_782_399, 951_782_400, 1_709_251_199, 4_102_444_800, -62_000_000_000] {
            let moment = Moment { whole: seconds, fraction: PARTS / 8 };
            assert_eq!(iso(moment).and_then(|text| parse_moment(text.as_bytes())), Some(moment), "{seconds}");
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
        let parts = |text: &str| parse_number(text.as_bytes()).map(|m| (m.whole, m.fraction));
        for (text, whole, fraction) in [
            ("978300760", 978_300_760, 0),
            ("-5", -5, 0),
            ("978300760.0", 978_300_760, 0),
            ("978300760.9", 978_300_760, 900_000_000_000_000_000),
            ("-0.25", -1, 750_000_000_000_000_000),
            (".5", 0, 500_000_000_000_000_000),
            ("0.1234567890123456789", 0, 123_456_789_012_345_678),
            ("9.7e8", 970_000_000, 0),
            ("1.5e-3", 0, 1_500_000_000_000_000),
            ("9223372036854775807", i64::MAX, 0),
        ] {
            assert_eq!(parts(text), Some((whole, fraction)), "{text}");
        }
        for bad in ["", "-", ".", "12a", "nan", "inf", "1e30", "99999999999999999999", "0x10", "1.2.3", "1.-5", "-inf"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
        // A double equals the value of its shortest text.
        for x in [0.1, 1_700_000_000.123, -17_532.843217592593, 1e-9, 3.0] {
            assert_eq!(Moment::of_real(x), parse_number(x.to_string().as_bytes()), "{x}");
        }
        assert_eq!(Moment::of_real(f64::NAN), None);
        assert_eq!(Moment::of_ticks(-1, 1000), Moment { whole: -1, fraction: 999 * (PARTS / 1000) });
        assert_eq!([0, PARTS / 10, PARTS / 8, 1].map(decimals_of), [0, 1, 3, 18]);
    }

    #[test]
    fn finer_units_keep_fractions() {
        let kept = |unit, needed, room| TimeKind::Number { unit }.kept(needed, room);
        assert_eq!([kept("s", 0, 8), kept("s", 1, 8), kept("s", 4, 8)], [(0, "s"), (3, "ms"), (6, "us")]);
        assert_eq!([kept("s", 12, 8), kept("ms", 1, 5), kept("ns", 3, 0)], [(6, "us"), (3, "us"), (0, "ns")]);
        assert_eq!([kept("unknown", 4, 17), kept("unknown", 18, 13)], [(4, "unknown"), (13, "unknown")]);
        assert_eq!(TimeKind::Date.kept(9, 9), (9, "ns"));
    }

    #[test]
    fn units_are_told_by_size() {
        let unit = |cells: &[&'static str]| TimeKind::of_sample(cells.iter().copied()).unit();
        assert_eq!(unit(&["1", "2", "3"]), "unknown");
        assert_eq!(unit(&["978300760"]), "s");
        assert_eq!(unit(&["978300760000"]), "ms");
        assert_eq!(unit(&["978300760000000"]), "us");
        assert_eq!(unit(&["978300760000000000"]), "ns");
        assert_eq!(unit(&["1700000000", "1700000001", "253402300799"]), "s", "most decide");
        assert_eq!(unit(&["0", "0", "0", "1700000000"]), "s", "zeros stand for missing times");
        assert_eq!(unit(&["2020-01-01", "2020-01-02 10:00:00"]), "s");
        assert_eq!(unit(&["2020-01-01 00:00:00.125"]), "s");
        assert_eq!(TimeKind::of_sample(["01/02/2023", "web"].into_iter()), TimeKind::Unread);
    }
}
