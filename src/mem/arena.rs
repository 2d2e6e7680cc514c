//! Arenas in host memory, for the reference and the CPU backend.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    planner::{Owners, Planner},
    scalar::Scalar,
    span::{Arena, Dst, Element, RawSpan, Span, U32},
    uses::Uses,
};

/// A block of `len` plain numbers, initially zero, aligned to a cache line.
struct Block<T> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: a block is the only owner of its memory. It is written through `&mut HostArenas`, or through the one `Lent`
// that borrows the arenas mutably.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("arena size overflows");
        Layout::from_size_align(bytes.max(64), 64).expect("arena size overflows")
    }

    /// Allocates zero pages from the system. Untouched memory costs nothing.
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

    /// Returns the address of a span, which must lie inside the block.
    fn locate(&self, span: RawSpan) -> *mut T {
        assert!(
            span.offset() <= self.len && span.len() <= self.len - span.offset(),
            "{span:?} lies outside its arena of {}",
            self.len
        );
        // SAFETY: the assertion keeps the offset inside the block.
        unsafe { self.ptr().add(span.offset()) }
    }

    /// Returns the elements of a span.
    ///
    /// # Safety
    /// While the slice is live, nothing writes to the span.
    unsafe fn slice(&self, span: RawSpan) -> &[T] {
        // SAFETY: inside the block (`locate`), initialised (blocks start as zeros), not written as guaranteed by the
        // caller.
        unsafe { std::slice::from_raw_parts(self.locate(span), span.len()) }
    }

    /// Returns the elements of a span for writing.
    ///
    /// # Safety
    /// While the slice is live, nothing else reads or writes the span.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice_mut(&self, span: RawSpan) -> &mut [T] {
        // SAFETY: inside the block (`locate`), initialised (blocks start as zeros), exclusive as guaranteed by the
        // caller.
        unsafe { std::slice::from_raw_parts_mut(self.locate(span), span.len()) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; T is plain and needs no drop.
        unsafe { dealloc(self.ptr().cast(), Self::layout(self.len)) }
    }
}

/// One block of memory for each [`Arena`] of a plan, initially zero.
pub struct HostArenas<S> {
    real: [Block<S>; Arena::Index as usize],
    index: Block<u32>,
    owners: Owners,
}

impl<S: Scalar> HostArenas<S> {
    pub fn new(plan: &Planner) -> Self {
        use Arena::*;
        let real = [Param, Grad, Moment1, Moment2, Act, Stat].map(|a| Block::new(plan.len(a)));
        HostArenas { real, index: Block::new(plan.len(Index)), owners: plan.owners().clone() }
    }

    /// Returns the layers that the memory was planned for.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    fn block(&self, span: RawSpan) -> &Block<S> {
        self.real.get(span.arena() as usize).unwrap_or_else(|| panic!("{span:?} holds no real numbers"))
    }

    fn index_block(&self, span: RawSpan) -> &Block<u32> {
        assert!(span.arena() == Arena::Index, "{span:?} holds no ids of a host");
        &self.index
    }

    /// Returns the memory of one op while it runs. Panics before any write when a span lies outside its arena.
    pub fn lend<'a>(&'a mut self, uses: &'a Uses) -> Lent<'a, S> {
        for (_, span) in uses.iter() {
            match span.arena() {
                Arena::Index => _ = self.index.locate(span),
                _ => _ = self.block(span).locate(span),
            }
        }
        Lent { arenas: self, uses, taken: AtomicU32::new(0) }
    }

    /// Returns the elements of a real span.
    pub fn get(&self, span: RawSpan) -> &[S] {
        // SAFETY: writers borrow the arenas mutably.
        unsafe { self.block(span).slice(span) }
    }

    /// Returns the elements of a real span for writing.
    pub fn get_mut(&mut self, span: RawSpan) -> &mut [S] {
        // SAFETY: exclusive through `&mut self`.
        unsafe { self.block(span).slice_mut(span) }
    }

    /// Returns the elements of an index span.
    pub fn ids(&self, span: RawSpan) -> &[u32] {
        // SAFETY: writers borrow the arenas mutably.
        unsafe { self.index_block(span).slice(span) }
    }

    /// Returns the elements of an index span for writing.
    pub fn ids_mut(&mut self, span: RawSpan) -> &mut [u32] {
        // SAFETY: exclusive through `&mut self`.
        unsafe { self.index_block(span).slice_mut(span) }
    }

    /// Returns a whole real arena for comparison.
    pub fn arena(&self, arena: Arena) -> &[S] {
        let block = &self.real[arena as usize];
        // SAFETY: the block's own length, initialised; writers borrow the arenas mutably.
        unsafe { std::slice::from_raw_parts(block.ptr(), block.len) }
    }

    /// Returns a whole real arena for filling.
    pub fn arena_mut(&mut self, arena: Arena) -> &mut [S] {
        let block = &self.real[arena as usize];
        // SAFETY: the block's own length, initialised, exclusive through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(block.ptr(), block.len) }
    }

    /// Returns the whole index arena for filling.
    pub fn index_mut(&mut self) -> &mut [u32] {
        // SAFETY: the block's own length, initialised, exclusive through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.index.ptr(), self.index.len) }
    }
}

/// The memory of one op while it runs: slices of the spans that it reads, and of those that it writes, each of them
/// once.
///
/// Slices for writing are returned through `&self`, while other slices are live. This is sound because the written
/// spans overlap no others ([`Uses`]), only pieces of them are returned, each span at most once, and the arenas are
/// borrowed mutably meanwhile.
pub struct Lent<'a, S> {
    arenas: &'a HostArenas<S>,
    uses: &'a Uses,
    /// One bit for each span already taken for writing.
    taken: AtomicU32,
}

impl<'a, S: Scalar> Lent<'a, S> {
    /// Checks that the op reads the span. Panics otherwise.
    fn reads(&self, span: RawSpan) -> RawSpan {
        assert!(span.is_empty() || self.uses.find(span, false).is_some(), "{span:?} is not what the op reads");
        span
    }

    /// Checks that the op writes the span and has not taken it before. Panics otherwise.
    fn takes(&self, span: RawSpan) -> RawSpan {
        if !span.is_empty() {
            let Some(i) = self.uses.find(span, true) else { panic!("{span:?} is not what the op writes") };
            let before = self.taken.fetch_or(1 << i, Ordering::Relaxed);
            assert!(before & (1 << i) == 0, "{span:?} is taken twice");
        }
        span
    }

    /// Returns the elements of a real span that the op reads.
    pub fn get<E: Element>(&self, span: Span<E>) -> &'a [S] {
        let span = self.reads(span.raw());
        // SAFETY: no written span overlaps a read one.
        unsafe { self.arenas.block(span).slice(span) }
    }

    /// Returns the elements of a real span that the op writes.
    #[allow(clippy::mut_from_ref)]
    pub fn get_mut<E: Element>(&self, span: Span<E>) -> &'a mut [S] {
        let span = self.takes(span.raw());
        // SAFETY: the span is taken for the first time and overlaps no other span of the op.
        unsafe { self.arenas.block(span).slice_mut(span) }
    }

    /// Returns the elements of an index span that the op reads.
    pub fn ids(&self, span: Span<U32>) -> &'a [u32] {
        let span = self.reads(span.raw());
        // SAFETY: no written span overlaps a read one.
        unsafe { self.arenas.index_block(span).slice(span) }
    }

    /// Returns the elements of an index span that the op writes.
    #[allow(clippy::mut_from_ref)]
    pub fn ids_mut(&self, span: Span<U32>) -> &'a mut [u32] {
        let span = self.takes(span.raw());
        // SAFETY: the span is taken for the first time and overlaps no other span of the op.
        unsafe { self.arenas.index_block(span).slice_mut(span) }
    }

    /// Computes `value(i)` for the first `n` elements of a destination: overwrites or adds. With Skip, nothing is
    /// computed.
    pub fn compute<E: Element>(&self, dst: Dst<E>, n: usize, value: impl Fn(usize) -> S) {
        let Some(span) = dst.span() else { return };
        let out = self.get_mut(span.first(n));
        for (i, out) in out.iter_mut().enumerate() {
            let v = value(i);
            *out = if dst.accumulates() { *out + v } else { v };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Access, Act};

    /// Plans an op that writes y and reads x, with 16 elements each.
    fn plan() -> (Planner, Span<Act>, Span<Act>, Uses) {
        let mut p = Planner::new();
        let (y, x) = (p.act(16), p.act(16));
        let uses = Uses::of(|visit| {
            visit(Access::Write, y.raw());
            visit(Access::Read, x.raw());
        });
        (p, y, x, uses.unwrap())
    }

    fn panics<T>(run: impl FnOnce() -> T) -> String {
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err().expect("no panic");
        *said.downcast::<String>().expect("a message")
    }

    #[test]
    fn what_is_lent_can_be_read_and_written_side_by_side() {
        let (p, y, x, uses) = plan();
        let mut m = HostArenas::<f32>::new(&p);
        m.get_mut(x.raw()).iter_mut().zip(1..).for_each(|(x, i)| *x = i as f32);
        let lent = m.lend(&uses);
        let (to, from, again) = (lent.get_mut(y.first(3)), lent.get(x), lent.get(x.slice(1, 3)));
        to.iter_mut().zip(from).zip(again).for_each(|((y, a), b)| *y = a * b);
        assert_eq!(m.get(y.first(4).raw()), [2.0, 6.0, 12.0, 0.0]);
    }

    #[test]
    fn nothing_is_lent_twice_or_beside_what_the_op_uses() {
        let (mut p, y, x, uses) = plan();
        let (other, ids) = (p.act(4), p.index(4));
        let mut m = HostArenas::<f64>::new(&p);
        let lent = m.lend(&uses);
        lent.get_mut(y.first(2));
        assert!(panics(|| lent.get_mut(y.slice(8, 2))[0] = 1.0).contains("is taken twice"));
        assert!(panics(|| lent.get(y).len()).contains("is not what the op reads"));
        assert!(panics(|| lent.get_mut(x)[0] = 1.0).contains("is not what the op writes"));
        assert!(panics(|| lent.get(other).len()).contains("is not what the op reads"));
        assert!(panics(|| lent.ids_mut(ids)[0] = 1).contains("is not what the op writes"));
        assert!(lent.get(Span::<Act>::empty()).is_empty() && lent.ids(Span::empty()).is_empty());
        assert!(m.arena(Arena::Act).iter().all(|x| *x == 0.0));
    }

    /// Offsets near the end of the number range, with sums that would wrap around to small ones.
    #[test]
    fn a_span_outside_its_arena_is_lent_to_nobody() {
        let (p, ..) = plan();
        let mut m = HostArenas::<f32>::new(&p);
        for (offset, len) in [(32, 1), (31, 2), (0, 33), (usize::MAX, 0), (usize::MAX - 3, 3), (1, usize::MAX - 1)] {
            let span = Span::<Act>::new(Arena::Act, offset, len);
            let uses = Uses::of(|visit| visit(Access::Write, span.raw())).unwrap();
            assert!(panics(|| _ = m.lend(&uses)).contains("lies outside its arena of 32"));
            assert!(panics(|| m.get(span.raw()).len()).contains("lies outside its arena of 32"));
        }
        assert!(panics(|| _ = Span::<Act>::new(Arena::Act, usize::MAX, 1)).contains("no memory is that large"));
        assert!(panics(|| _ = p.index_span(p.whole(Arena::Act))).contains("is no span of ids"));
        assert!(m.arena(Arena::Act).iter().all(|x| *x == 0.0));
    }
}
