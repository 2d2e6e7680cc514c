//! Detects times that are too coarse to order a user's rows, and a column that would order them.

use std::collections::HashMap;

use super::{
    columns::{Columns, Role, bare},
    options::ImportOptions,
    source::Source,
    time::{TimeKind, parse_moment},
};
use crate::base::error::typed;

/// Fewer ties than this are not reported.
const FEW: usize = 5;

/// A warning if most adjacent rows of a user in the sample have equal times and an ignored column would order them: it
/// consistently rises or falls between them, or it differs and its name suggests an order. `--time-col` or
/// `--basket-col` settles the question.
pub(crate) fn unused_order(
    source: &Source,
    names: &[String],
    columns: &Columns,
    kind: Option<TimeKind>,
    rows: &[Vec<String>],
    options: &ImportOptions,
) -> Option<String> {
    let (time, kind) = columns.time.zip(kind)?;
    if options.time_col.is_some() || columns.basket.is_some() {
        return None;
    }
    let (ties, all) = ties(columns.user, time, kind, rows);
    if ties.len() < FEW || 2 * ties.len() <= all {
        return None;
    }
    let ignored = |c: &usize| Role::ALL.iter().all(|role| columns.of(*role) != Some(*c));
    let found: Vec<(usize, &str)> =
        (0..names.len()).filter(ignored).filter_map(|c| Some((c, orders(&names[c], c, &ties, rows)?))).collect();
    let &(first, how) = found.first()?;
    let name = bare(&names[first]);
    Some(format!(
        "{}: most neighbours of a user have equal times ({} of {all} in the first rows), and column '{name}' \
         {how}, but is ignored: such rows keep the order of the file; --time-col {} orders by it, --time-col {} keeps \
         it ignored",
        source.display(),
        ties.len(),
        typed(name),
        typed(bare(&names[time])),
    ))
}

/// Pairs of adjacent rows of a user with equal times; and the number of all adjacent pairs.
fn ties(user: usize, time: usize, kind: TimeKind, rows: &[Vec<String>]) -> (Vec<[usize; 2]>, usize) {
    let mut of_user: HashMap<&str, Vec<(_, usize)>> = HashMap::new();
    for (n, row) in rows.iter().enumerate() {
        if let (Some(user), Some(time)) = (row.get(user), row.get(time).and_then(|cell| kind.parse(cell.as_bytes()))) {
            of_user.entry(user).or_default().push((time, n));
        }
    }
    let (mut ties, mut all) = (Vec::new(), 0);
    for history in of_user.values_mut() {
        history.sort();
        all += history.len() - 1;
        ties.extend(history.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| [w[0].1, w[1].1]));
    }
    (ties, all)
}

/// How a column orders the ties; `None` if it does not.
fn orders(name: &str, c: usize, ties: &[[usize; 2]], rows: &[Vec<String>]) -> Option<&'static str> {
    let value = |n: usize| number(rows[n].get(c)?);
    let steps: Vec<f64> = ties.iter().filter_map(|&[a, b]| Some(value(b)? - value(a)?)).collect();
    let most = |fits: &dyn Fn(&f64) -> bool| 20 * steps.iter().filter(|s| fits(s)).count() >= 19 * ties.len();
    // Row numbers add nothing to the order of the file.
    let numbered = (1..rows.len()).all(|n| value(n).zip(value(n - 1)).is_some_and(|(b, a)| b - a == 1.0));
    if numbered || !most(&|step| *step != 0.0) {
        return None;
    }
    let name = name.to_lowercase();
    let speaks = ["time", "order", "seq", "step", "pos", "rank", "index", "frame", "hour", "minute", "second"];
    if most(&|step| *step > 0.0) {
        Some("rises within them")
    } else if most(&|step| *step < 0.0) {
        Some("falls within them")
    } else {
        speaks.iter().any(|word| name.contains(word)).then_some("differs within them")
    }
}

/// The value of a cell that can order rows: a number, a date, or a time of day.
fn number(cell: &String) -> Option<f64> {
    let clock = || {
        let parts: Vec<f64> = cell.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        (2..=3).contains(&parts.len()).then(|| parts.iter().fold(0.0, |sum, part| sum * 60.0 + part))
    };
    let date = || parse_moment(cell.as_bytes()).map(|m| m.whole as f64 + m.fraction as f64 / 1e18);
    cell.parse::<f64>().ok().filter(|x| x.is_finite()).or_else(date).or_else(clock)
}
