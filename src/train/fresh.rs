//! Initialisation of rows that the base does not have.

use std::collections::HashMap;

use super::origin::{FreshRows, Rows};
use crate::data::{ItemField, ItemFields, Vocab};

/// The offsets that are added to the random draws of fresh rows.
pub(super) struct Start<'a> {
    /// The mean of the known rows of each group ([`group`]).
    means: HashMap<&'a str, Vec<f32>>,
    /// For each field, value by value: the sum over the known items with that value, and their number.
    values: Vec<(ItemField<'a>, Vec<f32>, Vec<u32>)>,
}

/// Returns the group of a row: the values of one field (keys are `FIELD\tVALUE`), all items, or all users.
pub(super) fn group(rows: Rows, key: &str) -> &str {
    if rows == Rows::Fields { key.split('\t').next().unwrap_or("") } else { "" }
}

impl<'a> Start<'a> {
    pub(super) fn new(
        rows: Rows,
        how: FreshRows,
        side: Option<&'a ItemFields>,
        base: &[f32],
        d: usize,
        mine: &Vocab,
        theirs: &'a Vocab,
    ) -> Self {
        let mut start = Start { means: HashMap::new(), values: Vec::new() };
        match how {
            FreshRows::Random => return start,
            FreshRows::Mean | FreshRows::Content => {}
        }
        let mut sums: HashMap<&str, (Vec<f64>, f64)> = HashMap::new();
        for (key, row) in theirs.keys().zip(base.chunks_exact(d)) {
            let (sum, n) = sums.entry(group(rows, key)).or_insert_with(|| (vec![0.0; d], 0.0));
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += *x as f64);
            *n += 1.0;
        }
        let mean = |(sum, n): (Vec<f64>, f64)| sum.into_iter().map(|s| (s / n) as f32).collect();
        start.means = sums.into_iter().map(|(key, sum)| (key, mean(sum))).collect();
        if let (Rows::Items, FreshRows::Content, Some(side)) = (rows, how, side) {
            for field in side.iter() {
                let (mut sums, mut counts) = (vec![0.0; field.values() * d], vec![0; field.values()]);
                for (item, key) in mine.keys().enumerate() {
                    let Some(row) = theirs.find(key) else { continue };
                    for value in field.ids_of(item) {
                        let sum = &mut sums[*value as usize * d..][..d];
                        sum.iter_mut().zip(&base[row as usize * d..][..d]).for_each(|(s, x)| *s += x);
                        counts[*value as usize] += 1;
                    }
                }
                start.values.push((field, sums, counts));
            }
        }
        start
    }

    /// Adds the offset of row `i`, which belongs to `group`.
    pub(super) fn add_to(&self, row: &mut [f32], i: usize, group: &str) {
        let d = row.len();
        let (mut sum, mut n) = (vec![0.0f32; d], 0u32);
        for (field, sums, counts) in &self.values {
            for value in field.ids_of(i).iter().map(|v| *v as usize).filter(|v| counts[*v] > 0) {
                let share = 1.0 / counts[value] as f32;
                sum.iter_mut().zip(&sums[value * d..][..d]).for_each(|(s, x)| *s += x * share);
                n += 1;
            }
        }
        match (n, self.means.get(group)) {
            (0, Some(mean)) => row.iter_mut().zip(mean).for_each(|(x, mean)| *x += mean),
            (0, None) => {}
            (n, _) => row.iter_mut().zip(&sum).for_each(|(x, s)| *x += s / n as f32),
        }
    }
}
