/*! Row filter `--where COLUMN=VALUE,VALUE`. Without it, an ignored column of event kinds causes a warning, since views
and purchases would become one history.
*/

use crate::{
    base::{Error, Result, error::typed},
    data::{
        digits,
        import::{
            columns::{Columns, Role, bare, by_wish, cells_of, normal},
            options::Where,
        },
    },
};

/// Names of columns with event kinds.
#[rustfmt::skip]
const EVENTS: &[&str] = &[
    "event", "eventtype", "eventname", "behavior", "behaviour", "behaviortype", "behaviourtype", "action", "actiontype",
    "interactiontype",
];

/// Event kinds. A column in which half of the cells are such words holds event kinds, whatever its name.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "view", "pv", "click", "cart", "addtocart", "fav", "favorite", "buy", "purchase", "transaction", "order", "remove",
    "removefromcart", "like", "share", "impression", "play", "skip", "rate", "comment", "search", "detail", "wishlist",
    "viewed", "views", "pageview", "viewitem", "itemview", "clicked", "clicks", "purchased", "bought", "checkout",
    "paid", "refund", "refunded", "returned", "cancelled", "canceled", "completed", "pending", "shipped", "delivered",
    "dislike", "bookmark", "addtowishlist", "download", "watch", "listen", "read", "exposure", "collect", "follow",
];

/// A column with more distinct values than this does not hold event kinds.
const MOST: usize = 20;

/// The filter of one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Column and values.
    wheres: Vec<(usize, Vec<Vec<u8>>)>,
    /// An unused column of event kinds.
    watched: Option<usize>,
}

/// What a filter counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Rows dropped.
    pub left_out: u64,
    /// Row counts per value of each `--where`.
    with: Vec<Vec<u64>>,
    /// Values that differ from a wanted one only in case or blanks: index of the `--where`, value, row count.
    near: Vec<(usize, Vec<u8>, u64)>,
    /// Values of the watched column and their row counts.
    seen: Vec<(Vec<u8>, u64)>,
    /// There are more than `MOST` values.
    many: bool,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.left_out += other.left_out;
        self.with.resize(self.with.len().max(other.with.len()), Vec::new());
        for (mine, theirs) in self.with.iter_mut().zip(&other.with) {
            mine.resize(mine.len().max(theirs.len()), 0);
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        other.near.iter().for_each(|(n, value, rows)| self.see_near(*n, value, *rows));
        self.many |= other.many;
        other.seen.iter().for_each(|(value, rows)| self.see(value, *rows));
    }

    #[cold]
    fn see_near(&mut self, n: usize, value: &[u8], rows: u64) {
        if let Some((.., count)) = self.near.iter_mut().find(|(m, v, _)| *m == n && v == value) {
            *count += rows;
        } else if self.near.len() < MOST {
            self.near.push((n, value.to_vec(), rows));
        }
    }

    #[inline]
    fn see(&mut self, value: &[u8], rows: u64) {
        if self.many {
            return;
        }
        if let Some((_, count)) = self.seen.iter_mut().find(|(v, _)| v == value) {
            *count += rows;
        } else if self.seen.len() < MOST && value.len() <= 64 {
            self.seen.push((value.to_vec(), rows));
        } else {
            self.many = true;
        }
    }
}

/// Whether two values differ only in case and blanks.
fn is_near(a: &[u8], b: &[u8]) -> bool {
    let plain = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).to_lowercase();
        text.chars().filter(|c| !c.is_whitespace()).collect::<String>()
    };
    // Fast path: most values differ in their first letter.
    let first = |text: &[u8]| text.trim_ascii_start().first().map(u8::to_ascii_lowercase).unwrap_or(0);
    let (one, other) = (first(a), first(b));
    if one != other && one.is_ascii() && other.is_ascii() {
        return false;
    }
    if a.is_ascii() && b.is_ascii() {
        fn ascii(text: &[u8]) -> impl Iterator<Item = u8> {
            text.iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase)
        }
        return ascii(a).eq(ascii(b));
    }
    plain(a) == plain(b)
}

/// A value for a message.
fn shown(value: &[u8]) -> String {
    match String::from_utf8_lossy(value) {
        text if text.is_empty() => "(empty)".into(),
        text if text.trim() != text => format!("'{text}'"),
        text => text.into_owned(),
    }
}

impl Filter {
    /// The filter for a table with these columns.
    ///
    /// # Errors
    /// A `--where` names a column that does not exist.
    pub fn new(names: &[String], rows: &[Vec<String>], columns: &Columns, wheres: &[Where]) -> Result<Filter> {
        let mut filter = Filter::default();
        for wish in wheres {
            let column = by_wish(names, &wish.column, "--where")?;
            filter.wheres.push((column, wish.values.iter().map(|v| v.as_bytes().to_vec()).collect()));
        }
        let free = |c: &usize| {
            Role::ALL.iter().all(|role| columns.of(*role) != Some(*c)) && filter.wheres.iter().all(|(at, _)| at != c)
        };
        let called = |c: &usize| EVENTS.contains(&normal(names[*c].rsplit('.').next().unwrap_or_default()).as_str());
        let words = |c: &usize| {
            let cells = || cells_of(rows, *c).filter(|cell| !cell.trim().is_empty());
            let known = cells().filter(|cell| WORDS.contains(&normal(cell).as_str())).count();
            known > 0 && 2 * known >= cells().count()
        };
        let candidates = || (0..names.len()).filter(free);
        filter.watched = candidates().find(called).or_else(|| candidates().find(words));
        Ok(filter)
    }

    /// All columns that the filter reads.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.needed().chain(self.watched)
    }

    /// The columns that every row must have.
    pub fn needed(&self) -> impl Iterator<Item = usize> {
        self.wheres.iter().map(|(c, _)| *c)
    }

    /// Whether a row matches, without counting it.
    pub fn asks_for<'a>(&self, cell: impl Fn(usize) -> std::borrow::Cow<'a, [u8]>) -> bool {
        self.wheres.iter().all(|(column, values)| values.iter().any(|v| v[..] == cell(*column)[..]))
    }

    pub fn is_none(&self) -> bool {
        self.wheres.is_empty() && self.watched.is_none()
    }

    /// Whether a row matches, counted in `tally`; `cell`: the value of a column.
    #[inline]
    pub fn takes<'a>(&self, cell: impl Fn(usize) -> std::borrow::Cow<'a, [u8]>, tally: &mut Tally) -> bool {
        let mut taken = true;
        tally.with.resize(self.wheres.len(), Vec::new());
        for (n, (column, values)) in self.wheres.iter().enumerate() {
            tally.with[n].resize(values.len(), 0);
            let cell = cell(*column);
            match values.iter().position(|v| v[..] == cell[..]) {
                Some(m) => tally.with[n][m] += 1,
                None => {
                    taken = false;
                    if values.iter().any(|value| is_near(value, &cell)) {
                        tally.see_near(n, &cell, 1);
                    }
                }
            }
        }
        if !taken {
            tally.left_out += 1;
        } else if let Some(column) = self.watched {
            tally.see(&cell(column), 1);
        }
        taken
    }

    /// Warnings after all rows were read.
    pub fn doubts(&self, names: &[String], wheres: &[Where], tally: &Tally) -> Vec<String> {
        let mut doubts = Vec::new();
        for (n, wish) in wheres.iter().enumerate() {
            let mut near: Vec<&(usize, Vec<u8>, u64)> = tally.near.iter().filter(|(m, ..)| *m == n).collect();
            near.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.cmp(&b.1)));
            if !near.is_empty() {
                let counts: Vec<String> =
                    near.iter().map(|(_, v, rows)| format!("{} ({})", shown(v), digits(*rows))).collect();
                let plain = |text: &String| !text.is_empty() && text.trim() == text && !text.contains(',');
                let more = near.iter().map(|(_, v, _)| String::from_utf8_lossy(v).into_owned()).filter(plain);
                let all: Vec<String> = wish.values.iter().cloned().chain(more).collect();
                let flag = match all.len() > wish.values.len() {
                    true => {
                        format!("; to read them too: --where {}", typed(format!("{}={}", wish.column, all.join(","))))
                    }
                    false => String::new(),
                };
                doubts.push(format!(
                    "column '{}' also holds {}, which differ from the values of --where only in case or \
                     blanks: these rows are left out{flag}",
                    wish.column,
                    counts.join(", ")
                ));
            }
            for (m, value) in wish.values.iter().enumerate() {
                if tally.with.get(n).and_then(|with| with.get(m)).is_none_or(|rows| *rows == 0) {
                    doubts.push(format!(
                        "no row has {}={value}: is the value of --where spelled as in the log?",
                        wish.column
                    ));
                }
            }
        }
        let mut seen = tally.seen.clone();
        if let (Some(column), false, true) = (self.watched, tally.many, seen.len() > 1) {
            seen.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let counts: Vec<String> = seen.iter().map(|(v, n)| format!("{} ({})", shown(v), digits(*n))).collect();
            let filled: Vec<String> = seen.iter().map(|(v, _)| String::from_utf8_lossy(v).into_owned()).collect();
            let filled: Vec<String> = filled.into_iter().filter(|v| !v.is_empty()).collect();
            let name = bare(&names[column]);
            let flag = |values: &[String]| format!("--where {}", typed(format!("{name}={}", values.join(","))));
            // The most frequent kind is the one that dominates the others.
            let rest = if filled.len() > 1 && !seen[0].0.is_empty() { &filled[1..] } else { &filled[..] };
            let all = match filled.len() == seen.len() {
                true => format!("if all are meant: {}", flag(&filled)),
                false => "if all are meant, add nothing".into(),
            };
            doubts.push(format!(
                "column '{name}' is ignored and holds {}, counted over all rows: all become one history; to \
                 read some of them only: {}; {all}",
                counts.join(", "),
                flag(rest),
            ));
        }
        doubts
    }
}

/// The error if no row is left.
pub(crate) fn nothing_left(wheres: &[Where]) -> Error {
    let all: Vec<String> = wheres.iter().map(|w| format!("{}={}", w.column, w.values.join(","))).collect();
    Error::user(format!("nothing is left: no row is of --where {}", all.join(" and --where ")))
        .hint("values are compared as they are written in the log; several --where must all hold")
}
