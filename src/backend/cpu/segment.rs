/*! Table gradients, run by run of sorted ids. The sorted places are cut into parts of equal length, independent of the
ids, so that a popular item costs no more than others. A run that crosses parts leaves a partial sum in each part; these
are added in order.
*/

use rayon::prelude::*;

use super::{
    CHUNK, Cpu, Work,
    gemm::Dest,
    math::{load, store},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{Run, SegmentRows, SegmentSum, Valid, segment::Sources};

/// Sorted places per part.
const PART: usize = 512;

/// The rows to sum.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    dy: &'a [f32],
    panel: &'a [f32],
    g: &'a [f32],
    h: &'a [f32],
    n: usize,
    s: usize,
    p: usize,
    d: usize,
}

impl<'a> Rows<'a> {
    /// Returns the rows of `h` (M,D), each times its `g` (M).
    pub(super) fn scaled(g: &'a [f32], h: &'a [f32], d: usize) -> Self {
        Rows { dy: &[], panel: &[], g, h, n: 0, s: 0, p: 1, d }
    }

    /// Returns row `i` of the list as (row of numbers or `None` for ones, factor).
    #[inline(always)]
    fn row(&self, i: usize) -> (Option<&'a [f32]>, f32) {
        let d = self.d;
        let of = |x: &'a [f32], i: usize| (!x.is_empty()).then(|| &x[i * d..][..d]);
        // No row: zeros.
        let whole = |row: Option<&'a [f32]>| (row, row.is_some() as u8 as f32);
        if i < self.n {
            whole(of(self.dy, i))
        } else if i < self.n + self.s {
            whole(of(self.panel, i - self.n))
        } else {
            let pair = i - self.n - self.s;
            (of(self.h, if self.p == 1 { pair } else { pair / self.p }), self.g[pair])
        }
    }
}

/// Sums the rows listed in `order`, columns `j` on, W vectors wide (the last has `k` lanes).
/// The sum stays in registers and is added to the old value at the end, as the op's contract requires.
#[inline(always)]
fn tile<S: Simd, const W: usize>(s: S, rows: &Rows, order: &[u32], (to, acc): (&mut [f32], bool), j: usize, k: usize) {
    assert!(j + (W - 1) * S::LANES + k <= to.len() && to.len() == rows.d);
    let mut sum = [s.zero(); W];
    for &i in order {
        let (row, factor) = rows.row(i as usize);
        let factor = s.splat(factor);
        match row {
            Some(row) => {
                for (w, sum) in sum.iter_mut().enumerate() {
                    // SAFETY: inside the row, which has as many columns as the destination.
                    *sum = s.fma(factor, unsafe { load(s, row.as_ptr().add(j + w * S::LANES), k) }, *sum);
                }
            }
            None => sum.iter_mut().for_each(|sum| *sum = s.add(*sum, factor)),
        }
    }
    for (w, sum) in sum.into_iter().enumerate() {
        // SAFETY: inside the destination by the assertion.
        unsafe {
            let to = to.as_mut_ptr().add(j + w * S::LANES);
            store(s, to, if acc { s.add(load(s, to, k), sum) } else { sum }, k);
        }
    }
}

/// One part of the sorted places.
struct Part<'a> {
    rows: &'a Rows<'a>,
    order: &'a [u32],
    key: &'a [u32],
    begin: usize,
    end: usize,
    v: usize,
    to: Dest,
    acc: bool,
    by_place: bool,
    /// Partial sums: of the run that the part begins with, and of the run that it ends with.
    head: &'a mut [f32],
    tail: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { rows, order, key, begin, end, .. } = self;
        let d = rows.d;
        let mut at = begin;
        // Ids ascend: once one is past the table, all later ones are.
        while at < end && (key[at] as usize) < self.v {
            let id = key[at];
            let mut stop = at + 1;
            while stop < end && key[stop] == id {
                stop += 1;
            }
            let (row, acc) = if at == begin && begin > 0 && key[begin - 1] == id {
                (&mut *self.head, false)
            } else if stop == end && key.get(end) == Some(&id) {
                (&mut *self.tail, false)
            } else {
                // SAFETY: the row lies inside, and only this task writes it: ids and places of different runs differ.
                (unsafe { self.to.at(if self.by_place { at } else { id as usize }, 0).row(d) }, self.acc)
            };
            let order = &order[at..stop];
            let mut j = 0;
            while j + 4 * S::LANES <= d {
                tile::<S, 4>(s, rows, order, (&mut *row, acc), j, S::LANES);
                j += 4 * S::LANES;
            }
            while j < d {
                let k = S::LANES.min(d - j);
                tile::<S, 1>(s, rows, order, (&mut *row, acc), j, k);
                j += k;
            }
            at = stop;
        }
    }
}

impl Work<'_> {
    /// Sums every run into row `id` of `out`, or with `by_place` into the row of the place where it begins. Without
    /// `acc` the other rows are zeroed.
    fn sum_runs(&self, of: &Sources, out: &mut [f32], acc: bool, by_place: bool) {
        let (r, d) = (of.rows(), of.d);
        let some = |span: crate::mem::Span<crate::mem::Act>, len| self.get(span, if span.is_empty() { 0 } else { len });
        let rows = Rows {
            dy: some(of.dy, of.n * d),
            panel: some(of.panel, of.s * d),
            g: self.get(of.g, of.m * of.p),
            h: some(of.h, of.m * d),
            n: of.n,
            s: of.s,
            p: of.p,
            d,
        };
        sum_sorted(&rows, self.ids(of.order, r), self.ids(of.key, r), of.v, out, acc, by_place);
    }
}

/// Sums like `sum_runs` over the given rows: those listed in `order`, run by run of `key`. Only keys below `v`
/// count.
pub(super) fn sum_sorted(
    rows: &Rows,
    order: &[u32],
    key: &[u32],
    v: usize,
    out: &mut [f32],
    acc: bool,
    by_place: bool,
) {
    let (r, d) = (key.len(), rows.d);
    if !acc {
        out.par_chunks_mut(CHUNK).for_each(|t| t.fill(0.0));
    }
    if d == 0 || r == 0 {
        return;
    }
    // In ascending order the ids of runs differ, so no row has two writers.
    assert!(key.is_sorted(), "keys do not ascend");
    let to = Dest::new(out, if by_place { r } else { v }, d, d);
    let parts = r.div_ceil(PART);
    let bounds = |i: usize| (i * PART, ((i + 1) * PART).min(r));
    scratch::borrow(2 * parts * d, |partials| {
        let (heads, tails) = partials.split_at_mut(parts * d);
        heads.par_chunks_mut(d).zip(tails.par_chunks_mut(d)).enumerate().for_each(|(i, (head, tail))| {
            let (begin, end) = bounds(i);
            dispatch(Part { rows, order, key, begin, end, v, to, acc, by_place, head, tail });
        });
        // The part in which a crossing run begins adds it up.
        let heads = &*heads;
        tails.par_chunks_mut(d).with_min_len(16).enumerate().for_each(|(i, sum)| {
            let ((begin, end), goes_on) = (bounds(i), |end: usize, id: u32| key.get(end) == Some(&id));
            let id = key[end - 1];
            if id as usize >= v || !goes_on(end, id) || (begin > 0 && key[begin - 1] == id) {
                return;
            }
            for (j, head) in heads.chunks_exact(d).enumerate().skip(i + 1) {
                sum.iter_mut().zip(head).for_each(|(s, h)| *s += h);
                if !goes_on(bounds(j).1, id) {
                    break;
                }
            }
            let place = begin + key[begin..end].partition_point(|k| *k < id);
            // SAFETY: as in `Part`: the row of this run is written only here.
            let row = unsafe { to.at(if by_place { place } else { id as usize }, 0).row(d) };
            row.iter_mut().zip(&*sum).for_each(|(to, sum)| *to = if acc { *to + sum } else { *sum });
        });
    });
}

impl Run<SegmentSum> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SegmentSum>) {
        let mem = self.lend(op);
        let Some((dtable, acc)) = mem.grad(op.dtable, op.v * op.d) else { return };
        mem.sum_runs(&op.sources(), dtable, acc, false);
    }
}

impl Run<SegmentRows> for Cpu {
    fn execute(&mut self, op: &Valid<'_, SegmentRows>) {
        let mem = self.lend(op);
        let of = op.sources();
        let rows = mem.out(op.rows, of.rows() * op.d);
        mem.sum_runs(&of, rows, false, true);
    }
}
