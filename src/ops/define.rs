//! The macro that writes an op's struct and the walk over its spans.

use std::{any::Any, fmt::Debug};

use super::dropout_site::Dropout;
use crate::mem::{Access, Mode, RawSpan};

/// The walk over an op's spans, written by [`op!`](macro@crate::op).
pub trait Spans: Sized {
    const NAME: &'static str;

    /// Calls `visit` for every span: destinations first.
    fn uses(&self, visit: &mut dyn FnMut(Access, RawSpan));

    /// The name of the field that holds `span`.
    fn field(&self, span: RawSpan) -> Option<&'static str>;

    /// All that decides how much work it is, in words, for tables of timings: sizes and kinds by their names, switches that are
    /// on, dropout, gradients that are added to or not wanted, sources that it does without: `b 64 n 12800 h 2 causal`,
    /// `n 12800 i 64 o 192 +dx no db`. Calls of the same name and words are the same work.
    fn sizes(&self) -> String;

    /// The same op with the i-th gradient destination set to `mode(i)`.
    fn with_modes(&self, mode: &mut dyn FnMut(usize) -> Mode) -> Self;

    /// The same op with each span replaced by what `change` makes of it, in the order of [`Spans::uses`]: for tests of
    /// checks.
    fn with_spans(&self, change: &mut dyn FnMut(RawSpan) -> RawSpan) -> Self;
}

/// One of [`Spans::sizes`]; `None` for what says nothing of the work (probabilities, rates, seeds).
pub fn size_in_words(name: &str, value: &dyn Any, shown: &dyn Debug) -> Option<String> {
    if let Some(n) = value.downcast_ref::<usize>() {
        return Some(format!("{name} {n}"));
    }
    if let Some(on) = value.downcast_ref::<bool>() {
        return on.then(|| name.to_string());
    }
    if let Some(drop) = value.downcast_ref::<Dropout>() {
        return (drop.p > 0.0).then(|| format!("dropout {}", drop.p));
    }
    if value.is::<f32>() || value.is::<u64>() || value.is::<u32>() {
        return None;
    }
    // Kinds, taps, widths: as they write themselves, without the brackets.
    let text = format!("{shown:?}");
    let words = text.split(|c: char| "{}[](),: ".contains(c)).filter(|word| !word.is_empty());
    Some(format!("{name} {}", words.collect::<Vec<_>>().join(" ")))
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

            fn field(&self, span: $crate::mem::RawSpan) -> Option<&'static str> {
                $($(if self.$w.raw() == span {
                    return Some(stringify!($w));
                })*)?
                $($(if self.$g.span().is_some_and(|s| s.raw() == span) {
                    return Some(stringify!($g));
                })*)?
                $($(if self.$u.raw() == span {
                    return Some(stringify!($u));
                })*)?
                $($(if self.$r.raw() == span {
                    return Some(stringify!($r));
                })*)?
                None
            }

            #[allow(unused_mut)]
            fn sizes(&self) -> String {
                let mut words: Vec<String> = Vec::new();
                $($(words.extend($crate::ops::define::size_in_words(stringify!($s), &self.$s, &self.$s));)*)?
                $($(match self.$g {
                    $crate::mem::Dst::Write(_) => {}
                    $crate::mem::Dst::Acc(_) => words.push(concat!("+", stringify!($g)).into()),
                    $crate::mem::Dst::Skip => words.push(concat!("no ", stringify!($g)).into()),
                })*)?
                $($(if self.$r.is_empty() {
                    words.push(concat!("no ", stringify!($r)).into());
                })*)?
                words.join(" ")
            }

            #[allow(unused_mut, unused_variables, unused_assignments)]
            fn with_modes(&self, mode: &mut dyn FnMut(usize) -> $crate::mem::Mode) -> Self {
                let mut op = *self;
                let mut i = 0;
                $($(op.$g = op.$g.with_mode(mode(i)); i += 1;)*)?
                op
            }

            fn with_spans(&self, change: &mut dyn FnMut($crate::mem::RawSpan) -> $crate::mem::RawSpan) -> Self {
                let mut op = *self;
                $($(op.$w = op.$w.changed(change);)*)?
                $($(op.$g = match op.$g {
                    $crate::mem::Dst::Write(s) => $crate::mem::Dst::Write(s.changed(change)),
                    $crate::mem::Dst::Acc(s) => $crate::mem::Dst::Acc(s.changed(change)),
                    $crate::mem::Dst::Skip => $crate::mem::Dst::Skip,
                };)*)?
                $($(op.$u = op.$u.changed(change);)*)?
                $($(op.$r = op.$r.changed(change);)*)?
                op
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mem::{Dst, Planner},
        ops::{ConcatFwd, LinearBwd},
    };

    /// What is not the same work has not the same words.
    #[test]
    fn words_tell_work_apart() {
        let mut p = Planner::new();
        let (x, y, w, b) = (p.var(12), p.var(20), p.stat(15), p.stat(5));
        let dx = Dst::Write(x.dy);
        let op = LinearBwd { dx, dw: Dst::Acc(w), db: Dst::Skip, dy: y.dy, x: x.y, w: p.stat(15), n: 4, i: 3, o: 5 };
        assert_eq!(op.sizes(), "n 4 i 3 o 5 +dw no db");
        assert_eq!(LinearBwd { dw: Dst::Write(w), db: Dst::Write(b), ..op }.sizes(), "n 4 i 3 o 5");
        let (a, c) = (p.act(8), p.act(12));
        let op = ConcatFwd { y: p.act(20), a, b: c, c: crate::mem::Span::empty(), n: 4, widths: [2, 3, 0] };
        assert_eq!(op.sizes(), "n 4 widths 2 3 0 no c");
    }
}
