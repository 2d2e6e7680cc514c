//! Lays out all memory of a run before its first step.

use super::span::{Act, Arena, Dst, Element, F32, RawSpan, Span, U32};

/// Spans start on a multiple of this many elements (64 bytes of f32), so that vector loads are aligned.
const ALIGN: usize = 16;

/// An activation `y` and the gradient of the loss with respect to it, `dy`; equal shapes.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    pub y: Span<Act>,
    pub dy: Span<Act>,
}

/// A weight with its gradient and Adam moments, all of one shape.
#[derive(Clone, Debug)]
pub struct Param {
    /// Documented name, as in the checkpoint: `block.0.attention.qkv.weight`.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The name and length of each part of the columns, by input ([`Planner::columns`]). Empty: all columns are one
    /// part.
    pub columns: Vec<(String, usize)>,
    pub w: Span<F32>,
    pub dw: Span<F32>,
    pub m: Span<F32>,
    pub v: Span<F32>,
    /// The last update step of each row (V), for a table that is updated by rows ([`Planner::rows`]). Its `dw` then
    /// contains only the gradients of the rows that a batch touches.
    pub last: Option<Span<U32>>,
    /// Whether weight decay applies (matrices: yes; biases and norms: no).
    pub decay: bool,
    /// Initial value.
    pub init: Init,
    /// Whether it is frozen: no gradient, no moments ([`Planner::freeze_but`]).
    pub frozen: bool,
}

impl Param {
    /// Returns the destination of its gradient.
    pub fn grad(&self) -> Dst<F32> {
        self.grad_of(0, self.dw.len())
    }

    /// Returns the destination of the gradient of `len` of its numbers, from `start` on.
    pub fn grad_of(&self, start: usize, len: usize) -> Dst<F32> {
        if self.frozen { Dst::Skip } else { Dst::Write(self.dw.slice(start, len)) }
    }
}

/// State of an optimiser other than weights and moments.
#[derive(Clone, Debug)]
pub struct Kept {
    pub name: String,
    pub shape: Vec<usize>,
    pub span: RawSpan,
}

/// The initial value of a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation, redrawn outside two standard deviations (as in BERT).
    TruncatedNormal(f32),
    Constant(f32),
}

/// The layers that spans were planned for, for error messages.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// (arena, offset, name of the layer), in order of offset.
    labels: Vec<(Arena, usize, String)>,
}

impl Owners {
    /// Returns the layer a span was planned for, or an empty string where it is unknown.
    pub fn of(&self, span: RawSpan) -> &str {
        let holds = |l: &&(Arena, usize, String)| l.0 == span.arena() && l.1 <= span.offset();
        self.labels.iter().rev().find(holds).map_or("", |l| &l.2)
    }
}

/// Returns the number of elements of a shape.
fn elements(shape: &[usize]) -> usize {
    let product = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
    product.unwrap_or_else(|| panic!("a tensor of {shape:?}: no memory is that large"))
}

/// Allocates spans, and reports the size of each arena afterwards.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    len: [usize; Arena::COUNT],
    params: Vec<Param>,
    kept: Vec<Kept>,
    owners: Owners,
    label: String,
    /// Parts of the names of trained parameters; `None`: all are trained.
    trained: Option<Vec<String>>,
}

impl Planner {
    pub fn new() -> Self {
        Self::default()
    }

    /// Freezes all parameters planned from now on, except those with names that contain one of `parts`.
    pub fn freeze_but(&mut self, parts: &[&str]) {
        self.trained = Some(parts.iter().map(|part| part.to_string()).collect());
    }

    fn take<E: Element>(&mut self, arena: Arena, len: usize) -> Span<E> {
        let offset = self.len[arena as usize];
        let labels = &mut self.owners.labels;
        if labels.iter().rev().find(|l| l.0 == arena).is_none_or(|l| l.2 != self.label) {
            labels.push((arena, offset, self.label.clone()));
        }
        let span = Span::new(arena, offset, len);
        self.len[arena as usize] = (offset + len).checked_next_multiple_of(ALIGN).expect("the plan is too large");
        span
    }

    /// Sets the layer name for the following spans: `block.0.attention`.
    pub fn label(&mut self, name: &str) {
        name.clone_into(&mut self.label);
    }

    /// Returns the layer a span was planned for.
    pub fn owner(&self, span: RawSpan) -> &str {
        self.owners.of(span)
    }

    /// Returns the layers of all spans.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Returns a whole arena as one span.
    pub fn whole(&self, arena: Arena) -> RawSpan {
        Span::<U32>::new(arena, 0, self.len(arena)).raw()
    }

    /// Plans an activation without a gradient.
    pub fn act(&mut self, len: usize) -> Span<Act> {
        self.take(Arena::Act, len)
    }

    /// Plans an activation and its gradient.
    pub fn var(&mut self, len: usize) -> Var {
        Var { y: self.act(len), dy: self.act(len) }
    }

    /// Plans a weight alone, for the cases of an op. Weights of a model have gradients and moments
    /// ([`Planner::param`]).
    pub fn weight(&mut self, len: usize) -> Span<F32> {
        self.take(Arena::Param, len)
    }

    /// Plans f32 statistics, losses or settings.
    pub fn stat(&mut self, len: usize) -> Span<F32> {
        self.take(Arena::Stat, len)
    }

    /// Plans u32 ids, offsets or counters.
    pub fn index(&mut self, len: usize) -> Span<U32> {
        self.take(Arena::Index, len)
    }

    /// Plans a weight, its gradient and its moments. Matrices have `decay`.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Param {
        let (name, len) = (name.into(), elements(shape));
        assert!(self.params.iter().all(|p| p.name != name), "two parameters are called {name}");
        let frozen = self.trained.as_ref().is_some_and(|parts| !parts.iter().any(|part| name.contains(part)));
        let trained = if frozen { 0 } else { len };
        let param = Param {
            name,
            shape: shape.to_vec(),
            columns: Vec::new(),
            w: self.take(Arena::Param, len),
            dw: self.take(Arena::Grad, trained),
            m: self.take(Arena::Moment1, trained),
            v: self.take(Arena::Moment2, trained),
            last: None,
            decay: shape.len() > 1,
            init,
            frozen,
        };
        self.params.push(param.clone());
        param
    }

    /// Plans a table (V,...) of which a step touches at most `most` rows.
    /// It has gradients for those rows alone, and the last update step of each row, which a checkpoint must keep.
    pub fn rows(&mut self, name: impl Into<String>, shape: &[usize], init: Init, most: usize) -> Param {
        let (name, rows, len) = (name.into(), shape[0], elements(shape));
        assert!(self.params.iter().all(|p| p.name != name), "two parameters are called {name}");
        let last = self.index(rows);
        self.keep(format!("optimizer.last.{name}"), &[rows], last.raw());
        let param = Param {
            name,
            shape: shape.to_vec(),
            columns: Vec::new(),
            w: self.take(Arena::Param, len),
            dw: self.take(Arena::Grad, elements(&[most, len / rows.max(1)])),
            m: self.take(Arena::Moment1, len),
            v: self.take(Arena::Moment2, len),
            last: Some(last),
            decay: shape.len() > 1,
            init,
            frozen: false,
        };
        self.params.push(param.clone());
        param
    }

    /// Plans a table, updated by rows if `touched` is the maximum number of rows per step, else like any parameter.
    pub fn table(&mut self, name: &str, shape: &[usize], init: Init, touched: Option<usize>) -> Param {
        let frozen = self.trained.as_ref().is_some_and(|parts| !parts.iter().any(|part| name.contains(part)));
        match touched.filter(|_| !frozen) {
            Some(most) => self.rows(name, shape, init, most),
            None => self.param(name, shape, init),
        }
    }

    /// Names the inputs of the columns of parameter `name`.
    /// A run that starts from another run takes over columns by these names. Columns of parts that the other run lacks
    /// start at zero.
    pub fn columns(&mut self, name: &str, parts: Vec<(String, usize)>) {
        let p = self.params.iter_mut().find(|p| p.name == name);
        let p = p.unwrap_or_else(|| panic!("no parameter is called {name}"));
        assert_eq!(
            parts.iter().map(|(_, width)| width).sum::<usize>(),
            p.shape[1..].iter().product::<usize>(),
            "{name}"
        );
        p.columns = parts;
    }

    /// Registers a span that a checkpoint must also keep for resumed runs.
    pub fn keep(&mut self, name: impl Into<String>, shape: &[usize], span: RawSpan) {
        assert_eq!(elements(shape), span.len());
        self.kept.push(Kept { name: name.into(), shape: shape.to_vec(), span });
    }

    /// Returns the spans registered with [`Planner::keep`].
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Returns all parameters in the order of planning.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Returns the number of elements of an arena.
    pub fn len(&self, arena: Arena) -> usize {
        self.len[arena as usize]
    }

    /// Returns the gradients of all weights as one span, including alignment gaps, which hold zeros in every arena.
    pub fn all_gradients(&self) -> Span<F32> {
        Span::new(Arena::Grad, 0, self.len(Arena::Grad))
    }

    /// Makes every arena at least as large as that of `other`, so that one backend serves the spans of both.
    pub fn cover(&mut self, other: &Planner) {
        self.len.iter_mut().zip(other.len).for_each(|(len, other)| *len = other.max(*len));
    }

    /// Converts a raw span back to an index span.
    pub fn index_span(&self, raw: RawSpan) -> Span<U32> {
        assert!(self.whole(Arena::Index).contains(&raw), "{raw:?} is no span of ids of this plan");
        Span::new(Arena::Index, raw.offset(), raw.len())
    }

    /// Returns the bytes of all arenas with 4-byte elements.
    pub fn bytes(&self) -> usize {
        self.len.iter().sum::<usize>() * 4
    }
}
