/*! Products of small and medium matrices in f32: the building block of every op that multiplies.

B is packed once into panels of two vectors' width, `[panel][k][NR]`, zero-padded, so that the inner loop reads it
in one straight line; a packed weight serves all row tiles of all threads. A is read where it lies, element by
element broadcast over a tile of MR rows by NR columns that stays in registers, so A may have any strides; only
where it is walked across its rows (A^T B over thousands of rows) is a cache-sized piece of it copied. What becomes of a finished tile is the
business of an [`Epilogue`]:
store, accumulate, add a bias, take exp(logit - lse), in registers, before anything reaches memory.

A tile sums over k in order, one rounding a step; results depend on the instruction set but on nothing else. Products
by all threads are in [`products`](super::products).
*/

use rayon::prelude::*;

use super::simd::{Isa, Kernel, Simd, dispatch};

/// Columns of a tile, in vectors.
const NV: usize = 2;

/// A matrix somewhere in memory: element (i, j) is `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    rs: usize,
    cs: usize,
    /// Copied by [`pack_rows`]: `[tile][column][MR]`.
    tiled: bool,
}

impl<'a> View<'a> {
    /// Panics when an element would lie outside `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        let inside = rows == 0 || cols == 0 || (rows - 1) * rs + (cols - 1) * cs < data.len();
        assert!(inside, "a view of {rows} x {cols} (strides {rs}, {cs}) reaches outside {} elements", data.len());
        View { data, rows, cols, rs, cs, tiled: false }
    }

    /// Row-major and dense.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        View::new(data, rows, cols, cols, 1)
    }

    /// Element (i, j).
    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.cols && !self.tiled);
        self.data[i * self.rs + j * self.cs]
    }

    /// Row `i` of a view with contiguous rows.
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert!(self.cs == 1 && !self.tiled && i < self.rows);
        &self.data[i * self.rs..][..self.cols]
    }

    pub fn t(self) -> Self {
        assert!(!self.tiled);
        View { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }

    /// `n` rows from row `start` on.
    pub fn rows(self, start: usize, n: usize) -> Self {
        assert!(start + n <= self.rows && !self.tiled);
        let data = if n == 0 { &[] } else { &self.data[start * self.rs..] };
        View { data, rows: n, ..self }
    }

    /// `n` columns from column `start` on.
    pub fn cols(self, start: usize, n: usize) -> Self {
        self.t().rows(start, n).t()
    }
}

/// B (k, n) in panels. The panel width belongs to the instruction set in use.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    data: &'a [f32],
    pub k: usize,
    pub n: usize,
    /// Lines of a panel; `k` may be fewer.
    depth: usize,
}

impl Packed<'_> {
    /// The first `k` rows and `n` columns.
    pub fn first(self, k: usize, n: usize) -> Self {
        assert!(k <= self.k && n <= self.n);
        Packed { k, n, ..self }
    }

    /// `n` rows from row `start` on.
    pub fn rows(self, start: usize, n: usize) -> Self {
        assert!(start + n <= self.k);
        Packed { data: &self.data[start * panel()..], k: n, ..self }
    }

    /// `n` columns from column `start` on, which begins a panel.
    pub fn columns(self, start: usize, n: usize) -> Self {
        assert!(start.is_multiple_of(panel()) && start + n <= self.n);
        Packed { data: &self.data[start * self.depth..], n, ..self }
    }
}

/// Columns of a panel.
pub fn panel() -> usize {
    NV * Isa::current().lanes()
}

/// Elements that [`pack`] needs for a (k, n) matrix.
pub fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(panel())
}

/// Packs B into `to`, which holds at least [`packed_len`] elements.
pub fn pack<'a>(to: &'a mut [f32], b: View) -> Packed<'a> {
    struct Task<'a, 'b>(&'a mut [f32], View<'b>);
    impl Kernel for Task<'_, '_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (to, b) = (self.0, self.1);
            let nr = NV * S::LANES;
            if b.rows == 0 {
                return;
            }
            for (panel, j0) in to.chunks_exact_mut(b.rows * nr).zip((0..b.cols).step_by(nr)) {
                let width = nr.min(b.cols - j0);
                if b.cs == 1 {
                    for (p, line) in panel.chunks_exact_mut(nr).enumerate() {
                        let from = &b.data[p * b.rs + j0..][..width];
                        if width == nr {
                            for v in 0..NV {
                                // SAFETY: both slices hold nr = NV * LANES elements.
                                unsafe {
                                    let x = s.load(from.as_ptr().add(v * S::LANES));
                                    s.store(line.as_mut_ptr().add(v * S::LANES), x);
                                }
                            }
                        } else {
                            line[..width].copy_from_slice(from);
                            line[width..].fill(0.0);
                        }
                    }
                } else {
                    if width < nr {
                        panel.fill(0.0);
                    }
                    transpose_into(panel, nr, &b.data[j0 * b.cs..], (b.rows, width), b.rs, b.cs);
                }
            }
        }
    }
    let len = packed_len(b.rows, b.cols);
    dispatch(Task(&mut to[..len], b));
    Packed { data: &to[..len], k: b.rows, n: b.cols, depth: b.rows }
}

/// to[p * nr + j] = from[p * rs + j * cs] for p < k and j < n, in squares of 4 x 4 where rows of the transposed matrix
/// are contiguous: scattered single writes would cost more than the product that follows.
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

/// [`pack`], panels shared among the threads.
pub fn pack_parallel<'a>(to: &'a mut [f32], b: View) -> Packed<'a> {
    let (k, n) = (b.rows, b.cols);
    let len = packed_len(k, n);
    let width = 4 * panel();
    if k > 0 {
        to[..len].par_chunks_mut(k * width).enumerate().for_each(|(i, to)| {
            pack(to, b.cols(i * width, width.min(n - i * width)));
        });
    }
    Packed { data: &to[..len], k, n, depth: k }
}

/// Copies a matrix whose columns are contiguous (a transposed one) into `[tile][column][MR]`, so that the product
/// reads it in one straight line. `to` holds at least [`rows_len`] elements.
pub fn pack_rows<'a>(to: &'a mut [f32], a: View) -> View<'a> {
    struct Task<'a, 'b>(&'a mut [f32], View<'b>);
    impl Kernel for Task<'_, '_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            let (to, a) = (self.0, self.1);
            for (tile, i0) in to.chunks_exact_mut((a.cols * S::MR).max(1)).zip((0..a.rows).step_by(S::MR)) {
                let rows = S::MR.min(a.rows - i0);
                for (p, line) in tile.chunks_exact_mut(S::MR).enumerate() {
                    let from = &a.data[i0 + p * a.cs..][..rows];
                    if rows == S::MR {
                        line.copy_from_slice(&from[..S::MR]);
                    } else {
                        line[..rows].copy_from_slice(from);
                        line[rows..].fill(0.0);
                    }
                }
            }
        }
    }
    assert!(a.rs == 1 && !a.tiled);
    let len = rows_len(a.rows, a.cols);
    dispatch(Task(&mut to[..len], a));
    View { data: &to[..len], rows: a.rows, cols: a.cols, rs: 1, cs: Isa::current().tile_rows(), tiled: true }
}

/// Elements that [`pack_rows`] needs.
pub fn rows_len(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(Isa::current().tile_rows()) * cols
}

/// What happens to the finished vectors of a product.
pub trait Epilogue {
    /// Takes `lanes` elements of row `i` from column `j` on; the lanes behind them are meaningless.
    ///
    /// # Safety
    /// `s` is a token of the running instruction set, and (i, j..j+lanes) lies inside the product.
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize);

    /// The address that (i, j) will be written to, if any: it is asked for before the tile is worked out, so that the
    /// store does not wait for its cache line.
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        let _ = (i, j);
        None
    }
}

/// What the next piece of work will read, asked for while this one computes: up to two blocks of lines, one line of
/// every row at a time.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// (address, elements between rows, lines of a row)
    blocks: [(*const f32, usize, usize); 2],
    at: usize,
}

impl Ahead {
    /// Nothing but the next rows of A.
    pub const NOTHING: Ahead = Ahead { blocks: [(std::ptr::null(), 0, 0); 2], at: 0 };

    /// The rows of two views with contiguous rows.
    pub fn of(a: View, b: View) -> Self {
        let block = |x: View| (x.data.as_ptr(), x.rs, if x.rows == 0 { 0 } else { x.cols.div_ceil(16) });
        Ahead { blocks: [block(a), block(b)], at: 0 }
    }

    /// Where to ask from next, and the step.
    #[inline(always)]
    fn next(&mut self, otherwise: (*const f32, usize)) -> (*const f32, usize) {
        let [(a, a_step, a_lines), (b, b_step, b_lines)] = self.blocks;
        let at = self.at;
        self.at += 1;
        if at < a_lines {
            (a.wrapping_add(16 * at), a_step)
        } else if at < a_lines + b_lines {
            (b.wrapping_add(16 * (at - a_lines)), b_step)
        } else {
            otherwise
        }
    }
}

/// Where a product is written: element (i, j) at `i * rs + j`. The pointer makes it possible for tasks to write
/// interleaved parts of one buffer.
#[derive(Clone, Copy)]
pub struct Dest {
    ptr: *mut f32,
    rs: usize,
}

// SAFETY: a plain address; the maker of a `Dest` promises that no two tasks write the same elements.
unsafe impl Send for Dest {}
// SAFETY: as above.
unsafe impl Sync for Dest {}

impl Dest {
    /// A (rows, cols) destination inside `data` with rows `rs` apart. Panics when it would reach outside.
    pub(super) fn new(data: &mut [f32], rows: usize, cols: usize, rs: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * rs + cols <= data.len(), "destination reaches outside");
        Dest { ptr: data.as_mut_ptr(), rs }
    }

    /// The destination whose first element is (i, j) of this one.
    ///
    /// # Safety
    /// (i, j) lies inside, and the parts that different tasks write do not overlap.
    pub unsafe fn at(self, i: usize, j: usize) -> Self {
        // SAFETY: the caller's promise.
        Dest { ptr: unsafe { self.ptr.add(i * self.rs + j) }, rs: self.rs }
    }

    /// The first `len` elements.
    ///
    /// # Safety
    /// They lie inside, and no other slice of them lives.
    pub unsafe fn row<'a>(self, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, len) }
    }

    #[inline(always)]
    pub(super) fn element(self, i: usize, j: usize) -> *mut f32 {
        self.ptr.wrapping_add(i * self.rs + j)
    }
}

/// c = alpha * v.
pub struct Store {
    pub c: Dest,
    pub alpha: f32,
}

impl Epilogue for Store {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        // SAFETY: (i, j..j+lanes) lies inside the destination.
        unsafe { super::math::store(s, self.c.element(i, j), s.mul(v, s.splat(self.alpha)), lanes) }
    }
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        Some(self.c.element(i, j))
    }
}

/// c += alpha * v.
pub struct Accumulate {
    pub c: Dest,
    pub alpha: f32,
}

impl Epilogue for Accumulate {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        let p = self.c.element(i, j);
        // SAFETY: (i, j..j+lanes) lies inside the destination.
        unsafe {
            let old = super::math::load(s, p, lanes);
            super::math::store(s, p, s.fma(v, s.splat(self.alpha), old), lanes)
        }
    }
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        Some(self.c.element(i, j))
    }
}

/// c = v + bias, with one bias a column.
pub struct Bias<'a> {
    pub c: Dest,
    pub bias: &'a [f32],
}

impl Epilogue for Bias<'_> {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        debug_assert!(j + lanes <= self.bias.len());
        // SAFETY: (i, j..j+lanes) lies inside the destination, and j..j+lanes inside the bias.
        unsafe {
            let b = super::math::load(s, self.bias.as_ptr().add(j), lanes);
            super::math::store(s, self.c.element(i, j), s.add(v, b), lanes)
        }
    }
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        Some(self.c.element(i, j))
    }
}

/// A (m, k) times packed B (k, n), every tile handed to the epilogue.
pub fn multiply<E: Epilogue>(a: View, b: Packed, e: &mut E) {
    multiply_ahead(a, b, e, Ahead::NOTHING)
}

/// [`multiply`], fetching what comes next meanwhile.
pub fn multiply_ahead<E: Epilogue>(a: View, b: Packed, e: &mut E, ahead: Ahead) {
    struct Task<'a, 'b, E>(View<'a>, Packed<'b>, E, Ahead);
    impl<E: Epilogue> Kernel for Task<'_, '_, &mut E> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Task(a, b, e, mut ahead) = self;
            assert_eq!(a.cols, b.k);
            match S::MR {
                8 => tiles::<S, E, 8>(s, a, b, e, &mut ahead),
                6 => tiles::<S, E, 6>(s, a, b, e, &mut ahead),
                _ => tiles::<S, E, 4>(s, a, b, e, &mut ahead),
            }
        }
    }
    dispatch(Task(a, b, e, ahead))
}

#[inline(always)]
fn tiles<S: Simd, E: Epilogue, const MR: usize>(s: S, a: View, b: Packed, e: &mut E, ahead: &mut Ahead) {
    let nr = NV * S::LANES;
    for j0 in (0..b.n).step_by(nr) {
        let panel = &b.data[j0 * b.depth..];
        // A last panel of at most one vector's width is worked off at half the cost.
        if b.n - j0 <= S::LANES {
            column_of_tiles::<S, E, MR, 1>(s, a, b, panel, j0, e, ahead);
        } else {
            column_of_tiles::<S, E, MR, NV>(s, a, b, panel, j0, e, ahead);
        }
    }
}

/// All row tiles against one panel.
#[inline(always)]
fn column_of_tiles<S: Simd, E: Epilogue, const MR: usize, const W: usize>(
    s: S,
    a: View,
    b: Packed,
    panel: &[f32],
    j0: usize,
    e: &mut E,
    ahead: &mut Ahead,
) {
    let width = (W * S::LANES).min(b.n - j0);
    assert!(panel.len() >= b.k * NV * S::LANES);
    for i0 in (0..a.rows).step_by(MR) {
        // A tile at the lower edge reads its last row several times and drops the copies.
        let rows = MR.min(a.rows - i0);
        let first = if a.tiled { i0 * a.cols } else { i0 * a.rs };
        let mut pointers = [a.data.as_ptr(); MR];
        for (r, p) in pointers.iter_mut().enumerate() {
            *p = p.wrapping_add(first + r.min(rows - 1) * a.rs);
        }
        // The next tile of A follows this one where rows are contiguous.
        let next_tile = (pointers[0].wrapping_add(MR * if a.tiled { a.cols } else { a.rs }), MR);
        let fetch = ahead.next(next_tile);
        for r in 0..rows {
            if let Some(p) = e.address(i0 + r, j0) {
                s.prefetch_write(p);
                s.prefetch_write(p.wrapping_add(S::LANES));
            }
        }
        // SAFETY: rows i0..i0+rows lie inside the view, which holds k columns; the panel holds k lines; the epilogue
        // gets elements of the product.
        unsafe {
            let acc = tile::<S, MR, W>(s, b.k, &pointers, a.cs, panel.as_ptr(), fetch);
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

/// MR rows of A times W vectors of a panel: MR * W vectors of sums that live in registers.
///
/// # Safety
/// Each row pointer is readable at 0, cs, .., (k-1) cs; the panel holds k lines.
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const W: usize>(
    s: S,
    k: usize,
    rows: &[*const f32; MR],
    cs: usize,
    panel: *const f32,
    (fetch, step): (*const f32, usize),
) -> [[S::V; W]; MR] {
    let mut acc = [[s.zero(); W]; MR];
    for p in 0..k {
        // SAFETY: the caller's promise.
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
                    acc[r][v] = s.fma(x, b[v], acc[r][v]);
                }
            }
        }
    }
    acc
}
