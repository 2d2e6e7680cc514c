/*! Products of small and medium matrices: the building block of every op that multiplies.

B is packed once into zero-padded panels two vectors wide, `[panel][line][NR]`, so that the inner loop reads it
sequentially. All row tiles of all threads share a packed weight. A is read element by element and broadcast over a tile
of MR rows by NR columns that stays in registers. An [`Epilogue`] consumes each finished tile in registers, before
anything reaches memory: it stores, accumulates, adds a bias or computes exp(logit - lse).

Factors are f32 ([`F32Operand`]) or bf16 ([`Bf16Operand`]). A bf16 element is 32 bits wide like an f32 element and holds
two consecutive terms of the sum. One instruction adds both products to an f32 sum; everything else is the same. Where
AMX is available, whole tiles of both factors are multiplied at once ([`tiles`]). Both kinds are made from f32 matrices
by [`pack`] and [`Terms::of`]. f32 factors are read in place, with any strides.

A tile sums over k in order, with one rounding per step. Results depend on the instruction set and on nothing else.
Multi-threaded products are in [`products`](super::products).
*/

mod epilogue;
mod pack;
mod terms;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::marker::PhantomData;

pub use epilogue::{Accumulate, Bias, Dest, Epilogue, Store};
pub use pack::{COLUMNS, pack, pack_columns, pack_parallel, pack_rows, rows_len};
pub use terms::{Bf16Operand, F32Operand, Terms};

use super::simd::{Isa, Kernel, Simd};

/// Width of a tile in vectors.
pub(super) const NV: usize = 2;

/// A strided matrix: element (i, j) is `data[i * rs + j * cs]`. With bf16 pairs, element j holds the columns 2j and 2j
/// + 1.
#[derive(Clone, Copy)]
pub struct View<'a, T: Terms = F32Operand> {
    data: &'a [f32],
    pub rows: usize,
    /// Counted in terms.
    pub cols: usize,
    rs: usize,
    cs: usize,
    /// Whether [`pack_rows`] copied it into `[tile][line][MR]`.
    tiled: bool,
    terms: PhantomData<T>,
}

impl<'a> View<'a> {
    /// Creates a view. Panics when an element would lie outside `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        View::over(data, rows, cols, rs, cs)
    }

    /// Creates a dense row-major view.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        View::new(data, rows, cols, cols, 1)
    }

    /// Returns element (i, j).
    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.cols && !self.tiled);
        self.data[i * self.rs + j * self.cs]
    }

    /// Returns row `i` of a view with contiguous rows.
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert!(self.cs == 1 && !self.tiled && i < self.rows);
        &self.data[i * self.rs..][..self.cols]
    }

    pub fn t(self) -> Self {
        assert!(!self.tiled);
        View { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }

    /// Returns `n` rows from row `start` on.
    pub fn rows(self, start: usize, n: usize) -> Self {
        assert!(start + n <= self.rows && !self.tiled);
        let data = if n == 0 { &[] } else { &self.data[start * self.rs..] };
        View { data, rows: n, ..self }
    }

    /// Returns `n` columns from column `start` on.
    pub fn cols(self, start: usize, n: usize) -> Self {
        self.t().rows(start, n).t()
    }
}

impl<'a, T: Terms> View<'a, T> {
    fn over(data: &'a [f32], rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        let lines = cols.div_ceil(T::EACH);
        let inside = rows == 0 || cols == 0 || (rows - 1) * rs + (lines - 1) * cs < data.len();
        assert!(inside, "a view of {rows} x {cols} (strides {rs}, {cs}) reaches outside {} elements", data.len());
        View { data, rows, cols, rs, cs, tiled: false, terms: PhantomData }
    }
}

/// B (k, n) in panels. The instruction set in use determines the panel width.
#[derive(Clone, Copy)]
pub struct Packed<'a, T: Terms = F32Operand> {
    data: &'a [f32],
    /// Counted in terms.
    pub k: usize,
    pub n: usize,
    /// Number of lines of a panel. `k` may cover fewer.
    depth: usize,
    terms: PhantomData<T>,
}

impl<T: Terms> Packed<'_, T> {
    /// Returns the first `k` rows and `n` columns. `k` is a whole number of lines unless it covers all rows.
    pub fn first(self, k: usize, n: usize) -> Self {
        assert!(k <= self.k && n <= self.n && (k == self.k || k.is_multiple_of(T::EACH)));
        Packed { k, n, ..self }
    }

    /// Returns `n` rows from row `start` on. `start` begins a line; the last row ends a line or is the last row of B.
    pub fn rows(self, start: usize, n: usize) -> Self {
        assert!(start.is_multiple_of(T::EACH) && start + n <= self.k);
        assert!(start + n == self.k || n.is_multiple_of(T::EACH));
        Packed { data: &self.data[start / T::EACH * panel()..], k: n, ..self }
    }

    /// Returns `n` columns from column `start` on, which begins a panel.
    pub fn columns(self, start: usize, n: usize) -> Self {
        assert!(start.is_multiple_of(panel()) && start + n <= self.n);
        Packed { data: &self.data[start * self.depth..], n, ..self }
    }
}

/// Returns the number of columns of a panel.
pub fn panel() -> usize {
    NV * Isa::current().lanes()
}

/// Returns the largest number of elements that [`pack`] needs for a (k, n) matrix: as many as f32 factors need.
pub fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(panel())
}

/// The data that the next piece of work reads, prefetched while this one computes: up to two blocks of rows. Each tile
/// prefetches some rows, one cache line wide.
#[derive(Clone, Copy)]
pub struct Ahead {
    blocks: [Rows; 2],
    block: usize,
    line: usize,
    row: usize,
}

#[derive(Clone, Copy)]
struct Rows {
    first: *const f32,
    count: usize,
    /// Number of elements between rows.
    step: usize,
    /// Number of cache lines per row.
    lines: usize,
}

impl Ahead {
    const NONE: Rows = Rows { first: std::ptr::null(), count: 0, step: 0, lines: 0 };

    /// Prefetches nothing but the next rows of A.
    pub const NOTHING: Ahead = Ahead { blocks: [Ahead::NONE; 2], block: 2, line: 0, row: 0 };

    /// Prefetches the rows of one or two views. Views with non-contiguous rows are skipped.
    pub fn of(a: View, b: Option<View>) -> Self {
        let rows = |x: View| match x.cs {
            1 => Rows { first: x.data.as_ptr(), count: x.rows, step: x.rs, lines: x.cols.div_ceil(16) },
            _ => Ahead::NONE,
        };
        Ahead { blocks: [rows(a), b.map_or(Ahead::NONE, rows)], block: 0, line: 0, row: 0 }
    }

    /// Returns the first address to prefetch and the step, for a tile that prefetches `times` rows.
    #[inline(always)]
    fn next(&mut self, times: usize, otherwise: (*const f32, usize)) -> (*const f32, usize) {
        while self.blocks.get(self.block).is_some_and(|rows| rows.count == 0 || rows.lines == 0) {
            self.block += 1;
        }
        let Some(rows) = self.blocks.get(self.block) else { return otherwise };
        let from = (rows.first.wrapping_add(self.row * rows.step + 16 * self.line), rows.step);
        self.line += 1;
        if self.line >= rows.lines {
            (self.line, self.row) = (0, self.row + times);
        }
        if self.row >= rows.count {
            (self.block, self.row) = (self.block + 1, 0);
        }
        from
    }
}

/// Computes A (m, k) times packed B (k, n) and passes every tile to the epilogue.
pub fn multiply<T: Terms, E: Epilogue>(a: View<T>, b: Packed<T>, e: &mut E) {
    multiply_ahead(a, b, e, Ahead::NOTHING)
}

/// Computes [`multiply`] and prefetches `ahead` meanwhile.
pub fn multiply_ahead<T: Terms, E: Epilogue>(a: View<T>, b: Packed<T>, e: &mut E, ahead: Ahead) {
    struct Task<'a, 'b, T: Terms, E>(View<'a, T>, Packed<'b, T>, E, Ahead);
    impl<T: Terms, E: Epilogue> Kernel for Task<'_, '_, T, &mut E> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(a, b, e, mut ahead) = self;
            assert_eq!(a.cols, b.k);
            #[cfg(target_arch = "x86_64")]
            if T::in_tiles() && a.cs == 1 && !a.tiled {
                return tiles::multiply(s, a, b, e, &mut ahead);
            }
            match S::MR {
                8 => tiles::<S, T, E, 8>(s, a, b, e, &mut ahead),
                6 => tiles::<S, T, E, 6>(s, a, b, e, &mut ahead),
                _ => tiles::<S, T, E, 4>(s, a, b, e, &mut ahead),
            }
        }
    }
    T::dispatch(Task(a, b, e, ahead))
}

#[inline(always)]
fn tiles<S: Simd, T: Terms, E: Epilogue, const MR: usize>(
    s: S,
    a: View<T>,
    b: Packed<T>,
    e: &mut E,
    ahead: &mut Ahead,
) {
    let nr = NV * S::LANES;
    for j0 in (0..b.n).step_by(nr) {
        let panel = &b.data[j0 * b.depth..];
        // A last panel of at most one vector's width is computed at half the cost.
        if b.n - j0 <= S::LANES {
            column_of_tiles::<S, T, E, MR, 1>(s, a, b, panel, j0, e, ahead);
        } else {
            column_of_tiles::<S, T, E, MR, NV>(s, a, b, panel, j0, e, ahead);
        }
    }
}

/// Multiplies all row tiles with one panel.
#[inline(always)]
fn column_of_tiles<S: Simd, T: Terms, E: Epilogue, const MR: usize, const W: usize>(
    s: S,
    a: View<T>,
    b: Packed<T>,
    panel: &[f32],
    j0: usize,
    e: &mut E,
    ahead: &mut Ahead,
) {
    let width = (W * S::LANES).min(b.n - j0);
    let lines = b.k.div_ceil(T::EACH);
    assert!(panel.len() >= lines * NV * S::LANES);
    for i0 in (0..a.rows).step_by(MR) {
        // A tile at the lower edge reads its last row several times and drops the copies.
        let rows = MR.min(a.rows - i0);
        let first = if a.tiled { i0 * lines } else { i0 * a.rs };
        let mut pointers = [a.data.as_ptr(); MR];
        for (r, p) in pointers.iter_mut().enumerate() {
            *p = p.wrapping_add(first + r.min(rows - 1) * a.rs);
        }
        // The next tile of A follows this one where rows are contiguous.
        let next_tile = (pointers[0].wrapping_add(MR * if a.tiled { lines } else { a.rs }), MR);
        let fetch = ahead.next(lines, next_tile);
        for r in 0..rows {
            if let Some(p) = e.address(i0 + r, j0) {
                s.prefetch_write(p);
                s.prefetch_write(p.wrapping_add(S::LANES));
            }
        }
        // SAFETY: rows i0..i0+rows lie inside the view. The view and the panel hold the lines of k columns. The
        // epilogue receives elements of the product.
        unsafe {
            let acc = tile::<S, T, MR, W>(s, lines, &pointers, a.cs, panel.as_ptr(), fetch);
            for (r, row) in acc.iter().enumerate() {
                if r < rows {
                    for (v, &x) in row.iter().enumerate() {
                        let j = v * S::LANES;
                        if j < width {
                            e.take(s, i0 + r, j0 + j, x, S::LANES.min(width - j));
                        }
                    }
                }
            }
        }
    }
}

/// Multiplies MR rows of A with W vectors of a panel. The MR * W vectors of sums stay in registers.
///
/// # Safety
/// Each row pointer is readable at 0, cs, .., (lines-1) cs; the panel holds as many lines.
#[inline(always)]
unsafe fn tile<S: Simd, T: Terms, const MR: usize, const W: usize>(
    s: S,
    lines: usize,
    rows: &[*const f32; MR],
    cs: usize,
    panel: *const f32,
    (fetch, step): (*const f32, usize),
) -> [[S::V; W]; MR] {
    let mut acc = [[s.zero(); W]; MR];
    for p in 0..lines {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let line = panel.add(p * NV * S::LANES);
            s.prefetch(fetch.wrapping_add(p * step));
            let mut b = [s.zero(); W];
            for (v, b) in b.iter_mut().enumerate() {
                *b = s.load(line.add(v * S::LANES));
            }
            for r in 0..MR {
                let x = s.splat(*rows[r].add(p * cs));
                for v in 0..W {
                    acc[r][v] = T::mul_add(s, x, b[v], acc[r][v]);
                }
            }
        }
    }
    acc
}
