/*! Radix sort of ids, eight bits at a time from the lowest digit on. A stable sort has one result, so neither the
number of threads nor the cut of the list affects it.

Each pass counts the digits of every part of the list and adds the counts up in order of digit and part. The sums are
the positions of each part's keys of each digit. The pass then moves the keys there.
*/

use rayon::prelude::*;

use super::{Cpu, scratch};
use crate::ops::{NO_ID, Run, SortIds, Valid};

/// Keys per part.
const PART: usize = 16 * 1024;
const DIGITS: usize = 256;

/// The destination of keys and their places in a pass. No two tasks write the same element.
#[derive(Clone, Copy)]
struct Shared(*mut u32, *mut u32);
// SAFETY: plain addresses; a pass gives each task its own places.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Writes an element of both lists.
    ///
    /// # Safety
    /// `at` lies inside both lists, and no other task writes there.
    unsafe fn put(self, at: usize, order: u32, key: u32) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            *self.0.add(at) = order;
            *self.1.add(at) = key;
        }
    }
}

/// Moves the `n` pairs (place, key) of `get(i)` into `order` and `key`, sorted by the digit at `shift`.
fn pass(
    counts: &mut [u32],
    [order, key]: [&mut [u32]; 2],
    (v, shift): (u32, u32),
    get: impl Fn(usize) -> (u32, u32) + Sync,
) {
    let n = order.len();
    assert!(key.len() == n && counts.len() == n.div_ceil(PART) * DIGITS);
    let digit = |key: u32| (key.min(v) >> shift) as usize % DIGITS;
    let part = |i: usize| i * PART..((i + 1) * PART).min(n);
    counts.par_chunks_mut(DIGITS).enumerate().for_each(|(i, counts)| {
        counts.fill(0);
        part(i).for_each(|j| counts[digit(get(j).1)] += 1);
    });
    let mut before = 0;
    for d in 0..DIGITS {
        for counts in counts.chunks_mut(DIGITS) {
            before += std::mem::replace(&mut counts[d], before);
        }
    }
    let to = Shared(order.as_mut_ptr(), key.as_mut_ptr());
    counts.par_chunks_mut(DIGITS).enumerate().for_each(|(i, next)| {
        for j in part(i) {
            let (order, key) = get(j);
            let at = &mut next[digit(key)];
            // SAFETY: the counts of all digits and parts add up to n, so each place below n is used once.
            unsafe { to.put(*at as usize, order, key) };
            *at += 1;
        }
    });
}

impl Run<SortIds> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SortIds>) {
        let mem = self.lend(op);
        let (n, v) = (op.n(), op.v as u32);
        let (id0, id1, id2) = (mem.ids(op.id0, op.n0), mem.ids(op.id1, op.n1), mem.ids(op.id2, op.n2));
        let (order, key) = (mem.lent.ids_mut(op.order.first(n)), mem.lent.ids_mut(op.key.first(n)));
        let id = |i: usize| {
            let id = match i.checked_sub(op.n0) {
                None => id0[i],
                Some(i) => *id1.get(i).unwrap_or_else(|| &id2[i - op.n1]),
            };
            (i as u32, if id < v { id } else { NO_ID })
        };
        // The key of NO_ID is v itself.
        let passes = (u32::BITS - v.leading_zeros()).div_ceil(8).max(1);
        let parts = n.div_ceil(PART);
        let spare = scratch::room(if passes > 1 { n } else { 0 });
        scratch::borrow(scratch::room(parts * DIGITS) + 2 * spare, |rest| {
            let mut rest = rest;
            let counts: &mut [u32] = bytemuck::cast_slice_mut(scratch::split(&mut rest, parts * DIGITS));
            let [order2, key2] = [(); 2].map(|()| -> &mut [u32] {
                bytemuck::cast_slice_mut(scratch::split(&mut rest, if passes > 1 { n } else { 0 }))
            });
            for i in 0..passes {
                // The last pass ends in the destinations.
                let ([from_order, from_key], to) = match (passes - i) % 2 {
                    1 => ([&*order2, &*key2], [&mut *order, &mut *key]),
                    _ => ([&*order, &*key], [&mut *order2, &mut *key2]),
                };
                match i {
                    0 => pass(counts, to, (v, 0), id),
                    _ => pass(counts, to, (v, 8 * i), |j| (from_order[j], from_key[j])),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mem::{Planner, Span, U32},
        ops::{Memory, sort_ids::Sorted},
    };

    /// The cases of the op have only one part.
    #[test]
    fn many_parts() {
        let (n, v) = (2 * PART + 99, 300);
        let mut p = Planner::new();
        let (by, first, second) = (Sorted::plan(&mut p, n), p.index(PART + 5), p.index(n - PART - 5));
        let ids: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 20 & 0x1ff).collect();
        let mut cpu = Cpu::new(&p);
        cpu.write_ids(first, &ids[..PART + 5]);
        cpu.write_ids(second, &ids[PART + 5..]);
        cpu.run(&by.sort(&[(first, PART + 5), (second, n - PART - 5)], v));
        let known = |i: &u32| if (ids[*i as usize] as usize) < v { ids[*i as usize] } else { NO_ID };
        let mut want: Vec<u32> = (0..n as u32).collect();
        want.sort_by_key(known);
        let mut read = |span: Span<U32>| {
            let mut ids = vec![0; n];
            cpu.read_ids(span, &mut ids);
            ids
        };
        assert_eq!(read(by.order), want);
        assert!(read(by.key).into_iter().eq(want.iter().map(known)));
    }
}
