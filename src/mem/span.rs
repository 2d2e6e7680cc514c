//! Copyable handles to planned memory: arena, offset and number of elements.

use std::{fmt, marker::PhantomData, ops::Range};

/// The blocks of memory of a plan. Those up to `Moment2` have the same layout: a parameter, its gradient and its two
/// Adam moments have the same offset in their arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Arena {
    /// Master weights, f32.
    Param,
    /// Gradients of the weights, f32.
    Grad,
    /// First Adam moments, f32.
    Moment1,
    /// Second Adam moments, f32.
    Moment2,
    /// Activations and their gradients, in the backend's activation dtype (f32 on the CPU, bf16 or f32 on a GPU).
    Act,
    /// Statistics, losses, hyper-parameters: f32 on every backend.
    Stat,
    /// Ids, offsets, counters: u32.
    Index,
    /// The interactions of all users, u32, on devices with their own memory. They are not planned but use the free
    /// memory.
    Data,
}

impl Arena {
    pub const COUNT: usize = 8;
}

/// An element kind. It determines the arenas a span may lie in.
pub trait Element: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    /// The arena of an empty span of this kind.
    const ARENA: Arena;
}

/// Activations: the backend's activation dtype.
#[derive(Clone, Copy, Debug)]
pub struct Act;
/// Weights, gradients of weights, statistics: always f32.
#[derive(Clone, Copy, Debug)]
pub struct F32;
/// Ids, offsets, counters: always u32.
#[derive(Clone, Copy, Debug)]
pub struct U32;

impl Element for Act {
    const NAME: &'static str = "act";
    const ARENA: Arena = Arena::Act;
}
impl Element for F32 {
    const NAME: &'static str = "f32";
    const ARENA: Arena = Arena::Stat;
}
impl Element for U32 {
    const NAME: &'static str = "u32";
    const ARENA: Arena = Arena::Index;
}

/// A handle to `len` elements of an arena. It owns nothing and is only valid with the memory it was planned for.
pub struct Span<E> {
    arena: Arena,
    offset: usize,
    len: usize,
    element: PhantomData<E>,
}

impl<E> Clone for Span<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Span<E> {}

impl<E: Element> fmt::Debug for Span<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw().fmt(f)
    }
}

impl<E: Element> Span<E> {
    /// Creates a span.
    /// Its end also fits a usize, so no computation with offset and length overflows.
    pub(super) fn new(arena: Arena, offset: usize, len: usize) -> Self {
        assert!(len <= usize::MAX - offset, "{len} elements from {offset} on: no memory is that large");
        Span { arena, offset, len, element: PhantomData }
    }

    /// Returns a span of all interactions that a device keeps.
    pub fn data(len: usize) -> Self {
        Span::new(Arena::Data, 0, len)
    }

    /// Returns an empty span, for an optional source of an op.
    pub fn empty() -> Self {
        Span::new(E::ARENA, 0, 0)
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the `len` elements from `start` on. Panics when they do not lie inside.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let RawSpan { arena, offset, len } = self.raw().slice(start, len);
        Span::new(arena, offset, len)
    }

    /// Returns the first `len` elements. Panics when there are fewer.
    pub fn first(&self, len: usize) -> Self {
        self.slice(0, len)
    }

    /// Applies `change` to the span and keeps its kind.
    pub(crate) fn changed(&self, change: &mut dyn FnMut(RawSpan) -> RawSpan) -> Self {
        let RawSpan { arena, offset, len } = change(self.raw());
        Span::new(arena, offset, len)
    }

    /// Returns the span without its element kind, for code that treats all kinds alike.
    pub fn raw(&self) -> RawSpan {
        RawSpan { arena: self.arena, offset: self.offset, len: self.len }
    }
}

/// A span without its element kind (the arena determines it).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawSpan {
    arena: Arena,
    offset: usize,
    len: usize,
}

impl fmt::Debug for RawSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}..{}]", self.arena, self.offset, self.offset + self.len)
    }
}

impl RawSpan {
    /// The empty span.
    pub const NOWHERE: RawSpan = RawSpan { arena: Arena::Index, offset: 0, len: 0 };

    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Returns the number of elements of its arena before it.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the element range within its arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }

    /// Works like [`Span::slice`].
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} is outside a span of {}", self.len);
        RawSpan { offset: self.offset + start, len, ..*self }
    }

    /// Returns a span of `len` elements with the same start.
    pub(crate) fn stretched(&self, len: usize) -> Self {
        RawSpan { len, ..*self }
    }

    /// Returns whether the two spans share an element.
    pub fn overlaps(&self, other: &RawSpan) -> bool {
        // Subtracted from the later start, which is at least the earlier one.
        let (first, second) = if self.offset <= other.offset { (self, other) } else { (other, self) };
        self.arena == other.arena && second.len > 0 && second.offset - first.offset < first.len
    }

    /// Returns whether it contains all elements of the other span.
    pub fn contains(&self, other: &RawSpan) -> bool {
        self.arena == other.arena
            && self.offset <= other.offset
            && other.offset - self.offset <= self.len
            && other.len <= self.len - (other.offset - self.offset)
    }
}

/// How a gradient is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Write,
    Accumulate,
    Skip,
}

/// The destination of a gradient.
#[derive(Clone, Copy, Debug)]
pub enum Dst<E: Element> {
    /// Overwrite the old value.
    Write(Span<E>),
    /// Add to the old value.
    Acc(Span<E>),
    /// Not wanted (a frozen parameter): its computation is skipped.
    Skip,
}

impl<E: Element> Dst<E> {
    pub fn span(&self) -> Option<Span<E>> {
        match self {
            Dst::Write(s) | Dst::Acc(s) => Some(*s),
            Dst::Skip => None,
        }
    }

    /// Returns whether there is a gradient to compute.
    pub fn wanted(&self) -> bool {
        self.span().is_some()
    }

    /// Returns whether the gradient is added to the old value.
    pub fn accumulates(&self) -> bool {
        matches!(self, Dst::Acc(_))
    }

    /// Returns the number of elements of the span, or `need` where none is wanted, for shape checks.
    pub fn len_or(&self, need: usize) -> usize {
        self.span().map_or(need, |s| s.len())
    }

    pub fn with_mode(&self, mode: Mode) -> Self {
        match (self.span(), mode) {
            (Some(s), Mode::Write) => Dst::Write(s),
            (Some(s), Mode::Accumulate) => Dst::Acc(s),
            (None, _) | (_, Mode::Skip) => Dst::Skip,
        }
    }
}
