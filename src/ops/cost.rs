/*! What a call of an op costs at least, whoever runs it: the work and the traffic that a roofline is drawn from.

*Work* is what the formula in the op's head comment asks for, done once. A multiply-add is two operations; a comparison, a
maximum and a division are one; arithmetic once a row or once a call, integers (Philox, sorting) and the addition into an
`Acc` destination are not counted. Ops made of products ([`Op::PRODUCTS`](super::Op::PRODUCTS)) count the products alone:
what is done to their elements runs on other units beside them, and would blur a share of the rate of products. The
operations of all other ops are f32 ones, in bf16 mode too: the rate of tensor cores is not theirs.

*Traffic* is every number that must come from memory or go there, once: what two passes over the same data read twice, and
scratch, are an implementation's own. Sizes alone are known here, not what stands in memory, so that
- rows that are picked by ids count as if no id came twice, but never more than the table has: real ids repeat, and a backend
  that finds a popular row in its cache can seem to beat the roof of such an op;
- padding (`NO_ID`, `NO_ROW`) counts as if it were none;
- sequences that lie in N rows, B of them, are taken to be of equal length: exact where they are, else less than the truth,
  since pairs of rows of a sequence are convex in its length (`apart`). Rows behind the last sequence count as part of it.
*/

use std::{
    iter::Sum,
    ops::{Add, AddAssign},
};

use crate::mem::{Arena, Dst, Element, F32, Precision, Span};

/// Work and traffic of a call, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations, without `exps`.
    pub flop: f64,
    /// Evaluations of a transcendental function: exp, ln, tanh, sigmoid, square root. What a GPU's special-function units do.
    pub exps: f64,
    /// Elements of the width of activations: those of `Act` arenas, and weights and table rows that a bf16 backend reads
    /// through the shadow of the `Param` arena.
    pub act: f64,
    /// Bytes of all else: f32 and u32, four each on every backend.
    pub bytes: f64,
}

impl Cost {
    /// Bytes moved where activations have this precision.
    pub fn moved(&self, precision: Precision) -> f64 {
        let width = match precision {
            Precision::Bf16 => 2.0,
            Precision::F32 => 4.0,
        };
        width * self.act + self.bytes
    }

    /// Work that has moved nothing yet.
    pub fn work(flop: f64, exps: f64) -> Cost {
        Cost { flop, exps, act: 0.0, bytes: 0.0 }
    }

    /// With `n` elements read or written once. Nothing where the span is empty: a source that the op does without.
    pub fn moves<E: Element>(self, span: Span<E>, n: usize) -> Cost {
        match E::ARENA {
            _ if span.is_empty() => self,
            Arena::Act => Cost { act: self.act + n as f64, ..self },
            _ => Cost { bytes: self.bytes + 4.0 * n as f64, ..self },
        }
    }

    /// With `n` elements read and written.
    pub fn updates<E: Element>(self, span: Span<E>, n: usize) -> Cost {
        self.moves(span, 2 * n)
    }

    /// With `n` weights read, by an op whose kernels read the bf16 shadow where there is one.
    pub fn weights(self, span: Span<F32>, n: usize) -> Cost {
        match span.raw().arena() {
            Arena::Param => Cost { act: self.act + n as f64, ..self },
            _ => self.moves(span, n),
        }
    }

    /// With a gradient of `n` elements: written, or read and written, or not wanted.
    pub fn gradient<E: Element>(self, dst: Dst<E>, n: usize) -> Cost {
        self.scatters(dst, n, n)
    }

    /// With a gradient of `n` elements of which `touched` get something: `Write` sets the others to zero, `Acc` leaves them.
    pub fn scatters<E: Element>(self, dst: Dst<E>, touched: usize, n: usize) -> Cost {
        match dst {
            Dst::Write(span) => self.moves(span, n),
            Dst::Acc(span) => self.updates(span, touched),
            Dst::Skip => self,
        }
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flop: self.flop + other.flop,
            exps: self.exps + other.exps,
            act: self.act + other.act,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(all: I) -> Cost {
        all.fold(Cost::default(), Add::add)
    }
}

/// Pairs of rows `rows` apart in one sequence, of `n` rows in `b` sequences: the sum of max(length - rows, 0) is n - b*rows
/// where every sequence is as long as that, and never less.
pub(super) fn apart(b: usize, n: usize, rows: usize) -> usize {
    n.saturating_sub(b.saturating_mul(rows))
}

#[cfg(test)]
pub mod tests;
