/*! MIP, masked item prediction: mask some items of a sequence and predict them from both sides (Sun et al. 2019,
after BERT's masked language model). Of the masked positions 80 % contain [MASK], 10 % a random item, 10 % the item
itself. In a share of the sequences only the last item is masked, which matches the query at recommendation.

A query is the newest T-1 items of a history followed by [MASK], at which the next item is predicted.
*/

use super::{Batch, Batches, Loss, Objective, Task, TaskDefinition, TaskSettings};
use crate::{
    base::Result,
    layers::{BatchShape, HostInput, Input, View},
    mem::{F32, Planner, Span},
    models::Representations,
    ops::{Backend, MaskItems, mask_items::Masking},
};

/// The planned task.
#[derive(Clone, Debug)]
pub struct MaskedItem {
    batches: Batches,
    loss: Loss,
    input: Input,
    settings: TaskSettings,
    items: usize,
}

impl MaskedItem {
    /// Returns the loss over the catalogue.
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// Maximum length at which the draws of a sequence fit its stream.
    pub const MAX_LENGTH: usize = 1 << 18;

    /// Returns the number of rows to mask in a sequence of `len` items.
    pub(super) fn usual(share: f32, len: usize) -> usize {
        ((share * len as f32).round() as usize).clamp(1, len.max(1))
    }

    fn masking(&self, epoch: u32) -> Masking {
        let TaskSettings { mask_last, seed, .. } = self.settings;
        Masking { seed, epoch, mask_last, items: self.items }
    }

    /// Makes the batch on the host alone, from sequences on the host: the reference for devices.
    pub fn make_on_host(&self, batch: &Batch, input: &mut HostInput, target: &mut Vec<u32>) {
        input.clear();
        target.clear();
        let (cu, scored, user) = batch.header.sequences();
        let masking = self.masking(batch.header.epoch());
        let mut positions = Vec::new();
        for (s, user) in user.iter().enumerate() {
            let first = input.push(&batch.raw[cu[s] as usize..cu[s + 1] as usize], self.settings.length);
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
}

impl TaskDefinition for MaskedItem {
    const NAME: &'static str = "masked-item";
    const ABOUT: &'static str = "predict masked items from both sides (MIP)";
    const VIEW: View = View::Both;
    const USES: &'static [&'static str] = &["mask", "mask-last"];

    fn most_scored(c: &TaskSettings) -> usize {
        Self::usual(c.mask, c.length)
    }

    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self> {
        let items = r.v;
        let loss = Loss::plan(p, &c.loss, r, input, value, c.seed)?;
        Ok(MaskedItem { batches: Batches::new(input, c.seed), loss, input: *input, settings: *c, items })
    }
}

impl Task for MaskedItem {
    fn batches(&self) -> &Batches {
        &self.batches
    }

    fn batches_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }

    fn objective(&self) -> &dyn Objective {
        &self.loss
    }

    fn scored(&self, epoch: u32, user: u64, len: usize) -> usize {
        self.masking(epoch).scored(user, len, Self::usual(self.settings.mask, len))
    }

    fn make(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.batches.gather(b, s);
        let (c, input) = (&self.settings, &self.input);
        b.run(&MaskItems {
            item: input.item,
            pos: input.pos,
            row: input.row,
            target: self.loss.target,
            weight: self.loss.weight,
            raw: input.raw,
            cu: input.cu,
            scored: input.scored,
            user: input.user,
            epoch: input.epoch,
            b: s.b,
            n: s.n,
            m: s.m,
            items: self.items,
            mask_last: c.mask_last,
            seed: c.seed,
            t: c.length,
        });
    }

    fn push_query(&self, input: &mut HostInput, history: &[u32]) {
        let t = self.settings.length;
        let keep = history.len().min(t - 1);
        let first = input.item.len();
        input.item.extend_from_slice(&history[history.len() - keep..]);
        input.item.push(self.items as u32);
        input.pos.extend((t - keep - 1..t).map(|p| p as u32));
        input.cu.push(input.item.len() as u32);
        input.row.push((first + keep) as u32);
    }
}
