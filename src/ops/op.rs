//! The contract of an operation, and the helpers of its shape check.

use super::{Cost, Spans};
use crate::mem::{Access, Lent, Mode, RawSpan, Scalar};

/// The contract of an operation.
pub trait Op: Spans + Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Checks that the spans are large enough for the sizes and that the sizes are valid; the message names the
    /// field.
    fn check(&self) -> Result<(), String>;

    /// Whether the op consists of products that tensor cores compute. In bf16 their operands are rounded, which
    /// is part of the error of a plain implementation. All other ops compute in f32, whatever they store.
    const PRODUCTS: bool = false;

    /// Returns work and traffic of this call, by the rules of [`cost`](super::cost).
    fn cost(&self) -> Cost;

    /// Runs the operation in plain loops in the arithmetic of `S`: the reference at f64, the naive implementation
    /// at f32. `m` comes from [`HostArenas::lend`](crate::mem::HostArenas::lend) for this op.
    fn reference<S: Scalar>(&self, m: &Lent<'_, S>);
}

/// Returns an error with the first span that is shorter than its shape requires.
pub(crate) fn fits(spans: &[(&str, usize, usize)]) -> Result<(), String> {
    match spans.iter().find(|(_, have, need)| have < need) {
        Some((name, have, need)) => Err(format!("{name} has {have} elements, needs {need}")),
        None => Ok(()),
    }
}

/// Returns the product of some sizes, for a shape check. On overflow it is `usize::MAX`, which no span has.
pub(crate) fn area<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// An op that does nothing: the backward pass of ops that have none.
#[derive(Clone, Copy, Debug)]
pub struct NoOp;

impl Spans for NoOp {
    const NAME: &'static str = "no_op";
    fn uses(&self, _: &mut dyn FnMut(Access, RawSpan)) {}
    fn field(&self, _: RawSpan) -> Option<&'static str> {
        None
    }
    fn sizes(&self) -> String {
        String::new()
    }
    fn with_modes(&self, _: &mut dyn FnMut(usize) -> Mode) -> Self {
        *self
    }
    fn with_spans(&self, _: &mut dyn FnMut(RawSpan) -> RawSpan) -> Self {
        *self
    }
}

impl Op for NoOp {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
    fn cost(&self) -> Cost {
        Cost::default()
    }
    fn reference<S: Scalar>(&self, _: &Lent<'_, S>) {}
}
