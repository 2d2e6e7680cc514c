//! Wrappers of backends: one blanket implementation serves every op.

pub use super::timed::{Call, Timed, Written};
use crate::{
    at_once,
    base::{Error, Result},
    mem::{Arena, Owners, Planner, Precision, RawSpan, Span, U32},
    ops::{Access, Backend, Invalid, Memory, Op, Run, Valid},
};

/// Forwards the methods that a wrapper with a field `inner` does not change.
/// The wrapper runs repeated work each time, so that it sees every op of it.
#[macro_export]
#[doc(hidden)]
macro_rules! forward_to_inner {
    ($wrapper:ty) => {
        impl $crate::ops::Memory for $wrapper {
            $crate::forward_memory!(self => self.inner);
        }
        impl $crate::ops::Schedule for $wrapper {
            $crate::forward_schedule!(self => self.inner);
            fn replay(&mut self, _: u64, body: &mut dyn FnMut(&mut dyn $crate::ops::Backend)) {
                body(self);
            }
        }
        impl $crate::ops::Clock for $wrapper {
            $crate::forward_clock!(self => self.inner);
        }
    };
}

/// Finds the first op that turns finite inputs into a NaN or an infinity.
/// It reads every destination back after every op. Use it for debugging, not for training.
pub struct NanCheck<'a> {
    pub inner: &'a mut dyn Backend,
    /// The first op with a non-finite result, and the span of that result.
    pub first_fault: Option<(&'static str, RawSpan)>,
    scratch: Vec<f32>,
}

impl<'a> NanCheck<'a> {
    pub fn new(inner: &'a mut dyn Backend) -> Self {
        NanCheck { inner, first_fault: None, scratch: Vec::new() }
    }
}

impl<O: Op> Run<O> for NanCheck<'_>
where
    for<'b> dyn Backend + 'b: Run<O>,
{
    fn execute(&mut self, op: &Valid<'_, O>) {
        self.inner.execute(op);
        if self.first_fault.is_some() {
            return;
        }
        let (inner, scratch, fault) = (&mut self.inner, &mut self.scratch, &mut self.first_fault);
        op.uses(&mut |access, span| {
            if access == Access::Read || span.arena() == Arena::Index || fault.is_some() {
                return;
            }
            scratch.resize(span.len(), 0.0);
            inner.read(span, scratch);
            if scratch.iter().any(|x| !x.is_finite()) {
                *fault = Some((O::NAME, span));
            }
        });
    }
    fn need(&self, op: &O) -> std::result::Result<usize, String> {
        self.inner.need(op)
    }
}

forward_to_inner!(NanCheck<'_>);

/// Runs nothing: checks each op, and queries whether the backend supports it and how much scratch memory it needs.
pub struct DryRun<'a> {
    pub inner: &'a dyn Backend,
    /// The largest need so far.
    scratch_bytes: usize,
    /// The first op that fails its check.
    invalid: Option<Invalid>,
    /// The first unsupported op: its name and the reason.
    unserved: Option<(&'static str, String)>,
}

impl<'a> DryRun<'a> {
    pub fn new(inner: &'a dyn Backend) -> Self {
        DryRun { inner, scratch_bytes: 0, invalid: None, unserved: None }
    }

    /// Returns the bytes of scratch memory that the ops need.
    ///
    /// # Errors
    /// An op fails its check (`owners` names its layer), or the backend does not support it.
    pub fn finish(self, owners: &Owners) -> Result<usize> {
        if let Some(invalid) = self.invalid {
            return Err(invalid.error(owners));
        }
        match self.unserved {
            Some((op, why)) => Err(Error::user(format!("{op}: {why}")).hint("change the sizes, or use --device cpu")),
            None => Ok(self.scratch_bytes),
        }
    }
}

impl<O: Op> Run<O> for DryRun<'_>
where
    for<'b> dyn Backend + 'b: Run<O>,
{
    fn execute(&mut self, op: &Valid<'_, O>) {
        match self.inner.need(op) {
            Ok(bytes) => self.scratch_bytes = self.scratch_bytes.max(bytes),
            Err(why) => {
                self.unserved.get_or_insert((O::NAME, why));
            }
        }
    }
}

impl Memory for DryRun<'_> {
    fn precision(&self) -> Precision {
        Precision::F32
    }
    fn products(&self) -> Precision {
        Precision::F32
    }
    fn refuse(&mut self, why: &Invalid) {
        self.invalid.get_or_insert_with(|| why.clone());
    }
    fn failed(&self) -> bool {
        self.invalid.is_some()
    }
    fn write(&mut self, _: RawSpan, _: &[f32]) {}
    fn read(&mut self, _: RawSpan, _: &mut [f32]) {}
    fn write_ids(&mut self, _: Span<U32>, _: &[u32]) {}
    fn read_ids(&mut self, _: Span<U32>, _: &mut [u32]) {}
    fn bytes(&self, plan: &Planner) -> usize {
        plan.bytes()
    }
    fn reserve(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
    fn scratch_taken(&mut self) -> usize {
        0
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn resident(&mut self, _: usize) -> Option<Span<U32>> {
        None
    }
}

at_once!(DryRun<'_>);
