//! The check between an op and every backend.

use std::ops::Deref;

use super::Op;
use crate::{
    base::Error,
    mem::{Access, Arena, Owners, RawSpan, Uses},
};

/// A valid op: its spans are large enough for its sizes ([`Op::check`]), and the written ones overlap no others
/// ([`Uses`]).
/// Only [`Valid::of`] creates one, and only a valid op can be executed ([`super::Run::execute`]).
#[derive(Debug)]
pub struct Valid<'a, O> {
    op: &'a O,
    uses: Uses,
}

impl<'a, O: Op> Valid<'a, O> {
    /// Checks an op in O(1), for any sizes.
    ///
    /// # Errors
    /// The op is invalid; the error gives the reason.
    pub fn of(op: &'a O) -> Result<Self, Invalid> {
        let uses = Uses::of(|visit| op.uses(visit));
        match op.check().and(uses) {
            Ok(uses) => Ok(Valid { op, uses }),
            Err(why) => Err(Invalid { op: O::NAME, sizes: op.sizes(), why, of: owner(op) }),
        }
    }

    /// Returns its spans, for [`HostArenas::lend`](crate::mem::HostArenas::lend).
    pub fn spans(&self) -> &Uses {
        &self.uses
    }
}

impl<O> Deref for Valid<'_, O> {
    type Target = O;
    fn deref(&self) -> &O {
        self.op
    }
}

/// The reason why an op is invalid, and its layer.
#[derive(Clone, Debug)]
pub struct Invalid {
    pub op: &'static str,
    pub sizes: String,
    pub why: String,
    /// A span of the op's layer.
    pub of: RawSpan,
}

impl Invalid {
    /// Converts it to the error of a program that planned such an op.
    pub fn error(&self, owners: &Owners) -> Error {
        let Invalid { op, sizes, why, of } = self;
        let layer = match owners.of(*of) {
            "" => String::new(),
            layer => format!(" of {layer}"),
        };
        Error::internal(format!("{op}{layer} ({sizes}) was not run: {why}"))
            .hint("this is a bug in mipgpu, not in your settings or data: please report it with the command line")
    }
}

/// Returns the span that determines the layer of an op: its newest activation.
/// A layer plans its outputs and their gradients after its inputs, so this also holds in the backward pass. Ops without
/// activations belong to the layer of their outputs.
pub fn owner<O: Op>(op: &O) -> RawSpan {
    let mut first = None;
    let mut newest: Option<RawSpan> = None;
    op.uses(&mut |_: Access, span| {
        first.get_or_insert(span);
        if span.arena() == Arena::Act && newest.is_none_or(|n| n.offset() < span.offset()) {
            newest = Some(span);
        }
    });
    newest.or(first).unwrap_or(RawSpan::NOWHERE)
}
