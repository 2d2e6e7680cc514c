//! Negative sampling. A draw is a few integer operations, so the cost is the lookup among a sequence's items.

use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use super::Cpu;
use crate::ops::{
    DrawCandidates, DrawNegatives, MarkOwn, NO_ID, Run, Valid,
    draw_negatives::{Draws, Masses, Rows},
};

/// Number of draws that justify another thread.
const DRAWS: usize = 1024;

thread_local! {
    /// The items of the current sequence. Grows once.
    static OWN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

impl Run<DrawNegatives> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DrawNegatives>) {
        let mem = self.lend(op);
        let draws = Draws::new(op.seed, mem.ids(op.step, 1)[0], op.v, op.sampling, mem.lent.ids(op.alias));
        let negative = mem.lent.ids_mut(op.negative.first(op.s));
        let each = negative.par_iter_mut().with_min_len(DRAWS).enumerate();
        each.for_each(|(k, id)| *id = op.draw(&draws, k));
    }
}

/// A hash set of items in a table of which at least half is empty.
struct Set<'a> {
    slots: &'a mut [u32],
    shift: u32,
}

impl<'a> Set<'a> {
    fn of(items: &[u32], room: &'a mut Vec<u32>) -> Self {
        let size = (2 * items.len()).next_power_of_two().max(2);
        if room.len() < size {
            room.resize(size, NO_ID);
        }
        let set = Set { slots: &mut room[..size], shift: 32 - size.trailing_zeros() };
        set.slots.fill(NO_ID);
        for item in items {
            let place = set.place(*item);
            set.slots[place] = *item;
        }
        set
    }

    /// Returns the items, each once.
    fn items(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().copied().filter(|id| *id != NO_ID)
    }

    /// Returns the slot of an item, or the empty slot where it would be inserted.
    fn place(&self, item: u32) -> usize {
        let mut at = (item.wrapping_mul(0x9E37_79B9) >> self.shift) as usize;
        while self.slots[at] != item && self.slots[at] != NO_ID {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    fn has(&self, item: u32) -> bool {
        item != NO_ID && self.slots[self.place(item)] == item
    }
}

/// Calls `work(sequence, its items if wanted, its scored rows' part of out)` for each sequence. A row of `out` is
/// `width` ids. The range is halved until a task has few draws.
fn each_sequence<T, W>(rows: Rows, wanted: bool, width: usize, sequences: Range<usize>, out: &mut [T], work: &W)
where
    T: Send,
    W: Fn(usize, Set, &mut [T]) + Sync,
{
    let count = |b: Range<usize>| (rows.scored[b.end] - rows.scored[b.start]) as usize * width;
    if sequences.len() > 1 && out.len() > DRAWS {
        let half = sequences.start + sequences.len() / 2;
        let (first, second) = out.split_at_mut(count(sequences.start..half));
        rayon::join(
            || each_sequence(rows, wanted, width, sequences.start..half, first, work),
            || each_sequence(rows, wanted, width, half..sequences.end, second, work),
        );
        return;
    }
    let mut rest = out;
    OWN.with_borrow_mut(|room| {
        for b in sequences {
            let (own, later) = std::mem::take(&mut rest).split_at_mut(count(b..b + 1));
            rest = later;
            work(b, Set::of(if wanted { rows.sequence(b) } else { &[] }, room), own);
        }
    });
}

impl Run<DrawCandidates> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DrawCandidates>) {
        let mem = self.lend(op);
        let draws = Draws::new(op.seed, mem.ids(op.step, 1)[0], op.v, op.sampling, mem.lent.ids(op.alias));
        let (cu, scored) = (mem.ids(op.cu, op.b + 1), mem.ids(op.scored, op.b + 1));
        let (target, rows, width) = (mem.ids(op.target, op.m), Rows::new(mem.ids(op.raw, op.n), cu, scored), 1 + op.s);
        let id = mem.lent.ids_mut(op.id.first(op.m * width));
        let (id, padding) = id.split_at_mut(scored[op.b] as usize * width);
        each_sequence(rows, op.own, width, 0..op.b, id, &|b, own, id| {
            for (row, id) in rows.rows(b).zip(id.chunks_exact_mut(width)) {
                op.fill(&draws, row, target[row], id, |id| own.has(id));
            }
        });
        padding.fill(NO_ID);
        if op.free.is_empty() {
            return;
        }
        let masses = Masses::new(op.v, op.sampling, mem.lent.ids(op.mass));
        let free = mem.out(op.free, op.m);
        let (free, padding) = free.split_at_mut(scored[op.b] as usize);
        each_sequence(rows, op.own, 1, 0..op.b, free, &|b, own, free| {
            let mass: u64 = own.items().map(|id| masses.of(id)).sum();
            for (row, free) in rows.rows(b).zip(free) {
                let alone = if own.has(target[row]) { 0 } else { masses.of(target[row]) };
                *free = (masses.share_left(mass + alone) as f32).ln();
            }
        });
        padding.fill(0.0);
    }
}

impl Run<MarkOwn> for Cpu {
    fn execute(&mut self, op: &Valid<'_, MarkOwn>) {
        let mem = self.lend(op);
        let (cu, scored) = (mem.ids(op.cu, op.b + 1), mem.ids(op.scored, op.b + 1));
        let (negative, rows, words) =
            (mem.ids(op.negative, op.s), Rows::new(mem.ids(op.raw, op.n), cu, scored), op.s.div_ceil(32));
        let out = mem.lent.ids_mut(op.own.first(op.m * words));
        let (out, padding) = out.split_at_mut(scored[op.b] as usize * words);
        padding.fill(0);
        if words == 0 {
            return;
        }
        each_sequence(rows, true, words, 0..op.b, out, &|_, own, out| {
            // All rows of a sequence have the same bits.
            let Some((first, others)) = out.split_at_mut_checked(words) else { return };
            for (word, negative) in first.iter_mut().zip(negative.chunks(32)) {
                *word = negative.iter().enumerate().fold(0, |word, (j, id)| word | (own.has(*id) as u32) << j);
            }
            others.chunks_exact_mut(words).for_each(|row| row.copy_from_slice(first));
        });
    }
}
