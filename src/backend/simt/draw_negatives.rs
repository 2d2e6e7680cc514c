//! Launchers of `kernels/draw_negatives.cu`: one thread per shared negative; one block per sequence, with the
//! sequence's items in shared memory.

use super::{Simt, kernels::*};
use crate::ops::{DrawCandidates, DrawNegatives, MarkOwn, Run, Valid};

/// The longest sequence with items that fit shared memory on every GPU.
const MOST: usize = 8 * 1024;

/// Returns the slots of the hash table of a sequence's items: a power of two, at least half of them empty.
fn slots(t: usize) -> usize {
    (2 * t).next_power_of_two().max(2)
}

/// Bytes in which the threads of a block of `draw_candidates` sum masses.
const SUMS: usize = 8 * 128;

/// Bytes of shared memory per block on every supported GPU.
const SHARED: usize = 99 << 10;

/// Returns the words of shared memory of `mark_own`: the table, and the bits of a row.
fn mark_words(op: &MarkOwn) -> usize {
    slots(op.t) + op.s.div_ceil(32)
}

impl Run<DrawNegatives> for Simt {
    fn execute(&mut self, op: &Valid<'_, DrawNegatives>) {
        let params = DrawNegativesParams {
            negative: self.at(op.negative),
            alias: if op.sampling.by_alias() { self.at(op.alias) } else { 0 },
            step: self.at(op.step),
            v: op.v as u32,
            seed_lo: op.seed as u32,
            seed_hi: (op.seed >> 32) as u32,
            s: op.s as i32,
            unique: op.sampling.unique() as i32,
        };
        self.launch(Kernel::DrawNegatives, [op.s.div_ceil(128), 1, 1], 0, params);
    }
}

impl Run<DrawCandidates> for Simt {
    fn execute(&mut self, op: &Valid<'_, DrawCandidates>) {
        let slots = if op.own { slots(op.t) } else { 0 };
        let params = DrawCandidatesParams {
            id: self.at(op.id),
            target: self.at(op.target),
            raw: self.at(op.raw),
            cu: self.at(op.cu),
            scored: self.at(op.scored),
            free: if op.free.is_empty() { 0 } else { self.at(op.free) },
            alias: if op.sampling.by_alias() { self.at(op.alias) } else { 0 },
            mass: if op.sampling.by_alias() && !op.free.is_empty() { self.at(op.mass) } else { 0 },
            step: self.at(op.step),
            v: op.v as u32,
            seed_lo: op.seed as u32,
            seed_hi: (op.seed >> 32) as u32,
            m: op.m as i32,
            s: op.s as i32,
            b: op.b as i32,
            slots: slots as i32,
        };
        // Without a sequence one block still fills the padding.
        self.launch(Kernel::DrawCandidates, [op.b.max(1), 1, 1], SUMS + 4 * slots, params);
    }

    fn need(&self, op: &DrawCandidates) -> Result<usize, String> {
        if op.own && op.t > MOST {
            return Err(format!("sequences of {} items: negatives can be kept apart from at most {MOST}", op.t));
        }
        // A block counts its candidates in 32 bits.
        match op.t.saturating_mul(1 + op.s) < 1 << 31 {
            true => Ok(0),
            false => Err(format!("{} negatives for each of {} rows of a sequence: at most 2^31 in all", op.s, op.t)),
        }
    }
}

impl Run<MarkOwn> for Simt {
    fn execute(&mut self, op: &Valid<'_, MarkOwn>) {
        let params = MarkOwnParams {
            own: self.at(op.own),
            negative: self.at(op.negative),
            raw: self.at(op.raw),
            cu: self.at(op.cu),
            scored: self.at(op.scored),
            m: op.m as i32,
            s: op.s as i32,
            b: op.b as i32,
            slots: slots(op.t) as i32,
        };
        // Without a sequence one block still clears the padding.
        self.launch(Kernel::MarkOwn, [op.b.max(1), 1, 1], 4 * mark_words(op), params);
    }

    fn need(&self, op: &MarkOwn) -> Result<usize, String> {
        match 4 * mark_words(op) <= SHARED {
            true => Ok(0),
            false => Err(format!("{} shared negatives cannot be kept apart from sequences of {} items", op.s, op.t)),
        }
    }
}
