/*! NIP, next item prediction: every row of a sequence predicts the next item (Hidasi et al. 2016; Kang and McAuley
2018), or the next K items (Caser, Tang and Wang 2018). For models that see only past items.

A window of T items has T-1 questions: its last item, at position T-1, is only a target. A query is the newest T-1
items of a history; the row of the last one, at T-2, is scored.
*/

use super::{Batches, Loss, Objective, Task, TaskDefinition, TaskSettings};
use crate::{
    base::Result,
    layers::{BatchShape, HostInput, Input, View},
    mem::{F32, Planner, Span},
    models::Representations,
    ops::{Backend, NextItems, next_items::asked},
};

/// The planned task.
#[derive(Clone, Debug)]
pub struct NextItem {
    batches: Batches,
    loss: Loss,
    input: Input,
    /// Target items per row (K).
    targets: usize,
    items: usize,
}

impl TaskDefinition for NextItem {
    const NAME: &'static str = "next-item";
    const ABOUT: &'static str = "predict what follows each item (NIP)";
    const VIEW: View = View::Past;
    const USES: &'static [&'static str] = &["targets"];
    const SHORTEST: usize = 2;

    fn most_scored(c: &TaskSettings) -> usize {
        asked(c.length, c.targets)
    }

    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self> {
        let items = r.v;
        let loss = Loss::plan(p, &c.loss, r, input, value, c.seed)?;
        Ok(NextItem { batches: Batches::new(input, c.seed), loss, input: *input, targets: c.targets, items })
    }
}

impl Task for NextItem {
    fn batches(&self) -> &Batches {
        &self.batches
    }

    fn batches_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }

    fn objective(&self) -> &dyn Objective {
        &self.loss
    }

    fn scored(&self, _: u32, _: u64, len: usize) -> usize {
        asked(len, self.targets)
    }

    fn make(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.batches.gather(b, s);
        let input = &self.input;
        b.run(&NextItems {
            item: input.item,
            pos: input.pos,
            row: input.row,
            target: self.loss.target,
            weight: self.loss.weight,
            raw: input.raw,
            cu: input.cu,
            scored: input.scored,
            b: s.b,
            n: s.n,
            m: s.m,
            t: input.capacity.t,
            k: self.targets,
        });
    }

    /// An empty history is represented by the row of [MASK], which is not an item and serves as a start token.
    fn push_query(&self, input: &mut HostInput, history: &[u32]) {
        let t = self.input.capacity.t;
        let known = &history[history.len().saturating_sub(t - 1)..];
        let start = [self.items as u32];
        let known = if known.is_empty() { &start } else { known };
        let first = input.push(known, t - 1);
        input.row.push((first + known.len() - 1) as u32);
    }
}
