/*! next_items: the batch of next item prediction (Hidasi et al. 2016, Kang and McAuley 2018).
item = raw. A row predicts the K items that follow it in its sequence, or as many as there are. It has K rows to score
(fewer at the end), in order, the nearest target first.
row = the predicting row, target = the item to predict, weight = 1 / their number.
pos = T - length + place in the sequence: the last item has position T-1. It is only a target, never context, so the
known context ends at T-2. For recommendation it must end there too.
raw,item,pos (N)  row,target,weight (M)

Padding: a sequence without rows in `scored` predicts nothing. After scored_B there is no row to score: row NO_ROW,
target 0, weight 0.
*/

use super::{Cost, MaskItems, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{F32, Lent, Planner, Scalar, U32},
};

op! {
    /// Adds the following items of every row of every sequence as targets.
    NextItems = "next_items" {
        write {
            /** (N) */ item: U32, /** (N) */ pos: U32, /** (M) predicting rows, ascending */ row: U32,
            /** (M) the items that follow them */ target: U32, /** (M) weight of each in the mean */ weight: F32
        }
        read {
            /** (N) item ids */ raw: U32, /** (B+1) start of each sequence */ cu: U32,
            /** (B+1) start of its rows in `row` */ scored: U32
        }
        with {
            b: usize, n: usize, m: usize, /** longest sequence (T) */ t: usize,
            /** items that a row predicts (K) */ k: usize
        }
    }
}

/// Returns the number of rows to score in a sequence of `len` items with `k` targets per row.
pub fn asked(len: usize, k: usize) -> usize {
    // The last k-1 places have fewer than k items after them.
    let short = k.min(len);
    (len - short) * k + short * short.saturating_sub(1) / 2
}

impl NextItems {
    /// Calls `ask(row, row of its target)` for all targets of one sequence of `len` rows from `first` on.
    pub(crate) fn questions(&self, first: usize, len: usize, mut ask: impl FnMut(usize, usize)) {
        for i in 0..len {
            (1..=self.k.min(len - 1 - i)).for_each(|step| ask(first + i, first + i + step));
        }
    }
}

impl Op for NextItems {
    fn check(&self) -> Result<(), String> {
        let (b, n, m) = (self.b, self.n, self.m);
        if self.t == 0 || self.k == 0 {
            return Err(format!("sequences of {} items with {} targets per row", self.t, self.k));
        }
        fits(&[
            ("item", self.item.len(), n),
            ("pos", self.pos.len(), n),
            ("row", self.row.len(), m),
            ("target", self.target.len(), m),
            ("weight", self.weight.len(), m),
            ("raw", self.raw.len(), n),
            ("cu", self.cu.len(), b.saturating_add(1)),
            ("scored", self.scored.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, m) = (self.b, self.n, self.m);
        Cost::default()
            .moves(self.item, n)
            .moves(self.pos, n)
            .moves(self.row, m)
            .moves(self.target, m)
            .moves(self.weight, m)
            .moves(self.raw, n)
            .moves(self.cu, b + 1)
            .moves(self.scored, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (raw, cu, scored) = (m.ids(self.raw), m.ids(self.cu), m.ids(self.scored));
        let (item, pos) = (m.ids_mut(self.item), m.ids_mut(self.pos));
        let (row, target, weight) = (m.ids_mut(self.row), m.ids_mut(self.target), m.get_mut(self.weight.first(self.m)));
        item[..self.n].copy_from_slice(&raw[..self.n]);
        for b in 0..self.b {
            let (first, end, mut at) = (cu[b] as usize, cu[b + 1] as usize, scored[b] as usize);
            let len = end - first;
            (first..end).for_each(|i| pos[i] = (self.t + i - end) as u32);
            if scored[b + 1] as usize > at {
                self.questions(first, len, |asked, answer| {
                    (row[at], target[at]) = (asked as u32, raw[answer]);
                    at += 1;
                });
            }
        }
        MaskItems::pad(scored[self.b] as usize, &mut row[..self.m], &mut target[..self.m], weight);
    }
}

pub fn cases() -> Vec<Case> {
    // (lengths, K, sequences without targets, padded rows to score)
    const SHAPES: [(&[usize], usize, usize, usize); 8] = [
        (&[], 1, 0, 0),
        (&[1], 1, 0, 3),
        (&[2], 1, 0, 0),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 0, 0),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9], 3, 0, 5),
        (&[40, 0, 31, 32, 33, 3, 7], 1, 2, 40),
        (&[200, 1, 57, 200, 133, 64], 2, 1, 0),
        (&[300, 700], 1, 0, 100),
    ];
    SHAPES
        .into_iter()
        .map(|(lengths, k, silent, padding)| {
            let mut p = Planner::new();
            let (b, n) = (lengths.len(), lengths.iter().sum());
            let (mut cu, mut scored) = (vec![0], vec![0]);
            for (i, len) in lengths.iter().enumerate() {
                cu.push(cu[i] + *len as u32);
                scored.push(scored[i] + if i + silent < b { asked(*len, k) as u32 } else { 0 });
            }
            let m = scored[b] as usize + padding;
            let mut draw = Stream::new(3, Purpose::Test, n as u32);
            let raw = (0..n).map(|_| draw.bits()).collect();
            let op = NextItems {
                item: p.index(n),
                pos: p.index(n),
                row: p.index(m),
                target: p.index(m),
                weight: p.stat(m),
                raw: p.index(n),
                cu: p.index(b + 1),
                scored: p.index(b + 1),
                b,
                n,
                m,
                t: lengths.iter().copied().max().unwrap_or(1).max(1),
                k,
            };
            Case::forward(format!("b{b} n{n} m{m} k{k}"), p, op).ids(op.raw, raw).ids(op.cu, cu).ids(op.scored, scored)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use super::*;
    use crate::ops::NO_ROW;
    use crate::ops::any_op::Arithmetic;

    #[test]
    fn the_count_of_questions_is_that_of_the_questions() {
        for (len, k) in (0..12).flat_map(|len| (1..6).map(move |k| (len, k))) {
            let mut p = Planner::new();
            let (ids, weight) = (p.index(1), p.stat(1));
            let op = NextItems {
                item: ids,
                pos: ids,
                row: ids,
                target: ids,
                weight,
                raw: ids,
                cu: ids,
                scored: ids,
                b: 0,
                n: 0,
                m: 0,
                t: 12,
                k,
            };
            let mut count = 0;
            op.questions(0, len, |from, to| {
                assert!(from < to && to <= from + k && to < len);
                count += 1;
            });
            assert_eq!(count, asked(len, k), "len {len} k {k}");
        }
    }

    #[test]
    fn rows_of_padding_are_none() {
        let cases = cases();
        let mut calls = cases.iter().map(|case| (case, (&*case.fwd as &dyn Any).downcast_ref::<NextItems>().unwrap()));
        let (case, op) = calls.find(|(_, op)| op.m > asked(1, 1) && op.b == 1).unwrap();
        let mut m = case.host::<f64>(0.0, &case.inputs_f32(crate::mem::Precision::F32));
        case.fwd.compute(f64::memory(&mut m));
        assert!(m.ids(op.row.raw()).iter().all(|r| *r == NO_ROW) && m.get(op.weight.raw()).iter().all(|w| *w == 0.0));
    }
}
