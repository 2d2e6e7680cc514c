/*! Impressions, their click labels and the clicks before them: the training data of click-through prediction.

Every row of a log with ratings is an *impression*: the item was shown to the user. It is a click if the rating is at
least `positive` (1 = clicked, 0 = shown in logs of impressions; stars at or above a threshold elsewhere).

The history of an impression contains what was known when it was shown: the user's clicks in *earlier baskets*. Items
of one basket (with one time, or one text in the basket column) are shown together, and a click on one of them reveals
the outcome of the others. So the history contains nothing of the impression's own basket. Without times and baskets
every row is a separate basket, and the order of the log is the order in time.
*/

use std::ops::Range;

use crate::{
    base::{Error, Result},
    data::{Dataset, split::Split},
};

/// An item shown to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impression {
    pub user: u32,
    /// Item id in the data set.
    pub item: u32,
    /// The index of its history ([`Impressions::history`]).
    pub history: u32,
    pub clicked: bool,
}

/// The clicks of a user up to some time.
#[derive(Clone, Copy, Debug)]
struct History {
    user: u32,
    /// Start and end among the clicks of all users, and the start of the newest basket with clicks.
    start: u32,
    last: u32,
    end: u32,
}

/// All impressions of a data set, user by user, each oldest first, and their histories.
#[derive(Debug)]
pub struct Impressions {
    pub rows: Vec<Impression>,
    /// The first row of each user, and the end (U+1).
    starts: Vec<u32>,
    /// Clicked items of all users, as item ids of the model.
    clicks: Vec<u32>,
    histories: Vec<History>,
    /// Clicks on items that the model does not know; they are in no history.
    pub unknown_clicks: u64,
}

impl Impressions {
    /// Reads all impressions; a rating of `positive` or more is a click. `known` returns the model's id of an item; a
    /// history contains only items that the model knows.
    ///
    /// # Errors
    /// The data have no ratings, or the number of rows exceeds 32 bits.
    pub fn read(data: &Dataset, positive: f32, known: impl Fn(u32) -> Option<u32>) -> Result<Impressions> {
        let place = data.dir().display();
        if data.interactions() >= u32::MAX as u64 {
            return Err(Error::user(format!("{place}: {} impressions", data.interactions()))
                .hint("at most 4,294,967,294 are supported; import a part of the log"));
        }
        let mut all = Impressions {
            rows: Vec::with_capacity(data.interactions() as usize),
            starts: vec![0],
            clicks: Vec::new(),
            histories: Vec::new(),
            unknown_clicks: 0,
        };
        for user in 0..data.users() {
            let items = data.items_of(user);
            let ratings = data.ratings_of(user).ok_or_else(|| {
                Error::user(format!(
                    "{place}: the data has no ratings, which distinguish clicks from impressions without a click"
                ))
                .hint("import the log with --rating-col COL, the column with 1 for a click and 0 for no click")
            })?;
            let start = all.clicks.len() as u32;
            let mut last = start;
            for (number, basket) in data.baskets_of(user).enumerate() {
                let end = all.clicks.len() as u32;
                // Impressions between two clicks share a history and its vector.
                if number == 0 || all.histories.last().is_none_or(|last| last.end != end) {
                    all.histories.push(History { user: user as u32, start, last, end });
                }
                let history = all.histories.len() as u32 - 1;
                for at in basket {
                    let (item, clicked) = (items[at], ratings[at] >= positive);
                    all.rows.push(Impression { user: user as u32, item, history, clicked });
                    if clicked {
                        match known(item) {
                            Some(item) => all.clicks.push(item),
                            None => all.unknown_clicks += 1,
                        }
                    }
                }
                if all.clicks.len() as u32 > end {
                    last = end;
                }
            }
            all.starts.push(all.rows.len() as u32);
        }
        Ok(all)
    }

    /// Returns the number of distinct histories.
    pub fn histories(&self) -> usize {
        self.histories.len()
    }

    /// Returns the clicks of a history, oldest first, as item ids of the model; may be empty.
    pub fn history(&self, number: usize) -> &[u32] {
        let History { start, end, .. } = self.histories[number];
        &self.clicks[start as usize..end as usize]
    }

    /// Returns the clicks of a history's newest basket with clicks: the input of basket models.
    pub fn last_basket(&self, number: usize) -> &[u32] {
        let History { last, end, .. } = self.histories[number];
        &self.clicks[last as usize..end as usize]
    }

    /// Returns the user of a history, by the numbering of the data.
    pub fn whose(&self, number: usize) -> usize {
        self.histories[number].user as usize
    }

    /// Returns the row indices that `of` selects, as positions among those of each user.
    pub fn part(&self, of: impl Fn(usize) -> Range<usize>) -> Vec<u32> {
        let users = self.starts.windows(2).enumerate();
        users.flat_map(|(u, w)| of(u).map(move |at| w[0] + at as u32)).collect()
    }

    /// Returns the number of clicks among the rows.
    pub fn clicks_among(&self, rows: &[u32]) -> u64 {
        rows.iter().filter(|r| self.rows[**r as usize].clicked).count() as u64
    }
}

/// Returns for each user (U) whether a run has trained on rows that are held out here. `held` selects these rows;
/// `trained` is the run's split of its own data `seen`. Rows of different data are equal if user, item and time are.
/// Returns `None` if this is unknown: the data differ, and one of them has no times or a different unit.
pub fn trained_on(
    data: &Dataset,
    held: impl Fn(usize) -> Range<usize>,
    seen: &Dataset,
    trained: &Split,
) -> Option<Vec<bool>> {
    let train = trained.train();
    if data.fingerprint() == seen.fingerprint() {
        let overlap = |u| !held(u).is_empty() && train.len_of(u) > held(u).start;
        return Some((0..data.users()).map(overlap).collect());
    }
    if !data.has_times() || !seen.has_times() || data.ticks_per_second() != seen.ticks_per_second() {
        return None;
    }
    let item_there: Vec<Option<u32>> = data.item_keys().keys().map(|key| seen.item_keys().find(key)).collect();
    let overlap = |user: usize| {
        let there = seen.user_keys().find(data.user_keys().key(user))? as usize;
        let items = train.items(seen, there);
        let times = &seen.times_of(there)?[..items.len()];
        let (mine, at) = (data.items_of(user), data.times_of(user)?);
        let found = held(user).any(|i| {
            let same_time = times.partition_point(|t| *t < at[i])..times.partition_point(|t| *t <= at[i]);
            item_there[mine[i] as usize].is_some_and(|item| items[same_time].contains(&item))
        });
        Some(found)
    };
    Some((0..data.users()).map(|user| overlap(user).unwrap_or(false)).collect())
}

#[cfg(test)]
#[cfg(feature = "import")]
mod tests {
    use super::*;
    use crate::data::{ImportOptions, import, split::SplitSpec};

    fn imported(dir: &std::path::Path, name: &str, log: &str) -> Dataset {
        let (csv, out) = (dir.join(format!("{name}.csv")), dir.join(name));
        std::fs::write(&csv, log).unwrap();
        import(&[csv], &out, &ImportOptions::default(), &mut |_| {}).unwrap();
        Dataset::open(&out).unwrap()
    }

    /// Formats each row as `item+` or `item-` with its history.
    fn told(data: &Dataset, all: &Impressions) -> Vec<String> {
        let key = |i: u32| data.item_keys().key(i as usize);
        let row = |r: &Impression| {
            let history: Vec<&str> = all.history(r.history as usize).iter().map(|i| key(*i)).collect();
            format!("{}{} after {}", key(r.item), if r.clicked { '+' } else { '-' }, history.join(" "))
        };
        all.rows.iter().map(row).collect()
    }

    #[test]
    fn a_history_is_the_clicks_of_earlier_times_and_nothing_shown_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let log =
            "user,item,rating,time\nu,a,1,10\nu,b,0,10\nu,c,1,20\nu,d,1,20\nu,e,0,30\nv,a,0,5\nv,b,1,6\nv,c,0,7\n";
        let data = imported(dir.path(), "d", log);
        let all = Impressions::read(&data, 1.0, Some).unwrap();
        let want = ["a+ after ", "b- after ", "c+ after a", "d+ after a", "e- after a c d"];
        assert_eq!(told(&data, &all)[..5], want);
        assert_eq!(told(&data, &all)[5..], ["a- after ", "b+ after ", "c- after b"], "nobody has another one's clicks");
        assert_eq!(all.histories(), 5, "rows between two clicks share a history");
        assert_eq!(all.part(|u| u..2 * u + 1), [0, 6, 7]);
        assert_eq!(all.clicks_among(&[0, 1, 6, 7]), 2);
        // Items that the model does not know are in no history, clicked or not.
        let b = data.item_keys().find("b").unwrap();
        let known = Impressions::read(&data, 1.0, |i| (i != b).then_some(i)).unwrap();
        assert_eq!((known.unknown_clicks, told(&data, &known)[7].as_str()), (1, "c- after "));
        // Star ratings: another threshold gives other clicks.
        assert_eq!(Impressions::read(&data, 0.0, Some).unwrap().clicks_among(&[1, 5]), 2);
    }

    #[test]
    fn rows_that_a_run_was_trained_on_are_found_in_its_own_data_too() {
        let dir = tempfile::tempdir().unwrap();
        let shown =
            "user,item,rating,time\nu,a,1,10\nu,b,0,20\nu,c,1,30\nu,d,1,40\nv,a,1,5\nv,b,0,9\nv,c,1,10\nw,c,1,3\n";
        let clicks = "user,item,time\nv,c,10\nv,a,5\nx,b,9\nu,a,10\nu,c,30\nu,d,40\n";
        let (data, seen) = (imported(dir.path(), "shown", shown), imported(dir.path(), "clicks", clicks));
        let split = Split::new(&seen, SplitSpec::LeaveOneOut).unwrap();
        let held = |from: [usize; 3]| move |u: usize| from[u]..[4, 3, 1][u];
        // u trains on a alone; v has too few clicks to hold any out and trains on both.
        let found = |from: [usize; 3]| trained_on(&data, held(from), &seen, &split).unwrap();
        assert_eq!(found([2, 2, 0]), [false, true, false]);
        assert_eq!(found([0, 3, 0]), [true, false, false]);
        // On the same data, positions are compared.
        let own = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
        assert_eq!(trained_on(&data, held([2, 0, 0]), &data, &own).unwrap(), [false, true, true]);
        let timeless = imported(dir.path(), "timeless", "user,item\nu,a\nu,c\nu,d\n");
        let split = Split::new(&timeless, SplitSpec::LeaveOneOut).unwrap();
        assert!(trained_on(&data, held([0, 0, 0]), &timeless, &split).is_none());
    }
}
