/*! What may have been misunderstood of a log although nothing in it is wrong: a column of times that nobody reads, a header
that is taken for data. The import goes on, since both may be meant, but says so; the flag that settles it silences it.
*/

use crate::{
    base::{Error, Result, error::typed},
    data::digits,
    data::import::{
        ImportOptions,
        columns::{Columns, Role, bare, cells_of, moved_keys},
        source::Source,
        time::parse_date,
    },
};

/// What a line of talk begins with that is a warning.
pub(crate) const WARNING: &str = "warning: ";

/// Numbers that may be moments: from 1973 counted in seconds to 2033 counted in nanoseconds.
const MOMENTS: std::ops::Range<i64> = 100_000_000..2_000_000_000_000_000_000;

/// Whether every cell is a date, or every cell a whole number of the size of moments; there must be one. Ids of ten digits
/// pass as well: that is why such columns are named and not taken.
pub(crate) fn all_moments<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> bool {
    let number = |cell: &str| cell.parse::<i64>().is_ok_and(|n| MOMENTS.contains(&n));
    let mut any = cells.clone();
    any.next().is_some()
        && (cells.clone().all(number) || cells.clone().all(|cell| parse_date(cell.as_bytes()).is_some()))
}

/// The log has no column of times and nobody said so, but a column that is ignored looks like one.
pub(crate) fn ignored_times(
    source: &Source,
    names: &[String],
    columns: &Columns,
    options: &ImportOptions,
    looks_like_times: impl Fn(usize) -> bool,
) -> Option<String> {
    if columns.time.is_some() || options.time_col.is_some() {
        return None;
    }
    let ignored = |c: &usize| Role::ALL.iter().all(|role| columns.of(*role) != Some(*c));
    let found: Vec<&str> =
        (0..names.len()).filter(ignored).filter(|c| looks_like_times(*c)).map(|c| bare(&names[c])).collect();
    let first = typed(found.first()?);
    let (them, look) = if found.len() == 1 { ("column", "looks") } else { ("columns", "look") };
    Some(format!(
        "{WARNING}{}: {them} '{}' {look} like times and nobody reads them: the order of the rows is taken for the order in \
         time; add --time-col {first}, or --time-col none if the rows are in order",
        source.display(),
        found.join("', '")
    ))
}

/// Rows that were shown and not clicked are events like the others.
pub(crate) fn zeros([zeros, all]: [u64; 2]) -> String {
    format!(
        "{WARNING}all ratings are 0 or 1, and {} of {} rows are rated 0 (shown, not clicked): they are events like the others; \
         --min-rating 1 keeps only the clicks, --min-rating 0 keeps all",
        digits(zeros),
        digits(all)
    )
}

/// A list of keys in one cell: `[3, 4, 5]`.
pub(crate) fn is_list(cell: &[u8]) -> bool {
    let inside = match cell {
        [b'[', inside @ .., b']'] | [b'(', inside @ .., b')'] | [b'{', inside @ .., b'}'] => inside,
        _ => return false,
    };
    let number = |word: &[u8]| std::str::from_utf8(word).is_ok_and(|word| word.parse::<f64>().is_ok());
    inside.contains(&b',') || inside.split(u8::is_ascii_whitespace).all(number)
}

/// Refuses keys that are lists and are not read as such.
///
/// # Errors
/// Half of the first keys, or more, are lists.
pub(crate) fn lists(source: &Source, names: &[String], columns: &Columns, rows: &[Vec<String>]) -> Result<()> {
    for (role, c) in [(Role::User, columns.user), (Role::Item, columns.item)] {
        let lists = || cells_of(rows, c).filter(|cell| is_list(cell.as_bytes()));
        let Some(first) = lists().next().filter(|_| 2 * lists().count() >= cells_of(rows, c).count()) else { continue };
        let shown: String = first.chars().take(40).collect();
        return Err(Error::user(format!(
            "{}: column '{}' holds lists, such as '{shown}', not one {} a row",
            source.display(),
            bare(&names[c]),
            role.name()
        ))
        .hint("write one row for each entry of a list (in pandas: explode), or name another column"));
    }
    Ok(())
}

/// Rows have more fields than the file has columns: a delimiter in an unquoted text shifts the columns behind it.
pub(crate) fn wide_rows(path: &str, line: u64, count: u64) -> String {
    format!(
        "{WARNING}{path}: line {} has more fields than columns{}: a delimiter in an unquoted text shifts the columns behind it; \
         put such texts in quotes, or write the log with another delimiter",
        digits(line),
        if count > 1 { format!(", and {} more lines", digits(count - 1)) } else { String::new() }
    )
}

/// Whether the first row may be names although none of them is known: words without digits, of which none comes again in
/// its column, as keys of users and items do sooner or later.
pub(crate) fn like_names(first: &[String], below: &[Vec<String>]) -> bool {
    let word = |cell: &String| cell.starts_with(char::is_alphabetic) && !cell.contains(char::is_numeric);
    let alone = |c: usize| below.iter().all(|row| row.get(c) != Some(&first[c]));
    !below.is_empty() && first.iter().all(word) && (0..first.len()).all(alone)
}

/// A log without a header has times where the user or the item stands as a rule.
pub(crate) fn keys_by_content(
    source: &Source,
    columns: &Columns,
    rows: &[Vec<String>],
    options: &ImportOptions,
) -> Option<String> {
    moved_keys(columns, rows, options).map(|what| format!("{WARNING}{}: {what}", source.display()))
}

/// A log was found to have no header, and its first row looks like one. Where it has times or ratings that row will be
/// refused, with its own hint.
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
        "{WARNING}{}: line 1 ({}) is read as data, but may be a header: words that do not come again below; if it is one, \
         add --user-col {} --item-col {}; if it is data, --no-header",
        source.display(),
        first.join(", "),
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
