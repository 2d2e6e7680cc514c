/*! Brings the times of a log to one resolution and checks for implausible ones.

Each block keeps as many decimals as its own times need. The resolution of the log is known at its end: the finest that
a block needs, as far as the largest time fits into 64 bits. Rows in the spill are then converted to it.
*/

use super::{
    rows::{EventRow, RowCodec},
    time::{MOST_DECIMALS, PARTS, TimeKind, decimals_of},
};
use crate::data::digits;

/// Statistics of the times of a block, or of all blocks so far.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// Decimals that the times need.
    pub needed: u8,
    /// Decimals that fit into 64 bits.
    pub room: u8,
    sizes: Sizes,
}

impl Default for Times {
    fn default() -> Times {
        Times { needed: 0, room: MOST_DECIMALS, sizes: Sizes::default() }
    }
}

impl Times {
    /// Processes the rows of a block, whose times are whole units; `fractions` holds row indices and fractions. Appends
    /// decimals to the rows' times and returns how many.
    pub fn of_block(rows: &mut [EventRow], fractions: &[(u32, u64)], kind: TimeKind) -> (Times, u8) {
        let mut times = Times::default();
        let mut largest = 0;
        for row in rows.iter() {
            times.sizes.add(row.time);
            largest = largest.max(row.time.unsigned_abs());
        }
        // A fraction adds less than one whole unit.
        times.room = (i64::MAX as u64 / (largest + 1)).checked_ilog10().unwrap_or(0).min(18) as u8;
        times.needed = fractions.iter().map(|f| decimals_of(f.1)).max().unwrap_or(0);
        let kept = times.needed.min(times.room).min(kind.most_decimals());
        if kept > 0 {
            let (factor, parts) = (10i64.pow(kept as u32), PARTS / 10u64.pow(kept as u32));
            rows.iter_mut().for_each(|row| row.time *= factor);
            fractions.iter().for_each(|&(row, fraction)| rows[row as usize].time += (fraction / parts) as i64);
        }
        (times, kept)
    }

    pub fn add(&mut self, block: &Times) {
        self.needed = self.needed.max(block.needed);
        self.room = self.room.min(block.room);
        self.sizes.merge(&block.sizes);
    }

    /// Warnings about the times.
    pub fn doubts(&self, kind: TimeKind) -> Vec<String> {
        let mut lines: Vec<String> = self.sizes.doubt(kind).into_iter().collect();
        let (kept, unit) = kind.kept(self.needed, self.room);
        if kept < self.needed.min(kind.most_decimals()) {
            let unit = if unit == "unknown" { String::new() } else { format!(" ({unit})") };
            lines.push(format!(
                "times have {} decimals, and only {kept} of them{unit} fit into 64 bits together with the \
                 largest time: times that differ less are equal; is the largest time a mistake? --time-range FROM,TO \
                 makes it a bad row",
                self.needed
            ));
        }
        lines
    }
}

/// Decimals of the times in the spill, run-length encoded over rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decimals {
    runs: Vec<(u64, u8)>,
    to: u8,
}

impl Decimals {
    pub fn push(&mut self, rows: u64, decimals: u8) {
        match self.runs.last_mut() {
            Some(last) if last.1 == decimals => last.0 += rows,
            _ => self.runs.push((rows, decimals)),
        }
    }

    /// Sets the decimals that all rows get.
    pub fn settle(&mut self, to: u8) {
        self.to = to;
        if self.runs.iter().all(|run| run.1 == to) {
            self.runs.clear();
        }
        self.runs.reverse();
    }

    /// Converts the next rows of the spill to the common resolution; must be called in order.
    pub fn level<'a>(&mut self, rows: &'a [u8], codec: RowCodec, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        if self.runs.is_empty() {
            return rows;
        }
        buffer.clear();
        buffer.extend_from_slice(rows);
        let ten = |n: u8| 10i64.pow(n as u32);
        for row in buffer.chunks_exact_mut(codec.width()) {
            let Some(run) = self.runs.last_mut() else { break };
            let decimals = run.1;
            run.0 -= 1;
            if run.0 == 0 {
                self.runs.pop();
            }
            codec.map_time(row, |time| {
                if decimals <= self.to {
                    time * ten(self.to - decimals)
                } else {
                    time.div_euclid(ten(decimals - self.to))
                }
            });
        }
        buffer
    }
}

/// Times counted by class.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    counts: [u64; 9],
    /// The largest time of each class, for messages.
    largest: [i64; 9],
}

const NEGATIVE: usize = 0;
const ZERO: usize = 1;
const SMALL: usize = 2;
/// Times from 1973 to 2040 in seconds; milliseconds, microseconds and nanoseconds follow.
const SECONDS: usize = 3;
/// Dates written as digits: 20240501103000.
const DIGITS: usize = 7;
const FAR: usize = 8;

impl Sizes {
    #[inline]
    fn add(&mut self, time: i64) {
        let class = match time {
            // By far the most common case.
            100_000_000..1_970_000_000 => SECONDS,
            0 => ZERO,
            i64::MIN..0 => NEGATIVE,
            _ if dated(time) => DIGITS,
            1..100_000_000 => SMALL,
            1_970_000_000..2_208_988_800 => SECONDS,
            100_000_000_000..2_208_988_800_000 => SECONDS + 1,
            100_000_000_000_000..2_208_988_800_000_000 => SECONDS + 2,
            100_000_000_000_000_000..2_208_988_800_000_000_000 => SECONDS + 3,
            _ => FAR,
        };
        if self.counts[class] == 0 || time > self.largest[class] {
            self.largest[class] = time;
        }
        self.counts[class] += 1;
    }

    fn merge(&mut self, other: &Sizes) {
        for class in 0..self.counts.len() {
            if other.counts[class] > 0 {
                let first = self.counts[class] == 0;
                let largest = if first { other.largest[class] } else { self.largest[class].max(other.largest[class]) };
                (self.counts[class], self.largest[class]) = (self.counts[class] + other.counts[class], largest);
            }
        }
    }

    fn doubt(&self, kind: TimeKind) -> Option<String> {
        let all: u64 = self.counts.iter().sum();
        let main = (SMALL..=FAR).max_by_key(|&class| self.counts[class]).filter(|&class| self.counts[class] > 0)?;
        let count = |class: usize| match class {
            ZERO if kind.is_dates() => digits(self.counts[class]),
            _ => format!("{} (such as {})", digits(self.counts[class]), kind.show(self.largest[class])),
        };
        let unit = |class: usize| ["seconds", "milliseconds", "microseconds", "nanoseconds"][class - SECONDS];
        let flag = "--time-range FROM,TO makes bad rows of those outside";
        if main == DIGITS {
            let format = ["%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"];
            let length = self.largest[DIGITS].to_string().len();
            return Some(format!(
                "{} of {} times look like dates written as digits (such as {}) and are read as numbers: they \
                 order the log, but the spans between them are wrong; write them as dates (2024-05-01 10:30:00), or \
                 name their format: --time-format {}",
                digits(self.counts[DIGITS]),
                digits(all),
                kind.show(self.largest[DIGITS]),
                format[(length / 2).saturating_sub(4).min(3)]
            ));
        }
        let dates = kind.is_dates();
        let mut parts = Vec::new();
        for class in NEGATIVE..=FAR {
            if class == main || self.counts[class] == 0 {
                continue;
            }
            let what = match class {
                // Counters may begin anywhere; whole numbers just past a class boundary are not another unit.
                NEGATIVE | ZERO | FAR if main == SMALL => continue,
                DIGITS if main == SMALL && self.largest[DIGITS] < 100_000_000 => continue,
                SECONDS if main == SMALL && self.largest[SMALL] > 1_000_000 => continue,
                NEGATIVE | ZERO | SMALL | FAR if main == FAR => continue,
                NEGATIVE if dates => "lie before 1970".into(),
                ZERO if dates => {
                    format!("are {} (time 0, which often means that the time is missing)", kind.show(0))
                }
                NEGATIVE => "are negative".into(),
                ZERO => "are 0".into(),
                SMALL if dates => "lie before 1973".into(),
                SMALL => "are too small to be dates".into(),
                DIGITS => "look like dates written as digits".into(),
                FAR | SECONDS.. if dates => "lie after 2040".into(),
                FAR => "are far from all others".into(),
                class => format!("are of the size of {} since 1970", unit(class)),
            };
            parts.push(format!("{} {what}", count(class)));
        }
        let most = match main {
            SMALL => "are small numbers".into(),
            FAR => "are of no known unit".into(),
            _ if dates => "are dates of our days".into(),
            class => format!("are of the size of {} since 1970", unit(class)),
        };
        (!parts.is_empty()).then(|| {
            format!(
                "of {} times, {} {most}, but {}: they sort before or after all other times of their users; \
                 {flag}",
                digits(all),
                digits(self.counts[main]),
                parts.join(", ")
            )
        })
    }
}

/// Whether a number reads as a date: year, month, day, then hour, minute and second, or some of them, or none.
pub(crate) fn dated(time: i64) -> bool {
    let (date, clock) = match time {
        19_700_101..20_991_232 => (time, [0, 0, 0]),
        1_970_010_100..2_100_000_000 => (time / 100, [time % 100, 0, 0]),
        197_001_010_000..210_000_000_000 => (time / 10_000, [time / 100 % 100, time % 100, 0]),
        19_700_101_000_000..21_000_000_000_000 => {
            (time / 1_000_000, [time / 10_000 % 100, time / 100 % 100, time % 100])
        }
        _ => return false,
    };
    (1..=12).contains(&(date / 100 % 100))
        && (1..=31).contains(&(date % 100))
        && clock[0] < 24
        && clock[1] < 60
        && clock[2] < 61
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::write::Has;

    fn row(time: i64) -> EventRow {
        EventRow { user: (0, 0), item: (0, 0), user_hash: 0, item_hash: 0, time, rating: 0.0, basket: 0 }
    }

    #[test]
    fn blocks_of_any_decimals_come_to_one_resolution() {
        // 5, 5.25; then 7.125, 8; then a large one that leaves room for two decimals only.
        let codec = RowCodec(Has { times: true, ratings: false, baskets: false });
        let quarter = PARTS / 4;
        let (mut all, mut decimals, mut spill) = (Times::default(), Decimals::default(), Vec::new());
        let kind = TimeKind::Number { unit: "unknown" };
        for (times, fractions) in [
            (vec![5, 5], vec![(1, quarter)]),
            (vec![7, 8], vec![(0, PARTS / 8)]),
            (vec![-9_999_999_999_999_998], vec![]),
        ] {
            let mut rows: Vec<EventRow> = times.into_iter().map(row).collect();
            let (times, kept) = Times::of_block(&mut rows, &fractions, kind);
            all.add(&times);
            decimals.push(rows.len() as u64, kept);
            rows.iter().for_each(|r| codec.encode(0, 0, r.time, 0.0, 0, &mut spill));
        }
        let (to, unit) = kind.kept(all.needed, all.room);
        assert_eq!((all.needed, to, unit), (3, 2, "unknown"));
        assert!(all.doubts(kind).iter().any(|line| line.contains("have 3 decimals, and only 2")));
        decimals.settle(to);
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in spill.chunks(2 * codec.width()) {
            let level = decimals.level(piece, codec, &mut buffer);
            found.extend(level.chunks(codec.width()).map(|r| i64::from_le_bytes(r[8..16].try_into().unwrap())));
        }
        assert_eq!(found, [500, 525, 712, 800, -999_999_999_999_999_800]);
    }

    #[test]
    fn dates_written_as_digits_are_told_from_moments() {
        for time in [20_240_501, 20_240_501_103_000, 202_405_011_030, 2_024_050_110, 19_991_231_235_959] {
            assert!(dated(time), "{time}");
        }
        for time in [
            20_241_301,
            20_240_532,
            20_241_301_103_000,
            1_700_000_000,
            1_700_000_000_000,
            20_240_501_253_000,
            2_024_053_210,
        ] {
            assert!(!dated(time), "{time}");
        }
    }

    #[test]
    fn times_of_another_size_are_counted() {
        let doubt = |times: &[(i64, usize)], kind| {
            let mut sizes = Sizes::default();
            times.iter().for_each(|&(time, n)| (0..n).for_each(|_| sizes.add(time)));
            sizes.doubt(kind).unwrap_or_default()
        };
        let seconds = TimeKind::Number { unit: "s" };
        let mixed = doubt(&[(1_700_000_000, 50), (1_700_000_000_000, 10)], seconds);
        assert!(mixed.contains("10 (such as 1700000000000) are of the size of milliseconds"), "{mixed}");
        let holes = doubt(&[(1_700_000_000, 50), (0, 3), (-1, 2)], seconds);
        assert!(holes.contains("2 (such as -1) are negative") && holes.contains("3 (such as 0) are 0"), "{holes}");
        let dates = doubt(&[(1_700_000_000, 50), (0, 3), (253_402_300_799, 1)], TimeKind::Date);
        let missing = "3 are 1970-01-01 00:00:00 (time 0, which often means that the time is missing)";
        assert!(dates.contains(missing) && dates.contains("1 (such as 9999-12-31 23:59:59) lie after 2040"), "{dates}");
        let early = doubt(&[(1_700_000_000, 50), (-86_400, 2)], TimeKind::Date);
        assert!(early.contains("2 (such as 1969-12-31 00:00:00) lie before 1970"), "{early}");
        let written = doubt(&[(20_240_501_103_000, 9)], TimeKind::Number { unit: "ms" });
        assert!(written.contains("9 of 9 times look like dates") && written.contains("%Y%m%d%H%M%S"), "{written}");
        let order = TimeKind::Number { unit: "unknown" };
        for fine in [&[(0, 5), (1, 5), (-3, 1), (99, 9)][..], &[(90_000_000, 5), (110_000_000, 2)], &[(0, 4)]] {
            assert_eq!(doubt(fine, order), "", "{fine:?}");
        }
        assert_eq!(doubt(&[(978_300_760, 5), (1_700_000_000, 9)], seconds), "");
        assert!(doubt(&[(500, 9), (1_700_000_000, 1)], order).contains("of the size of seconds"));
    }
}
