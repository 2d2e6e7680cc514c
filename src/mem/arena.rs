//! Arenas in host memory, for the reference and the CPU backend.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

use super::{
    planner::Planner,
    scalar::Scalar,
    span::{Arena, Dst, Element, RawSpan, Span, U32},
};

/// A block of `len` plain numbers, zero at first, starting on a cache line.
struct Block<T> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: a block is plain memory that it owns alone; who may write when is the callers' promise (`get_mut`).
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("arena size overflows");
        Layout::from_size_align(bytes.max(64), 64).expect("arena size overflows")
    }

    /// Zero pages come straight from the system: memory that is never touched costs nothing.
    fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has at least 64 bytes; all-zero bytes are a valid f32, f64 and u32.
        let raw = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(raw.cast()).unwrap_or_else(|| handle_alloc_error(layout));
        Block { ptr, len }
    }

    fn ptr(&self) -> *mut T {
        self.ptr.as_ptr()
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; T is plain and needs no drop.
        unsafe { dealloc(self.ptr().cast(), Self::layout(self.len)) }
    }
}

/// One block of memory for each [`Arena`] of a plan, starting as zeros.
pub struct HostArenas<S> {
    real: [Block<S>; Arena::Index as usize],
    index: Block<u32>,
}

impl<S: Scalar> HostArenas<S> {
    pub fn new(plan: &Planner) -> Self {
        use Arena::*;
        let real = [Param, Grad, Moment1, Moment2, Act, Stat].map(|a| Block::new(plan.len(a)));
        HostArenas { real, index: Block::new(plan.len(Index)) }
    }

    fn locate(&self, span: RawSpan) -> *mut S {
        let block = &self.real[span.arena as usize];
        assert!(span.offset + span.len <= block.len, "{span:?} lies outside its arena of {}", block.len);
        // SAFETY: the assertion above keeps offset (and offset + len) inside the block.
        unsafe { block.ptr().add(span.offset) }
    }

    /// The elements of a real span.
    pub fn get<E: Element>(&self, span: Span<E>) -> &[S] {
        let raw = span.raw();
        // SAFETY: inside its block (checked by `locate`), initialised (blocks start as zeros), and ops never hold a
        // mutable slice of an overlapping span (each op's sources and destinations are disjoint: see `get_mut`).
        unsafe { std::slice::from_raw_parts(self.locate(raw), raw.len) }
    }

    /// The elements of a real span, to write.
    ///
    /// # Safety
    /// While the slice lives, no other slice of these arenas may overlap it. Backends meet this by calling
    /// [`crate::ops::Op::assert_disjoint`]: an op's destinations overlap neither each other nor its sources.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get_mut<E: Element>(&self, span: Span<E>) -> &mut [S] {
        let raw = span.raw();
        // SAFETY: inside its block and initialised; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.locate(raw), raw.len) }
    }

    /// The elements of an index span.
    pub fn ids(&self, span: Span<U32>) -> &[u32] {
        let raw = span.raw();
        assert!(raw.arena == Arena::Index && raw.offset + raw.len <= self.index.len, "{raw:?} lies outside its arena");
        // SAFETY: inside the block by the assertion, initialised, and exclusive writers promise not to overlap.
        unsafe { std::slice::from_raw_parts(self.index.ptr().add(raw.offset), raw.len) }
    }

    /// The elements of an index span, to write.
    ///
    /// # Safety
    /// As for [`HostArenas::get_mut`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn ids_mut(&self, span: Span<U32>) -> &mut [u32] {
        let raw = span.raw();
        assert!(raw.arena == Arena::Index && raw.offset + raw.len <= self.index.len, "{raw:?} lies outside its arena");
        // SAFETY: inside the block by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.index.ptr().add(raw.offset), raw.len) }
    }

    /// Computes element i of a destination as `value(i)` for the first `n` elements: overwritten, added to, or (Skip) not
    /// even computed. For references: `value` reads other spans, never the destination.
    pub(crate) fn compute<E: Element>(&self, dst: Dst<E>, n: usize, value: impl Fn(usize) -> S) {
        let Some(span) = dst.span() else { return };
        // SAFETY: an op's destinations are disjoint from each other and from its sources (`Op::assert_disjoint`).
        let out = unsafe { self.get_mut(span.first(n)) };
        for (i, out) in out.iter_mut().enumerate() {
            let v = value(i);
            *out = if dst.accumulates() { *out + v } else { v };
        }
    }

    /// A whole real arena, to fill or compare.
    pub fn arena(&self, arena: Arena) -> &[S] {
        let block = &self.real[arena as usize];
        // SAFETY: the block's own length; no mutable slice can live, `&self` methods end before ops run.
        unsafe { std::slice::from_raw_parts(block.ptr(), block.len) }
    }

    /// A whole real arena, to fill.
    pub fn arena_mut(&mut self, arena: Arena) -> &mut [S] {
        let block = &self.real[arena as usize];
        // SAFETY: the block's own length, exclusive through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(block.ptr(), block.len) }
    }

    /// The whole index arena, to fill.
    pub fn index_mut(&mut self) -> &mut [u32] {
        // SAFETY: the block's own length, exclusive through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.index.ptr(), self.index.len) }
    }
}
