/*! The mapping of rows and columns when a tensor is copied into one of another width or with other rows.

Columns are matched by the names of the input parts they belong to ([`Planner::columns`]), rows by their keys.
Columns of parts that the base lacks start at zero, so a run that adds users or fields computes the same as its
base at first. The tables that these columns read are initialised at random, so that the columns have a gradient
from the first step on. A dense layer that the base lacks starts as the identity of its input, because the base
computes the identity there.

[`Planner::columns`]: crate::mem::Planner::columns
*/

use super::settings::Settings;
use crate::{
    data::Vocab,
    layers::{INPUT, Side},
    mem::Param,
};

/// Names and widths of the parts of a tensor's columns, in order; empty for one part without a name.
pub(super) type Columns = Vec<(String, usize)>;

/// The columns of a parameter of a run with `settings`, with side fields by their own names.
pub(super) fn named_columns(p: &Param, settings: &Settings) -> Columns {
    let fields = settings.field_names();
    let name = |part: &str| {
        let field = (0..fields.len()).find(|f| Side::field(*f) == part);
        field.map_or_else(|| part.to_string(), |f| format!("field {}", fields[f]))
    };
    p.columns.iter().map(|(part, width)| (name(part), *width)).collect()
}

pub(super) fn width_of(columns: &Columns, name: &str) -> Option<usize> {
    columns.iter().find(|(n, _)| n == name).map(|(_, width)| *width)
}

/// The start of each part, and the end of the last one.
fn starts(columns: &Columns) -> Vec<usize> {
    let mut at = vec![0];
    columns.iter().for_each(|(_, width)| at.push(at[at.len() - 1] + width));
    at
}

/// Returns the columns of `mine` that `theirs` lacks, as ranges.
pub(super) fn added(mine: &Columns, theirs: &Columns) -> Vec<std::ops::Range<usize>> {
    if theirs.is_empty() {
        return Vec::new();
    }
    let at = starts(mine);
    let new = mine.iter().enumerate().filter(|(_, (name, _))| width_of(theirs, name).is_none());
    new.map(|(i, _)| at[i]..at[i + 1]).collect()
}

/// Rearranges rows with the columns `theirs` to the columns `mine`: parts are matched by name, a new input part
/// gets the identity, all others get zeros.
pub(super) fn laid_out(values: Vec<f32>, mine: &Columns, theirs: &Columns) -> Vec<f32> {
    if mine == theirs || mine.is_empty() || theirs.is_empty() {
        return values;
    }
    let (to, from) = (starts(mine), starts(theirs));
    let (width, theirs_wide) = (to[mine.len()], from[theirs.len()]);
    let rows = values.len() / theirs_wide.max(1);
    let mut out = vec![0.0; rows * width];
    for (i, (name, n)) in mine.iter().enumerate() {
        let there = theirs.iter().position(|(other, _)| other == name);
        for row in 0..rows {
            let part = &mut out[row * width + to[i]..][..*n];
            match there {
                Some(j) => part.copy_from_slice(&values[row * theirs_wide + from[j]..][..*n]),
                None if name == INPUT => part[row] = 1.0,
                None => {}
            }
        }
    }
    out
}

/// Returns the initial weights of a layer with `rows` outputs that the base lacks: the layer computes what the
/// base computes without it.
pub(super) fn beginning(rows: usize, mine: &Columns) -> Vec<f32> {
    let (at, mut out) = (starts(mine), Vec::new());
    let width = at[mine.len()];
    out.resize(rows * width, 0.0);
    if let Some(i) = mine.iter().position(|(name, _)| name == INPUT) {
        (0..rows).for_each(|row| out[row * width + at[i] + row] = 1.0);
    }
    out
}

/// The base's row of each key. Rows of special ids follow those of the keys, in the same order.
pub(super) struct Place<'a> {
    mine: Option<&'a Vocab>,
    theirs: Option<&'a Vocab>,
    base_rows: usize,
}

impl<'a> Place<'a> {
    pub fn new(mine: Option<&'a Vocab>, theirs: Option<&'a Vocab>, base_rows: usize) -> Self {
        Place { mine, theirs, base_rows }
    }

    /// Returns the base's row that row `i` is copied from.
    pub fn of(&self, i: usize) -> Option<usize> {
        let keys = self.mine.map_or(0, Vocab::len);
        match self.mine.filter(|_| i < keys) {
            Some(mine) => self.theirs?.find(mine.key(i)).map(|row| row as usize),
            None => Some(self.theirs.map_or(0, Vocab::len) + i - keys).filter(|row| *row < self.base_rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(parts: &[(&str, usize)]) -> Columns {
        parts.iter().map(|(name, width)| (name.to_string(), *width)).collect()
    }

    #[test]
    fn columns_go_by_name_and_new_ones_begin_at_zero() {
        let base = columns(&[(INPUT, 2), ("user", 1)]);
        let mine = columns(&[(INPUT, 2), ("field year", 1), ("user", 1)]);
        let values = vec![1., 2., 3., 4., 5., 6.];
        assert_eq!(laid_out(values.clone(), &mine, &base), [1., 2., 0., 3., 4., 5., 0., 6.]);
        assert_eq!(added(&mine, &base), vec![2usize..3]);
        // And back: the dropped parts are lost.
        assert_eq!(laid_out(vec![1., 2., 9., 3., 4., 5., 9., 6.], &base, &mine), values);
        // A base that adds to its input has no layer, which counts as the identity.
        assert_eq!(laid_out(vec![3., 6.], &columns(&[(INPUT, 2)]), &columns(&[("user", 1)])), [1., 0., 0., 1.]);
        assert_eq!(beginning(2, &mine), [1., 0., 0., 0., 0., 1., 0., 0.]);
        assert_eq!(beginning(2, &columns(&[("user", 2)])), [0.0; 4]);
    }
}
