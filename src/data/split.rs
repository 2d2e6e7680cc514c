/*! Splits events into a part that trains a model, a part that selects it, and a part that evaluates it.

Every split here is a *prefix split* of each user's events, oldest first: `train = [0, a)`, `valid = [a, b)`, `test =
[b, n)`. Events with equal timestamps keep the order of the input, so the same log in another order may give another
test item; [`Summary::tied_test_users`] counts the users that this can affect.

A task may predict whole baskets. Splits that count events cut through baskets, and the rest of a cut basket would be
in the history of its held-out items, so [`Split::for_task`] rejects them. A time cut never separates equal times, and
baskets defined by a column are held out whole, from their first event on.

The three parts have three types ([`TrainPart`], [`ValidPart`], [`TestPart`]). A function that tunes something accepts
`ValidPart`, and passing the test part does not compile:

```compile_fail,E0308
use mipgpu::data::split::{Split, ValidPart};
fn stop_early(part: ValidPart<'_>) {}
fn wrong(split: &Split) {
    stop_early(split.test());
}
```
*/

use std::{fmt, ops::Range};

use serde::{Deserialize, Serialize};

use crate::{
    base::{Error, Result},
    data::{
        Dataset,
        cut::{latest_tenth, leak, period, when},
    },
};

/// The rule of a split; stored in the run's configuration, so a later evaluation repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitSpec {
    /// The last event of a user is the test item, the preceding one the validation item.
    #[default]
    LeaveOneOut,
    /// The last `test` events of a user are for the test, the preceding `valid` events for validation.
    LastN { valid: usize, test: usize },
    /// The last `test` share of a user's events is for the test, the preceding `valid` share for validation; at least
    /// one event of each share that is not 0.
    Ratio { valid: f64, test: f64 },
    /// A user's last basket is for the test, the preceding one for validation.
    LastBasket,
    /// Events at or after `cut` are for the test, those in `[valid_cut, cut)` for validation. Both are in the unit of
    /// the data's timestamps (seconds since 1970 for dates). Without a `valid_cut`, the latest tenth of the events
    /// before `cut` is for validation (see [`Split::new`]).
    Time {
        cut: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid_cut: Option<i64>,
    },
}

impl SplitSpec {
    /// Returns whether items of a history are always candidates: people buy items repeatedly.
    pub fn repeats(self) -> bool {
        self == SplitSpec::LastBasket
    }

    /// Checks that the split holds out whole baskets.
    ///
    /// # Errors
    /// The split counts events, regardless of baskets.
    pub fn check_whole_baskets(self) -> Result<()> {
        match self {
            SplitSpec::LastBasket | SplitSpec::Time { .. } => Ok(()),
            SplitSpec::LeaveOneOut | SplitSpec::LastN { .. } | SplitSpec::Ratio { .. } => Err(Error::user(format!(
                "this split cuts baskets, and the task needs whole ones: the rest of a basket would be in the history \
                 of its held-out items ({self})"
            ))
            .hint("use --split last-basket, which is usual for --task next-basket, or --split time")),
        }
    }

    /// Describes the split, with dates for the cuts if `ticks_per_second` is known.
    pub fn words(self, ticks_per_second: Option<i64>) -> String {
        let date = |t| when(t, ticks_per_second);
        match self {
            SplitSpec::LeaveOneOut => {
                "leave-one-out: a user's last item is the test item, the one before it is the validation item".into()
            }
            SplitSpec::LastN { valid, test } => {
                format!("last-n: a user's last {test} events are for the test, the {valid} before them for validation")
            }
            SplitSpec::Ratio { valid, test } => {
                let percent = |share: f64| (share * 1e4).round() / 100.0;
                let (test, valid) = (percent(test), percent(valid));
                format!(
                    "ratio: the last {test} % of a user's events are for the test, {valid} % before them for validation"
                )
            }
            SplitSpec::LastBasket => {
                "last-basket: a user's last basket is for the test, the one before it for validation".into()
            }
            SplitSpec::Time { cut, valid_cut: Some(v) } => {
                let (cut, v) = (date(cut), date(v));
                format!("time: events from {cut} on are for the test, those before it from {v} on for validation")
            }
            SplitSpec::Time { cut, valid_cut: None } => {
                let cut = date(cut);
                format!(
                    "time: events from {cut} on are for the test, the latest tenth of those before it for validation"
                )
            }
        }
    }
}

/// Prints times as numbers, because their unit is unknown here.
impl fmt::Display for SplitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(None))
    }
}

/// Statistics of a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub users: usize,
    pub train_events: u64,
    pub valid_events: u64,
    pub test_events: u64,
    /// Users with a held-out validation event and at least one event before it.
    pub valid_users: usize,
    /// Users with a held-out test event and at least one event before it.
    pub test_users: usize,
    /// Users with all events in training (for the counted splits: too few events to hold any out).
    pub train_only_users: usize,
    /// Users with held-out test events but no event before them; they are left out of the test for lack of a history.
    pub no_history_users: usize,
    /// Test users with the first test item at the same timestamp as the item before it: the order of the input decides
    /// which of the two is tested. `None` if the data has no timestamps.
    pub tied_test_users: Option<usize>,
    /// Items that occur only in held-out positions, never in training.
    pub unseen_items: usize,
    /// Users with a basket that contains a time cut; it is held out whole, including its part before the cut.
    pub whole_baskets: usize,
    /// The cut between training and validation of a time split, specified or chosen.
    pub valid_cut: Option<i64>,
    /// Units of the timestamps per second; `None` if there are none or they are plain numbers.
    pub ticks_per_second: Option<i64>,
}

/// The boundaries of the three parts for every user of one dataset.
#[derive(Clone, Debug)]
pub struct Split {
    spec: SplitSpec,
    /// End of the training prefix of each user.
    train_end: Vec<u32>,
    /// End of the validation range of each user.
    valid_end: Vec<u32>,
    end: Vec<u32>,
    summary: Summary,
    /// Number of occurrences of each item in training parts (V).
    train_counts: Vec<u32>,
}

impl Split {
    /// Splits `data` at the events where `trained` splits `seen`. `data` has the same events and more, such as the
    /// impressions that include the clicks of `seen`. A user's parts end with the last event that `trained` trains on,
    /// and the last that it validates on. For a user who is not in `seen`, the rule decides how many events are held
    /// out. Time cuts are those of `trained`.
    ///
    /// # Errors
    /// As [`Split::new`]; or one of the two data sets has no times.
    pub fn along(data: &Dataset, seen: &Dataset, trained: &Split) -> Result<Split> {
        let spec = match trained.spec {
            SplitSpec::Time { cut, .. } => SplitSpec::Time { cut, valid_cut: trained.summary.valid_cut },
            spec => spec,
        };
        let mut split = Split::by_rule(data, spec)?;
        split.spec = trained.spec;
        for user in (0..data.users()).filter(|_| !matches!(spec, SplitSpec::Time { .. })) {
            let Some(there) = seen.user_keys().find(data.user_keys().key(user)).map(|there| there as usize) else {
                continue;
            };
            let (Some(mine), Some(theirs)) = (data.times_of(user), seen.times_of(there)) else {
                return Err(Error::user("one of two data sets has no times to cut the other by")
                    .hint("import both with their column of times: --time-col COL"));
            };
            // From after one click to after another: a part that began at a click would have too many of them.
            let place = |end: usize| match end {
                0 => 0,
                end if end == theirs.len() => mine.len(),
                end => {
                    let at = mine.partition_point(|t| *t <= theirs[end - 1]);
                    let torn = |basket: &Range<usize>| data.has_baskets() && basket.start < at && at < basket.end;
                    data.baskets_of(user).find(torn).map_or(at, |basket| basket.end)
                }
            };
            let [a, b] = [trained.train_end[there], trained.valid_end[there]].map(|end| place(end as usize) as u32);
            (split.train_end[user], split.valid_end[user]) = (a, b.max(a));
        }
        split.complete(data)
    }

    /// Splits `data`.
    ///
    /// Under the counted splits, a user with fewer than `valid + test + 1` events (for `last-basket`: fewer than three
    /// baskets) stays in training entirely. A time split without a `valid_cut` uses the earliest timestamp at or after
    /// which at most a tenth of the events before the cut lie. Events with one timestamp are never separated.
    ///
    /// # Errors
    /// A time split of data without timestamps, or a basket split of data without baskets. A cut outside the data's
    /// period. A split without test events for any user. Events out of time order, which would leak the future into a
    /// history.
    pub fn new(data: &Dataset, spec: SplitSpec) -> Result<Split> {
        Split::by_rule(data, spec)?.complete(data)
    }

    /// Sets the boundaries by the rule, without statistics.
    fn by_rule(data: &Dataset, spec: SplitSpec) -> Result<Split> {
        let users = data.users();
        if users == 0 {
            return Err(Error::user("the data has no users: nothing to split").hint("check the import's filters"));
        }
        let mut split = Split {
            spec,
            train_end: Vec::with_capacity(users),
            valid_end: Vec::with_capacity(users),
            end: (0..users).map(|u| data.items_of(u).len() as u32).collect(),
            summary: Summary { users, ticks_per_second: data.ticks_per_second(), ..Summary::default() },
            train_counts: vec![0; data.items()],
        };
        match spec {
            SplitSpec::LeaveOneOut => split.last_n(1, 1)?,
            SplitSpec::LastN { valid, test } => split.last_n(valid, test)?,
            SplitSpec::Ratio { valid, test } => split.last_shares(valid, test)?,
            SplitSpec::LastBasket => split.last_baskets(data)?,
            SplitSpec::Time { cut, valid_cut } => split.at_cuts(data, cut, valid_cut)?,
        }
        Ok(split)
    }

    /// Checks the boundaries and computes the statistics.
    fn complete(mut self, data: &Dataset) -> Result<Split> {
        self.check_leaks(data)?;
        self.summarise(data);
        let spec = self.spec;
        if self.summary.test_users == 0 {
            let spec = spec.words(data.ticks_per_second());
            return Err(Error::user(format!("empty split: no user has an event to test on ({spec})")).hint(match self
                .spec
            {
                SplitSpec::Time { .. } => "no user has events on both sides of the cut: move it with --cut",
                SplitSpec::LeaveOneOut => "a user needs three events to hold out two: the log has no longer histories",
                _ => "the users have too few events: hold out fewer",
            }));
        }
        if self.summary.train_events == 0 {
            let spec = spec.words(data.ticks_per_second());
            return Err(Error::user(format!("empty split: nothing is left to train on ({spec})"))
                .hint("hold out fewer events, or move the cut of a time split"));
        }
        Ok(self)
    }

    /// Splits as [`Split::new`], for a task that needs whole `baskets` or not.
    ///
    /// # Errors
    /// As [`Split::new`] and [`SplitSpec::check_whole_baskets`].
    pub fn for_task(data: &Dataset, spec: SplitSpec, baskets: bool) -> Result<Split> {
        if baskets {
            spec.check_whole_baskets()?;
        }
        Split::new(data, spec)
    }

    fn last_n(&mut self, valid: usize, test: usize) -> Result<()> {
        if test == 0 {
            return Err(Error::user("the split holds out 0 test events").hint("set --test-n to at least 1"));
        }
        self.hold_out(|_| (valid, test));
        Ok(())
    }

    fn last_shares(&mut self, valid: f64, test: f64) -> Result<()> {
        let share = |x: f64| (0.0..1.0).contains(&x);
        if !share(valid) || !share(test) || test == 0.0 || valid + test >= 1.0 {
            return Err(Error::user(format!("shares of {valid} for validation and {test} for the test")).hint(
                "set --test-share above 0 and --valid-share to at least 0, with a sum below 1, such as 0.2 and 0.1",
            ));
        }
        // A tiny amount is added to the product, so that 0.29 of 100 is 29.
        let held = |n: usize, share: f64| if share == 0.0 { 0 } else { ((n as f64 * share + 1e-9) as usize).max(1) };
        self.hold_out(|n| (held(n, valid), held(n, test)));
        Ok(())
    }

    /// Holds out the last events of users: of n events, some for validation, followed by some for the test.
    fn hold_out(&mut self, of: impl Fn(usize) -> (usize, usize)) {
        for &n in &self.end {
            let (valid, test) = of(n as usize);
            // At least one event must remain for training and as history.
            let enough = n as usize > valid.saturating_add(test);
            let held = |k: usize| if enough { n - k as u32 } else { n };
            self.train_end.push(held(valid.saturating_add(test)));
            self.valid_end.push(held(test));
        }
    }

    /// Holds out a basket as a whole, regardless of its size.
    fn last_baskets(&mut self, data: &Dataset) -> Result<()> {
        data.check_baskets()?;
        for user in 0..data.users() {
            let starts: Vec<u32> = data.baskets_of(user).map(|basket| basket.start as u32).collect();
            let (train, valid) = match starts[..] {
                [_, .., valid, test] => (valid, test),
                _ => (self.end[user], self.end[user]),
            };
            self.train_end.push(train);
            self.valid_end.push(valid);
        }
        Ok(())
    }

    fn at_cuts(&mut self, data: &Dataset, cut: i64, valid_cut: Option<i64>) -> Result<()> {
        let (first, last) = period(data)?;
        let date = |t| when(t, data.ticks_per_second());
        let place = || format!("the data's timestamps run from {} to {}", date(first), date(last));
        if cut <= first || cut > last {
            return Err(Error::user(format!("the cut {} leaves nothing on one side: {}", date(cut), place()))
                .hint("set --cut to a time between them, as a date or in the unit of the timestamps"));
        }
        let valid_cut = match valid_cut {
            Some(v) if v > cut => {
                return Err(Error::user(format!(
                    "the validation cut {} comes after the test cut {}",
                    date(v),
                    date(cut)
                ))
                .hint("set --valid-cut to a time before --cut"));
            }
            Some(v) if v <= first => {
                return Err(Error::user(format!(
                    "the validation cut {} leaves nothing to train on: {}",
                    date(v),
                    place()
                ))
                .hint("set --valid-cut to a time after the first events"));
            }
            Some(v) => v,
            None => latest_tenth(data, first, cut),
        };
        self.summary.valid_cut = Some(valid_cut);
        for user in 0..data.users() {
            let times = data.times_of(user).unwrap_or_default();
            let places = [valid_cut, cut].map(|cut| times.partition_point(|&t| t < cut));
            // The rest of an order was not known before the cut, so the whole order is held out.
            let whole = places.map(|at| if data.has_baskets() { data.basket_start(user, at) } else { at });
            self.summary.whole_baskets += usize::from(whole != places);
            self.train_end.push(whole[0] as u32);
            self.valid_end.push(whole[1] as u32);
        }
        Ok(())
    }

    /// Checks every event of every user for leaks; see [`leak`].
    fn check_leaks(&self, data: &Dataset) -> Result<()> {
        let cuts = match (self.spec, self.summary.valid_cut) {
            (SplitSpec::Time { cut, .. }, Some(valid_cut)) => Some((valid_cut, cut)),
            _ => None,
        };
        for user in 0..data.users() {
            let (a, b, n) = (self.train_end[user] as usize, self.valid_end[user] as usize, self.end[user] as usize);
            if a > b || b > n {
                return Err(Error::internal(format!("split of user {user}: parts {a}, {b}, {n} out of order")));
            }
            let Some(times) = data.times_of(user) else { continue };
            if let Some((at, what)) = leak(times, a, b, cuts) {
                return Err(Error::user(format!(
                    "leak: event {at} of user '{}' ({}) {what}",
                    data.user_keys().key(user),
                    when(times[at], data.ticks_per_second())
                ))
                .hint("the events of a user must be in time order; import the log again"));
            }
        }
        Ok(())
    }

    fn summarise(&mut self, data: &Dataset) {
        let s = &mut self.summary;
        let mut tied = 0;
        let mut timed = false;
        let mut held_out = vec![false; data.items()];
        for user in 0..data.users() {
            let (a, b, n) = (self.train_end[user] as usize, self.valid_end[user] as usize, self.end[user] as usize);
            let items = data.items_of(user);
            items[..a].iter().for_each(|&i| self.train_counts[i as usize] += 1);
            items[a..].iter().for_each(|&i| held_out[i as usize] = true);
            s.train_events += a as u64;
            s.valid_events += (b - a) as u64;
            s.test_events += (n - b) as u64;
            s.train_only_users += usize::from(a == n);
            s.valid_users += usize::from(0 < a && a < b);
            s.test_users += usize::from(0 < b && b < n);
            s.no_history_users += usize::from(b == 0 && n > 0);
            if let Some(times) = data.times_of(user) {
                timed = true;
                tied += usize::from(0 < b && b < n && times[b] == times[b - 1]);
            }
        }
        s.tied_test_users = timed.then_some(tied);
        s.unseen_items = held_out.iter().zip(&self.train_counts).filter(|(held, n)| **held && **n == 0).count();
    }

    pub fn spec(&self) -> SplitSpec {
        self.spec
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Returns the number of occurrences of each item in training parts (V).
    pub fn train_counts(&self) -> &[u32] {
        &self.train_counts
    }

    /// Returns the events to train on.
    pub fn train(&self) -> TrainPart<'_> {
        TrainPart(self)
    }

    /// Returns the events that select a model; the history is the training part.
    pub fn valid(&self) -> ValidPart<'_> {
        ValidPart(self)
    }

    /// Returns the events that evaluate a model; the history is the training and validation part.
    pub fn test(&self) -> TestPart<'_> {
        TestPart(self)
    }

    /// Counts the events that `part` of this split holds out and that are in the training part of `trained`, a split of
    /// the same data. If it is above 0, a model trained on `trained` has seen answers. The second number counts those
    /// in its validation part. They helped to select the model, which does not matter if `part` is itself for
    /// validation.
    pub fn seen_by(&self, trained: &Split, part: &dyn HeldOut) -> (u64, u64) {
        let below = |ends: &[u32]| -> u64 {
            let inside = |(u, end): (usize, &u32)| {
                let held = part.held_out(u);
                u64::from((*end).min(held.end as u32).saturating_sub(held.start as u32))
            };
            ends.iter().enumerate().map(inside).sum()
        };
        let trained_on = below(&trained.train_end);
        let chose = if part.name() == "test" { below(&trained.valid_end) - trained_on } else { 0 };
        (trained_on, chose)
    }
}

/// The training prefixes.
#[derive(Clone, Copy)]
pub struct TrainPart<'s>(&'s Split);

impl TrainPart<'_> {
    /// Returns the training events of this user, oldest first.
    pub fn items<'d>(&self, data: &'d Dataset, user: usize) -> &'d [u32] {
        &data.items_of(user)[..self.0.train_end[user] as usize]
    }

    /// Returns the number of training events of this user.
    pub fn len_of(&self, user: usize) -> usize {
        self.0.train_end[user] as usize
    }
}

/// The validation ranges. Not interchangeable with [`TestPart`].
#[derive(Clone, Copy)]
pub struct ValidPart<'s>(&'s Split);

/// The test suffixes. Not interchangeable with [`ValidPart`].
#[derive(Clone, Copy)]
pub struct TestPart<'s>(&'s Split);

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ValidPart<'_> {}
    impl Sealed for super::TestPart<'_> {}
}

/// A part that evaluation can rank: the held-out events of each user. The history is everything before them.
pub trait HeldOut: sealed::Sealed + Sync {
    /// Returns "validation" or "test".
    fn name(&self) -> &'static str;
    /// Returns the positions held out of a user; the history is `[0, start)`.
    fn held_out(&self, user: usize) -> Range<usize>;
    /// Returns the split that this is a part of.
    fn split(&self) -> &Split;
    /// Describes the events of the history.
    fn history_words(&self) -> &'static str;
    /// Returns the users with a held-out event and a history, ascending.
    fn users(&self) -> Vec<u32> {
        let held = |u: &u32| {
            let r = self.held_out(*u as usize);
            0 < r.start && r.start < r.end
        };
        (0..self.split().end.len() as u32).filter(held).collect()
    }
}

impl HeldOut for ValidPart<'_> {
    fn name(&self) -> &'static str {
        "validation"
    }
    fn held_out(&self, user: usize) -> Range<usize> {
        self.0.train_end[user] as usize..self.0.valid_end[user] as usize
    }
    fn split(&self) -> &Split {
        self.0
    }
    fn history_words(&self) -> &'static str {
        "the training part"
    }
}

impl HeldOut for TestPart<'_> {
    fn name(&self) -> &'static str {
        "test"
    }
    fn held_out(&self, user: usize) -> Range<usize> {
        self.0.valid_end[user] as usize..self.0.end[user] as usize
    }
    fn split(&self) -> &Split {
        self.0
    }
    fn history_words(&self) -> &'static str {
        "the training and validation parts"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_dates_where_times_are() {
        let spec = SplitSpec::Time { cut: 1_685_577_600, valid_cut: Some(1_685_491_200) };
        let words = spec.words(Some(1));
        assert!(
            words.contains("from 2023-06-01 (1685577600) on") && words.contains("2023-05-31 (1685491200)"),
            "{words}"
        );
        assert!(spec.to_string().contains("from 1685577600 on") && spec.words(None) == spec.to_string());
    }

    #[test]
    fn a_spec_survives_json_and_toml() {
        for spec in [
            SplitSpec::LeaveOneOut,
            SplitSpec::LastN { valid: 2, test: 3 },
            SplitSpec::LastBasket,
            SplitSpec::Time { cut: 100, valid_cut: None },
            SplitSpec::Time { cut: 100, valid_cut: Some(90) },
        ] {
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<SplitSpec>(&json).unwrap(), spec, "{json}");
            let toml = toml::to_string(&spec).unwrap();
            assert_eq!(toml::from_str::<SplitSpec>(&toml).unwrap(), spec, "{toml}");
        }
        assert!(serde_json::from_str::<SplitSpec>(r#"{"kind":"last-one"}"#).is_err());
    }
}
