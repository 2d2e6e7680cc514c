//! The check that stands between an op and every backend.

use std::ops::Deref;

use super::Op;
use crate::{
    base::Error,
    mem::{Access, Arena, Owners, RawSpan, Uses},
};

/// An op that may run: its spans are large enough for its sizes ([`Op::check`]), and those that it writes overlap no others
/// ([`Uses`]). Only [`Valid::of`] makes one, and only a valid op can be executed ([`super::Run::execute`]).
#[derive(Debug)]
pub struct Valid<'a, O> {
    op: &'a O,
    uses: Uses,
}

impl<'a, O: Op> Valid<'a, O> {
    /// Checks an op: O(1), whatever its sizes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(op: &'a O) -> Result<Self, Invalid> {
        let uses = Uses::of(|visit| op.uses(visit));
        match op.check().and(uses) {
            Ok(uses) => Ok(Valid { op, uses }),
            Err(why) => Err(Invalid { op: O::NAME, sizes: op.sizes(), why, of: owner(op) }),
        }
    }

    /// Its spans, for [`HostArenas::lend`](crate::mem::HostArenas::lend).
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

/// What is wrong with an op, and where it belongs.
#[derive(Clone, Debug)]
pub struct Invalid {
    pub op: &'static str,
    pub sizes: String,
    pub why: String,
    /// A span of the layer that the op belongs to.
    pub of: RawSpan,
}

impl Invalid {
    /// The error of a program that planned such an op.
    pub fn error(&self, owners: &Owners) -> Error {
        let Invalid { op, sizes, why, of } = self;
        let layer = match owners.of(*of) {
            "" => String::new(),
            layer => format!(" of {layer}"),
        };
        Error::internal(format!("{op}{layer} ({sizes}) was not run: {why}"))
            .hint("this is a bug of mipgpu, not of your settings or data: please report it with the command line")
    }
}

/// The span whose layer an op belongs to: its newest activation. A layer plans its outputs, and their gradients, behind what
/// it takes from others, so this holds in the backward pass too; ops without activations belong to what they write.
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
