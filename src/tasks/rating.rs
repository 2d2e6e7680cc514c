/*! Rating prediction: mask some ratings of a sequence, never the items, and predict them from both sides. The survey
of Zeng et al. 2021 uses BERT4Rec for it; autoencoders of rating rows do the same (Kuchaiev and Ginsburg 2017).

The model receives a rating r in two forms: as a class, for models that embed it, and as the number r - mean, for
models that multiply by it. A masked rating is the class after all levels, and 0. With `--mask 0` nothing is masked
and every rating is predicted from all of them: an autoencoder, as published.

```text
z = <h, w> + c                     regression head, for a model with the scored rows at the item in question
z = <h, E'[item]> + c[item]        output table, for a model that has one: the row of the item in question
loss = mean over the scored rows of (z - (r - mean))^2; the prediction is z + mean
```

A question is the newest T-1 items of a history with their ratings, and the item in question without a rating. Batches
are made on the host: the ratings of a window are few numbers, and the host looks up their classes.
*/

use super::{Batch, Batches, MaskedItem, Objective, Sequence, Task, TaskDefinition, TaskSettings};
use crate::{
    base::Result,
    layers::{BatchShape, Capacity, DataSummary, HostInput, Input, RatingScale, View},
    mem::{Dst, F32, Init, Param, Planner, Span, U32},
    models::Representations,
    ops::{
        Backend, ItemDotBwd, ItemDotFwd, NO_ID, NO_ROW, PointLossBwd, PointLossFwd, SegmentSum, WeightedMean,
        mask_items::Masking, point_loss::PointKind, sort_ids::Sorted,
    },
};

/// The planned task.
#[derive(Clone, Debug)]
pub struct Rating {
    batches: Batches,
    input: Input,
    settings: TaskSettings,
    scale: RatingScale,
    loss: Regression,
}

impl Rating {
    fn masking(&self, epoch: u32) -> Masking {
        let TaskSettings { mask_last, seed, .. } = self.settings;
        Masking { seed, epoch, mask_last, items: self.loss.r.v }
    }

    /// Returns the rating scale.
    pub fn scale(&self) -> &RatingScale {
        &self.scale
    }

    /// Adds rows with their visible ratings; returns the first.
    fn push_rows(&self, host: &mut HostInput, items: &[u32], ratings: &[f32]) -> usize {
        assert_eq!(items.len(), ratings.len());
        host.rating.extend(ratings.iter().map(|r| r - self.scale.mean));
        host.class.extend(ratings.iter().map(|r| self.scale.class(*r)));
        host.push(items, self.settings.length)
    }

    /// Adds a history with its ratings and an item to predict the rating of.
    pub fn push_question(&self, host: &mut HostInput, items: &[u32], ratings: &[f32], item: u32) {
        let known = items.len().saturating_sub(self.settings.length - 1);
        let first = self.push_rows(host, &items[known..], &ratings[known..]);
        // One row is appended to the sequence just closed: all positions move up by one.
        let row = host.item.len();
        host.pos[first..].iter_mut().for_each(|p| *p -= 1);
        host.item.push(item);
        host.pos.push(self.settings.length as u32 - 1);
        host.rating.push(0.0);
        host.class.push(self.scale.hidden());
        *host.cu.last_mut().expect("a sequence was pushed") += 1;
        host.row.push(row as u32);
    }

    /// Predicts the ratings of the scored rows, relative to the mean, for the items `asked`.
    pub fn predict(&self, b: &mut dyn Backend, asked: &[u32], s: &BatchShape) -> Span<F32> {
        b.write_ids(self.loss.id, &asked.iter().map(|item| self.loss.head.row(*item)).collect::<Vec<_>>());
        b.run(&self.loss.dot(s));
        self.loss.z
    }
}

impl TaskDefinition for Rating {
    const NAME: &'static str = "rating";
    const ABOUT: &'static str = "predict masked ratings from the others";
    const VIEW: View = View::Both;
    const USES: &'static [&'static str] = &["mask", "mask-last"];
    const HOLDS: bool = false;
    const RATED: bool = true;

    fn most_scored(c: &TaskSettings) -> usize {
        if c.mask == 0.0 { c.length } else { MaskedItem::usual(c.mask, c.length) }
    }

    fn touched(_: &TaskSettings, _: &Capacity) -> Option<usize> {
        None
    }

    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self> {
        let (batches, loss) = (Batches::new(input, c.seed), Regression::plan(p, r, input, value));
        Ok(Rating { batches, input: *input, settings: *c, scale: RatingScale::default(), loss })
    }
}

impl Task for Rating {
    fn batches(&self) -> &Batches {
        &self.batches
    }

    fn batches_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }

    fn objective(&self) -> &dyn Objective {
        &self.loss
    }

    fn learn(&mut self, summary: &DataSummary) {
        self.scale = summary.ratings.clone().unwrap_or_default();
    }

    fn rating(&self) -> Option<&Rating> {
        Some(self)
    }

    fn scored(&self, epoch: u32, user: u64, len: usize) -> usize {
        match self.settings.mask {
            0.0 => len,
            share => self.masking(epoch).scored(user, len, MaskedItem::usual(share, len)),
        }
    }

    /// Does nothing: the host has made the whole batch.
    fn make(&self, _: &mut dyn Backend, _: &BatchShape) {}

    /// Unreachable: a history without ratings is not a valid query. See [`Rating::push_question`].
    fn push_query(&self, _: &mut HostInput, _: &[u32]) {
        unreachable!("a task of ratings is asked by histories with ratings");
    }

    fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>) {
        let Sequence::Rated { items, ratings } = sequence else { panic!("the task learns ratings") };
        let epoch = batch.header.epoch();
        let window = self.batches.window(epoch, user, items.len());
        let (items, ratings) = (&items[window.clone()], &ratings[window]);
        let (len, scored) = (items.len(), self.scored(epoch, user, items.len()));
        let Batch { header: head, raw, made, asked, truth, .. } = batch;
        let first = self.push_rows(made, items, ratings);
        let hidden = if self.settings.mask == 0.0 {
            made.row.extend(first as u32..(first + len) as u32);
            0..len as u32
        } else {
            // Rows are drawn into the list of ids, which rating tasks do not need otherwise.
            self.masking(epoch).pick(user, len, scored, raw);
            made.row.extend(raw.iter().map(|p| first as u32 + p));
            for p in raw.iter() {
                (made.rating[first + *p as usize], made.class[first + *p as usize]) = (0.0, self.scale.hidden());
            }
            0..0
        };
        for p in hidden.chain(raw.drain(..)) {
            asked.push(self.loss.head.row(items[p as usize]));
            truth.push(ratings[p as usize] - self.scale.mean);
        }
        head.push(user as u32, len, scored, NO_ROW);
    }

    fn upload(&self, b: &mut dyn Backend, batch: &mut Batch, step: u32) -> BatchShape {
        batch.header.set_step(step);
        let shape = self.input.begin(b, &mut batch.header);
        let Batch { header: head, made, asked, truth, weight, .. } = batch;
        self.input.write(b, made, &shape);
        let m = head.m();
        asked.resize(shape.m, NO_ID);
        truth.resize(shape.m, 0.0);
        weight.clear();
        weight.resize(m, 1.0 / m.max(1) as f32);
        weight.resize(shape.m, 0.0);
        b.write_ids(self.loss.id, asked);
        b.write(self.loss.target.raw(), truth);
        b.write(self.loss.weight.raw(), weight);
        shape
    }
}

/// The output head: rows (R,D) and their biases (R).
#[derive(Clone, Debug)]
struct OutputHead {
    table: Param,
    bias: Param,
    /// Whether each item has a row; otherwise one row serves all items.
    of_items: bool,
}

impl OutputHead {
    /// Returns the row that predicts for an item.
    fn row(&self, item: u32) -> u32 {
        if self.of_items { item } else { 0 }
    }
}

/// The mean squared error of the scored rows' predictions.
#[derive(Clone, Debug)]
struct Regression {
    r: Representations,
    input: Input,
    head: OutputHead,
    /// (M) predictions and their gradients.
    z: Span<F32>,
    dz: Span<F32>,
    /// (M) loss of each scored row.
    loss: Span<F32>,
    /// (M) values to predict.
    target: Span<F32>,
    /// (M) weight of each scored row in the mean.
    weight: Span<F32>,
    /// (M) rows of the head's table; NO_ID if there is nothing to predict.
    id: Span<U32>,
    value: Span<F32>,
    by: Sorted,
    /// Sorted rows of a tied input table.
    by_item: Sorted,
}

impl Regression {
    fn plan(p: &mut Planner, r: Representations, input: &Input, value: Span<F32>) -> Self {
        p.label("rating head");
        let head = match r.rows {
            None => OutputHead { table: r.item.clone(), bias: r.item_bias.clone(), of_items: true },
            Some(_) => OutputHead {
                table: p.param("rating.head.weight", &[1, r.d], Init::TruncatedNormal(1.0 / (r.d as f32).sqrt())),
                bias: p.param("rating.head.bias", &[1], Init::Constant(0.0)),
                of_items: false,
            },
        };
        let (m, n) = (input.capacity.m, if r.rows.is_some() { input.capacity.n } else { 0 });
        let [z, dz, loss, target, weight] = [(); 5].map(|()| p.stat(m));
        let (id, by, by_item) = (p.index(m), Sorted::plan(p, m), Sorted::plan(p, n));
        Regression { r, input: *input, head, z, dz, loss, target, weight, id, value, by, by_item }
    }

    fn dot(&self, s: &BatchShape) -> ItemDotFwd {
        let OutputHead { table, bias, .. } = &self.head;
        let (h, d, v) = (self.r.scored.y, self.r.d, table.shape[0]);
        ItemDotFwd { z: self.z, h, table: table.w, bias: bias.w, id: self.id, m: s.m, d, v, shift: 0.0 }
    }
}

impl Objective for Regression {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (z, target, m, kind) = (self.z, self.target, s.m, PointKind::Squared);
        b.run(&self.dot(s));
        b.run(&PointLossFwd { loss: self.loss, z, target, m, kind });
        b.run(&WeightedMean { y: self.value, x: self.loss, w: self.weight, n: m });
    }

    fn backward(&self, b: &mut dyn Backend, s: &BatchShape) {
        let (z, dz, target, m, kind) = (self.z, self.dz, self.target, s.m, PointKind::Squared);
        b.run(&PointLossBwd { dz: Dst::Write(dz), dloss: self.weight, z, target, m, kind });
        let dot = self.dot(s);
        let (dh, table) = (Dst::Write(self.r.scored.dy), dot.table);
        b.run(&ItemDotBwd { dh, dz, table, id: self.id, m, d: dot.d, v: dot.v });
        b.run(&self.by.sort(&[(self.id, m)], dot.v));
        b.run(&dot.table_gradient(self.head.table.grad(), dz, &self.by));
        b.run(&dot.bias_gradient(self.head.bias.grad(), dz, &self.by));
    }

    /// The gradient of a tied table is that of the input alone; its bias, which is added to item scores, has none.
    fn tables(&self, b: &mut dyn Backend, s: &BatchShape) {
        let Representations { item, item_bias, rows, d, .. } = &self.r;
        let (Some(rows), v) = (rows, item.shape[0]) else { return };
        if !item.frozen {
            b.run(&self.by_item.sort(&[(self.input.item, s.n)], v));
            b.run(&SegmentSum::of(item.grad(), rows.dy, &self.by_item, [s.n, *d, v]));
        }
        let len = item_bias.shape[0];
        b.run(&SegmentSum::of(item_bias.grad(), rows.dy, &Sorted::empty(), [0, 1, len]));
    }

    fn value(&self) -> Span<F32> {
        self.value
    }
}
