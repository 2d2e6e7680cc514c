//! Negatives: a draw is a few integer operations, so that only the search among a sequence's items is worth a thought.

use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use super::Cpu;
use crate::ops::{
    DrawCandidates, DrawNegatives, NO_ID, Op, Run,
    draw_negatives::{Draws, Rows},
};

/// Draws that are worth handing to another thread.
const DRAWS: usize = 1024;

thread_local! {
    /// The items of the sequence at hand; grows once.
    static OWN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

impl Run<DrawNegatives> for Cpu {
    fn run(&mut self, op: &DrawNegatives) {
        op.assert_disjoint();
        let draws = Draws::new(op.seed, self.ids(op.step, 1)[0], op.v, op.sampling, self.arenas.ids(op.alias));
        // SAFETY: disjoint by the assertion, taken once.
        let negative = unsafe { self.arenas.ids_mut(op.negative.first(op.s)) };
        let each = negative.par_iter_mut().with_min_len(DRAWS).enumerate();
        each.for_each(|(k, id)| *id = op.draw(&draws, k));
    }
}

/// A set of items in a table of which at least half is empty.
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

    /// Where an item stands, or the empty place where it would.
    fn place(&self, item: u32) -> usize {
        let mut at = (item.wrapping_mul(0x9E37_79B9) >> self.shift) as usize;
        while self.slots[at] != item && self.slots[at] != NO_ID {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    fn has(&self, item: u32) -> bool {
        self.slots[self.place(item)] == item
    }
}

/// The candidates `id` of the rows of some sequences: halved until a task has few.
fn fill(op: &DrawCandidates, draws: &Draws, rows: Rows, sequences: Range<usize>, id: &mut [u32]) {
    if sequences.len() > 1 && id.len() > DRAWS {
        let half = sequences.start + sequences.len() / 2;
        let count = (rows.scored[half] - rows.scored[sequences.start]) as usize;
        let (first, second) = id.split_at_mut(count * (1 + op.s));
        rayon::join(
            || fill(op, draws, rows, sequences.start..half, first),
            || fill(op, draws, rows, half..sequences.end, second),
        );
        return;
    }
    let mut id = id.chunks_exact_mut(1 + op.s);
    OWN.with_borrow_mut(|room| {
        for b in sequences {
            let own = op.own.then(|| Set::of(rows.sequence(b), room));
            for row in rows.rows(b) {
                let id = id.next().expect("`scored` ascends");
                let target = rows.target[row];
                match &own {
                    Some(own) => op.fill(draws, row, target, id, |id| own.has(id)),
                    None => op.fill(draws, row, target, id, |_| false),
                }
            }
        }
    });
}

impl Run<DrawCandidates> for Cpu {
    fn run(&mut self, op: &DrawCandidates) {
        op.assert_disjoint();
        let draws = Draws::new(op.seed, self.ids(op.step, 1)[0], op.v, op.sampling, self.arenas.ids(op.alias));
        let rows = Rows {
            target: self.ids(op.target, op.m),
            raw: self.ids(op.raw, op.n),
            cu: self.ids(op.cu, op.b + 1),
            scored: self.ids(op.scored, op.b + 1),
        };
        // SAFETY: disjoint by the assertion, taken once.
        let id = unsafe { self.arenas.ids_mut(op.id.first(op.m * (1 + op.s))) };
        let (id, padding) = id.split_at_mut(rows.scored[op.b] as usize * (1 + op.s));
        fill(op, &draws, rows, 0..op.b, id);
        padding.fill(NO_ID);
    }
}
