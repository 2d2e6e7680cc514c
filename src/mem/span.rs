//! Copy handles to planned memory: which arena, where, how many elements.

use std::{fmt, marker::PhantomData, ops::Range};

/// The blocks of memory of a plan. Those up to `Moment2` have the same layout: a parameter, its gradient and its
/// two Adam moments stand at the same offset in their arenas.
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
    /// The interactions of all users, u32, where a device of its own keeps them: not planned, taken from what is left.
    Data,
}

impl Arena {
    pub const COUNT: usize = 8;
}

/// An element kind; decides which arenas a span may live in.
pub trait Element: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    /// Where an empty span of this kind is taken to lie.
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

/// A handle to `len` elements of an arena. It owns nothing and is only meaningful with the memory it was planned for.
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
    /// The end of a span is a number too: nothing that is computed from offset and length wraps.
    pub(super) fn new(arena: Arena, offset: usize, len: usize) -> Self {
        assert!(len <= usize::MAX - offset, "{len} elements from {offset} on: no memory is that large");
        Span { arena, offset, len, element: PhantomData }
    }

    /// All of the data that a device keeps.
    pub(crate) fn data(len: usize) -> Self {
        Span::new(Arena::Data, 0, len)
    }

    /// No elements: for a source that an op can do without.
    pub fn empty() -> Self {
        Span::new(E::ARENA, 0, 0)
    }

    /// Elements in the span.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` elements from `start` on. Panics when they do not lie inside.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let RawSpan { arena, offset, len } = self.raw().slice(start, len);
        Span::new(arena, offset, len)
    }

    /// The first `len` elements. Panics when there are fewer.
    pub fn first(&self, len: usize) -> Self {
        self.slice(0, len)
    }

    /// What `change` makes of the span, taken to be of the same kind.
    pub(crate) fn changed(&self, change: &mut dyn FnMut(RawSpan) -> RawSpan) -> Self {
        let RawSpan { arena, offset, len } = change(self.raw());
        Span::new(arena, offset, len)
    }

    /// The span without its element kind, for code that treats all alike.
    pub fn raw(&self) -> RawSpan {
        RawSpan { arena: self.arena, offset: self.offset, len: self.len }
    }
}

/// A span that has forgotten its element kind (the arena tells it).
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
    /// No elements.
    pub const NOWHERE: RawSpan = RawSpan { arena: Arena::Index, offset: 0, len: 0 };

    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Elements of its arena in front of it.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Elements in the span.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of its arena that it is.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }

    /// As [`Span::slice`].
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} is outside a span of {}", self.len);
        RawSpan { offset: self.offset + start, len, ..*self }
    }

    /// A span of `len` elements that begins where this one does.
    pub(crate) fn stretched(&self, len: usize) -> Self {
        RawSpan { len, ..*self }
    }

    /// Whether the two share an element.
    pub fn overlaps(&self, other: &RawSpan) -> bool {
        // Subtracted from the later start, which is at least the earlier one.
        let (first, second) = if self.offset <= other.offset { (self, other) } else { (other, self) };
        self.arena == other.arena && second.len > 0 && second.offset - first.offset < first.len
    }

    /// Whether all elements of the other are elements of this one.
    pub fn contains(&self, other: &RawSpan) -> bool {
        self.arena == other.arena
            && self.offset <= other.offset
            && other.offset - self.offset <= self.len
            && other.len <= self.len - (other.offset - self.offset)
    }
}

/// What to do with a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Write,
    Accumulate,
    Skip,
}

/// A gradient's destination.
#[derive(Clone, Copy, Debug)]
pub enum Dst<E: Element> {
    /// Overwrite.
    Write(Span<E>),
    /// Add to what is there.
    Acc(Span<E>),
    /// Not wanted (a frozen parameter): the work for it is saved.
    Skip,
}

impl<E: Element> Dst<E> {
    pub fn span(&self) -> Option<Span<E>> {
        match self {
            Dst::Write(s) | Dst::Acc(s) => Some(*s),
            Dst::Skip => None,
        }
    }

    /// Whether there is a gradient to compute.
    pub fn wanted(&self) -> bool {
        self.span().is_some()
    }

    /// Whether the gradient is added to what is there.
    pub fn accumulates(&self) -> bool {
        matches!(self, Dst::Acc(_))
    }

    /// Elements of the span, or `need` where none is wanted: for shape checks.
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
