/*! sort_ids: finds the rows that share an id, by sorting.
key   = the ids of id0 | id1 | id2 in ascending order      key (N), N = N0 + N1 + N2
order = the position of each in id0 | id1 | id2               order (N)   equal ids keep their order (stable)
An id is below V. [`NO_ID`] marks padding: it sorts last. Any other id that is not below V becomes NO_ID.

Rows with one id are then adjacent, a *run*, and the first place of a run owns the id. Table gradients are summed run by
run (`segment.rs`), each table row by one owner in a fixed order, without atomics and with the same bits every time.
*/

use super::{
    Cost, Op,
    case::{Case, affordable},
    fits,
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Lent, Planner, Scalar, Span, U32},
};

/// The id of padding. Gathers return zeros for it, sums skip it, sorting puts it last.
pub const NO_ID: u32 = u32::MAX;

op! {
    /// Sorts up to three lists of ids as one list, stably. Missing lists are [`Span::empty`].
    SortIds = "sort_ids" {
        write { /** (N) */ order: U32, /** (N) */ key: U32 }
        read { /** (N0) */ id0: U32, /** (N1) */ id1: U32, /** (N2) */ id2: U32 }
        with { n0: usize, n1: usize, n2: usize, /** ids are below this */ v: usize }
    }
}

impl SortIds {
    /// Returns the number of ids in all lists (N).
    pub fn n(&self) -> usize {
        self.n0.saturating_add(self.n1).saturating_add(self.n2)
    }
}

/// The planned spans of at most N sorted ids.
#[derive(Clone, Copy, Debug)]
pub struct Sorted {
    pub order: Span<U32>,
    pub key: Span<U32>,
}

impl Sorted {
    pub fn plan(p: &mut Planner, n: usize) -> Self {
        Sorted { order: p.index(n), key: p.index(n) }
    }

    /// Returns spans for no ids.
    pub fn empty() -> Self {
        Sorted { order: Span::empty(), key: Span::empty() }
    }

    /// Returns the op that fills them from up to three (ids, number of ids) below `v`.
    pub fn sort(&self, lists: &[(Span<U32>, usize)], v: usize) -> SortIds {
        assert!(lists.len() <= 3, "three lists are sorted at most");
        let list = |i: usize| lists.get(i).copied().unwrap_or((Span::empty(), 0));
        let [(id0, n0), (id1, n1), (id2, n2)] = [list(0), list(1), list(2)];
        SortIds { order: self.order, key: self.key, id0, id1, id2, n0, n1, n2, v }
    }
}

impl Op for SortIds {
    fn check(&self) -> Result<(), String> {
        if self.v > NO_ID as usize {
            return Err(format!("v is {}: ids have 32 bits", self.v));
        }
        let n = self.n();
        fits(&[
            ("order", self.order.len(), n),
            ("key", self.key.len(), n),
            ("id0", self.id0.len(), self.n0),
            ("id1", self.id1.len(), self.n1),
            ("id2", self.id2.len(), self.n2),
        ])
    }

    fn cost(&self) -> Cost {
        let n = self.n();
        Cost::default()
            .moves(self.order, n)
            .moves(self.key, n)
            .moves(self.id0, self.n0)
            .moves(self.id1, self.n1)
            .moves(self.id2, self.n2)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let lists = [m.ids(self.id0.first(self.n0)), m.ids(self.id1.first(self.n1)), m.ids(self.id2.first(self.n2))];
        let sorted = sorted(&lists.concat(), self.v);
        let (order, key) = (m.ids_mut(self.order.first(self.n())), m.ids_mut(self.key.first(self.n())));
        for (i, (o, k)) in sorted.into_iter().enumerate() {
            (order[i], key[i]) = (o, k);
        }
    }
}

/// Returns (place, id) of `ids` in ascending order of the ids, equal ones by place: the result of the op.
pub(super) fn sorted(ids: &[u32], v: usize) -> Vec<(u32, u32)> {
    let known = |id: u32| if (id as usize) < v { id } else { NO_ID };
    let mut all: Vec<(u32, u32)> = ids.iter().enumerate().map(|(i, id)| (i as u32, known(*id))).collect();
    all.sort_by_key(|(_, id)| *id);
    all
}

pub fn cases() -> Vec<Case> {
    let most = NO_ID as usize;
    [
        // Lengths of the lists, upper bound of ids, kind of ids.
        ([0, 0, 0], 5, "any"),
        ([1, 0, 0], 1, "any"),
        ([0, 0, 7], 0, "any"),
        ([3, 7, 1], 5, "some none"),
        ([100, 0, 31], 100, "none"),
        ([33, 64, 2], 200, "descending"),
        ([2048, 0, 0], 255, "any"),
        ([0, 2049, 0], 256, "some none"),
        ([1000, 3000, 500], 257, "some none"),
        ([5000, 1, 0], 26_744, "equal"),
        ([4000, 500, 1600], 65_535, "any"),
        ([777, 2222, 3333], 65_536, "some none"),
        ([4097, 10, 10], 10_000_000, "descending"),
        ([300, 3000, 0], most, "any"),
        ([2500, 0, 2500], most, "large"),
    ]
    .into_iter()
    .filter(|(lens, ..)| affordable(lens.iter().sum()))
    .map(|(lens, v, kind)| {
        let n: usize = lens.iter().sum();
        let mut draw = Stream::new(9, Purpose::Test, n as u32);
        let ids: Vec<u32> = (0..n)
            .map(|i| match kind {
                "equal" => (v / 3) as u32,
                "none" => NO_ID,
                "descending" => ((n - i) * v / (n + 1)) as u32,
                "large" => (v - 1 - draw.below(9) as usize) as u32,
                // Also ids that are not below v and not NO_ID.
                "some none" if i % 5 == 0 => [NO_ID, v as u32][i / 5 % 2],
                _ => draw.below(v.max(1) as u64) as u32,
            })
            .collect();
        let mut p = Planner::new();
        let by = Sorted::plan(&mut p, n);
        let lists = lens.map(|n| (p.index(n), n));
        let mut case = Case::forward(format!("n{lens:?} v{v} {kind}"), p, by.sort(&lists, v));
        let mut rest = &ids[..];
        for (span, n) in lists {
            case = case.ids(span, rest[..n].to_vec());
            rest = &rest[n..];
        }
        case
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_a_stable_permutation() {
        let ids = [7, 2, NO_ID, 2, 9, 0, 7];
        assert_eq!(sorted(&ids, 9), [(5, 0), (1, 2), (3, 2), (0, 7), (6, 7), (2, NO_ID), (4, NO_ID)]);
    }
}
