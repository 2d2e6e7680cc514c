//! The contract of an operation, and the helpers of its shape check.

use super::{Cost, Spans};
use crate::mem::{Access, Lent, Mode, RawSpan, Scalar};

/// The contract of an operation.
pub trait Op: Spans + Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Whether the spans are large enough for the sizes and the sizes make sense; the message names the field.
    fn check(&self) -> Result<(), String>;

    /// Whether the op is made of products that tensor cores do: in bf16 their operands are rounded, which is part of
    /// the error that a plain implementation makes. All other ops compute in f32 whatever they store.
    const PRODUCTS: bool = false;

    /// Work and traffic of this call, by the rules of [`cost`](super::cost).
    fn cost(&self) -> Cost;

    /// The operation in plain loops, in the arithmetic of `S`: the oracle at f64, the naive implementation at f32. `m`
    /// is what [`HostArenas::lend`](crate::mem::HostArenas::lend) gives for this op.
    fn reference<S: Scalar>(&self, m: &Lent<'_, S>);
}

/// `Err` naming the first span that is shorter than its shape asks for.
pub(crate) fn fits(spans: &[(&str, usize, usize)]) -> Result<(), String> {
    match spans.iter().find(|(_, have, need)| have < need) {
        Some((name, have, need)) => Err(format!("{name} has {have} elements, needs {need}")),
        None => Ok(()),
    }
}

/// The product of some sizes, for a shape check: `usize::MAX`, which no span has, where it is too large for a number.
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
