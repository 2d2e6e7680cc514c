//! The times at which a log is cut, parsed from dates to the unit of the data's timestamps, and the detection of leaks
//! across a cut.

use crate::{
    base::{Error, Result},
    data::{Dataset, date::parse_date},
};

/// Formats a timestamp as `YYYY-MM-DD HH:MM:SS` (UTC) followed by its number, or as the number alone if the data's
/// times are not dates (`ticks_per_second` is `None`).
pub fn when(t: i64, ticks_per_second: Option<i64>) -> String {
    let Some(ticks) = ticks_per_second else { return t.to_string() };
    let seconds = t.div_euclid(ticks);
    let (days, secs) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", with years that begin in
    // March.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let clock =
        if secs == 0 { String::new() } else { format!(" {:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60) };
    format!("{year:04}-{month:02}-{day:02}{clock} ({t})")
}

/// Parses a cut: a whole number in the unit of the data's timestamps, or a date in a format of logs (`YYYY-MM-DD`,
/// `YYYY-MM-DDTHH:MM:SS`, with or without a zone; UTC without). Returns it in the unit of the timestamps, of which
/// `ticks_per_second` make a second.
///
/// # Errors
/// The text is neither, and the error names the accepted formats; or it is a date and the data's times are not dates.
pub fn parse_cut(text: &str, ticks_per_second: Option<i64>) -> Result<i64> {
    if let Ok(t) = text.parse() {
        return Ok(t);
    }
    let wrong = || {
        Error::user(format!("'{text}' is not a date"))
            .hint("write 2003-01-31, 2003-01-31T12:00:00 (UTC), or a number in the unit of the data's timestamps")
    };
    let micros = parse_date(text.as_bytes()).ok_or_else(wrong)?;
    let ticks = ticks_per_second.ok_or_else(|| {
        Error::user(format!("'{text}' is a date, but the data's times are not dates: they only order the log"))
            .hint("specify the cut as a number in the same unit")
    })?;
    Ok((micros as i128 * ticks as i128).div_euclid(1_000_000) as i64)
}

/// Returns the earliest timestamp c > `first` such that at most a tenth of the events before `cut` lie in [c, cut).
///
/// It finds the quantile by narrowing histograms, in two or three passes over the timestamps and 512 KiB of memory, so
/// no sorted copy of the log is needed.
pub fn latest_tenth(data: &Dataset, first: i64, cut: i64) -> i64 {
    const BUCKETS: usize = 1 << 16;
    let each = |f: &mut dyn FnMut(i64)| {
        for user in 0..data.users() {
            data.times_of(user).unwrap_or_default().iter().filter(|t| **t < cut).for_each(|t| f(*t));
        }
    };
    let mut total = 0u64;
    each(&mut |_| total += 1);
    let allowed = total / 10;
    // Invariant: the result lies in [lo, hi]; `above` events lie in [hi, cut).
    let (mut lo, mut hi, mut above) = (first as i128 + 1, cut as i128, 0u64);
    while lo < hi {
        let width = ((hi - lo) + BUCKETS as i128 - 1) / BUCKETS as i128;
        let mut counts = vec![0u64; BUCKETS];
        each(&mut |t| {
            let t = t as i128;
            if lo <= t && t < hi {
                counts[((t - lo) / width) as usize] += 1;
            }
        });
        // From the top: buckets that fit lower hi; the first that does not fit contains the result, or its upper edge
        // is the result.
        let used = (((hi - lo) + width - 1) / width) as usize;
        let mut bucket = used;
        while bucket > 0 && above + counts[bucket - 1] <= allowed {
            bucket -= 1;
            above += counts[bucket];
            hi = lo + bucket as i128 * width;
        }
        if bucket > 0 {
            // Some of this bucket's timestamps may still fit, but not its lowest one unless the bucket has no events
            // below.
            lo += (bucket as i128 - 1) * width + 1;
        }
    }
    hi as i64
}

/// Returns the first event of a user that leaks, and the reason. An event leaks if it is earlier than the preceding
/// event, because a history would then contain what comes after a held-out event. Under a time split with its two cuts,
/// it also leaks if it is on the wrong side of a cut.
pub fn leak(
    times: &[i64],
    train_end: usize,
    valid_end: usize,
    cuts: Option<(i64, i64)>,
) -> Option<(usize, &'static str)> {
    for (at, &t) in times.iter().enumerate() {
        if at > 0 && t < times[at - 1] {
            return Some((at, "is earlier than the event before it"));
        }
        let Some((valid_cut, cut)) = cuts else { continue };
        if at < train_end && t >= valid_cut.min(cut) {
            return Some((at, "is in the training part but not before its cut"));
        }
        if at < valid_end && t >= cut {
            return Some((at, "is before the test part but not before the cut"));
        }
    }
    None
}

/// Returns the first and the last timestamp of the data.
pub fn period(data: &Dataset) -> Result<(i64, i64)> {
    let mut range: Option<(i64, i64)> = None;
    for user in 0..data.users() {
        let Some(times) = data.times_of(user) else {
            return Err(Error::user("a time split needs timestamps, and this data has none")
                .hint("import with --time-col, or use --split leave-one-out"));
        };
        for &t in times {
            range = Some(range.map_or((t, t), |(lo, hi)| (lo.min(t), hi.max(t))));
        }
    }
    range.ok_or_else(|| Error::user("the data has no events"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_are_seen() {
        assert_eq!(leak(&[1, 2, 2, 5], 2, 3, None), None);
        assert_eq!(leak(&[1, 3, 2, 5], 2, 3, None).unwrap().0, 2);
        assert_eq!(leak(&[1, 2, 5, 9], 2, 3, Some((5, 9))), None);
        assert_eq!(
            leak(&[1, 5, 6, 9], 2, 3, Some((5, 9))),
            Some((1, "is in the training part but not before its cut"))
        );
        assert_eq!(
            leak(&[1, 2, 9, 9], 2, 3, Some((5, 9))),
            Some((2, "is before the test part but not before the cut"))
        );
    }

    #[test]
    fn dates_go_there_and_back() {
        // Known instants: date -u -d @951782400 = 2000-02-29, @978307199 = 2000-12-31 23:59:59.
        assert_eq!(parse_cut("2000-02-29", Some(1)).unwrap(), 951_782_400);
        assert_eq!(parse_cut("2000-12-31T23:59:59", Some(1)).unwrap(), 978_307_199);
        assert_eq!(parse_cut("-12", Some(1)).unwrap(), -12);
        assert_eq!(when(951_782_400, Some(1)), "2000-02-29 (951782400)");
        assert_eq!(when(978_307_199, Some(1)), "2000-12-31 23:59:59 (978307199)");
        let step = if cfg!(miri) { 298_765_432 } else { 9_876_543 };
        for t in (40_000_000..7_000_000_000i64).step_by(step) {
            let shown = when(t, Some(1));
            let text = shown.split(" (").next().unwrap().replace(' ', "T");
            assert_eq!(parse_cut(&text, Some(1)).unwrap(), t, "{shown}");
        }
    }

    #[test]
    fn what_is_no_date_is_said_to_be_none() {
        for bad in ["2001-02-29", "2001-13-01", "2001-00-10", "yesterday", "2001-1", "2001-01-01T25:00:00", "", "1e9"] {
            let e = parse_cut(bad, Some(1)).unwrap_err();
            assert!(e.to_string().contains("not a date"), "{bad}: {e}");
        }
    }

    #[test]
    fn the_unit_of_the_data_counts() {
        assert_eq!(parse_cut("2000-02-29", Some(1000)).unwrap(), 951_782_400_000);
        assert_eq!(parse_cut("77", Some(1000)).unwrap(), 77, "numbers are in the data's unit already");
        assert_eq!(when(951_782_400_500, Some(1000)), "2000-02-29 (951782400500)");
        assert_eq!(when(12, None), "12");
        assert!(parse_cut("2000-02-29", None).unwrap_err().to_string().contains("not dates"));
    }
}
