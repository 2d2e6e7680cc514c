//! Packed forms of factors: panels of B, tiles of A^T, pairs.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::{
    super::{
        math::{lanes, load, store},
        simd::{Isa, Kernel, Simd},
    },
    Bf16Operand, NV, Packed, Terms, View, packed_len, panel,
};

/// Packs B into `to`, which holds at least [`packed_len`] elements. Pairs require contiguous rows or columns of B.
pub fn pack<'a, T: Terms>(to: &'a mut [f32], b: View) -> Packed<'a, T> {
    struct Task<'a, 'b, T>(&'a mut [f32], View<'b>, PhantomData<T>);
    impl<T: Terms> Kernel for Task<'_, '_, T> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(to, b, _) = self;
            let nr = NV * S::LANES;
            let lines = b.rows.div_ceil(T::EACH);
            if lines == 0 {
                return;
            }
            for (panel, j0) in to.chunks_exact_mut(lines * nr).zip((0..b.cols).step_by(nr)) {
                let width = nr.min(b.cols - j0);
                if b.cs == 1 {
                    for (p, line) in panel.chunks_exact_mut(nr).enumerate() {
                        let row = |i: usize| match i < b.rows {
                            true => &b.data[i * b.rs + j0..][..width],
                            false => &[],
                        };
                        line_of::<S, T>(s, line, row(p * T::EACH), row(p * T::EACH + T::EACH - 1));
                    }
                    continue;
                }
                if width < nr {
                    panel.fill(0.0);
                }
                let from = &b.data[j0 * b.cs..];
                match T::EACH {
                    1 => transpose_into(panel, nr, from, (b.rows, width), b.rs, b.cs),
                    _ => pair_into(s, panel, nr, from, (b.rows, width), b.cs),
                }
            }
        }
    }
    assert!(T::EACH == 1 || b.cs == 1 || b.rs == 1 || b.rows <= 1);
    let lines = b.rows.div_ceil(T::EACH);
    let len = packed_len(lines, b.cols);
    T::dispatch(Task::<T>(&mut to[..len], b, PhantomData));
    Packed { data: &to[..len], k: b.rows, n: b.cols, depth: lines, terms: PhantomData }
}

/// Writes one line of a panel, with zeros past the ends of the rows.
#[inline(always)]
fn line_of<S: Simd, T: Terms>(s: S, line: &mut [f32], first: &[f32], second: &[f32]) {
    for (v, to) in line.chunks_exact_mut(S::LANES).enumerate() {
        let at = v * S::LANES;
        // SAFETY: `to` holds LANES elements.
        unsafe { s.store(to.as_mut_ptr(), T::line(s, vector(s, first, at), vector(s, second, at))) }
    }
}

/// Returns the elements of a row from `at` on, with zeros past its end.
#[inline(always)]
fn vector<S: Simd>(s: S, row: &[f32], at: usize) -> S::V {
    let from = &row[at.min(row.len())..];
    // SAFETY: reads as many elements as `from` has, at most LANES.
    unsafe { load(s, from.as_ptr(), from.len().min(S::LANES)) }
}

/// Copies to[p * nr + j] = from[p * rs + j * cs] for p < k and j < n. Where rows of the transposed matrix are
/// contiguous, it works in squares of 4 x 4: scattered single writes would cost more than the product that follows.
#[inline(always)]
fn transpose_into(to: &mut [f32], nr: usize, from: &[f32], (k, n): (usize, usize), rs: usize, cs: usize) {
    let (k4, n4) = if rs == 1 { (k - k % 4, n - n % 4) } else { (0, 0) };
    for p in (0..k4).step_by(4) {
        for j in (0..n4).step_by(4) {
            let mut square = [[0f32; 4]; 4];
            for (c, column) in square.iter_mut().enumerate() {
                column.copy_from_slice(&from[(j + c) * cs + p..][..4]);
            }
            let [a, b, c, d] = square;
            for (r, row) in [0, 1, 2, 3].map(|r| [a[r], b[r], c[r], d[r]]).iter().enumerate() {
                to[(p + r) * nr + j..][..4].copy_from_slice(row);
            }
        }
    }
    for p in 0..k {
        for j in (if p < k4 { n4 } else { 0 })..n {
            to[p * nr + j] = from[p * rs + j * cs];
        }
    }
}

/// Lines of a panel that are paired at a time, on the stack.
const PAIRED: usize = 32;

/// Packs a panel of pairs from columns of `k` contiguous terms, `cs` apart. Each column is paired, then transposed.
#[inline(always)]
fn pair_into<S: Simd>(s: S, to: &mut [f32], nr: usize, from: &[f32], (k, n): (usize, usize), cs: usize) {
    let mut block = [0f32; PAIRED * NV * 16];
    for line in (0..k.div_ceil(2)).step_by(PAIRED) {
        let terms = (2 * PAIRED).min(k - 2 * line);
        let lines = terms.div_ceil(2);
        for (j, pairs) in block.chunks_exact_mut(PAIRED).take(n).enumerate() {
            pair_up(s, &mut pairs[..lines], &from[j * cs + 2 * line..][..terms]);
        }
        transpose_into(&mut to[line * nr..], nr, &block, (lines, n), 1, PAIRED);
    }
}

/// Writes the pairs of contiguous terms. An odd last term is paired with 0.
#[inline(always)]
fn pair_up<S: Simd>(s: S, to: &mut [f32], from: &[f32]) {
    debug_assert_eq!(to.len(), from.len().div_ceil(2));
    lanes!(S, to.len(), |line, k| {
        let left = from.len() - 2 * line;
        let (first, second) = (left.min(S::LANES), left.saturating_sub(S::LANES).min(S::LANES));
        // SAFETY: both loads end at the end of `from` at the latest; `to` holds k pairs from `line` on.
        unsafe {
            let p = from.as_ptr().add(2 * line);
            let (a, b) = (load(s, p, first), load(s, p.wrapping_add(S::LANES), second));
            store(s, to.as_mut_ptr().add(line), s.pair_up(a, b), k)
        }
    });
}

/// Packs the pairs of a left factor with contiguous rows, densely.
pub(super) fn pair_columns<'a>(to: &'a mut [f32], a: View) -> View<'a, Bf16Operand> {
    struct Task<'a, 'b>(&'a mut [f32], View<'b>, usize);
    impl Kernel for Task<'_, '_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(to, a, lines) = self;
            for (i, to) in to.chunks_exact_mut(lines.max(1)).enumerate() {
                pair_up(s, to, &a.data[i * a.rs..][..a.cols]);
            }
        }
    }
    let lines = a.cols.div_ceil(2);
    let to = &mut to[..a.rows * lines];
    Bf16Operand::dispatch(Task(to, a, lines));
    View::over(to, a.rows, a.cols, lines, 1)
}

/// Packs the pairs of a left factor with contiguous columns (a transposed one). Neighbours in a column become one
/// element.
pub(super) fn pair_rows<'a>(to: &'a mut [f32], a: View) -> View<'a, Bf16Operand> {
    struct Task<'a, 'b>(&'a mut [f32], View<'b>);
    impl Kernel for Task<'_, '_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(to, a) = self;
            if Bf16Operand::in_tiles() {
                return pair_transposed(s, to, a.rows, a.cols.div_ceil(2), |p| column_pair(&a, 2 * p));
            }
            for (p, to) in to.chunks_exact_mut(a.rows.max(1)).enumerate() {
                let (first, second) = column_pair(&a, 2 * p);
                lanes!(S, a.rows, |i, k| {
                    // SAFETY: the line holds k elements from i on.
                    unsafe { store(s, to.as_mut_ptr().add(i), s.pair(vector(s, first, i), vector(s, second, i)), k) }
                });
            }
        }
    }
    assert!(a.rs == 1 && !a.tiled);
    let to = &mut to[..a.rows * a.cols.div_ceil(2)];
    Bf16Operand::dispatch(Task(to, a));
    match Bf16Operand::in_tiles() {
        true => View::over(to, a.rows, a.cols, a.cols.div_ceil(2), 1),
        false => View::over(to, a.rows, a.cols, 1, a.rows),
    }
}

/// Writes pairs of columns as dense rows, in squares of 16 x 16. AMX loads tiles row by row.
#[inline(always)]
fn pair_transposed<'a, S: Simd>(
    s: S,
    to: &mut [f32],
    rows: usize,
    lines: usize,
    pair: impl Fn(usize) -> (&'a [f32], &'a [f32]),
) {
    const SIDE: usize = 16;
    assert!(to.len() >= rows * lines);
    for p in (0..lines).step_by(SIDE) {
        let mut columns: [(&[f32], &[f32]); SIDE] = [(&[], &[]); SIDE];
        let depth = SIDE.min(lines - p);
        columns[..depth].iter_mut().enumerate().for_each(|(i, to)| *to = pair(p + i));
        for i in (0..rows).step_by(SIDE) {
            let mut square = [s.zero(); SIDE];
            for (to, (first, second)) in square.iter_mut().zip(&columns[..depth]) {
                *to = s.pair(vector(s, first, i), vector(s, second, i));
            }
            s.transpose16(&mut square);
            for (r, row) in square.iter().enumerate().take(rows - i) {
                // SAFETY: `to` holds `depth` elements of row i + r.
                unsafe { store(s, to.as_mut_ptr().add((i + r) * lines + p), *row, depth) }
            }
        }
    }
}

/// Returns columns j and j + 1 of a view with contiguous columns. The second is empty past the last column.
#[inline(always)]
fn column_pair<'a>(a: &View<'a>, j: usize) -> (&'a [f32], &'a [f32]) {
    let column = |j: usize| if j < a.cols { &a.data[j * a.cs..][..a.rows] } else { &[] };
    (column(j), column(j + 1))
}

/// Packs like [`pack`], with panels distributed over the threads.
pub fn pack_parallel<'a, T: Terms>(to: &'a mut [f32], b: View) -> Packed<'a, T> {
    let (k, n) = (b.rows, b.cols);
    let lines = k.div_ceil(T::EACH);
    let len = packed_len(lines, n);
    let width = 4 * panel();
    if k > 0 {
        to[..len].par_chunks_mut(lines * width).enumerate().for_each(|(i, to)| {
            pack::<T>(to, b.cols(i * width, width.min(n - i * width)));
        });
    }
    Packed { data: &to[..len], k, n, depth: lines, terms: PhantomData }
}

/// Largest number of columns that [`pack_rows`] copies.
pub const COLUMNS: usize = 256;

/// Copies a matrix with contiguous columns (a transposed one) into `[tile][line][MR]`, so that the product reads it
/// sequentially. `to` holds at least [`rows_len`] elements.
pub fn pack_rows<'a, T: Terms>(to: &'a mut [f32], a: View) -> View<'a, T> {
    assert!(a.rs == 1 && a.cols <= COLUMNS && !a.tiled);
    let mut columns = [&a.data[..0]; COLUMNS];
    for (j, column) in columns[..a.cols].iter_mut().enumerate() {
        *column = &a.data[j * a.cs..][..a.rows];
    }
    pack_columns(to, a.rows, &columns[..a.cols])
}

/// Packs like [`pack_rows`] a matrix of `rows` rows from columns at arbitrary places.
pub fn pack_columns<'a, T: Terms>(to: &'a mut [f32], rows: usize, columns: &[&[f32]]) -> View<'a, T> {
    struct Task<'a, 'b, T>(&'a mut [f32], usize, &'b [&'b [f32]], PhantomData<T>);
    impl<T: Terms> Kernel for Task<'_, '_, T> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(to, rows, columns, _) = self;
            let lines = columns.len().div_ceil(T::EACH);
            if T::in_tiles() {
                let column = |p: usize| columns.get(p).copied().unwrap_or(&[]);
                return pair_transposed(s, to, rows, lines, |p| (column(2 * p), column(2 * p + 1)));
            }
            let tile = lines * S::MR;
            // As many tiles as one vector covers.
            let abreast = (S::LANES / S::MR).max(1);
            for (tiles, i0) in to.chunks_mut((abreast * tile).max(1)).zip((0..rows).step_by(abreast * S::MR)) {
                for (p, columns) in columns.chunks(T::EACH).enumerate() {
                    let second = columns.get(1).copied().unwrap_or(&[]);
                    let mut line = [0f32; 16];
                    // SAFETY: a line has as many elements as any vector.
                    unsafe { s.store(line.as_mut_ptr(), T::line(s, vector(s, columns[0], i0), vector(s, second, i0))) }
                    for (to, from) in tiles.chunks_exact_mut(tile).zip(line.chunks_exact(S::MR)) {
                        to[p * S::MR..][..S::MR].copy_from_slice(from);
                    }
                }
            }
        }
    }
    assert!(columns.iter().all(|column| column.len() == rows));
    let len = rows_len(rows, columns.len().div_ceil(T::EACH));
    T::dispatch(Task::<T>(&mut to[..len], rows, columns, PhantomData));
    if T::in_tiles() {
        return View::over(&to[..len], rows, columns.len(), columns.len().div_ceil(T::EACH), 1);
    }
    let cs = Isa::current().tile_rows();
    View { data: &to[..len], rows, cols: columns.len(), rs: 1, cs, tiled: true, terms: PhantomData }
}

/// Returns the largest number of elements that [`pack_rows`] needs.
pub fn rows_len(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(Isa::current().tile_rows()) * cols
}
