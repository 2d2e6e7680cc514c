/*! The minimum cost of a call of an op on any backend: the work and the traffic of a roofline.

*Work* is the formula in the op's head comment, computed once. A multiply-add is two operations. A comparison, a maximum
and a division are one each. Not counted are arithmetic once per row or per call, integer work (Philox, sorting), and
the addition into an `Acc` destination. Ops made of products ([`Op::PRODUCTS`](super::Op::PRODUCTS)) count only the
products: elementwise work runs on other units at the same time and would distort the share of the product rate. The
operations of all other ops are f32 operations, in bf16 mode too, so the rate of tensor cores does not apply to them.

*Traffic* is every number that must be read from or written to memory, once. Repeated reads of several passes and
scratch are specific to an implementation. Only sizes are known here, not the contents of memory, so that:
- Rows picked by ids count as if no id occurred twice, but never more than the table has. Real ids repeat, and a backend
  with a popular row in its cache can exceed the roofline of such an op.
- Padding (`NO_ID`, `NO_ROW`) counts like real rows.
- B sequences in N rows are assumed to have equal length. This is exact if they do. Otherwise it is less than the true
  value, since pairs of rows of a sequence are convex in its length (`apart`). Rows past the last sequence count as part
  of it.
*/

use std::{
    iter::Sum,
    ops::{Add, AddAssign},
};

use crate::mem::{Arena, Dst, Element, F32, Precision, Span};

/// Work and traffic of one or several calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations, without `exps`.
    pub flop: f64,
    /// Evaluations of a transcendental function: exp, ln, tanh, sigmoid, square root. A GPU's special-function units
    /// run them.
    pub exps: f64,
    /// Elements with the width of activations: those of `Act` arenas, and weights and table rows that a bf16 backend
    /// reads from the shadow of the `Param` arena.
    pub act: f64,
    /// Bytes of all other data: f32 and u32, four each on every backend.
    pub bytes: f64,
}

impl Cost {
    /// Returns the bytes moved where activations have this precision.
    pub fn moved(&self, precision: Precision) -> f64 {
        let width = match precision {
            Precision::Bf16 => 2.0,
            Precision::F32 => 4.0,
        };
        width * self.act + self.bytes
    }

    /// Creates a cost of work without traffic.
    pub fn work(flop: f64, exps: f64) -> Cost {
        Cost { flop, exps, act: 0.0, bytes: 0.0 }
    }

    /// Adds `n` elements read or written once. An empty span, an optional source, adds nothing.
    pub fn moves<E: Element>(self, span: Span<E>, n: usize) -> Cost {
        match E::ARENA {
            _ if span.is_empty() => self,
            Arena::Act => Cost { act: self.act + n as f64, ..self },
            _ => Cost { bytes: self.bytes + 4.0 * n as f64, ..self },
        }
    }

    /// Adds `n` elements read and written.
    pub fn updates<E: Element>(self, span: Span<E>, n: usize) -> Cost {
        self.moves(span, 2 * n)
    }

    /// Adds `n` weights read, by an op with kernels that read the bf16 shadow where there is one.
    pub fn weights(self, span: Span<F32>, n: usize) -> Cost {
        match span.raw().arena() {
            Arena::Param => Cost { act: self.act + n as f64, ..self },
            _ => self.moves(span, n),
        }
    }

    /// Adds a gradient of `n` elements: written, or read and written, or not wanted.
    pub fn gradient<E: Element>(self, dst: Dst<E>, n: usize) -> Cost {
        self.scatters(dst, n, n)
    }

    /// Adds a gradient of `n` elements with `touched` nonzero ones: `Write` sets the others to zero, `Acc` leaves them
    /// unchanged.
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

/// Returns the pairs of rows `rows` apart in one sequence, for `n` rows in `b` sequences.
/// The sum of max(length - rows, 0) is n - b*rows where every sequence is at least that long, and never less.
pub(super) fn apart(b: usize, n: usize, rows: usize) -> usize {
    n.saturating_sub(b.saturating_mul(rows))
}
