//! The macro that writes an op's struct and the walk over its spans.

use std::any::Any;

use super::dropout::Drop;
use crate::mem::{Mode, RawSpan};

/// What an op does with a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Overwritten whatever it held.
    Write,
    /// Added to.
    Accumulate,
    /// Read and rewritten in place (optimiser state).
    Update,
}

/// The walk over an op's spans, written by [`op!`](macro@crate::op).
pub trait Spans: Sized {
    const NAME: &'static str;

    /// Calls `visit` for every span: destinations first.
    fn uses(&self, visit: &mut dyn FnMut(Access, RawSpan));

    /// Its sizes in words, for tables of timings: whole numbers by their names, switches that are on, dropout:
    /// `b 64 n 12800 h 2 causal`. Calls of the same name and sizes are the same work.
    fn sizes(&self) -> String;

    /// The same op with the i-th gradient destination set to `mode(i)`.
    fn with_modes(&self, mode: &mut dyn FnMut(usize) -> Mode) -> Self;
}

/// One of [`Spans::sizes`]; `None` for what says nothing of the work.
pub fn size_in_words(name: &str, value: &dyn Any) -> Option<String> {
    if let Some(n) = value.downcast_ref::<usize>() {
        return Some(format!("{name} {n}"));
    }
    match (value.downcast_ref::<bool>(), value.downcast_ref::<Drop>()) {
        (Some(true), _) => Some(name.to_string()),
        (_, Some(drop)) if drop.p > 0.0 => Some(format!("dropout {}", drop.p)),
        _ => None,
    }
}

/// Defines an op: `write` spans are overwritten, `grad` are [`Dst`], `update` are rewritten in place, `read` are
/// sources, `with` are sizes and scalars. Every group may be left out; the order of groups is fixed.
#[macro_export]
macro_rules! op {
    (
        $(#[$doc:meta])*
        $name:ident = $text:literal {
            $(write { $($(#[$wd:meta])* $w:ident: $wt:ty),* $(,)? })?
            $(grad { $($(#[$gd:meta])* $g:ident: $gt:ty),* $(,)? })?
            $(update { $($(#[$ud:meta])* $u:ident: $ut:ty),* $(,)? })?
            $(read { $($(#[$rd:meta])* $r:ident: $rt:ty),* $(,)? })?
            $(with { $($(#[$sd:meta])* $s:ident: $st:ty),* $(,)? })?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            $($($(#[$wd])* pub $w: $crate::mem::Span<$wt>,)*)?
            $($($(#[$gd])* pub $g: $crate::mem::Dst<$gt>,)*)?
            $($($(#[$ud])* pub $u: $crate::mem::Span<$ut>,)*)?
            $($($(#[$rd])* pub $r: $crate::mem::Span<$rt>,)*)?
            $($($(#[$sd])* pub $s: $st,)*)?
        }

        impl $crate::ops::Spans for $name {
            const NAME: &'static str = $text;

            fn uses(&self, visit: &mut dyn FnMut($crate::ops::Access, $crate::mem::RawSpan)) {
                #[allow(unused_imports)]
                use $crate::{mem::Dst, ops::Access};
                $($(visit(Access::Write, self.$w.raw());)*)?
                $($(match self.$g {
                    Dst::Write(s) => visit(Access::Write, s.raw()),
                    Dst::Acc(s) => visit(Access::Accumulate, s.raw()),
                    Dst::Skip => {}
                })*)?
                $($(visit(Access::Update, self.$u.raw());)*)?
                $($(visit(Access::Read, self.$r.raw());)*)?
            }

            #[allow(unused_mut)]
            fn sizes(&self) -> String {
                let mut words: Vec<String> = Vec::new();
                $($(words.extend($crate::ops::define::size_in_words(stringify!($s), &self.$s));)*)?
                words.join(" ")
            }

            #[allow(unused_mut, unused_variables, unused_assignments)]
            fn with_modes(&self, mode: &mut dyn FnMut(usize) -> $crate::mem::Mode) -> Self {
                let mut op = *self;
                let mut i = 0;
                $($(op.$g = op.$g.with_mode(mode(i)); i += 1;)*)?
                op
            }
        }
    };
}
