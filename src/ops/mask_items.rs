/*! mask_items: the corruption of masked item prediction (Sun et al. 2019, after BERT's masked language model).
item = raw, except that some rows of each sequence are masked: 80 % of these show [MASK] (id `items`), 10 % a random
item, 10 % the item itself.
row = the masked rows in order, target = their original items, weight = 1 / their number.
pos = T - length + place in the sequence: the newest item has position T-1.    raw,item,pos (N)  row,target,weight (M)

A share `mask_last` of the sequences masks only its last row, always with [MASK], as in recommendation. The others mask
as many rows as `scored` specifies, picked by a partial Fisher-Yates shuffle.
Padding: a sequence without rows in `scored` stays unchanged. After scored_B there is no row to score: row NO_ROW,
target 0, weight 0.
Draws: Philox stream (seed, Mask, epoch), from draw user*2^22 on: [last row only?] [two per pick] [kind, two for the
random item, per masked row]. A batch is a function of seed, epoch and users, whether the task on the host or this op
makes it.
*/

use std::ops::Range;

use super::{Cost, NO_ROW, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{F32, Lent, Planner, Scalar, U32},
};

op! {
    /// Masks rows of every sequence.
    MaskItems = "mask_items" {
        write {
            /** (N) corrupted */ item: U32, /** (N) */ pos: U32, /** (M) masked rows, ascending */ row: U32,
            /** (M) their items */ target: U32, /** (M) weight of each in the mean */ weight: F32
        }
        read {
            /** (N) item ids */ raw: U32, /** (B+1) start of each sequence */ cu: U32,
            /** (B+1) start of its masked rows in `row` */ scored: U32, /** (B) */ user: U32, /** (1) */ epoch: U32
        }
        with {
            b: usize, n: usize, m: usize, /** of the catalogue; [MASK] is the id after them */ items: usize,
            /** share of sequences that mask only their last row */ mask_last: f32,
            seed: u64, /** longest sequence (T) */ t: usize
        }
    }
}

/// Number of 32-bit draws reserved for one user of an epoch.
pub const DRAWS: u64 = 1 << 22;

/// The source of the draws of a sequence, and the parameters of the masks.
#[derive(Clone, Copy, Debug)]
pub struct Masking {
    pub seed: u64,
    pub epoch: u32,
    /// Share of sequences that mask only their last row.
    pub mask_last: f32,
    /// Number of catalogue items. [MASK] is the id after them.
    pub items: usize,
}

impl Masking {
    fn draws(&self, user: u64) -> Stream {
        Stream::new(self.seed, Purpose::Mask, self.epoch).at(user * DRAWS)
    }

    /// Returns the number of masked rows of a sequence of `len` items: `usual`, or one where only the last is masked.
    /// An empty sequence has none.
    pub fn scored(&self, user: u64, len: usize, usual: usize) -> usize {
        if len == 0 || self.draws(user).uniform() < self.mask_last { len.min(1) } else { usual }
    }

    /// Picks the masked rows of a sequence of `len` items, ascending: `usual` of them, or only the last.
    /// Returns whether only the last is masked, and the stream of the following draws.
    pub fn pick(&self, user: u64, len: usize, usual: usize, positions: &mut Vec<u32>) -> (bool, Stream) {
        let mut draw = self.draws(user);
        positions.clear();
        if draw.uniform() < self.mask_last {
            positions.extend((0..len as u32).last());
            return (true, draw);
        }
        // A partial Fisher-Yates shuffle picks the positions. They are sorted, so that rows are scored in order.
        positions.extend(0..len as u32);
        for i in 0..usual {
            let j = i + draw.below((len - i) as u64) as usize;
            positions.swap(i, j);
        }
        positions.truncate(usual);
        positions.sort_unstable();
        (false, draw)
    }

    /// Masks rows of one sequence: `usual` of them, or only the last.
    /// `hidden(position, item)` is called for each in order. `positions` is working memory.
    pub fn hide(
        &self,
        user: u64,
        sequence: &mut [u32],
        usual: usize,
        positions: &mut Vec<u32>,
        mut hidden: impl FnMut(usize, u32),
    ) {
        let (mask_id, len) = (self.items as u32, sequence.len());
        if len == 0 {
            return;
        }
        let (last, mut draw) = self.pick(user, len, usual, positions);
        for p in positions {
            let item = &mut sequence[*p as usize];
            hidden(*p as usize, *item);
            if last {
                *item = mask_id;
                return;
            }
            let kind = draw.uniform();
            let random = draw.below(self.items as u64) as u32;
            if kind < 0.8 {
                *item = mask_id;
            } else if kind < 0.9 {
                *item = random;
            }
        }
    }
}

/// The ids of a batch, and the parts of it that belong to a range of its sequences.
pub(crate) struct Batch<'a> {
    pub raw: &'a [u32],
    pub cu: &'a [u32],
    pub scored: &'a [u32],
    pub user: &'a [u32],
}

impl MaskItems {
    /// Corrupts `sequences` of the batch. `item`, `pos`, `row` and `target` contain only their rows.
    pub(crate) fn corrupt(
        &self,
        epoch: u32,
        batch: &Batch,
        sequences: Range<usize>,
        [item, pos, row, target]: [&mut [u32]; 4],
        positions: &mut Vec<u32>,
    ) {
        let masking = Masking { seed: self.seed, epoch, mask_last: self.mask_last, items: self.items };
        let (first, mut at) = (batch.cu[sequences.start] as usize, 0);
        item.copy_from_slice(&batch.raw[first..][..item.len()]);
        for s in sequences {
            let (start, end) = (batch.cu[s] as usize, batch.cu[s + 1] as usize);
            let usual = (batch.scored[s + 1] - batch.scored[s]) as usize;
            let places = pos[start - first..end - first].iter_mut().enumerate();
            places.for_each(|(i, p)| *p = (self.t - (end - start) + i) as u32);
            if usual == 0 {
                continue;
            }
            masking.hide(batch.user[s] as u64, &mut item[start - first..end - first], usual, positions, |p, id| {
                (row[at], target[at]) = ((start + p) as u32, id);
                at += 1;
            });
        }
        assert_eq!(at, row.len(), "`scored` differs from the number of masked rows");
    }

    /// Fills the padding after the `real` rows of the batch, and all weights.
    pub(crate) fn pad<S: Scalar>(real: usize, row: &mut [u32], target: &mut [u32], weight: &mut [S]) {
        row[real..].fill(NO_ROW);
        target[real..].fill(0);
        weight[..real].fill(S::one() / S::of(real.max(1) as f64));
        weight[real..].fill(S::zero());
    }
}

impl Op for MaskItems {
    fn check(&self) -> Result<(), String> {
        let (b, n, m) = (self.b, self.n, self.m);
        if self.items == 0 || self.items >= u32::MAX as usize {
            return Err(format!("{} items: there are 1 to 2^32 - 2", self.items));
        }
        if self.t as u64 * 5 >= DRAWS {
            return Err(format!("sequences of {} exceed the reserved draws", self.t));
        }
        fits(&[
            ("item", self.item.len(), n),
            ("pos", self.pos.len(), n),
            ("weight", self.weight.len(), m),
            ("row", self.row.len(), m),
            ("target", self.target.len(), m),
            ("raw", self.raw.len(), n),
            ("cu", self.cu.len(), b.saturating_add(1)),
            ("scored", self.scored.len(), b.saturating_add(1)),
            ("user", self.user.len(), b),
            ("epoch", self.epoch.len(), 1),
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
            .moves(self.user, b)
            .moves(self.epoch, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let batch =
            Batch { raw: m.ids(self.raw), cu: m.ids(self.cu), scored: m.ids(self.scored), user: m.ids(self.user) };
        let (item, pos) = (m.ids_mut(self.item), m.ids_mut(self.pos));
        let (row, target, weight) = (m.ids_mut(self.row), m.ids_mut(self.target), m.get_mut(self.weight.first(self.m)));
        let real = batch.scored[self.b] as usize;
        let out = [&mut item[..self.n], &mut pos[..self.n], &mut row[..real], &mut target[..real]];
        self.corrupt(m.ids(self.epoch)[0], &batch, 0..self.b, out, &mut Vec::new());
        Self::pad(real, &mut row[..self.m], &mut target[..self.m], weight);
    }
}

/// (lengths, share of masked rows, `mask_last`, items, seed, first user, epoch).
type Shape = (&'static [usize], f32, f32, usize, u64, u32, u32);

pub fn cases() -> Vec<Case> {
    const SHAPES: [Shape; 9] = [
        (&[], 0.2, 0.1, 9, 1, 0, 0),
        (&[1], 0.2, 0.0, 1, 2, 0, 0),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9], 0.5, 0.0, 50, 3, 5, 1),
        // Every row masked, the last row only, one empty sequence, all at the end of the ranges of users and epochs.
        (&[31, 32, 33, 64, 65], 1.0, 0.0, 7, u64::MAX, u32::MAX - 5, u32::MAX),
        (&[31, 32, 33, 64, 65], 0.3, 1.0, 7, 1 << 40, 0, 2),
        (&[12, 0, 40], 0.3, 0.0, 3, 5, 77, 3),
        (&[200, 1, 57, 200, 200, 133, 20, 200, 3, 96], 0.2, 0.4, 3_706, 42, 6_040, 17),
        (&[1024, 1000, 1500], 0.25, 0.1, 4_000_000_000, 6, 9, 8),
        // Only padding.
        (&[40, 3], 0.0, 0.0, 5, 6, 9, 8),
    ];
    SHAPES
        .into_iter()
        .map(|(lengths, share, mask_last, items, seed, first, epoch)| {
            let mut p = Planner::new();
            let (b, n) = (lengths.len(), lengths.iter().sum());
            let masking = Masking { seed, epoch, mask_last, items };
            let users: Vec<u32> = (first..).take(b).collect();
            let (mut cu, mut scored) = (vec![0], vec![0]);
            for (len, user) in lengths.iter().zip(&users) {
                let usual = ((share * *len as f32).round() as usize).clamp(1, (*len).max(1));
                cu.push(cu[cu.len() - 1] + *len as u32);
                let rows = if share > 0.0 { masking.scored(*user as u64, *len, usual) as u32 } else { 0 };
                scored.push(scored[scored.len() - 1] + rows);
            }
            // Some rows of padding in large cases.
            let m = (scored[b] as usize).next_multiple_of(if n > 20 { 37 } else { 1 });
            let mut draw = Stream::new(seed, Purpose::Test, epoch);
            let raw = (0..n).map(|_| draw.below(items as u64) as u32).collect();
            let op = MaskItems {
                item: p.index(n),
                pos: p.index(n),
                weight: p.stat(m),
                row: p.index(m),
                target: p.index(m),
                raw: p.index(n),
                cu: p.index(b + 1),
                scored: p.index(b + 1),
                user: p.index(b),
                epoch: p.index(1),
                b,
                n,
                m,
                items,
                mask_last,
                seed,
                t: lengths.iter().copied().max().unwrap_or(1),
            };
            Case::forward(format!("b{b} n{n} m{m} last{mask_last}"), p, op)
                .ids(op.raw, raw)
                .ids(op.cu, cu)
                .ids(op.scored, scored)
                .ids(op.user, users)
                .ids(op.epoch, vec![epoch])
        })
        .collect()
}
