/*! MIP, masked item prediction: hide some items of a sequence and predict them from both sides (Sun et al. 2019, after
BERT's masked language model). Of the hidden positions 80 % show [MASK], 10 % a random item, 10 % the item itself. A share
of the sequences hides only the last item, as the model will meet it when it recommends.

All draws come from Philox streams keyed by (seed, epoch, user): a batch is a function of those, whoever makes it. The host
says which sequences make a batch and how many of their rows are hidden; the rows themselves are gathered and hidden by ops
([`GatherSequences`], [`MaskItems`]), on whatever device the step runs.
*/

use crate::{
    base::rng::{Purpose, Stream},
    layers::{Head, HostInput, Input, Shape},
    mem::{F32, Span, U32},
    ops::{
        Backend, GatherSequences, MaskItems, Memory, NO_ROW,
        mask_items::{DRAWS, Masking},
    },
};

/// How sequences are corrupted.
#[derive(Clone, Copy, Debug)]
pub struct MaskSettings {
    /// Share of positions to hide: round(share * length), at least 1.
    pub mask: f32,
    /// Share of sequences of which only the last position is hidden, always behind [MASK].
    pub mask_last: f32,
    /// Longest sequence (T): of longer ones a random window is taken.
    pub length: usize,
    /// Items of the catalogue; [MASK] is the id after them.
    pub items: usize,
    pub seed: u64,
}

/// The interactions of a user that are trained on, oldest first, at least one.
#[derive(Clone, Copy, Debug)]
pub enum Sequence<'a> {
    /// On the host.
    Items(&'a [u32]),
    /// In the data that the device holds ([`MaskedItem::hold`]).
    Held { first: u32, len: usize },
}

impl Sequence<'_> {
    fn len(&self) -> usize {
        match self {
            Sequence::Items(items) => items.len(),
            Sequence::Held { len, .. } => *len,
        }
    }
}

/// A batch on the host: its head, and its items where the device does not hold them.
#[derive(Clone, Debug)]
pub struct Batch {
    pub head: Head,
    /// (N) or empty.
    raw: Vec<u32>,
}

/// Makes training batches.
#[derive(Clone, Debug)]
pub struct MaskedItem {
    settings: MaskSettings,
    input: Input,
    /// What the device holds, if it does.
    data: Option<Span<U32>>,
    target: Span<U32>,
    weight: Span<F32>,
}

impl MaskedItem {
    /// Longest sequence whose draws fit their stream.
    pub const MAX_LENGTH: usize = 1 << 18;

    /// `target` (M) and `weight` (M): where the loss finds what was hidden, and what each scored row counts.
    pub fn new(settings: MaskSettings, input: &Input, target: Span<U32>, weight: Span<F32>) -> MaskedItem {
        MaskedItem { settings, input: *input, data: None, target, weight }
    }

    /// Takes the sequences of all batches from `data` from here on.
    pub fn hold(&mut self, data: Span<U32>) {
        self.data = Some(data);
    }

    /// Scored rows of a sequence of `len` items, at most.
    pub fn scored(share: f32, len: usize) -> usize {
        ((share * len as f32).round() as usize).clamp(1, len.max(1))
    }

    /// An empty batch with room for the largest.
    pub fn batch(&self) -> Batch {
        let room = if self.data.is_some() { 0 } else { self.input.capacity.n };
        Batch { head: Head::new(&self.input.capacity), raw: Vec::with_capacity(room) }
    }

    /// Empties a batch; `epoch`: what its masks are drawn by.
    pub fn clear(&self, batch: &mut Batch, epoch: u32) {
        batch.head.clear(0, epoch);
        batch.raw.clear();
    }

    /// Adds the sequence of `user` to the batch: a window of it, where it is too long.
    pub fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>) {
        let c = &self.settings;
        let epoch = batch.head.epoch();
        let spare = sequence.len().saturating_sub(c.length);
        let window = || Stream::new(c.seed, Purpose::Window, epoch).at(user * DRAWS).below(spare as u64 + 1);
        let start = if spare == 0 { 0 } else { window() as usize };
        let len = sequence.len() - spare;
        let scored = self.masking(epoch).scored(user, len, Self::scored(c.mask, len));
        let first = match sequence {
            Sequence::Items(items) => {
                assert!(self.data.is_none(), "the device holds the data");
                batch.raw.extend_from_slice(&items[start..start + len]);
                NO_ROW
            }
            Sequence::Held { first, .. } => first + start as u32,
        };
        batch.head.push(user as u32, len, scored, first);
    }

    fn masking(&self, epoch: u32) -> Masking {
        let MaskSettings { mask_last, items, seed, .. } = self.settings;
        Masking { seed, epoch, mask_last, items }
    }

    /// Writes the batch of step `step`, for [`MaskedItem::make`] to go on with.
    pub fn upload<B: Memory>(&self, b: &mut B, batch: &mut Batch, step: u32) -> Shape {
        batch.head.set_step(step);
        let shape = self.input.begin(b, &mut batch.head);
        if self.data.is_none() {
            batch.raw.resize(shape.n, 0);
            b.write_ids_ahead(self.input.raw, &batch.raw);
        }
        shape
    }

    /// Gathers and hides: `item`, `pos`, `row` of the input, `target` and `weight`.
    pub fn make<B: Backend>(&self, b: &mut B, s: &Shape) {
        let (c, input) = (&self.settings, &self.input);
        if let Some(data) = self.data {
            b.run(&GatherSequences { raw: input.raw, data, first: input.first, cu: input.cu, b: s.b, n: s.n });
        }
        b.run(&MaskItems {
            item: input.item,
            pos: input.pos,
            row: input.row,
            target: self.target,
            weight: self.weight,
            raw: input.raw,
            cu: input.cu,
            scored: input.scored,
            user: input.user,
            epoch: input.epoch,
            b: s.b,
            n: s.n,
            m: s.m,
            items: c.items,
            mask_last: c.mask_last,
            seed: c.seed,
            t: c.length,
        });
    }

    /// The same batch made by the host alone, from sequences that it has: what devices are compared with.
    pub fn make_on_host(&self, batch: &Batch, input: &mut HostInput, target: &mut Vec<u32>) {
        let c = &self.settings;
        assert!(self.data.is_none(), "the device holds the data");
        input.clear();
        target.clear();
        let (cu, scored, user) = batch.head.sequences();
        let masking = self.masking(batch.head.epoch());
        let mut positions = Vec::new();
        for (s, user) in user.iter().enumerate() {
            let first = input.push(&batch.raw[cu[s] as usize..cu[s + 1] as usize], c.length);
            let HostInput { item, row, .. } = &mut *input;
            let usual = (scored[s + 1] - scored[s]) as usize;
            if usual > 0 {
                masking.hide(*user as u64, &mut item[first..], usual, &mut positions, |position, item| {
                    row.push((first + position) as u32);
                    target.push(item);
                });
            }
        }
    }

    /// Adds a history to be continued: its last T-1 items and [MASK], which is the scored row. The one routine for
    /// validation, evaluation and recommendation.
    pub fn push_query(input: &mut HostInput, history: &[u32], length: usize, items: usize) {
        let keep = history.len().min(length - 1);
        let first = input.item.len();
        input.item.extend_from_slice(&history[history.len() - keep..]);
        input.item.push(items as u32);
        input.pos.extend((length - keep - 1..length).map(|p| p as u32));
        input.cu.push(input.item.len() as u32);
        input.row.push((first + keep) as u32);
    }
}
