//! Epilogues of finished tiles, in registers (store, accumulate, add a bias), and their destinations.

use super::super::{math, simd::Simd};

/// Consumes the finished vectors of a product.
pub trait Epilogue {
    /// Receives `lanes` elements of row `i` from column `j` on. The lanes past them are meaningless.
    ///
    /// # Safety
    /// `s` is a token of the running instruction set, and (i, j..j+lanes) lies inside the product.
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize);

    /// Returns the address that (i, j) will be written to, if any. It is prefetched before the tile is computed, so
    /// that the store does not wait for its cache line.
    #[inline(always)]
    fn address(&self, i: usize, j: usize) -> Option<*const f32> {
        let _ = (i, j);
        None
    }
}

/// The destination of a product: element (i, j) is at `i * rs + j`. The raw pointer lets tasks write interleaved parts
/// of one buffer.
#[derive(Clone, Copy)]
pub struct Dest {
    ptr: *mut f32,
    rs: usize,
}

// SAFETY: a plain address; the creator of a `Dest` guarantees that no two tasks write the same elements.
unsafe impl Send for Dest {}
// SAFETY: as above.
unsafe impl Sync for Dest {}

impl Dest {
    /// Returns a (rows, cols) destination inside `data` with rows `rs` apart. Panics when it would reach outside.
    pub(in super::super) fn new(data: &mut [f32], rows: usize, cols: usize, rs: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * rs + cols <= data.len(), "destination reaches outside");
        Dest { ptr: data.as_mut_ptr(), rs }
    }

    /// Returns the destination that starts at element (i, j) of this one.
    ///
    /// # Safety
    /// (i, j) lies inside, and the parts that different tasks write do not overlap.
    pub unsafe fn at(self, i: usize, j: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        Dest { ptr: unsafe { self.ptr.add(i * self.rs + j) }, rs: self.rs }
    }

    /// Returns the first `len` elements.
    ///
    /// # Safety
    /// They lie inside, and no other slice of them is live.
    pub unsafe fn row<'a>(self, len: usize) -> &'a mut [f32] {
        // SAFETY: guaranteed by the caller.
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

/// c = v + bias, with one bias per column.
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
