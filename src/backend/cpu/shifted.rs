/*! Products over rows that are shifted inside their sequences, without im2col: what a dilated convolution is made of.

A tile of the product reads its rows through pointers, so the row that a tap wants is read where it lies, and a tap that
has no row reads zeros; the taps of a tile are summed in registers. Rows of different sequences share tiles: short
sequences waste nothing. Work is cut by sizes alone: the same bits for any number of threads.
*/

use std::ops::Range;

use rayon::prelude::*;

use super::{
    gemm::{self, Singles, View},
    math::{load, store},
    products::ROWS,
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::dilated_conv::Taps;

/// Vectors of a panel of packed weights, as [`gemm::pack`] lays them out.
const NV: usize = 2;
/// Lines of packed weights that are worked off before the next panel: they stay in the first-level cache.
const DEPTH: usize = 192;

/// The sequence of a row, as distances: rows before it and rows after it. Both negative: in no sequence.
type Place = (isize, isize);

const NOWHERE: Place = (-1, -1);

/// The sequences that have rows in `first..first + rows`, cut to them: (start, end, first row, last row + 1).
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

/// Where rows `first..` stand in their sequences.
fn places(to: &mut [Place], cu: &[u32], first: usize) {
    let rows = to.len();
    to.fill(NOWHERE);
    for [start, end, from, until] in sequences(cu, first, rows) {
        for row in from..until {
            to[row - first] = ((row - start) as isize, (end - 1 - row) as isize);
        }
    }
}

/// How a product over shifted rows starts.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    /// From what the destination holds.
    Held,
}

/// c = or += sum_w x[row + offset(w)] B_w, for every block of rows in parallel.
#[derive(Clone, Copy)]
pub struct Shifted<'a> {
    /// (N,K)
    pub x: &'a [f32],
    pub k: usize,
    /// Columns of c.
    pub n: usize,
    /// The packed (K,N) matrices of all taps, one after another.
    pub packed: &'a [f32],
    /// (K)
    pub zeros: &'a [f32],
    pub taps: Taps,
    /// The rows that see a row instead of those that it sees.
    pub mirrored: bool,
    pub cu: &'a [u32],
    pub start: Start<'a>,
}

/// Packs the matrices of all taps and lends them with a row of zeros.
pub fn packed<'a, R>(
    taps: usize,
    (k, n): (usize, usize),
    of: impl Fn(usize) -> View<'a> + Sync,
    f: impl FnOnce(&[f32], &[f32]) -> R,
) -> R {
    let len = gemm::packed_len(k, n);
    scratch::borrow(taps * len + k, |room| {
        let (all, zeros) = room.split_at_mut(taps * len);
        all.par_chunks_mut(len).enumerate().for_each(|(tap, to)| {
            gemm::pack::<Singles>(to, of(tap));
        });
        zeros.fill(0.0);
        f(all, zeros)
    })
}

/// One block of rows of [`Shifted`].
struct Block<'a> {
    of: Shifted<'a>,
    /// (rows, n)
    c: &'a mut [f32],
    first: usize,
    places: &'a [Place],
}

impl Shifted<'_> {
    fn offset(&self, tap: usize) -> isize {
        if self.mirrored { -self.taps.offset(tap) } else { self.taps.offset(tap) }
    }

    /// The rows from `first` on, as many as `c` holds.
    pub fn block(&self, c: &mut [f32], first: usize) {
        let mut places_of = [NOWHERE; ROWS];
        let places_of = &mut places_of[..c.len() / self.n];
        places(places_of, self.cu, first);
        dispatch(Block { of: *self, c, first, places: places_of });
    }
}

impl Kernel for Block<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::MR {
            8 => blocks::<S, 8>(s, self),
            6 => blocks::<S, 6>(s, self),
            _ => blocks::<S, 4>(s, self),
        }
    }
}

#[inline(always)]
fn blocks<S: Simd, const MR: usize>(s: S, mut b: Block) {
    let n = b.of.n;
    for j0 in (0..n).step_by(NV * S::LANES) {
        for start in (0..b.of.taps.count * b.of.k).step_by(DEPTH) {
            let lines = start..(start + DEPTH).min(b.of.taps.count * b.of.k);
            for i0 in (0..b.places.len()).step_by(MR) {
                // A last panel of at most one vector's width is worked off at half the cost.
                if n - j0 <= S::LANES {
                    tile::<S, MR, 1>(s, &mut b, i0, j0, lines.clone());
                } else {
                    tile::<S, MR, NV>(s, &mut b, i0, j0, lines.clone());
                }
            }
        }
    }
}

/// acc + the products of MR rows, as long as the panel has lines, with the panel.
///
/// A function of its own, on sums of its own: those of a caller that does other things with them would go through memory
/// at every line.
///
/// # Safety
/// The rows are readable for as many elements as the panel has lines.
#[inline(always)]
unsafe fn add_lines<S: Simd, const MR: usize, const W: usize>(
    s: S,
    mut acc: [[S::V; W]; MR],
    rows: &[*const f32; MR],
    panel: &[f32],
) -> [[S::V; W]; MR] {
    let nr = NV * S::LANES;
    for p in 0..panel.len() / nr {
        // SAFETY: the caller's promise; the panel holds the line.
        unsafe {
            let line = panel.as_ptr().add(p * nr);
            let mut w = [s.zero(); W];
            for (v, w) in w.iter_mut().enumerate() {
                *w = s.load(line.add(v * S::LANES));
            }
            for r in 0..MR {
                let x = s.splat(*rows[r].add(p));
                for v in 0..W {
                    acc[r][v] = s.fma(x, w[v], acc[r][v]);
                }
            }
        }
    }
    acc
}

/// MR rows by W vectors, summed over `lines` of the weights of all taps one after another.
#[inline(always)]
fn tile<S: Simd, const MR: usize, const W: usize>(s: S, b: &mut Block, i0: usize, j0: usize, lines: Range<usize>) {
    let Shifted { x, k, n, packed, zeros, .. } = b.of;
    let nr = NV * S::LANES;
    let panel_len = gemm::packed_len(k, n);
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
            let (before, after) = b.places[i0 + r];
            if -before <= offset && offset <= after && before >= 0 {
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
        // SAFETY: every pointer is that of a row of k elements, c0 + depth <= k.
        acc = unsafe { add_lines(s, acc, &from.map(|row| row.add(c0)), panel) };
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

/// Channels of x that one task of the weight gradient takes.
const CHANNELS: usize = 256;

/// dW_w = or += sum_t x[t + offset(w)]^T dz[t], one task a (tap, block of channels, part of the rows).
pub fn weight_gradient(
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
    let wanted = 48usize.div_ceil(taps.count * blocks).clamp(1, 16);
    let part_rows = n.div_ceil(wanted).next_multiple_of(ROWS);
    let parts = n.div_ceil(part_rows);
    // Partial sums [tap][block][part][CHANNELS rows of dW_w].
    let size = scratch::room(CHANNELS.min(i) * o);
    scratch::borrow(taps.count * blocks * parts * size, |partials| {
        partials.par_chunks_mut(size).enumerate().for_each(|(task, sum)| {
            let (part, block, tap) = (task % parts, task / parts % blocks, task / parts / blocks);
            let (c0, first) = (block * CHANNELS, part * part_rows);
            let (channels, rows) = (CHANNELS.min(i - c0), part_rows.min(n - first));
            let sum = &mut sum[..channels * o];
            sum.fill(0.0);
            scratch::borrow(gemm::packed_len(ROWS, o), |room| {
                for first in (first..first + rows).step_by(ROWS) {
                    let rows = ROWS.min(n - first);
                    let mut runs = [(0, 0); ROWS];
                    let runs = runs_of(&mut runs, cu, (first, rows), taps.offset(tap));
                    if runs.is_empty() {
                        continue;
                    }
                    let panels = gemm::packed_len(rows, o);
                    gemm::pack::<Singles>(room, View::dense(&dz[first * o..][..rows * o], rows, o));
                    let rows_of = Shift { first, rows, offset: taps.offset(tap), runs };
                    dispatch(Transposed { sum, x, i, c0, channels, o, packed: &room[..panels], of: rows_of });
                }
            });
        });
        // Few elements, so this pass is short; every element adds its parts in order.
        dw.par_chunks_mut(i * o).zip(partials.par_chunks(blocks * parts * size)).for_each(|(dw, sums)| {
            for (dw, sums) in dw.chunks_mut(CHANNELS * o).zip(sums.chunks(parts * size)) {
                if !acc {
                    dw.fill(0.0);
                }
                for sum in sums.chunks(size) {
                    dw.iter_mut().zip(sum).for_each(|(dw, x)| *dw += x);
                }
            }
        });
    });
}

/// The runs (from, to) of rows, counted from `first`, whose tap `offset` lies in their sequence.
fn runs_of<'a>(
    to: &'a mut [(usize, usize); ROWS],
    cu: &[u32],
    (first, rows): (usize, usize),
    offset: isize,
) -> &'a [(usize, usize)] {
    let mut count = 0;
    let back = offset.min(0).unsigned_abs();
    let ahead = offset.max(0).unsigned_abs();
    for [start, end, from, until] in sequences(cu, first, rows) {
        let (from, until) = (from.max(start.saturating_add(back)), until.min(end.saturating_sub(ahead)));
        if from < until {
            to[count] = (from - first, until - first);
            count += 1;
        }
    }
    &to[..count]
}

/// A chunk of rows and the runs of it that have a tap.
#[derive(Clone, Copy)]
struct Shift<'a> {
    first: usize,
    rows: usize,
    offset: isize,
    runs: &'a [(usize, usize)],
}

/// sum (channels, O) += x[rows + offset]^T dz[rows] over the runs of a chunk.
struct Transposed<'a> {
    sum: &'a mut [f32],
    x: &'a [f32],
    /// Channels of x.
    i: usize,
    c0: usize,
    channels: usize,
    o: usize,
    /// dz of the chunk's rows in panels.
    packed: &'a [f32],
    of: Shift<'a>,
}

impl Kernel for Transposed<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::MR {
            8 => transposed::<S, 8>(s, self),
            6 => transposed::<S, 6>(s, self),
            _ => transposed::<S, 4>(s, self),
        }
    }
}

#[inline(always)]
fn transposed<S: Simd, const MR: usize>(s: S, mut t: Transposed) {
    for j0 in (0..t.o).step_by(NV * S::LANES) {
        for i0 in (0..t.channels).step_by(MR) {
            if t.o - j0 <= S::LANES {
                transposed_tile::<S, MR, 1>(s, &mut t, i0, j0);
            } else {
                transposed_tile::<S, MR, NV>(s, &mut t, i0, j0);
            }
        }
    }
}

/// MR channels by W vectors, summed over the runs.
#[inline(always)]
fn transposed_tile<S: Simd, const MR: usize, const W: usize>(s: S, t: &mut Transposed, i0: usize, j0: usize) {
    let nr = NV * S::LANES;
    let channels = MR.min(t.channels - i0);
    let panel = &t.packed[j0 * t.of.rows..][..t.of.rows * nr];
    let mut acc = [[s.zero(); W]; MR];
    for &(from, to) in t.of.runs {
        let row = (t.of.first + from).wrapping_add_signed(t.of.offset);
        let x = &t.x[row * t.i..(row + to - from) * t.i];
        let panel = panel[from * nr..to * nr].as_ptr();
        // Beyond the last channel the last one is read again, and dropped below.
        let columns: [*const f32; MR] =
            std::array::from_fn(|r| x.as_ptr().wrapping_add(t.c0 + i0 + r.min(channels - 1)));
        for p in 0..to - from {
            // SAFETY: column c0 + i0 + r of row p of the run; the panel holds a line for each row.
            unsafe {
                let mut dz = [s.zero(); W];
                for (v, dz) in dz.iter_mut().enumerate() {
                    *dz = s.load(panel.add(p * nr + v * S::LANES));
                }
                for r in 0..MR {
                    let x = s.splat(*columns[r].add(p * t.i));
                    for v in 0..W {
                        acc[r][v] = s.fma(x, dz[v], acc[r][v]);
                    }
                }
            }
        }
    }
    for (r, acc) in acc.iter().enumerate().take(channels) {
        for (v, acc) in acc.iter().enumerate() {
            let j = j0 + v * S::LANES;
            if j >= t.o {
                continue;
            }
            let width = S::LANES.min(t.o - j);
            let c = t.sum[(i0 + r) * t.o + j..][..width].as_mut_ptr();
            // SAFETY: `width` elements of a row of the sum.
            unsafe { store(s, c, s.add(*acc, load(s, c, width)), width) }
        }
    }
}
