/*! Rows in log order -> one history per user, oldest first.

Rows are in a [`Spill`], and the row count of each user is known. Users are processed in runs that fit in memory: a
counting sort by user, then each history is sorted by time, its baskets are made contiguous, and the duplicates rule is
applied. With more than one run, rows are first partitioned into one spill per run. All sorts are stable, so rows with
equal times keep the order of the log, and the result does not depend on the number of runs.
*/

use std::{ops::Range, path::Path};

use rayon::{iter::IntoParallelIterator, prelude::*};
use rustc_hash::FxHashMap;

use crate::{
    base::Result,
    data::{
        history::History,
        import::{moments::Decimals, options::Duplicates, rows::RowCodec},
        spill::Spill,
    },
};

/// Receives one history.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(History) -> Result<()>;

/// Memory bounds of grouping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupLimits {
    /// Rows of one run of users (a single user may have more).
    pub run_rows: u64,
    /// Bytes of all write buffers while rows are partitioned.
    pub buffer_bytes: u64,
}

/// Histories of one run of users.
#[derive(Default)]
struct Run {
    items: Vec<u32>,
    times: Vec<i64>,
    ratings: Vec<f32>,
    /// Labels; after sorting a history, numbers in order of first appearance.
    baskets: Vec<u64>,
}

/// What grouping changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Grouped {
    /// Duplicates that were dropped.
    pub dropped: u64,
    /// Kept rows that equal another row in user, item, time and rating; 0 if the log has no times.
    pub equal: u64,
    /// Times raised to keep baskets whole and times non-decreasing.
    pub raised: u64,
}

/// Groups all rows. `decimals` brings times to one resolution, `counts` (users) has the rows of each user, `sink`
/// receives every user in order, and `check` is called regularly and may cancel.
pub(crate) fn group(
    mut rows: Spill,
    codec: RowCodec,
    mut decimals: Decimals,
    counts: &[u32],
    duplicates: Duplicates,
    limits: GroupLimits,
    dir: &Path,
    check: &dyn Fn() -> Result<()>,
    sink: Sink,
) -> Result<Grouped> {
    let runs = cut(counts, limits.run_rows);
    if runs.len() <= 1 {
        let all = 0..counts.len();
        return group_run(&mut rows, codec, decimals, counts, all, duplicates, sink);
    }
    let mut run_of = vec![0u32; counts.len()];
    for (n, run) in runs.iter().enumerate() {
        run_of[run.clone()].fill(n as u32);
    }
    let chunk = (limits.buffer_bytes / runs.len() as u64).clamp(4 << 10, 1 << 20) as usize;
    let mut dealt: Vec<Spill> =
        (0..runs.len()).map(|n| Spill::new(&dir.join(format!("run-{n:05}.tmp")), codec.width(), chunk, 0)).collect();
    let mut buffer = Vec::new();
    rows.for_each(|piece| {
        check()?;
        decimals.level(piece, codec, &mut buffer).chunks_exact(codec.width()).try_for_each(|row| {
            let user = u32::from_le_bytes(row[..4].try_into().expect("four bytes"));
            dealt[run_of[user as usize] as usize].write(row)
        })
    })?;
    drop(rows);
    let mut all = Grouped::default();
    for (spill, users) in dealt.into_iter().zip(runs) {
        // Each spill is deleted when its run is done, which frees its disk space.
        let mut spill = spill;
        let run = group_run(&mut spill, codec, Decimals::default(), counts, users, duplicates, sink)?;
        all.dropped += run.dropped;
        all.raised += run.raised;
        all.equal += run.equal;
    }
    Ok(all)
}

/// Cuts users into runs of at most `most` rows; a user with more gets a run alone.
fn cut(counts: &[u32], most: u64) -> Vec<Range<usize>> {
    let (mut runs, mut start, mut rows) = (Vec::new(), 0, 0u64);
    for (user, &count) in counts.iter().enumerate() {
        if user > start && rows + count as u64 > most {
            runs.push(start..user);
            (start, rows) = (user, 0);
        }
        rows += count as u64;
    }
    if start < counts.len() {
        runs.push(start..counts.len());
    }
    runs
}

fn group_run(
    rows: &mut Spill,
    codec: RowCodec,
    mut decimals: Decimals,
    counts: &[u32],
    users: Range<usize>,
    duplicates: Duplicates,
    sink: Sink,
) -> Result<Grouped> {
    let mut next = Vec::with_capacity(users.len());
    let mut total = 0;
    for &count in &counts[users.clone()] {
        next.push(total);
        total += count as usize;
    }
    let mut run = Run {
        items: vec![0; total],
        times: vec![0; if codec.0.times { total } else { 0 }],
        ratings: vec![0.0; if codec.0.ratings { total } else { 0 }],
        baskets: vec![0; if codec.0.baskets { total } else { 0 }],
    };
    let mut buffer = Vec::new();
    rows.for_each(|piece| {
        for row in decimals.level(piece, codec, &mut buffer).chunks_exact(codec.width()) {
            let (user, item, time, rating, basket) = codec.decode(row);
            let at = &mut next[user as usize - users.start];
            run.items[*at] = item;
            if codec.0.times {
                run.times[*at] = time;
            }
            if codec.0.ratings {
                run.ratings[*at] = rating;
            }
            if codec.0.baskets {
                run.baskets[*at] = basket;
            }
            *at += 1;
        }
        Ok(())
    })?;
    drop((next, buffer));
    // About 256 tasks balance well at negligible cost.
    let counts = &counts[users];
    let tasks = cut(counts, (total as u64 / 256).max(4096));
    let (mut items, mut times, mut ratings) =
        (run.items.as_mut_slice(), run.times.as_mut_slice(), run.ratings.as_mut_slice());
    let mut baskets = run.baskets.as_mut_slice();
    let mut parts = Vec::with_capacity(tasks.len());
    for task in tasks {
        let rows: usize = counts[task.clone()].iter().map(|&c| c as usize).sum();
        let histories = Histories {
            items: items.split_off_mut(..rows).expect("in range"),
            times: if codec.0.times { times.split_off_mut(..rows).expect("in range") } else { &mut [] },
            ratings: if codec.0.ratings { ratings.split_off_mut(..rows).expect("in range") } else { &mut [] },
            baskets: if codec.0.baskets { baskets.split_off_mut(..rows).expect("in range") } else { &mut [] },
        };
        parts.push((histories, &counts[task]));
    }
    let sorted: Vec<(Vec<u32>, u64, u64)> =
        parts.into_par_iter().map(|(histories, counts)| histories.sort(counts, duplicates)).collect();
    let (raised, equal) = (sorted.iter().map(|s| s.1).sum(), sorted.iter().map(|s| s.2).sum());
    let mut done = Grouped { dropped: 0, equal, raised };
    let (mut at, mut numbers) = (0, Vec::new());
    for (&count, &kept) in counts.iter().zip(sorted.iter().flat_map(|s| &s.0)) {
        let (start, end) = (at, at + kept as usize);
        let times = if codec.0.times { &run.times[start..end] } else { &[] };
        let ratings = if codec.0.ratings { &run.ratings[start..end] } else { &[] };
        numbers.clear();
        numbers.extend(run.baskets.get(start..end).unwrap_or_default().iter().map(|&b| b as u32));
        sink(History { items: &run.items[start..end], times, ratings, baskets: &numbers })?;
        done.dropped += (count - kept) as u64;
        at += count as usize;
    }
    Ok(done)
}

/// Histories of adjacent users, one after the other.
struct Histories<'a> {
    items: &'a mut [u32],
    times: &'a mut [i64],
    ratings: &'a mut [f32],
    baskets: &'a mut [u64],
}

impl Histories<'_> {
    /// Sorts each history by time, makes baskets contiguous and applies the duplicates rule. Returns how many rows of
    /// each history remain (at its front), how many times were raised, and how many kept rows equal another.
    fn sort(self, counts: &[u32], duplicates: Duplicates) -> (Vec<u32>, u64, u64) {
        let (mut start, mut kept, mut raised, mut equal) = (0, Vec::with_capacity(counts.len()), 0, 0);
        let mut order: Vec<u32> = Vec::new();
        for &count in counts {
            let range = start..start + count as usize;
            start = range.end;
            let items = &mut self.items[range.clone()];
            let times: &mut [i64] = if self.times.is_empty() { &mut [] } else { &mut self.times[range.clone()] };
            let ratings: &mut [f32] = if self.ratings.is_empty() { &mut [] } else { &mut self.ratings[range.clone()] };
            let baskets: &mut [u64] = if self.baskets.is_empty() { &mut [] } else { &mut self.baskets[range] };
            // Many logs are already in order.
            if !times.is_sorted() {
                order.clear();
                order.extend(0..count);
                order.sort_by_key(|&i| times[i as usize]);
                take(items, &order);
                take(ratings, &order);
                take(baskets, &order);
                take(times, &order);
            }
            number(baskets);
            if duplicates == Duplicates::Keep {
                equal += equal_rows(items, times, ratings, baskets);
            }
            // Sorting by time usually makes a basket's rows contiguous. If baskets overlap in time, the one that began
            // first comes first as a whole; times must not decrease, so later ones are raised to its last time.
            if !baskets.is_sorted() {
                order.clear();
                order.extend(0..count);
                order.sort_by_key(|&i| baskets[i as usize]);
                take(items, &order);
                take(ratings, &order);
                take(times, &order);
                take(baskets, &order);
                for at in 1..times.len() {
                    raised += u64::from(times[at] < times[at - 1]);
                    times[at] = times[at].max(times[at - 1]);
                }
            }
            if duplicates == Duplicates::Keep {
                kept.push(count);
                continue;
            }
            let keep = distinct(items, duplicates);
            take(items, &keep);
            take(ratings, &keep);
            take(baskets, &keep);
            take(times, &keep);
            kept.push(keep.len() as u32);
        }
        (kept, raised, equal)
    }
}

/// How many rows of a time-ordered history equal an earlier one in item, time, rating and basket. 0 without times,
/// since a user may return to an item.
fn equal_rows(items: &[u32], times: &[i64], ratings: &[f32], baskets: &[u64]) -> u64 {
    let (mut count, mut at, mut seen) = (0, 0, Vec::new());
    for same in times.chunk_by(|a, b| a == b) {
        let rows = at..at + same.len();
        at = rows.end;
        if rows.len() > 1 {
            let rating = |n: usize| ratings.get(n).map_or(0, |r| r.to_bits());
            seen.clear();
            seen.extend(rows.map(|n| (items[n], rating(n), baskets.get(n).copied())));
            seen.sort_unstable();
            count += seen.windows(2).filter(|w| w[0] == w[1]).count() as u64;
        }
    }
    count
}

/// Replaces labels by numbers in order of first appearance.
fn number(baskets: &mut [u64]) {
    let (mut numbers, mut last) = (FxHashMap::default(), None);
    for basket in baskets {
        let next = numbers.len() as u64;
        // Rows of a basket are nearly always adjacent.
        let number = match last {
            Some((label, number)) if label == *basket => number,
            _ => *numbers.entry(*basket).or_insert(next),
        };
        last = Some((*basket, number));
        *basket = number;
    }
}

/// `xs[i] = xs[order[i]]`; columns that the log does not have stay empty.
fn take<T: Copy>(xs: &mut [T], order: &[u32]) {
    if !xs.is_empty() {
        let taken: Vec<T> = order.iter().map(|&i| xs[i as usize]).collect();
        xs[..taken.len()].copy_from_slice(&taken);
    }
}

/// Ascending positions of the first or last occurrence of each item.
fn distinct(items: &[u32], duplicates: Duplicates) -> Vec<u32> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    order.sort_by_key(|&i| items[i as usize]);
    let same = |a: &u32, b: &u32| items[*a as usize] == items[*b as usize];
    let mut keep: Vec<u32> = order
        .chunk_by(same)
        .map(|group| if duplicates == Duplicates::First { group[0] } else { group[group.len() - 1] })
        .collect();
    keep.sort_unstable();
    keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::rng::{Purpose, Stream},
        data::write::Has,
    };

    /// Item, time, rating, number of the basket.
    type Rows = Vec<(u32, i64, f32, u32)>;
    /// User, item, time, rating, basket.
    type LogRow = (u32, u32, i64, f32, u64);

    /// A naive reference: one list per user, sorted by time, then laid out basket by basket.
    fn by_hand(rows: &[LogRow], users: usize, duplicates: Duplicates) -> (Vec<Rows>, u64) {
        let (mut all, mut raised) = (vec![Rows::new(); users], 0);
        for (user, history) in all.iter_mut().enumerate() {
            let mut sorted: Vec<LogRow> = rows.iter().filter(|r| r.0 == user as u32).copied().collect();
            sorted.sort_by_key(|r| r.2);
            let mut labels: Vec<u64> = Vec::new();
            sorted.iter().for_each(|r| labels.extend(Some(r.4).filter(|label| !labels.contains(label))));
            let mut latest = i64::MIN;
            for (number, label) in labels.iter().enumerate() {
                for r in sorted.iter().filter(|r| r.4 == *label) {
                    raised += u64::from(r.2 < latest);
                    latest = latest.max(r.2);
                    history.push((r.1, latest, r.3, number as u32));
                }
            }
            let whole = history.clone();
            let mut at = 0;
            history.retain(|row| {
                at += 1;
                match duplicates {
                    Duplicates::Keep => true,
                    Duplicates::First => !whole[..at - 1].iter().any(|r| r.0 == row.0),
                    Duplicates::Last => !whole[at..].iter().any(|r| r.0 == row.0),
                }
            });
        }
        (all, raised)
    }

    #[test]
    fn any_number_of_runs_gives_what_a_plain_sort_gives() {
        let dir = tempfile::tempdir().unwrap();
        let mut draw = Stream::new(3, Purpose::Test, 0);
        // Few rows under Miri, which is slow.
        let (users, many, tied) = if cfg!(miri) { (6, 60, 2) } else { (40, 3000, 100) };
        // Few distinct times and items: many ties and duplicates. Ratings number the rows.
        let rows: Vec<LogRow> = (0..many)
            .map(|i| {
                let user = (draw.below(users as u64) * draw.below(users as u64) / users as u64) as u32;
                let time = draw.below(9) as i64 - 4;
                // Baskets that span several times, so that they overlap.
                let basket = (time / 3 + draw.below(2) as i64) as u64;
                (user, draw.below(30) as u32, time, i as f32, basket)
            })
            .collect();
        let mut counts = vec![0u32; users];
        rows.iter().for_each(|r| counts[r.0 as usize] += 1);
        let codec = RowCodec(Has { times: true, ratings: true, baskets: true });
        for duplicates in [Duplicates::Keep, Duplicates::First, Duplicates::Last] {
            let (expected, raised) = by_hand(&rows, users, duplicates);
            assert!(raised > tied);
            for run_rows in [1, 50, 700, u64::MAX] {
                let mut spill = Spill::new(&dir.path().join("rows"), codec.width(), 200, 1000);
                for r in &rows {
                    let mut bytes = Vec::new();
                    codec.encode(r.0, r.1, r.2, r.3, r.4, &mut bytes);
                    spill.write(&bytes).unwrap();
                }
                let mut got = Vec::new();
                let limits = GroupLimits { run_rows, buffer_bytes: 100 };
                let done = group(
                    spill,
                    codec,
                    Decimals::default(),
                    &counts,
                    duplicates,
                    limits,
                    dir.path(),
                    &|| Ok(()),
                    &mut |h| {
                        got.push(
                            (0..h.items.len())
                                .map(|i| (h.items[i], h.times[i], h.ratings[i], h.baskets[i]))
                                .collect::<Rows>(),
                        );
                        Ok(())
                    },
                );
                assert_eq!(got, expected, "{duplicates:?}, runs of {run_rows}");
                let kept: usize = expected.iter().map(Vec::len).sum();
                assert_eq!(done.unwrap(), Grouped { dropped: (rows.len() - kept) as u64, equal: 0, raised });
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no temporary file is left");
    }
}
