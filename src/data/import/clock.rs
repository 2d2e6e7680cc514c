/*! Dates in custom formats (`--time-format '%m/%d/%Y %H:%M'`) and local time zones (`--time-zone Europe/Berlin`).

The format is never guessed: `04/05/2023` may be in April or in May. If all first cells fit one of the usual formats,
the hint suggests the flag. When clocks are set back, an hour occurs twice: times in it are read as the first one. When
they are set forward, an hour is missing: times in it are shifted forward by the gap.
*/

use jiff::{
    Timestamp,
    civil::{DateTime, Time},
    fmt::strtime::BrokenDownTime,
    tz::TimeZone,
};

use crate::{
    base::{Error, Result, error::nearest, error::typed},
    data::{date::parse_date, import::options::ImportOptions},
};

/// Common formats in logs, the less ambiguous first.
#[rustfmt::skip]
const USUAL: &[&str] = &[
    "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p",
    "%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M:%S %p", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y %H:%M",
    "%d/%m/%y %H:%M", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%d-%m-%Y %H:%M",
    "%m-%d-%Y %H:%M", "%d-%m-%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y %H:%M:%S",
    "%d-%b-%Y", "%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y %H:%M:%S", "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z",
    "%b %d, %Y %H:%M:%S", "%b %d, %Y", "%m %d, %Y", "%Y.%m.%d %H:%M:%S", "%Y.%m.%d", "%Y-%m-%d", "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M:%S %p", "%Y/%m/%d", "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y%m%d %H%M%S", "%Y%m%d %H:%M:%S", "%Y%m%d %H:%M",
    "%d %b %Y", "%d %b %Y %H:%M", "%d %b %Y %H:%M:%S", "%d-%b-%y", "%d.%m.%y", "%d.%m.%y %H:%M", "%d-%m-%y",
    "%d-%m-%Y %I:%M %p", "%m-%d-%Y %I:%M %p", "%a %b %d %H:%M:%S %Y",
];

/// Plausible dates, in microseconds since 1970: the years 1900 to 2099. `%Y` reads `24` as the year 24.
const YEARS: std::ops::Range<i64> = -2_208_988_800_000_000..4_102_444_800_000_000;

/// The date format and time zone that the user specified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// `None`: ISO 8601.
    layout: Option<String>,
    zone: TimeZone,
}

impl Clock {
    /// The clock that the flags specify; `None` without such flags. It is leaked so that `TimeKind` stays `Copy`; there
    /// is one per source.
    ///
    /// # Errors
    /// An unknown time zone, or a format that no date can have.
    pub fn of(options: &ImportOptions) -> Result<Option<&'static Clock>> {
        if options.time_format.is_none() && options.time_zone.is_none() {
            return Ok(None);
        }
        let zone = match &options.time_zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| {
                let known: Vec<String> = jiff::tz::db().available().map(|n| n.to_string()).collect();
                let error = Error::user(format!("--time-zone {name}: no such time zone"));
                match nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean --time-zone {near}?")),
                    None => error.hint("name one as Europe/Berlin, America/New_York or UTC"),
                }
            })?,
        };
        let clock = Clock { layout: options.time_format.clone(), zone };
        if let Some(layout) = &clock.layout {
            // The format must be able to read a date that it wrote.
            let moment = jiff::civil::date(2021, 11, 27).at(15, 48, 59, 0).to_zoned(TimeZone::UTC);
            let written = moment.ok().and_then(|m| BrokenDownTime::from(&m).to_string(layout).ok());
            if written.as_deref().and_then(|text| clock.micros(text.as_bytes())).is_none() {
                return Err(Error::user(format!("--time-format '{layout}': this is not a date format")).hint(
                    "as in strptime: %Y year, %m month, %d day, %H hour, %M minute, %S second, %z offset, %b Jan",
                ));
            }
        }
        Ok(Some(Box::leak(Box::new(clock))))
    }

    /// A cell in microseconds since 1970 UTC.
    pub fn micros(&self, cell: &[u8]) -> Option<i64> {
        let Some(layout) = &self.layout else {
            let micros = parse_date(cell)?;
            if names_zone(cell) {
                return Some(micros);
            }
            let local = Timestamp::from_microsecond(micros).ok()?.to_zoned(TimeZone::UTC).datetime();
            return self.place(local);
        };
        let read = BrokenDownTime::parse(layout, cell).ok()?;
        if let Ok(moment) = read.to_timestamp() {
            return Some(moment.as_microsecond());
        }
        let time = if read.hour().is_some() { read.to_time().ok()? } else { Time::midnight() };
        self.place(read.to_date().ok()?.to_datetime(time))
    }

    fn place(&self, local: DateTime) -> Option<i64> {
        Some(self.zone.to_ambiguous_timestamp(local).compatible().ok()?.as_microsecond())
    }

    /// A second since 1970 UTC in the user's format.
    pub fn show(&self, second: i64) -> Option<String> {
        let moment = Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone());
        let iso = "%Y-%m-%d %H:%M:%S";
        BrokenDownTime::from(&moment).to_string(self.layout.as_deref().unwrap_or(iso)).ok()
    }

    pub fn reads_iso(&self) -> bool {
        self.layout.is_none()
    }

    pub fn describe(&self) -> String {
        let layout = self.layout.as_ref().map_or(String::new(), |l| format!(" as '{l}'"));
        let zone = self.zone.iana_name().unwrap_or("UTC");
        format!("dates{layout}, in {zone} where they name no zone")
    }
}

/// The error for time flags on a log without times.
pub(crate) fn no_times() -> Error {
    Error::user("--time-format and --time-zone need a time, and no column looks like one")
        .hint("name it with --time-col")
}

/// Whether an ISO date ends with a zone.
fn names_zone(cell: &[u8]) -> bool {
    let clock = cell.get(16..).unwrap_or_default();
    clock.iter().any(|b| matches!(b, b'Z' | b'z' | b'U' | b'+' | b'-'))
}

/// The usual formats that fit all cells; empty if there are no cells.
pub(crate) fn layouts<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Vec<&'static str> {
    if cells.clone().next().is_none() {
        return Vec::new();
    }
    let fits = |layout: &&str| {
        let clock = Clock { layout: Some(layout.to_string()), zone: TimeZone::UTC };
        cells.clone().all(|cell| clock.micros(cell.trim().as_bytes()).is_some_and(|t| YEARS.contains(&t)))
    };
    USUAL.iter().copied().filter(fits).collect()
}

/// Whether a cell is a date in a usual format.
pub(crate) fn is_usual(cell: &str) -> bool {
    // Fast path: most cells are keys, not dates.
    let like =
        cell.len() >= 6 && cell.contains(|c: char| c.is_ascii_digit()) && cell.contains(['/', '.', '-', ' ', ',', 'T']);
    like && !layouts(std::iter::once(cell)).is_empty()
}

/// The flags for the usual formats that fit all cells; `None` if there is none.
pub(crate) fn hint<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let found: Vec<String> =
        layouts(cells).into_iter().map(|layout| format!("--time-format {}", typed(layout))).collect();
    match found.as_slice() {
        [] => None,
        [only] => Some(format!("the times fit one layout; add {only}")),
        // Only the user knows whether the day or the month comes first.
        several => Some(format!("the times fit several layouts; add the right one: {}", several.join(" or "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(layout: Option<&str>, zone: Option<&str>, cell: &str) -> Option<i64> {
        let options = ImportOptions {
            time_format: layout.map(Into::into),
            time_zone: zone.map(Into::into),
            ..ImportOptions::default()
        };
        Some(Clock::of(&options).unwrap().unwrap().micros(cell.as_bytes())?.div_euclid(1_000_000))
    }

    #[test]
    fn known_moments() {
        // 2009-02-13 23:31:30 UTC is 1,234,567,890.
        for (layout, cell) in [
            ("%m/%d/%Y %H:%M:%S", "02/13/2009 23:31:30"),
            ("%d.%m.%Y %H:%M:%S", "13.02.2009 23:31:30"),
            ("%d/%b/%Y:%H:%M:%S %z", "14/Feb/2009:00:31:30 +0100"),
            ("%m/%d/%Y %I:%M:%S %p", "2/13/2009 11:31:30 PM"),
            ("%a %b %d %H:%M:%S %z %Y", "Fri Feb 13 23:31:30 +0000 2009"),
        ] {
            assert_eq!(seconds(Some(layout), None, cell), Some(1_234_567_890), "{cell}");
        }
        // Days are 86,400 s; 14,288 of them lie before 2009-02-13.
        assert_eq!(seconds(Some("%m %d, %Y"), None, "02 13, 2009"), Some(14_288 * 86_400));
        assert_eq!(seconds(Some("%m/%d/%Y"), None, "13/02/2009"), None);
        assert_eq!(seconds(Some("%m/%d/%Y"), None, "02/13/2009 23:31"), None, "what is left over is not dropped");
    }

    #[test]
    #[cfg_attr(miri, ignore = "jiff reads no database of time zones under Miri")]
    fn clocks_of_a_place() {
        let berlin = Some("Europe/Berlin");
        assert_eq!(seconds(None, berlin, "2009-02-14 00:31:30"), Some(1_234_567_890));
        assert_eq!(seconds(None, berlin, "2009-02-13T23:31:30Z"), Some(1_234_567_890), "a zone of its own counts");
        assert_eq!(seconds(None, berlin, "2009-02-13T15:31:30-0800"), Some(1_234_567_890));
        // 2023-10-29 03:00 went back to 02:00: the first 02:30 is at 00:30 UTC, 1,698,539,400.
        assert_eq!(seconds(None, berlin, "2023-10-29 02:30:00"), Some(1_698_539_400));
        // 2023-03-26 02:00 went forward to 03:00: 02:30 is read as 03:30, 01:30 UTC, 1,679,794,200.
        assert_eq!(seconds(None, berlin, "2023-03-26 02:30"), Some(1_679_794_200));
        assert_eq!(seconds(Some("%d.%m.%Y %H:%M"), berlin, "26.03.2023 02:30"), Some(1_679_794_200));
    }

    #[test]
    fn hints_name_what_fits_and_never_choose_between_day_and_month() {
        let said = |cells: &[&'static str]| hint(cells.iter().copied());
        assert_eq!(
            said(&["11/14/2023 22:13"]).unwrap(),
            "the times fit one layout; add --time-format '%m/%d/%Y %H:%M'"
        );
        let both = said(&["04/05/2023", "05/04/2023"]).unwrap();
        assert!(both.contains("--time-format %m/%d/%Y or --time-format %d/%m/%Y"), "{both}");
        assert!(said(&["04/05/2023", "14/04/2023"]).unwrap().ends_with("add --time-format %d/%m/%Y"));
        assert!(said(&["14.11.2023"]).unwrap().ends_with("%d.%m.%Y"));
        assert!(said(&["14/Nov/2023:10:00:00 +0000"]).is_some());
        assert_eq!(said(&["soon", "later"]), None);
        assert_eq!(said(&[]), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "jiff reads no database of time zones under Miri")]
    fn flags_that_mean_nothing_are_refused() {
        let error = |options: ImportOptions| Clock::of(&options).err().unwrap().to_string();
        let zone = error(ImportOptions { time_zone: Some("Europe/Berlinn".into()), ..Default::default() });
        assert!(zone.contains("did you mean --time-zone Europe/Berlin?"), "{zone}");
        for layout in ["%Y", "yyyy-mm-dd", "%m/%d", ""] {
            assert!(
                error(ImportOptions { time_format: Some(layout.into()), ..Default::default() }).contains("not a date")
            );
        }
        assert!(Clock::of(&ImportOptions::default()).unwrap().is_none());
    }
}
