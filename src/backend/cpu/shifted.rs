/*! Products over rows that are shifted inside their sequences, without im2col. Dilated convolutions are built from
them.

A tile of the product reads its rows through pointers, so a tap reads its row in place, and a tap without a row reads
zeros. The taps of a tile are summed in registers. Rows of different sequences share tiles, so short sequences waste
nothing. Work is cut by sizes alone: the result is the same to the bit for any number of threads.
*/

use std::{marker::PhantomData, ops::Range};

use rayon::prelude::*;

use super::{
    gemm::{self, Accumulate, Dest, NV, Terms, View},
    math::{load, store},
    products::ROWS,
    scratch,
    simd::{Kernel, Simd},
};
use crate::ops::dilated_conv::Taps;

/// Lines of packed weights processed before the next panel. They stay in the first-level cache.
const DEPTH: usize = 192;

/// The position of a row in its sequence: the rows before it and the rows after it. Both are negative outside any
/// sequence.
type Place = (isize, isize);

const NOWHERE: Place = (-1, -1);

/// Returns the sequences with rows in `first..first + rows`, cut to them: (start, end, first row, last row + 1).
pub(super) fn sequences(cu: &[u32], first: usize, rows: usize) -> impl Iterator<Item = [usize; 4]> {
    let at = cu.partition_point(|c| *c as usize <= first).max(1) - 1;
    let last = first + rows;
    cu[at..].windows(2).map(|w| (w[0] as usize, w[1] as usize)).take_while(move |(start, _)| *start < last).filter_map(
        move |(start, end)| {
            let (from, to) = (start.max(first), end.min(last));
            (from < to).then_some([start, end, from, to])
        },
    )
}

/// Returns whether a row has another row at `offset` inside its sequence.
#[inline(always)]
fn sees((before, after): Place, offset: isize) -> bool {
    before >= 0 && -before <= offset && offset <= after
}

/// Writes the positions of rows `first..` in their sequences.
fn places(to: &mut [Place], cu: &[u32], first: usize) {
    let rows = to.len();
    to.fill(NOWHERE);
    for [start, end, from, until] in sequences(cu, first, rows) {
        for row in from..until {
            to[row - first] = ((row - start) as isize, (end - 1 - row) as isize);
        }
    }
}

/// The initial value of a product over shifted rows.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    /// The old value of the destination.
    Held,
}

/// Computes c = or += sum_w x[row + offset(w)] B_w, for every block of rows in parallel.
#[derive(Clone, Copy)]
pub struct Shifted<'a, T> {
    /// (N,K), as passed by [`held`](super::products::held).
    pub x: &'a [f32],
    /// Elements of a row of x: lines of a packed matrix.
    pub k: usize,
    /// Columns of c.
    pub n: usize,
    pub packs: Packs<'a, T>,
    pub taps: Taps,
    /// Uses the rows that see a row instead of the rows that it sees.
    pub mirrored: bool,
    pub cu: &'a [u32],
    pub start: Start<'a>,
}

/// The packed (K,N) matrices of all taps, one after another, and a zero row of x.
#[derive(Clone, Copy)]
pub struct Packs<'a, T> {
    all: &'a [f32],
    /// Elements of one matrix.
    each: usize,
    zeros: &'a [f32],
    terms: PhantomData<T>,
}

impl<T> Packs<'_, T> {
    /// Returns the matrices of `count` taps from tap `first` on.
    pub fn part(self, first: usize, count: usize) -> Self {
        Packs { all: &self.all[first * self.each..][..count * self.each], ..self }
    }
}

/// Packs the matrices of all taps and passes them to `f`.
pub fn packed<'a, T: Terms, R>(
    taps: usize,
    (k, n): (usize, usize),
    of: impl Fn(usize) -> View<'a> + Sync,
    f: impl FnOnce(Packs<T>) -> R,
) -> R {
    let lines = k.div_ceil(T::EACH);
    let len = gemm::packed_len(lines, n);
    scratch::borrow(taps * len + lines, |room| {
        let (all, zeros) = room.split_at_mut(taps * len);
        all.par_chunks_mut(len).enumerate().for_each(|(tap, to)| {
            gemm::pack::<T>(to, of(tap));
        });
        zeros.fill(0.0);
        f(Packs { all, each: len, zeros, terms: PhantomData })
    })
}

/// One block of rows of [`Shifted`].
struct Block<'a, T> {
    of: Shifted<'a, T>,
    /// (rows, n)
    c: &'a mut [f32],
    first: usize,
    places: &'a [Place],
}

impl<T: Terms> Shifted<'_, T> {
    fn offset(&self, tap: usize) -> isize {
        if self.mirrored { -self.taps.offset(tap) } else { self.taps.offset(tap) }
    }

    /// Computes the rows from `first` on, as many as `c` holds.
    pub fn block(&self, c: &mut [f32], first: usize) {
        let mut places_of = [NOWHERE; ROWS];
        let places_of = &mut places_of[..c.len() / self.n];
        places(places_of, self.cu, first);
        T::dispatch(Block { of: *self, c, first, places: places_of });
    }
}

impl<T: Terms> Kernel for Block<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::MR {
            8 => blocks::<S, T, 8>(s, self),
            6 => blocks::<S, T, 6>(s, self),
            _ => blocks::<S, T, 4>(s, self),
        }
    }
}

#[inline(always)]
fn blocks<S: Simd, T: Terms, const MR: usize>(s: S, mut b: Block<T>) {
    let n = b.of.n;
    for j0 in (0..n).step_by(NV * S::LANES) {
        for start in (0..b.of.taps.count * b.of.k).step_by(DEPTH) {
            let lines = start..(start + DEPTH).min(b.of.taps.count * b.of.k);
            for i0 in (0..b.places.len()).step_by(MR) {
                // A last panel of at most one vector's width is computed at half the cost.
                if n - j0 <= S::LANES {
                    tile::<S, T, MR, 1>(s, &mut b, i0, j0, lines.clone());
                } else {
                    tile::<S, T, MR, NV>(s, &mut b, i0, j0, lines.clone());
                }
            }
        }
    }
}

/// Adds to acc the products of MR rows with the panel. The rows are as long as the panel has lines.
///
/// This is a separate function with its own sums. Inside a caller with other work, the sums would go through memory at
/// every line.
///
/// # Safety
/// The rows are readable for as many elements as the panel has lines.
#[inline(always)]
unsafe fn add_lines<S: Simd, T: Terms, const MR: usize, const W: usize>(
    s: S,
    mut acc: [[S::V; W]; MR],
    rows: &[*const f32; MR],
    panel: &[f32],
) -> [[S::V; W]; MR] {
    let nr = NV * S::LANES;
    for p in 0..panel.len() / nr {
        // SAFETY: guaranteed by the caller; the panel holds the line.
        unsafe {
            let line = panel.as_ptr().add(p * nr);
            let mut w = [s.zero(); W];
            for (v, w) in w.iter_mut().enumerate() {
                *w = s.load(line.add(v * S::LANES));
            }
            for r in 0..MR {
                let x = s.splat(*rows[r].add(p));
                for v in 0..W {
                    acc[r][v] = T::mul_add(s, x, w[v], acc[r][v]);
                }
            }
        }
    }
    acc
}

/// Computes MR rows by W vectors, summed over `lines` of the weights of all taps one after another.
#[inline(always)]
fn tile<S: Simd, T: Terms, const MR: usize, const W: usize>(
    s: S,
    b: &mut Block<T>,
    i0: usize,
    j0: usize,
    lines: Range<usize>,
) {
    let Shifted { x, k, n, packs: Packs { all: packed, each: panel_len, zeros, .. }, .. } = b.of;
    let nr = NV * S::LANES;
    let rows = MR.min(b.places.len() - i0);
    assert!(zeros.len() == k && x.len() >= (b.first + b.places.len()) * k && b.c.len() >= b.places.len() * n);
    assert!(packed.len() >= b.of.taps.count * panel_len);
    let mut acc = [[s.zero(); W]; MR];
    let mut line = lines.start;
    while line < lines.end {
        let (tap, c0) = (line / k, line % k);
        let depth = (k - c0).min(lines.end - line);
        line += depth;
        let offset = b.of.offset(tap);
        let mut from = [zeros.as_ptr(); MR];
        let mut any = false;
        for (r, from) in from.iter_mut().take(rows).enumerate() {
            if sees(b.places[i0 + r], offset) {
                // Inside the row's sequence, so inside x.
                let row = (b.first + i0 + r).wrapping_add_signed(offset);
                *from = x[row * k..][..k].as_ptr();
                any = true;
            }
        }
        if !any {
            continue;
        }
        let panel = &packed[tap * panel_len + j0 * k + c0 * nr..][..depth * nr];
        // SAFETY: every pointer points to a row of k elements, and c0 + depth <= k.
        acc = unsafe { add_lines::<S, T, MR, W>(s, acc, &from.map(|row| row.add(c0)), panel) };
    }
    for (r, acc) in acc.iter().enumerate().take(rows) {
        for (v, acc) in acc.iter().enumerate() {
            let j = j0 + v * S::LANES;
            if j >= n {
                continue;
            }
            let width = S::LANES.min(n - j);
            let c = b.c[(i0 + r) * n + j..][..width].as_mut_ptr();
            // SAFETY: `width` elements of the block's row, and of the bias, lie inside.
            unsafe {
                let old = match b.of.start {
                    _ if lines.start > 0 => load(s, c, width),
                    Start::Held => load(s, c, width),
                    Start::Zero => s.zero(),
                    Start::Bias(bias) => load(s, bias[j..][..width].as_ptr(), width),
                };
                store(s, c, s.add(*acc, old), width);
            }
        }
    }
}

/// Channels of x per task of the weight gradient.
const CHANNELS: usize = 256;
/// Largest number of parts that the rows are cut into.
const PARTS: usize = 24;

/// Computes dW_w = or += sum_t x[t + offset(w)]^T dz[t], one task per (block of channels, part of the rows).
/// Each task packs a chunk of dz once and multiplies it with the rows that each tap sees.
pub fn weight_gradient<T: Terms>(
    dw: &mut [f32],
    acc: bool,
    x: &[f32],
    dz: &[f32],
    (n, i, o): (usize, usize, usize),
    taps: Taps,
    cu: &[u32],
) {
    if n == 0 {
        if !acc {
            dw.fill(0.0);
        }
        return;
    }
    let blocks = i.div_ceil(CHANNELS);
    let part_rows = n.div_ceil(PARTS.div_ceil(blocks)).next_multiple_of(ROWS);
    let parts = n.div_ceil(part_rows);
    // Partial sums [block][part][tap][CHANNELS rows of dW_w].
    let of_tap = scratch::room(CHANNELS.min(i) * o);
    let size = taps.count * of_tap;
    scratch::borrow(blocks * parts * size, |partials| {
        partials.par_chunks_mut(size).enumerate().for_each(|(task, sums)| {
            let (part, block) = (task % parts, task / parts);
            let (c0, first) = (block * CHANNELS, part * part_rows);
            let (channels, rows) = (CHANNELS.min(i - c0), part_rows.min(n - first));
            let sizes = [gemm::packed_len(ROWS, o), gemm::rows_len(channels, ROWS), channels];
            scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
                let [panels, tiles, zeros] = sizes.map(|n| scratch::split(&mut rest, n));
                zeros.fill(0.0);
                sums.fill(0.0);
                for first in (first..first + rows).step_by(ROWS) {
                    let rows = ROWS.min(n - first);
                    let mut places_of = [NOWHERE; ROWS];
                    places(&mut places_of[..rows], cu, first);
                    let dz = gemm::pack::<T>(panels, View::dense(&dz[first * o..][..rows * o], rows, o));
                    for (tap, sum) in sums.chunks_exact_mut(of_tap).enumerate() {
                        let offset = taps.offset(tap);
                        let mut seen = [&zeros[..]; ROWS];
                        for (r, seen) in seen[..rows].iter_mut().enumerate() {
                            if sees(places_of[r], offset) {
                                *seen = &x[(first + r).wrapping_add_signed(offset) * i + c0..][..channels];
                            }
                        }
                        let x = gemm::pack_columns::<T>(tiles, channels, &seen[..rows]);
                        let c = Dest::new(&mut sum[..channels * o], channels, o, o);
                        gemm::multiply(x, dz, &mut Accumulate { c, alpha: 1.0 });
                    }
                }
            });
        });
        // There are few elements, so this pass is short. Every element adds its parts in order.
        dw.par_chunks_mut(i * o).enumerate().for_each(|(tap, dw)| {
            for (dw, sums) in dw.chunks_mut(CHANNELS * o).zip(partials.chunks(parts * size)) {
                if !acc {
                    dw.fill(0.0);
                }
                for sum in sums.chunks(size) {
                    dw.iter_mut().zip(&sum[tap * of_tap..]).for_each(|(dw, x)| *dw += x);
                }
            }
        });
    });
}
