/*! Warnings about logs that are valid but may have been misread: an ignored column of times, a header read as data. The
import continues, since both may be intended, but prints a warning; a flag settles the question and silences it.
*/

use crate::{
    base::{Error, Result, error::typed},
    data::{
        digits,
        import::{
            choose::moved_keys,
            clock,
            columns::{Columns, Role, bare, by_name, by_wish, cells_of, normal},
            keys::is_list,
            messages::listed,
            options::ImportOptions,
            ratings::{boolean, boolean_word},
            source::Source,
            time::parse_date,
        },
    },
};

/// Numbers that may be times: from 1973 in seconds to 2033 in nanoseconds.
const MOMENTS: std::ops::Range<i64> = 100_000_000..2_000_000_000_000_000_000;

/// Whether there are cells and all are dates, or all are whole numbers in the range of times. Ten-digit ids pass as
/// well: this is why such columns are reported and not used.
pub(crate) fn all_moments<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> bool {
    let number = |cell: &str| cell.parse::<i64>().is_ok_and(|n| MOMENTS.contains(&n));
    let mut any = cells.clone();
    any.next().is_some()
        && (cells.clone().all(number) || cells.clone().all(|cell| parse_date(cell.as_bytes()).is_some()))
}

/// Warnings about ignored columns that could change the histories: times, parts of dates, yes and no.
pub(crate) fn ignored(
    source: &Source,
    names: &[String],
    columns: &Columns,
    rows: &[Vec<String>],
    options: &ImportOptions,
) -> Vec<String> {
    let wished = |c: usize| {
        let wheres = options.wheres.iter().filter_map(|w| by_wish(names, &w.column, "--where").ok());
        Role::ALL.iter().filter_map(|role| columns.of(*role)).chain(wheres).any(|used| used == c)
    };
    let free: Vec<usize> = (0..names.len()).filter(|c| !wished(*c)).collect();
    let mut lines = Vec::new();
    if columns.time.is_none() && options.time_col.is_none() {
        // Values from the path are the same in all rows of a file.
        let own: Vec<usize> = free.iter().copied().filter(|c| *c < names.len() - source.partition.len()).collect();
        lines.extend(ignored_times(source, names, &free, rows).or_else(|| date_parts(source, names, &own)));
    }
    if options.rating_col.is_none() {
        lines.extend(ignored_booleans(source, names, &free, rows));
    }
    lines
}

fn filled(rows: &[Vec<String>], c: usize) -> impl Iterator<Item = &str> + Clone {
    cells_of(rows, c).map(str::trim).filter(|cell| !cell.is_empty())
}

fn ignored_times(source: &Source, names: &[String], free: &[usize], rows: &[Vec<String>]) -> Option<String> {
    let formats = |c: usize| {
        let dated = filled(rows, c).next().is_some_and(|cell| cell.contains(|b: char| !b.is_alphanumeric()));
        if dated { clock::layouts(filled(rows, c)) } else { Vec::new() }
    };
    let times = |c: &usize| all_moments(filled(rows, *c)) || !formats(*c).is_empty();
    let found: Vec<usize> = free.iter().copied().filter(times).collect();
    let first = *found.first()?;
    let (them, look, are) = if found.len() == 1 { ("column", "looks", "is") } else { ("columns", "look", "are") };
    let mut flags = format!("--time-col {}", typed(bare(&names[first])));
    if !all_moments(filled(rows, first)) {
        let formats: Vec<String> = formats(first).iter().map(|f| format!("--time-format {}", typed(f))).collect();
        flags = format!("{flags} {}", formats.join(" or "));
    }
    Some(format!(
        "{}: {them} '{}' {look} like times and {are} ignored: the order of the rows is used as the order in \
         time; add {flags}, or --time-col none if the rows are in order",
        source.display(),
        found.iter().map(|&c| bare(&names[c])).collect::<Vec<_>>().join("', '")
    ))
}

/// Time and rating columns of JSON lines that first occur below the sampled objects.
pub(crate) fn late_columns(
    source: &Source,
    late: &[(String, u64)],
    columns: &Columns,
    options: &ImportOptions,
) -> Vec<String> {
    let names: Vec<String> = late.iter().map(|(name, _)| name.clone()).collect();
    let open = |role: &Role| columns.of(*role).is_none() && role.wish(options).is_none();
    let found =
        [Role::Time, Role::Rating].into_iter().filter(open).filter_map(|role| Some((role, by_name(&names, role)?)));
    let line = |(role, n): (Role, usize)| {
        let (name, role) = (typed(&names[n]), role.name());
        format!(
            "{}: '{}' comes first in line {} and is ignored, since the lines before have none: --{role}-col \
             {name} reads it and rejects lines without it, --{role}-col none keeps it ignored",
            source.display(),
            names[n],
            digits(late[n].1)
        )
    };
    found.map(line).collect()
}

/// A date with separate columns for year, month and day.
fn date_parts(source: &Source, names: &[String], own: &[usize]) -> Option<String> {
    let part = |word: &str| {
        own.iter().map(|&c| bare(&names[c])).find(|name| {
            let name = normal(name);
            name == word || name.strip_prefix(word).or(name.strip_suffix(word)).is_some_and(|n| n == "of" || n == "num")
        })
    };
    let (year, month, day) = (part("year")?, part("month")?, part("day")?);
    Some(format!(
        "{}: columns '{year}', '{month}' and '{day}' look like a date in parts, which is not read: the order \
         of the rows is taken for the order in time; write them as one column (2024-05-31) and name it with \
         --time-col, or add --time-col none if the rows are in order",
        source.display()
    ))
}

/// Columns of True and False often select rows (watched, shown only); columns of 0 and 1 only if the name suggests it.
fn ignored_booleans(source: &Source, names: &[String], free: &[usize], rows: &[Vec<String>]) -> Option<String> {
    let words = |c: usize| filled(rows, c).all(|cell| boolean_word(cell).is_some());
    let named = |c: usize| {
        let name = bare(&names[c]).to_lowercase();
        let name = name.rsplit('.').next().unwrap_or_default();
        name.starts_with("is_") || name.starts_with("has_") || name.ends_with("ed")
    };
    let digits = |c: usize| named(c) && filled(rows, c).all(|cell| boolean(cell).is_some());
    let yes_no = |c: &usize| filled(rows, *c).next().is_some() && (words(*c) || digits(*c));
    let found: Vec<usize> = free.iter().copied().filter(yes_no).collect();
    let first = *found.first()?;
    let default = if words(first) { "True" } else { "1" };
    let yes = filled(rows, first).find(|cell| boolean(cell) == Some(true)).unwrap_or(default);
    let (them, hold) = if found.len() == 1 { ("column", "holds") } else { ("columns", "hold") };
    let name = bare(&names[first]);
    Some(format!(
        "{}: {them} '{}' {hold} yes or no and is ignored: rows of both are events alike; --where {} keeps one \
         kind, --rating-col {} reads it as a rating of 1 or 0, --rating-col none keeps it ignored",
        source.display(),
        found.iter().map(|&c| bare(&names[c])).collect::<Vec<_>>().join("', '"),
        typed(format!("{name}={yes}")),
        typed(name)
    ))
}

/// Rows that were shown but not clicked count as events like all others.
pub(crate) fn zeros([zeros, all]: [u64; 2]) -> String {
    format!(
        "all ratings are 0 or 1, and {} of {} rows are rated 0 (shown, not clicked): they are events like the \
         others; --min-rating 1 keeps only the clicks, --min-rating 0 keeps all",
        digits(zeros),
        digits(all)
    )
}

/// Rejects key columns that hold lists but are not read as lists.
///
/// # Errors
/// At least half of the first keys are lists.
pub(crate) fn lists(source: &Source, names: &[String], columns: &Columns, rows: &[Vec<String>]) -> Result<()> {
    for (role, c) in [(Role::User, columns.user), (Role::Item, columns.item)] {
        let lists = || cells_of(rows, c).filter(|cell| is_list(cell.as_bytes()));
        let Some(first) = lists().next().filter(|_| 2 * lists().count() >= cells_of(rows, c).count()) else { continue };
        let shown: String = first.chars().take(40).collect();
        return Err(Error::user(format!(
            "{}: column '{}' holds lists, such as '{shown}', not one {} per row",
            source.display(),
            bare(&names[c]),
            role.name()
        ))
        .hint("write one row for each entry of a list (in pandas: explode), or name another column"));
    }
    Ok(())
}

/// Rows have more fields than the file has columns: a delimiter in an unquoted text shifts the columns after it.
pub(crate) fn wide_rows(path: &str, line: u64, count: u64) -> String {
    format!(
        "{path}: line {} has more fields than columns{}: a delimiter in an unquoted text shifts the columns \
         after it; put such texts in quotes, or write the log with another delimiter",
        digits(line),
        if count > 1 { format!(", and {} more lines", digits(count - 1)) } else { String::new() }
    )
}

/// Concatenated files, each with its own header.
pub(crate) fn repeated_headers(path: &str, line: u64, count: u64) -> String {
    let (rows, first, are) = if count == 1 { ("row repeats", "", "is") } else { ("rows repeat", "first in ", "are") };
    format!(
        "{path}: {} {rows} the header ({first}line {}) and {are} skipped: was the file put together from \
         several?",
        digits(count),
        digits(line)
    )
}

/// Keys with an unbalanced quote.
pub(crate) fn lone_quotes(path: &str, line: u64, key: &str, count: u64) -> String {
    let rows = if count == 1 { "row has" } else { "rows have" };
    format!(
        "{path}: {} {rows} a key with a single quotation mark in it, such as {key} in line {}: the mark is \
         part of the key; if the log is right, --quotes line or --quotes none accepts it, otherwise correct the log",
        digits(count),
        digits(line)
    )
}

/// Several columns with the same name, of which only one is read. `wheres`: the columns of --where.
pub(crate) fn same_names(source: &Source, names: &[String], columns: &Columns, options: &ImportOptions) -> Vec<String> {
    let mut used: Vec<(usize, String, Option<&str>)> = Role::ALL
        .into_iter()
        .filter_map(|role| Some((columns.of(role)?, format!("--{}-col ", role.name()), role.wish(options))))
        .collect();
    for wish in &options.wheres {
        let found = by_wish(names, &wish.column, "--where").ok();
        used.extend(found.map(|c| (c, "--where ".to_owned(), Some(wish.column.as_str()))));
    }
    let mut lines = Vec::new();
    for (c, flag, wish) in used {
        let same: Vec<usize> = (0..names.len()).filter(|&other| bare(&names[other]) == bare(&names[c])).collect();
        let numbered = wish.is_some_and(|wish| wish.parse() == Ok(c + 1));
        let Some(&other) = same.iter().find(|&&other| other != c).filter(|_| !numbered) else { continue };
        let list: Vec<String> = same.iter().map(|c| (c + 1).to_string()).collect();
        let value = if flag == "--where " { "=VALUES" } else { "" };
        lines.push(format!(
            "{}: columns {} are all called '{}', and only column {} is read: {flag}{}{value} keeps it, \
             {flag}{}{value} reads the other",
            source.display(),
            list.join(", "),
            bare(&names[c]),
            c + 1,
            c + 1,
            other + 1
        ));
    }
    lines
}

/// The header holds bytes that are not UTF-8.
pub(crate) fn odd_header(names: &[String]) -> Option<String> {
    let odd: Vec<String> = names.iter().filter(|name| name.contains('\u{fffd}')).cloned().collect();
    (!odd.is_empty()).then(|| {
        format!(
            "the header is not UTF-8 text ({}); if the file is Latin-1 or Windows-1252, --encoding latin1 or \
             --encoding windows-1252 reads it",
            listed(&odd)
        )
    })
}

/// Whether the first row may be a header with unknown names: words without digits, none of which repeats in its column,
/// as keys of users and items eventually do.
pub(crate) fn like_names(first: &[String], below: &[Vec<String>]) -> bool {
    let word = |cell: &String| cell.starts_with(char::is_alphabetic) && !cell.contains(char::is_numeric);
    // A header may be repeated as a whole in concatenated files.
    let alone = |c: usize| below.iter().all(|row| row.get(c) != Some(&first[c]) || row[..] == *first);
    !below.is_empty() && first.iter().all(word) && (0..first.len()).all(alone)
}

/// A log without a header that has times where the user or the item usually is.
pub(crate) fn keys_by_content(
    source: &Source,
    columns: &Columns,
    rows: &[Vec<String>],
    options: &ImportOptions,
) -> Option<String> {
    moved_keys(columns, rows, options).map(|what| format!("{}: {what}", source.display()))
}

/// A log was read without a header, but its first row looks like one. If the log has times or ratings, that row is
/// rejected with its own hint.
pub(crate) fn header_as_data(
    source: &Source,
    rows: &[Vec<String>],
    columns: &Columns,
    options: &ImportOptions,
) -> Option<String> {
    let (first, below) = rows.split_first()?;
    if options.no_header || columns.time.or(columns.rating).is_some() || !like_names(first, below) {
        return None;
    }
    let name = |c: usize| typed(first.get(c).map_or("", String::as_str));
    Some(format!(
        "{}: line 1 ({}) is read as data, but may be a header: words that do not come again below; if it is \
         one, add --user-col {} --item-col {}; if it is data, --no-header",
        source.display(),
        listed(first),
        name(columns.user),
        name(columns.item)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn moments_are_dates_or_numbers_of_their_size_throughout() {
        for cells in ["1700000000,1700000100", "1700000000123", "2024-05-01,2024-05-02 10:00:00", "978300760000000000"]
        {
            assert!(all_moments(cells.split(',')), "{cells}");
        }
        for cells in ["1700000000,12", "2024-05-01,soon", "4.5", "", "99999999", "2024-05-01,1700000000"] {
            assert!(!all_moments(cells.split(',')), "{cells}");
        }
        assert!(!all_moments(std::iter::empty()));
    }

    #[test]
    fn names_are_words_that_do_not_come_again() {
        let like = |rows: &[&str]| {
            let rows: Vec<_> = rows.iter().map(|r| row(r)).collect();
            like_names(&rows[0], &rows[1..])
        };
        assert!(like(&["who,what", "anna,tea", "bob,cup"]) && like(&["who,what", "u1,i1"]));
        assert!(!like(&["anna,tea", "bob,cup", "anna,cup"]), "a user comes again");
        assert!(!like(&["u1,tea", "u2,cup"]) && !like(&["who,what"]), "digits; nothing to compare with");
    }
}
