/*! Next basket: predict a basket from the preceding basket (IERT, Yang et al. 2019, after BERT's pairs of sentences).

A sequence is [CLS] basket [SEP] basket. Segment vectors distinguish its two parts. The order within a basket has no
meaning, so there are no positions. The second basket is the user's next one or, with probability 1/2, a basket of
another user ([`Pairs`](super::basket_pairs::Pairs)). Two losses are added. One is that of masked items of both
baskets, as in MIP. The other is the binary cross-entropy of whether the second basket follows the first, predicted at
the row of [CLS]:

z = <h_[CLS], head> + b
loss = mean over masked items of the loss over items + mean over sequences of softplus(z) - t z

A query is [CLS] basket [SEP] [MASK], and the row of [MASK] is scored. A share (`--mask-last`) of the pairs that do
follow each other has exactly this form, with one item of the second basket as target.

Batches are made on the host, because pairs are drawn from the whole dataset.
*/

use super::{Batch, Batches, Loss, Objective, Sequence, Task, TaskDefinition, TaskSettings};
use crate::{
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    layers::{BatchShape, DataSummary, HostInput, Input, View},
    mem::{Act, Dst, F32, Init, Param, Planner, Span, U32},
    models::Representations,
    ops::{
        Backend, ItemDotBwd, ItemDotFwd, NO_ID, NO_ROW, PointLossBwd, PointLossFwd, WeightedMean,
        mask_items::{DRAWS, Masking},
        point_loss::PointKind,
        sort_ids::Sorted,
    },
};

/// Rows of a sequence that are not items: [CLS] and [SEP].
const MARKS: usize = 2;

/// A batch of pairs on the host, in addition to its header.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    /// (N) ids as the model sees them, and the basket of each.
    item: Vec<u32>,
    segment: Vec<u32>,
    /// Rows of masked items, sequence by sequence, and the masked items.
    row: Vec<u32>,
    target: Vec<u32>,
    /// Per sequence: 1 if the second basket follows the first.
    next: Vec<f32>,
    /// Scratch memory.
    items: Vec<u32>,
    positions: Vec<u32>,
    ids: Vec<u32>,
    numbers: Vec<f32>,
}

impl Made {
    pub fn clear(&mut self) {
        [&mut self.item, &mut self.segment, &mut self.row, &mut self.target].into_iter().for_each(Vec::clear);
        self.next.clear();
    }
}

/// The planned task.
#[derive(Clone, Debug)]
pub struct NextBasket {
    batches: Batches,
    judge: Judge,
    input: Input,
    settings: TaskSettings,
    items: usize,
}

/// Both losses. Parameters: `basket.head.weight (1,D)`, `basket.head.bias (1)`.
#[derive(Clone, Debug)]
struct Judge {
    items: Loss,
    r: Representations,
    weight: Param,
    bias: Param,
    /// (M) 0 in the rows of [CLS], otherwise [`NO_ID`]: the row of the head's table.
    id: Span<U32>,
    /// (M) whether the second basket follows the first, and the weight of the row: one over the number of sequences, or
    /// 0.
    target: Span<F32>,
    share: Span<F32>,
    /// (M) logits, their gradients and losses.
    z: Span<F32>,
    dz: Span<F32>,
    loss: Span<F32>,
    /// (2) both means, and (2) ones.
    means: Span<F32>,
    ones: Span<F32>,
    value: Span<F32>,
    by: Sorted,
}

impl Judge {
    fn logit(&self, s: &BatchShape) -> ItemDotFwd {
        let (table, bias) = (self.weight.w, self.bias.w);
        ItemDotFwd { z: self.z, h: self.r.scored.y, table, bias, id: self.id, m: s.m, d: self.r.d, v: 1, shift: 0.0 }
    }
}

impl Objective for Judge {
    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        b.write(self.ones.raw(), &[1.0; 2]);
        self.items.prepare(b, summary)
    }

    fn begin(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.items.begin(b, s);
    }

    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.items.forward(b, s);
        b.run(&self.logit(s));
        let (kind, m) = (PointKind::Logistic, s.m);
        b.run(&PointLossFwd { loss: self.loss, z: self.z, target: self.target, m, kind });
        b.run(&WeightedMean { y: self.means.slice(1, 1), x: self.loss, w: self.share, n: m });
        b.run(&WeightedMean { y: self.value, x: self.means, w: self.ones, n: 2 });
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.items.backward(b, s);
        let (m, d, logit) = (s.m, self.r.d, self.logit(s));
        let (dz, kind) = (Dst::Write(self.dz), PointKind::Logistic);
        b.run(&PointLossBwd { dz, dloss: self.share, z: self.z, target: self.target, m, kind });
        // The loss over items has written zeros in the rows without a target.
        let dh = Dst::Acc(self.r.scored.dy);
        b.run(&ItemDotBwd { dh, dz: self.dz, table: self.weight.w, id: self.id, m, d, v: 1 });
        b.run(&self.by.sort(&[(self.id, m)], 1));
        b.run(&logit.table_gradient(self.weight.grad(), self.dz, &self.by));
        b.run(&logit.bias_gradient(self.bias.grad(), self.dz, &self.by));
    }

    fn tables(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.items.tables(b, s);
    }

    fn value(&self) -> Span<F32> {
        self.value
    }

    fn keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        self.items.keys(s)
    }
}

/// Appends `n` distinct elements of `from`, drawn uniformly, or all of them in their order.
fn pick(from: &[u32], n: usize, draw: &mut Stream, to: &mut Vec<u32>) {
    let start = to.len();
    to.extend_from_slice(from);
    if n < from.len() {
        for i in 0..n {
            let j = i + draw.below((from.len() - i) as u64) as usize;
            to.swap(start + i, start + j);
        }
        to.truncate(start + n);
    }
}

/// Returns the number of items kept of each of two baskets in `room` items: half each, plus what the other leaves free.
fn shares(first: usize, second: usize, room: usize) -> [usize; 2] {
    let second = second.min((room / 2).max(room.saturating_sub(first)));
    [first.min(room - second), second]
}

impl NextBasket {
    /// Shortest sequence length: two baskets of one item.
    pub const SHORTEST_LENGTH: usize = MARKS + 2;

    /// Returns the loss over items.
    pub fn loss(&self) -> &Loss {
        &self.judge.items
    }

    /// Returns per scored row: 0 if it predicts whether the second basket follows, whether it does, and the weight of
    /// the row.
    pub fn asked(&self) -> (Span<U32>, Span<F32>, Span<F32>) {
        (self.judge.id, self.judge.target, self.judge.share)
    }

    /// Returns (M,D) the scored rows.
    pub fn scored_rows(&self) -> Span<Act> {
        self.judge.r.scored.y
    }

    /// Returns the number of items to mask of `len`.
    fn usual(share: f32, len: usize) -> usize {
        ((share * len as f32).round() as usize).clamp(1, len.max(1))
    }

    /// Returns the ids of [CLS] and [SEP]; [MASK] precedes them.
    fn marks(&self) -> [u32; 2] {
        [self.items as u32 + 1, self.items as u32 + 2]
    }
}

impl TaskDefinition for NextBasket {
    const NAME: &'static str = "next-basket";
    const ABOUT: &'static str = "predict the basket after a basket (IERT)";
    const VIEW: View = View::Both;
    const USES: &'static [&'static str] = &["mask", "mask-last"];
    const SPECIAL: usize = 3;
    const HOLDS: bool = false;
    const BASKETS: bool = true;
    const SEGMENTS: usize = 2;

    fn most_scored(c: &TaskSettings) -> usize {
        Self::usual(c.mask, c.length.saturating_sub(MARKS)) + 1
    }

    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self> {
        p.label("basket.head");
        let (m, d, items) = (input.capacity.m, r.d, r.v);
        let means = p.stat(2);
        let judge = Judge {
            weight: p.param("basket.head.weight", &[1, d], Init::TruncatedNormal(0.02)),
            bias: p.param("basket.head.bias", &[1], Init::Constant(0.0)),
            id: p.index(m),
            target: p.stat(m),
            share: p.stat(m),
            z: p.stat(m),
            dz: p.stat(m),
            loss: p.stat(m),
            means,
            ones: p.stat(2),
            value,
            by: Sorted::plan(p, m),
            items: Loss::plan(p, &c.loss, r.clone(), input, means.slice(0, 1), c.seed)?,
            r,
        };
        Ok(NextBasket { batches: Batches::new(input, c.seed), judge, input: *input, settings: *c, items })
    }
}

impl Task for NextBasket {
    fn batches(&self) -> &Batches {
        &self.batches
    }

    fn batches_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }

    fn objective(&self) -> &dyn Objective {
        &self.judge
    }

    fn last_basket(&self) -> bool {
        true
    }

    fn scored(&self, _: u32, _: u64, len: usize) -> usize {
        Self::usual(self.settings.mask, len)
    }

    /// Does nothing: the uploaded batch is complete.
    fn make(&self, _: &mut dyn Backend, _: &BatchShape) {}

    fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>) {
        let Sequence::Baskets { first, second, next } = sequence else {
            panic!("next-basket learns from pairs of baskets");
        };
        let (c, epoch, [cls, sep]) = (&self.settings, batch.header.epoch(), self.marks());
        // The draw of the pair itself uses the first half of the same stream.
        let mut draw = Stream::new(c.seed, Purpose::Basket, epoch).at(user * DRAWS + DRAWS / 2);
        let query = draw.uniform() < c.mask_last && next;
        let [one, two] = match query {
            true => [first.len().min(c.length - MARKS - 1), 1],
            false => shares(first.len(), second.len(), c.length - MARKS),
        };
        let Made { item, segment, row, target, items, positions, .. } = &mut batch.pairs;
        items.clear();
        pick(first, one, &mut draw, items);
        pick(second, two, &mut draw, items);
        let start = item.len();
        let sequence = |to: &mut Vec<u32>, items: &[u32]| {
            to.push(cls);
            to.extend_from_slice(&items[..one]);
            to.push(sep);
            to.extend_from_slice(&items[one..]);
        };
        sequence(&mut batch.raw, items);
        let (before, mask) = (row.len(), self.items as u32);
        // Item number `at` of both baskets comes after one special token or two.
        let mut hidden = |at: usize, id: u32| {
            row.push((start + at + 1 + usize::from(at >= one)) as u32);
            target.push(id);
        };
        if query {
            hidden(one, items[one]);
            items[one] = mask;
        } else {
            let masking = Masking { seed: c.seed, epoch, mask_last: 0.0, items: self.items };
            let usual = Self::usual(c.mask, items.len());
            masking.hide(user, items, usual, positions, hidden);
        }
        sequence(item, items);
        segment.resize(segment.len() + one + MARKS, 0);
        segment.resize(segment.len() + two, 1);
        batch.pairs.next.push(f32::from(next));
        let scored = batch.pairs.row.len() - before;
        batch.header.push(user as u32, one + two + MARKS, scored, NO_ROW);
        batch.header.also(1);
    }

    /// The scored rows are the masked ones, sequence by sequence, then those of [CLS], which the loss over items treats
    /// as padding, then padding.
    fn upload(&self, b: &mut dyn Backend, batch: &mut Batch, step: u32) -> BatchShape {
        let s = self.batches.upload(b, batch, step);
        let (input, judge, loss) = (&self.input, &self.judge, &self.judge.items);
        let (starts, ..) = batch.header.sequences();
        let Made { item, segment, row, target, next, ids, numbers, .. } = &mut batch.pairs;
        let (hidden, pairs) = (row.len(), next.len());
        item.resize(s.n, 0);
        segment.resize(s.n, 0);
        target.resize(s.m, 0);
        b.write_ids(input.item, item);
        b.write_ids(input.pos, segment);
        b.write_ids(loss.target, target);
        ids.clear();
        ids.extend(row.iter().chain(&starts[..pairs]));
        ids.resize(s.m, NO_ROW);
        b.write_ids(input.row, ids);
        ids.fill(NO_ID);
        ids[hidden..hidden + pairs].fill(0);
        b.write_ids(judge.id, ids);
        let mut write = |span: Span<F32>, hidden_rows: f32, pair: &dyn Fn(usize) -> f32| {
            numbers.clear();
            numbers.resize(hidden, hidden_rows);
            numbers.extend((0..pairs).map(pair));
            numbers.resize(s.m, 0.0);
            b.write(span.first(s.m).raw(), numbers);
        };
        write(loss.weight, 1.0 / hidden.max(1) as f32, &|_| 0.0);
        write(judge.share, 0.0, &|_| 1.0 / pairs.max(1) as f32);
        write(judge.target, 0.0, &|pair| next[pair]);
        s
    }

    fn push_query(&self, input: &mut HostInput, history: &[u32]) {
        let [cls, sep] = self.marks();
        let known = &history[history.len().saturating_sub(self.settings.length - MARKS - 1)..];
        input.item.push(cls);
        input.item.extend_from_slice(known);
        input.item.extend([sep, self.items as u32]);
        input.pos.resize(input.pos.len() + known.len() + MARKS, 0);
        input.pos.push(1);
        input.row.push(input.item.len() as u32 - 1);
        input.cu.push(input.item.len() as u32);
    }
}
