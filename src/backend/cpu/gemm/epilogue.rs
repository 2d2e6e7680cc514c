//! What becomes of finished tiles, in registers: stored, added, a bias put on; and where they go.

use super::super::{math, simd::Simd};

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
    pub(in super::super) fn new(data: &mut [f32], rows: usize, cols: usize, rs: usize) -> Self {
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
    pub(in super::super) fn element(self, i: usize, j: usize) -> *mut f32 {
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
        unsafe { math::store(s, self.c.element(i, j), s.mul(v, s.splat(self.alpha)), lanes) }
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
            let old = math::load(s, p, lanes);
            math::store(s, p, s.fma(v, s.splat(self.alpha), old), lanes)
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
            let b = math::load(s, self.bias.as_ptr().add(j), lanes);
            math::store(s, self.c.element(i, j), s.add(v, b), lanes)
        }
    }
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        Some(self.c.element(i, j))
    }
}
