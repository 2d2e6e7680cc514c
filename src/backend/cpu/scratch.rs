/*! Working memory that grows once and stays: a step in its steady state makes no allocation.

Each thread keeps a stack of buffers. [`borrow`] takes the top one and puts it back. With work stealing, a task can
start while another task of the same thread waits; it then gets its own buffer.
*/
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    cell::RefCell,
    ptr::NonNull,
};

/// f32 memory on cache-line boundaries. Its contents are the leftovers of the last use.
struct Buffer {
    ptr: NonNull<f32>,
    len: usize,
}

impl Buffer {
    const EMPTY: Buffer = Buffer { ptr: NonNull::dangling(), len: 0 };

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len).and_then(|l| l.align_to(64)).expect("scratch size overflows")
    }

    fn grow(&mut self, len: usize) {
        if len > self.len {
            let len = len.next_power_of_two();
            let layout = Self::layout(len);
            // SAFETY: len > 0; zero bytes are valid f32.
            let raw = unsafe { alloc_zeroed(layout) };
            let ptr = NonNull::new(raw.cast()).unwrap_or_else(|| handle_alloc_error(layout));
            *self = Buffer { ptr, len };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated by `grow` with this layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

thread_local! {
    static STACK: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Passes the thread's scratch of `len` elements, aligned to 64 bytes, to `f`. The contents are leftovers.
pub fn borrow<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = STACK.with_borrow_mut(|stack| stack.pop()).unwrap_or(Buffer::EMPTY);
    buffer.grow(len);
    // SAFETY: the buffer holds at least `len` initialised elements and belongs to this call alone until it is put back.
    let result = f(unsafe { std::slice::from_raw_parts_mut(buffer.ptr.as_ptr(), len) });
    STACK.with_borrow_mut(|stack| stack.push(buffer));
    result
}

/// Splits the first `len` elements (rounded up to a cache line) off a scratch slice.
pub fn split<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(room(len));
    *rest = tail;
    &mut head[..len]
}

/// Returns the number of elements that [`split`] takes for `len`: whole cache lines.
pub const fn room(len: usize) -> usize {
    len.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_borrows_do_not_overlap_and_are_reused() {
        let mut first = 0;
        borrow(100, |a| {
            first = a.as_ptr() as usize;
            assert_eq!(first % 64, 0);
            a.fill(1.0);
            borrow(50, |b| b.fill(2.0));
            assert!(a.iter().all(|&x| x == 1.0));
        });
        borrow(128, |a| assert_eq!(a.as_ptr() as usize, first));
    }
}
