//! Finds the columns of the user, the item, the time and the rating: from the flags, by name, by content.

use std::collections::HashSet;

use crate::{
    base::{Error, Result, error::typed},
    data::import::{
        clock::{self, Clock},
        columns::{Columns, Role, bare, by_name, by_wish, cells_of, is_list_of, normal},
        messages::listed,
        moments::dated,
        options::ImportOptions,
        ratings::{boolean, boolean_word},
        time::{TimeKind, parse_date},
    },
};

/// Names of a rating of 1 (clicked) or 0 (only shown). Logs with text may use these words for other things, so they do
/// not mark a row as a header, and they count only above columns of True and False, yes and no, or zeros and ones.
const CLICKED: &[&str] = &[
    "clicked",
    "isclicked",
    "click",
    "isclick",
    "clicks",
    "label",
    "islabel",
    "target",
    "liked",
    "isliked",
    "like",
    "islike",
    "converted",
    "isconverted",
    "conversion",
    "purchased",
    "ispurchased",
    "bought",
];

/// Where the column names of a file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// There are none: columns have numbers.
    None,
    /// A header row, which may be data mistaken for a header.
    Header,
    /// The file's fields: keys of JSON objects, the schema of Parquet.
    Fields,
}

/// A nested value whose last part is a known name for a role: `event.item.id`, `product.sku`.
fn nested_candidate(names: &[String], role: Role) -> Option<&str> {
    let known = |end: &str| role.synonyms().contains(&normal(end).as_str());
    let fits = |parts: usize| {
        move |name: &&String| {
            let at = name.rmatch_indices('.').nth(parts - 1).map(|(at, _)| at + 1);
            let start = at.or((parts > 1 && name.contains('.')).then_some(0));
            start.is_some_and(|start| known(&name[start..]))
        }
    };
    names.iter().find(fits(2)).or_else(|| names.iter().find(fits(1))).map(String::as_str)
}

/// Whether most cells of a column have several elements, or brackets around them.
fn holds_lists(sample: &[Vec<String>], c: usize) -> bool {
    let several = |cell: &str| {
        let cell = cell.trim();
        cell.starts_with('[') && cell.ends_with(']')
            || [' ', ',', '|', ';'].iter().any(|s| cell.split(*s).filter(|e| !e.is_empty()).count() > 1)
    };
    mostly(sample, c, &several)
}

/// Finds the columns of a file. `origin`: where its names come from; without names, columns are found by content, from
/// the first cells of each in `sample`.
///
/// # Errors
/// A column named by a flag does not exist; no column for the user or the item.
pub(crate) fn choose(
    names: &[String],
    origin: Names,
    sample: &[Vec<String>],
    options: &ImportOptions,
) -> Result<Columns> {
    let named = origin != Names::None;
    let mut found = [None; 5];
    let mut refused = [false; 5];
    for role in Role::ALL {
        let flag = format!("--{}-col", role.name());
        match role.wish(options) {
            Some("none") if matches!(role, Role::Time | Role::Rating) => refused[role as usize] = true,
            Some(wish) => found[role as usize] = Some(by_wish(names, wish, &flag)?),
            None if named => found[role as usize] = by_name(names, role),
            None => {}
        }
    }
    // Without an item column, look for a list of items, and then for lists of times and ratings.
    for role in [Role::Item, Role::Time, Role::Rating] {
        let list = |c: &usize| is_list_of(&names[*c], role) && !found.contains(&Some(*c)) && holds_lists(sample, *c);
        let wanted = role == Role::Item || found[Role::Item as usize].is_some_and(|c| holds_lists(sample, c));
        if named && found[role as usize].is_none() && !refused[role as usize] && wanted {
            found[role as usize] = (0..names.len()).find(list);
        }
    }
    if !named {
        by_content(names.len(), sample, options, &mut found)?;
    }
    if named && found[Role::Rating as usize].is_none() && !refused[Role::Rating as usize] {
        let click = |cell: &str| boolean(cell).is_some();
        let free = |c: &usize| !found.contains(&Some(*c)) && mostly(sample, *c, &click);
        let called = |name: &str| names.iter().position(|n| normal(n) == name);
        found[Role::Rating as usize] = CLICKED.iter().find_map(|name| called(name)).filter(free);
    }
    if named && found[Role::Time as usize].is_none() && !refused[Role::Time as usize] {
        found[Role::Time as usize] = time_by_content(names, sample, &found)?;
    }
    for role in [Role::Time, Role::Rating] {
        if refused[role as usize] {
            found[role as usize] = None;
        }
    }
    let no_header = "; if the first row is data and holds no names, add --no-header";
    let need = |role: Role| {
        found[role as usize].ok_or_else(|| {
            let name = nested_candidate(names, role).map_or("NAME".into(), typed);
            let no_header = if origin == Names::Header { no_header } else { "" };
            Error::user(format!("no column looks like the {} (the columns are: {})", role.name(), listed(names)))
                .hint(format!("name it with --{}-col {name}{no_header}", role.name()))
        })
    };
    let columns = Columns {
        user: need(Role::User)?,
        item: need(Role::Item)?,
        time: found[2],
        rating: found[3],
        basket: found[4],
        words: found[3].is_some_and(|c| mostly(sample, c, &|cell| boolean_word(cell).is_some())),
    };
    if columns.user == columns.item {
        return Err(Error::user(format!("column '{}' cannot be both user and item", names[columns.user]))
            .hint("name them with --user-col and --item-col"));
    }
    for (role, column) in [(Role::User, columns.user), (Role::Item, columns.item)] {
        if columns.basket == Some(column) {
            let (name, role) = (&names[column], role.name());
            return Err(Error::user(format!("column '{name}' cannot be both {role} and basket"))
                .hint("--basket-col names what is the same in all rows of one basket, such as an order's number"));
        }
    }
    Ok(columns)
}

/// Half of the cells decide: a broken row should be reported as such, not change what its column is taken for.
fn mostly(sample: &[Vec<String>], c: usize, fits: &dyn Fn(&str) -> bool) -> bool {
    let count = cells_of(sample, c).count();
    count > 0 && 2 * cells_of(sample, c).filter(|cell| fits(cell)).count() >= count
}

/// Whether a column holds times: dates, or numbers in the range of Unix times.
fn holds_times(sample: &[Vec<String>], c: usize) -> bool {
    let time = |cell: &str| TimeKind::of_sample([cell].into_iter()).parse(cell.as_bytes()).is_some();
    mostly(sample, c, &time) && TimeKind::of_sample(cells_of(sample, c)) != TimeKind::Number { unit: "unknown" }
}

/// For tables whose names contain no known name of a time: an unused column of dates, or of numbers in the range of
/// Unix times under a name that suggests time (large numbers alone may be anything). Falling back to row order despite
/// a time column would silently lose information, so several candidates are an error.
fn time_by_content(names: &[String], sample: &[Vec<String>], found: &[Option<usize>; 5]) -> Result<Option<usize>> {
    let speaks = |c: usize| {
        let name = normal(&names[c]);
        ["time", "date", "stamp"].iter().any(|word| name.contains(word)) || name.ends_with("at") || name.ends_with("on")
    };
    let dates = |c: usize| matches!(TimeKind::of_sample(cells_of(sample, c)), TimeKind::Date);
    // The time column may also define the baskets.
    let free = (0..names.len()).filter(|c| !found[..4].contains(&Some(*c)));
    let times: Vec<usize> = free.filter(|&c| holds_times(sample, c) && (dates(c) || speaks(c))).collect();
    if times.len() > 1 {
        let names: Vec<&str> = times.iter().map(|&c| bare(&names[c])).collect();
        return Err(Error::user(format!("several columns may be the time: {}", names.join(", ")))
            .hint(format!("say which: --time-col {}; or --time-col none to go by the order of the rows", names[0])));
    }
    Ok(times.first().copied())
}

/// Whether a column holds dates: ISO, in the user's format, in a usual format, or written as digits.
fn holds_dates(sample: &[Vec<String>], c: usize, clock: Option<&Clock>) -> bool {
    let digits = |cell: &str| {
        // Ten digits are also seconds of the present; from 2032 on they could be dates.
        let day =
            (matches!(cell.len(), 8 | 10 | 12 | 14) && cell.bytes().all(|b| b.is_ascii_digit())).then(|| &cell[..8]);
        let hour = cell.get(8..10).and_then(|hour| hour.parse::<u8>().ok());
        day.is_some_and(|day| ("1990".."2041").contains(&&day[..4]) && day.parse().is_ok_and(dated))
            && hour.is_none_or(|hour| hour < 24)
    };
    mostly(sample, c, &|cell| {
        parse_date(cell.as_bytes()).is_some()
            || clock.is_some_and(|clock| clock.micros(cell.as_bytes()).is_some())
            || clock::is_usual(cell)
    }) || nearly_all(sample, c, &digits)
}

/// The second in 1990 to 2040 that a number stands for, read as seconds or a finer unit.
fn second(cell: &str) -> Option<f64> {
    let number = cell.parse::<f64>().ok()?;
    [1.0, 1e3, 1e6, 1e9].iter().map(|unit| number / unit).find(|s| (631_152_000.0..2_208_988_800.0).contains(s))
}

/// Whether at least 19 of 20 cells fit.
fn nearly_all(sample: &[Vec<String>], c: usize, fits: &dyn Fn(&str) -> bool) -> bool {
    let count = cells_of(sample, c).count();
    count > 0 && 20 * cells_of(sample, c).filter(|cell| fits(cell)).count() >= 19 * count
}

/// Whether a column of numbers may be times even though values repeat: in a busy log, or with whole hours.
fn may_be_moments(sample: &[Vec<String>], c: usize) -> bool {
    nearly_all(sample, c, &|cell| second(cell).is_some())
}

/// Whether a column looks like ratings: few distinct small numbers.
fn like_ratings(sample: &[Vec<String>], c: usize) -> bool {
    let distinct: HashSet<&str> = cells_of(sample, c).collect();
    distinct.len() <= 11
        && 2 * distinct.len() < cells_of(sample, c).count()
        && mostly(sample, c, &|cell| cell.parse::<f32>().is_ok_and(|x| x.abs() <= 10.0) || boolean_word(cell).is_some())
}

/// Whether a column of numbers is times rather than keys: between 1990 and 2040 in seconds or a finer unit, and mostly
/// distinct or all midnights. Keys of users and sessions repeat.
fn like_moments(sample: &[Vec<String>], c: usize) -> bool {
    let midnight = |cell: &str| second(cell).is_some_and(|s| s % 86_400.0 == 0.0);
    let distinct: HashSet<&str> = cells_of(sample, c).collect();
    mostly(sample, c, &|cell| second(cell).is_some())
        && (mostly(sample, c, &midnight) || 2 * distinct.len() > cells_of(sample, c).count())
}

/// Whether a column holds numbers with fractions, such as coordinates, which are not keys.
fn holds_fractions(sample: &[Vec<String>], c: usize) -> bool {
    mostly(sample, c, &|cell| cell.parse::<f64>().is_ok_and(|x| x.is_finite() && x.fract() != 0.0))
}

/// Without names: the first two free columns that hold neither times nor fractions are user and item; of the rest, the
/// first with times is the time, and the first with small numbers is the rating.
///
/// # Errors
/// Too few columns are left for the keys, or it is ambiguous which column of large numbers is the time.
fn by_content(
    columns: usize,
    sample: &[Vec<String>],
    options: &ImportOptions,
    found: &mut [Option<usize>; 5],
) -> Result<()> {
    let clock = Clock::of(options)?;
    let dates: Vec<usize> = (0..columns).filter(|&c| holds_dates(sample, c, clock)).collect();
    let mut numbers: Vec<usize> = (0..columns).filter(|&c| like_moments(sample, c)).collect();
    let free =
        |found: &[Option<usize>; 5]| -> Vec<usize> { (0..columns).filter(|c| !found.contains(&Some(*c))).collect() };
    let wanted = [Role::User, Role::Item].into_iter().filter(|role| found[*role as usize].is_none()).count();
    let all = free(found);
    // If dates or a named column are the time, large numbers are keys.
    let timed = !dates.is_empty() || found[Role::Time as usize].is_some();
    // Repeated values may be times or keys: they are times only if two other columns can be the keys. With two columns,
    // both are keys.
    if numbers.is_empty() && columns > 2 {
        numbers = (0..columns).filter(|&c| may_be_moments(sample, c)).collect();
    }
    let repeated = numbers.iter().all(|&c| !like_moments(sample, c));
    let in_front = numbers.iter().any(|c| all.iter().take(wanted).any(|first| first == c));
    let mut keys: Vec<usize> = all.iter().copied().filter(|c| !dates.contains(c)).collect();
    if !timed && in_front {
        let left: Vec<usize> = keys.iter().copied().filter(|c| !numbers.contains(c)).collect();
        let sound = left.iter().filter(|&&c| !holds_fractions(sample, c)).count();
        if numbers.len() > 1 && sound + numbers.len() > 2 {
            let list: Vec<String> = numbers.iter().map(|c| (c + 1).to_string()).collect();
            return Err(Error::user(format!("columns {} all hold numbers of the size of times", list.join(", ")))
                .hint(
                    "say which columns are the user, the item and the time: --user-col 1 --item-col 2 --time-col 3",
                ));
        }
        let keyed = |c: &&usize| !holds_fractions(sample, **c) && !like_ratings(sample, **c);
        if repeated && left.iter().filter(keyed).count() < wanted {
            let n = numbers[0] + 1;
            return Err(Error::user(format!(
                "column {n} holds numbers of the size of times; is it the time or a key?"
            ))
            .hint(format!(
                "if it is the time, name the columns: --user-col N --item-col N --time-col {n}; if it is a key, name \
                 it: --user-col 1 --item-col 2"
            )));
        }
        // A log of two columns has a user and an item, whatever they look like.
        if sound >= wanted {
            keys = left;
        }
    }
    let whole: Vec<usize> = keys.iter().copied().filter(|&c| !holds_fractions(sample, c)).collect();
    let keys = if whole.len() >= wanted { whole } else { keys };
    if keys.len() < wanted && !dates.is_empty() {
        let list: Vec<String> = dates.iter().map(|c| (c + 1).to_string()).collect();
        return Err(Error::user(format!(
            "cannot tell user and item: of {columns} columns, {} holds times",
            list.join(" and ")
        ))
        .hint("name the columns: --user-col N --item-col N --time-col N"));
    }
    let mut keys = keys.into_iter();
    for role in [Role::User, Role::Item] {
        if found[role as usize].is_none() {
            found[role as usize] = keys.next();
        }
    }
    if found[2].is_none() {
        found[2] =
            (0..columns).find(|c| !found[..4].contains(&Some(*c)) && (holds_times(sample, *c) || dates.contains(c)));
    }
    if found[3].is_none() {
        let number = |cell: &str| {
            cell.parse::<f32>().is_ok_and(|x| x.is_finite() && x.abs() <= 100.0) || boolean_word(cell).is_some()
        };
        found[3] = (0..columns).find(|&c| !found.contains(&Some(c)) && mostly(sample, c, &number));
    }
    Ok(())
}

/// Without names: describes any deviation from the usual order (user, item, …) because times come before the keys.
pub(crate) fn moved_keys(columns: &Columns, sample: &[Vec<String>], options: &ImportOptions) -> Option<String> {
    let wished = [Role::User, Role::Item, Role::Time].map(|role| role.wish(options).is_some());
    let role_of = |c: usize| Role::ALL.into_iter().find(|role| columns.of(*role) == Some(c));
    let last = [columns.user, columns.item].into_iter().zip(wished).filter(|(_, w)| !w).map(|(c, _)| c).max()?;
    let key = |c: usize| matches!(role_of(c), Some(Role::User | Role::Item));
    let skipped: Vec<usize> = (0..last).filter(|&c| !key(c)).collect();
    let large = |c: usize| like_moments(sample, c) || holds_dates(sample, c, None);
    let doubtful = [(columns.user, "user", wished[0]), (columns.item, "item", wished[1])];
    if let Some((c, role, _)) = doubtful.into_iter().find(|(c, _, wished)| !wished && large(*c)) {
        let n = c + 1;
        return Some(format!(
            "column {n} holds numbers of the size of times and is read as the {role}; if it is the time, name the \
             columns: --user-col N --item-col N --time-col {n}; if not, --{role}-col {n}"
        ));
    }
    let (user, item) = (columns.user + 1, columns.item + 1);
    let what = |c: usize| match role_of(c) {
        Some(Role::Time) => format!("column {} is read as the time", c + 1),
        _ if large(c) => format!("column {} holds times and is ignored", c + 1),
        _ => format!("column {} is not taken for a key", c + 1),
    };
    if skipped.is_empty() || skipped.iter().all(|&c| role_of(c).is_some_and(|r| r.wish(options).is_some())) {
        return None;
    }
    let list: Vec<String> = skipped.into_iter().map(what).collect();
    Some(format!(
        "{}: column {user} is read as the user and column {item} as the item; if that is right, confirm it with \
         --user-col {user} --item-col {item}; if not, name others",
        list.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::import::columns::is_known;

    fn names(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn chosen(text: &str, options: &ImportOptions) -> Result<Columns> {
        choose(&names(text), Names::Header, &[], options)
    }

    #[test]
    fn names_of_well_known_logs() {
        let columns = |user, item, time, rating| Columns { user, item, time, rating, basket: None, words: false };
        for (header, expected) in [
            ("userId,movieId,rating,timestamp", columns(0, 1, Some(3), Some(2))),
            ("timestamp,visitorid,event,itemid,transactionid", columns(1, 3, Some(0), None)),
            ("user_id:token,item_id:token,rating:float,timestamp:float", columns(0, 1, Some(3), Some(2))),
            ("session_id,item_id,timestamp", columns(0, 1, Some(2), None)),
            ("reviewerID,asin,overall,reviewTime,unixReviewTime", columns(0, 1, Some(4), Some(2))),
            ("t_dat,customer_id,article_id,price", columns(1, 2, Some(0), None)),
            ("SessionId,UserId,ItemId,Time", columns(1, 2, Some(3), None)),
        ] {
            assert_eq!(chosen(header, &ImportOptions::default()).unwrap(), expected, "{header}");
        }
    }

    #[test]
    fn wishes_go_by_name_case_or_number_and_come_first() {
        let options = |user: &str| ImportOptions { user_col: Some(user.into()), ..Default::default() };
        for wish in ["who", "WHO", "2"] {
            assert_eq!(chosen("user,who,item", &options(wish)).unwrap().user, 1, "{wish}");
        }
        let error = chosen("user,who,item", &options("whoo")).unwrap_err().to_string();
        assert!(error.contains("no column 'whoo'") && error.contains("did you mean --user-col who?"), "{error}");
        let none = ImportOptions { time_col: Some("none".into()), ..Default::default() };
        assert_eq!(chosen("user,item,time", &none).unwrap().time, None);
    }

    #[test]
    fn a_basket_is_what_the_user_says_and_may_be_the_time() {
        let options = |basket: &str| ImportOptions { basket_col: Some(basket.into()), ..Default::default() };
        let order = chosen("user,order_id,item", &options("order_id")).unwrap();
        assert_eq!((order.user, order.item, order.basket), (0, 2, Some(1)));
        let day = choose(&names("user,item,day"), Names::Header, &[names("a,x,2024-05-01")], &options("day")).unwrap();
        assert_eq!((day.time, day.basket), (Some(2), Some(2)));
        let bare = choose(&names("1,2,3"), Names::None, &[names("a,x,4")], &options("3")).unwrap();
        assert_eq!((bare.rating, bare.basket), (None, Some(2)), "small numbers, but no ratings");
        let error = chosen("user,item", &options("item")).unwrap_err().to_string();
        assert!(error.contains("cannot be both item and basket"), "{error}");
    }

    #[test]
    fn a_missing_column_is_named_with_what_there_is() {
        let error = chosen("user,thing,when", &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains("looks like the item (the columns are: user, thing, when)"), "{error}");
    }

    #[test]
    fn a_time_of_an_unknown_name_is_told_by_content() {
        let time = |header: &str, row: &str| {
            choose(&names(header), Names::Header, &[names(row)], &ImportOptions::default()).map(|c| c.time)
        };
        assert_eq!(time("customer_id,sku,ordered_at,stars", "a,x,2024-05-01,3").unwrap(), Some(2));
        assert_eq!(time("user,item,when", "a,x,2024-05-01T10:00:00Z").unwrap(), Some(2));
        assert_eq!(time("user,item,played_on", "a,x,1700000000").unwrap(), Some(2));
        assert_eq!(time("user,item,order", "a,x,1700000000").unwrap(), None, "a large number may be anything");
        assert_eq!(time("user,item,timeframe", "a,x,1200").unwrap(), None, "too small for a moment");
        let error = time("user,item,ordered_at,shipped_at", "a,x,2024-05-01,2024-05-02").unwrap_err().to_string();
        assert!(error.contains("ordered_at, shipped_at") && error.contains("--time-col ordered_at"), "{error}");
    }

    #[test]
    fn clicks_are_ratings_where_they_are_numbers() {
        let rating = |header: &str, row: &str| {
            choose(&names(header), Names::Header, &[names(row)], &ImportOptions::default()).unwrap().rating
        };
        assert_eq!(rating("user,item,time,clicked", "a,x,5,1"), Some(3));
        assert_eq!(rating("user,item,label,time", "a,x,0,5"), Some(2));
        assert_eq!(rating("user,item,label,rating", "a,x,0,5"), Some(3), "the surer name");
        assert_eq!(rating("user,item,label", "a,x,Tea"), None, "what the item is called");
        let none = ImportOptions { rating_col: Some("none".into()), ..Default::default() };
        assert_eq!(choose(&names("user,item,click"), Names::Header, &[names("a,x,1")], &none).unwrap().rating, None);
        assert!(!is_known("click"), "an event of a log without a header");
    }

    #[test]
    fn without_names_content_decides() {
        let sample = |rows: &[&str]| -> Vec<Vec<String>> { rows.iter().map(|r| names(r)).collect() };
        let columns = |rows: &[&str]| {
            let n = names(rows[0]).len();
            let numbered: Vec<String> = (1..=n).map(|i| i.to_string()).collect();
            choose(&numbered, Names::None, &sample(rows), &ImportOptions::default()).unwrap()
        };
        assert_eq!(
            columns(&["1,2"]),
            Columns { user: 0, item: 1, time: None, rating: None, basket: None, words: false }
        );
        assert_eq!(columns(&["1,2,978300760"]).time, Some(2));
        assert_eq!(columns(&["1,2,4.5"]).rating, Some(2));
        assert_eq!(
            columns(&["1,2,5,978300760"]),
            Columns { user: 0, item: 1, time: Some(3), rating: Some(2), basket: None, words: false }
        );
        assert_eq!(
            columns(&["a,b,2020-01-01,3"]),
            Columns { user: 0, item: 1, time: Some(2), rating: Some(3), basket: None, words: false }
        );
    }
}
