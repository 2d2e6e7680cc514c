/*! top_k: the best k items of the catalogue for each of B vectors, without a matrix of scores.
s_bv = <h_b, table_v> + bias_v      h (B,D) act   table (V,D) f32   bias (V) f32
item, score (B,K): the candidates with the highest scores, best first, and the smaller id first among equal scores. With
fewer than K candidates the rest is NO_ROW and -inf.
The candidates of b are all items except excluded[excluded_start_b .. excluded_start_b+1] (ascending, distinct) and
items with a NaN or infinite score. bad (B): the first catalogue item, excluded or not, with such a score, else NO_ROW.

**One arithmetic.** A score is the sum over d ascending of h_d * table_d, from 0, every product and every sum rounded to
f32, then plus the bias. Every backend computes exactly this, in tiles and for single pairs, so that scores agree to the
bit. Otherwise an item could tie with itself in one place and beat itself in another, and a rank would depend on the
machine. Fused multiply-add is not used for the same reason: not every processor has it. The table is the f32 master in
bf16 mode too. The vectors are the model's output, bf16 or f32, used exactly.
*/

use super::{
    Cost, NO_ROW, Op, area,
    case::{Case, affordable},
    fits,
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, Span, U32},
};

op! {
    /// Finds the best items for each vector.
    TopK = "top_k" {
        write { /** (B,K) */ item: U32, /** (B,K) */ score: F32, /** (B) */ bad: U32 }
        read {
            /** (B,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32, /** (E) */ excluded: U32,
            /** (B+1) */ excluded_start: U32
        }
        with { b: usize, d: usize, v: usize, k: usize, /** excluded items of all vectors */ e: usize }
    }
}

/// Computes the score of a pair in the fixed order.
pub(super) fn score<S: Scalar>(h: &[S], row: &[S], bias: S) -> S {
    h.iter().zip(row).fold(S::zero(), |sum, (x, w)| sum + *x * *w) + bias
}

/// Computes the scores of one vector for all items, in the order of the table.
/// Also returns the first item with a NaN or infinite score. These scores and those of excluded items are NaN, which
/// never counts.
pub(super) fn candidates<S: Scalar>(h: &[S], table: &[S], bias: &[S], excluded: &[u32]) -> (Vec<S>, u32) {
    let d = h.len();
    let mut scores: Vec<S> = bias.iter().enumerate().map(|(v, bias)| score(h, &table[v * d..][..d], *bias)).collect();
    let bad = scores.iter().position(|s| !s.f64().is_finite()).map_or(NO_ROW, |v| v as u32);
    scores.iter_mut().filter(|s| !s.f64().is_finite()).for_each(|s| *s = S::of(f64::NAN));
    excluded.iter().for_each(|v| scores[*v as usize] = S::of(f64::NAN));
    (scores, bad)
}

/// Checks the sizes of a catalogue, for all ops over it.
pub(super) fn check_catalogue(d: usize, v: usize) -> Result<(), String> {
    match d > 0 && v > 0 && v < NO_ROW as usize {
        true => Ok(()),
        false => Err(format!("vectors of {d} and {v} items: both are at least 1, items at most 2^32 - 2")),
    }
}

impl Op for TopK {
    fn check(&self) -> Result<(), String> {
        let (b, d, v, k) = (self.b, self.d, self.v, self.k);
        check_catalogue(d, v)?;
        if k == 0 {
            return Err("the best 0 items".into());
        }
        fits(&[
            ("item", self.item.len(), area([b, k])),
            ("score", self.score.len(), area([b, k])),
            ("bad", self.bad.len(), b),
            ("h", self.h.len(), area([b, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("excluded", self.excluded.len(), self.e),
            ("excluded_start", self.excluded_start.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, d, v, k) = (self.b, self.d, self.v, self.k);
        // The score of every pair, and one comparison of it.
        Cost::work((b * v * (2 * d + 2)) as f64, 0.0)
            .moves(self.item, b * k)
            .moves(self.score, b * k)
            .moves(self.bad, b)
            .moves(self.h, b * d)
            .moves(self.table, v * d)
            .moves(self.bias, v)
            .moves(self.excluded, self.e)
            .moves(self.excluded_start, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, v, k) = (self.d, self.v, self.k);
        let (h, table, bias) = (m.get(self.h), m.get(self.table), m.get(self.bias));
        let (excluded, start) = (m.ids(self.excluded), m.ids(self.excluded_start));
        let (item, score, bad) = (m.ids_mut(self.item), m.get_mut(self.score), m.ids_mut(self.bad));
        for b in 0..self.b {
            let excluded = &excluded[start[b] as usize..start[b + 1] as usize];
            let (scores, first_bad) = candidates(&h[b * d..][..d], &table[..v * d], &bias[..v], excluded);
            let mut best: Vec<u32> = (0..v as u32).filter(|v| scores[*v as usize].f64().is_finite()).collect();
            let of = |v: &u32| scores[*v as usize].f64();
            best.sort_by(|x, y| of(y).total_cmp(&of(x)).then(x.cmp(y)));
            for i in 0..k {
                let found = best.get(i).copied();
                item[b * k + i] = found.unwrap_or(NO_ROW);
                score[b * k + i] = found.map_or(S::neg_infinity(), |v| scores[v as usize]);
            }
            bad[b] = first_bad;
        }
    }
}

/// The special property of the catalogue of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plant {
    /// Integers: every score is exact in any arithmetic, and many tie.
    Whole,
    /// Normal numbers, since integer scores could hide a rounding error.
    Fine,
    /// All scores are equal.
    Equal,
    /// The first vector has no candidate, the second has two.
    Seen,
    /// A table row with an infinity, a NaN bias, and a NaN vector.
    Bad,
}

/// A catalogue with its vectors and exclusion lists, for the cases of the ops over it.
pub(super) struct Shelf {
    pub h: Span<Act>,
    pub table: Span<F32>,
    pub bias: Span<F32>,
    pub excluded: Span<U32>,
    pub excluded_start: Span<U32>,
    pub e: usize,
    values: [Vec<f32>; 3],
    lists: [Vec<u32>; 2],
}

impl Shelf {
    pub fn plan(p: &mut Planner, b: usize, d: usize, v: usize, plant: Plant) -> Shelf {
        let mut draw = Stream::new(8, Purpose::Test, (b * 10_000 + v * 10 + d) as u32);
        let number = |s: &mut Stream| match plant {
            Plant::Fine => s.normal(),
            Plant::Equal => 0.0,
            _ => s.below(7) as f32 - 3.0,
        };
        let mut values = [b * d, v * d, v].map(|n| (0..n).map(|_| number(&mut draw)).collect::<Vec<f32>>());
        if plant == Plant::Bad {
            values[1][v / 2 * d] = f32::INFINITY;
            values[2][v - 1] = f32::NAN;
            values[0][d] = f32::NAN;
        }
        let (mut excluded, mut start) = (Vec::new(), vec![0]);
        for user in 0..b {
            // None, a few, half, most.
            let share = [0, 6, 50, 97][user % 4];
            excluded.extend((0..v as u32).filter(|v| match (plant, user) {
                (Plant::Seen, 0) => true,
                (Plant::Seen, 1) => *v > 1,
                _ => draw.below(100) < share,
            }));
            start.push(excluded.len() as u32);
        }
        let e = excluded.len();
        Shelf {
            h: p.act(b * d),
            table: p.weight(v * d),
            bias: p.weight(v),
            excluded: p.index(e),
            excluded_start: p.index(b + 1),
            e,
            values,
            lists: [excluded, start],
        }
    }

    pub fn fill(self, case: Case) -> Case {
        let ([h, table, bias], [excluded, start]) = (self.values, self.lists);
        let case = case.values(self.h, h).values(self.table, table).values(self.bias, bias);
        case.ids(self.excluded, excluded).ids(self.excluded_start, start)
    }
}

pub fn cases() -> Vec<Case> {
    use Plant::*;
    [
        (0, 8, 5, 2, Whole),
        (1, 1, 1, 1, Whole),
        (3, 7, 11, 4, Fine),
        (5, 16, 33, 33, Whole),
        // More than the number of candidates.
        (2, 8, 20, 25, Seen),
        (4, 3, 300, 10, Equal),
        (6, 20, 150, 150, Bad),
        (65, 12, 129, 7, Whole),
        // Lists longer than a warp or a queue processes at once.
        (3, 6, 900, 300, Whole),
        (9, 64, 515, 40, Fine),
        (130, 33, 1031, 10, Whole),
    ]
    .into_iter()
    .filter(|(b, d, v, ..)| affordable(v * (b + d)))
    .map(|(b, d, v, k, plant)| {
        let mut p = Planner::new();
        let shelf = Shelf::plan(&mut p, b, d, v, plant);
        let op = TopK {
            item: p.index(b * k),
            score: p.stat(b * k),
            bad: p.index(b),
            h: shelf.h,
            table: shelf.table,
            bias: shelf.bias,
            excluded: shelf.excluded,
            excluded_start: shelf.excluded_start,
            b,
            d,
            v,
            k,
            e: shelf.e,
        };
        shelf.fill(Case::forward(format!("b{b} d{d} v{v} k{k} {plant:?}"), p, op))
    })
    .collect()
}
