/*! Slices: the same metrics over users by the length of their history, and over held-out items by popularity.

Bands of popularity are by interaction mass, with items ordered from most to least frequent in training. `head` has
the first third of all training interactions, `mid` the second and `tail` the last. `cold` has the items that do not
occur in training. An item that straddles a border belongs to the band in which it begins.
*/

use serde::Serialize;

/// Lengths of the history at which a new slice begins; the last slice is open.
pub const HISTORY_FROM: [usize; 9] = [1, 2, 4, 7, 10, 20, 50, 100, 200];

/// Returns the history slice of a length.
pub fn history_slice(length: usize) -> usize {
    HISTORY_FROM.partition_point(|from| *from <= length).saturating_sub(1)
}

/// Returns the name of a history slice: "1", "2-3", ..., "200+".
pub fn history_name(slice: usize) -> String {
    let from = HISTORY_FROM[slice];
    match HISTORY_FROM.get(slice + 1) {
        Some(next) if next - 1 == from => from.to_string(),
        Some(next) => format!("{from}-{}", next - 1),
        None => format!("{from}+"),
    }
}

/// The popularity of an item in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    Head,
    Mid,
    Tail,
    Cold,
}

impl Band {
    pub const ALL: [Band; 4] = [Band::Head, Band::Mid, Band::Tail, Band::Cold];

    pub fn name(self) -> &'static str {
        ["head", "mid", "tail", "cold"][self as usize]
    }
}

/// Returns the band of every item (V), given its training count.
pub fn bands(counts: &[u32]) -> Vec<Band> {
    let mut by_count: Vec<u32> = (0..counts.len() as u32).collect();
    by_count.sort_by_key(|i| (std::cmp::Reverse(counts[*i as usize]), *i));
    let total: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    let mut bands = vec![Band::Cold; counts.len()];
    let mut before = 0u64;
    for item in by_count {
        let count = u64::from(counts[item as usize]);
        if count > 0 {
            bands[item as usize] = Band::ALL[(3 * before / total) as usize];
        }
        before += count;
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_slices_meet_without_gap() {
        let names: Vec<String> = (0..HISTORY_FROM.len()).map(history_name).collect();
        assert_eq!(names, ["1", "2-3", "4-6", "7-9", "10-19", "20-49", "50-99", "100-199", "200+"]);
        let of = |n| names[history_slice(n)].as_str();
        assert_eq!(
            [1, 3, 4, 9, 19, 20, 99, 199, 200, 5000].map(of),
            ["1", "2-3", "4-6", "7-9", "10-19", "20-49", "50-99", "100-199", "200+", "200+"]
        );
    }

    #[test]
    fn bands_hold_a_third_of_the_interactions_each() {
        use Band::*;
        assert_eq!(bands(&[2, 6, 2, 0, 2, 3, 3]), [Tail, Head, Tail, Cold, Tail, Mid, Mid]);
        assert_eq!(bands(&[100, 1]), [Head, Tail]);
        assert_eq!(bands(&[0, 0]), [Cold, Cold]);
    }
}
