/*! Batches of sequences: their selection, their upload and their layout on the device, before a task makes its
questions.

All draws come from Philox streams keyed by (seed, epoch, user), so a batch depends only on these. The host selects
the sequences of a batch and the number of their scored rows. An op ([`GatherSequences`]) gathers the rows on the
device that runs the step, and the ops of a task make questions from them.
*/

use std::ops::Range;

use super::next_basket::Made;
use crate::{
    base::rng::{Purpose, Stream},
    layers::{BatchHeader, BatchShape, HostInput, Input},
    mem::{Span, U32},
    ops::{Backend, GatherSequences, NO_ROW, mask_items::DRAWS},
};

/// A user's training interactions, oldest first, at least one.
#[derive(Clone, Copy, Debug)]
pub enum Sequence<'a> {
    /// On the host.
    Items(&'a [u32]),
    /// On the host, with their ratings.
    Rated { items: &'a [u32], ratings: &'a [f32] },
    /// In the data on the device ([`Batches::hold`]).
    Held { first: u32, len: usize },
    /// Two baskets on the host, with at least one item each; `next`: the second is the user's next basket after the
    /// first.
    Baskets { first: &'a [u32], second: &'a [u32], next: bool },
}

impl Sequence<'_> {
    fn len(&self) -> usize {
        match self {
            Sequence::Items(items) | Sequence::Rated { items, .. } => items.len(),
            Sequence::Held { len, .. } => *len,
            Sequence::Baskets { first, second, .. } => first.len() + second.len(),
        }
    }
}

/// A batch on the host: its header, and its items unless the device holds the data.
#[derive(Clone, Debug)]
pub struct Batch {
    pub header: BatchHeader,
    /// (N) or empty.
    pub(super) raw: Vec<u32>,
    /// The questions, if a task makes them on the host.
    pub(super) made: HostInput,
    /// (M) table rows of the items to predict, the true values, and the weights in the mean, for a task of numbers.
    pub(super) asked: Vec<u32>,
    pub(super) truth: Vec<f32>,
    pub(super) weight: Vec<f32>,
    /// The rows that a task makes from pairs of baskets.
    pub(super) pairs: Made,
}

/// Makes batches.
#[derive(Clone, Debug)]
pub struct Batches {
    input: Input,
    seed: u64,
    /// The data on the device, if it holds them.
    data: Option<Span<U32>>,
}

impl Batches {
    pub fn new(input: &Input, seed: u64) -> Self {
        Batches { input: *input, seed, data: None }
    }

    /// Uses the sequences in `data` for all further batches.
    pub fn hold(&mut self, data: Span<U32>) {
        self.data = Some(data);
    }

    /// Returns an empty batch with capacity for the largest one.
    pub fn empty(&self) -> Batch {
        let room = if self.data.is_some() { 0 } else { self.input.capacity.n };
        let mut made = HostInput::default();
        made.clear();
        let (asked, truth, weight, pairs) = (Vec::new(), Vec::new(), Vec::new(), Made::default());
        Batch {
            header: BatchHeader::new(&self.input.capacity),
            raw: Vec::with_capacity(room),
            made,
            asked,
            truth,
            weight,
            pairs,
        }
    }

    /// Empties a batch; `epoch` is the key of its draws.
    pub fn clear(&self, batch: &mut Batch, epoch: u32) {
        batch.header.clear(0, epoch);
        batch.raw.clear();
        batch.made.clear();
        batch.asked.clear();
        batch.truth.clear();
        batch.pairs.clear();
    }

    /// Returns the window of a sequence of `len` items: a random one if it is too long.
    pub(super) fn window(&self, epoch: u32, user: u64, len: usize) -> Range<usize> {
        let t = self.input.capacity.t;
        let draw = || Stream::new(self.seed, Purpose::Window, epoch).at(user * DRAWS).below((len - t) as u64 + 1);
        let start = if len <= t { 0 } else { draw() as usize };
        start..start + len.min(t)
    }

    /// Adds the sequence of `user` to the batch, or a random window of it if it is too long. `scored` returns the
    /// number of rows to score for a number of items.
    pub fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>, scored: impl FnOnce(usize) -> usize) {
        let window = self.window(batch.header.epoch(), user, sequence.len());
        let len = window.len();
        let first = match sequence {
            Sequence::Items(items) | Sequence::Rated { items, .. } => {
                assert!(self.data.is_none(), "the device holds the data");
                batch.raw.extend_from_slice(&items[window]);
                NO_ROW
            }
            Sequence::Held { first, .. } => first + window.start as u32,
            Sequence::Baskets { .. } => panic!("pairs of baskets are for next-basket"),
        };
        batch.header.push(user as u32, len, scored(len), first);
    }

    /// Writes the batch of step `step`, ready for [`Batches::gather`].
    pub fn upload(&self, b: &mut dyn Backend, batch: &mut Batch, step: u32) -> BatchShape {
        batch.header.set_step(step);
        let shape = self.input.begin(b, &mut batch.header);
        if self.data.is_none() {
            batch.raw.resize(shape.n, 0);
            b.write_ids_ahead(self.input.raw, &batch.raw);
        }
        shape
    }

    /// Gathers the items of the batch into `raw` of the input.
    pub fn gather(&self, b: &mut dyn Backend, s: &BatchShape) {
        let input = &self.input;
        if let Some(data) = self.data {
            b.run(&GatherSequences { raw: input.raw, data, first: input.first, cu: input.cu, b: s.b, n: s.n });
        }
    }
}
