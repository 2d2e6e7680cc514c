//! The reference: the plain loops of every op, in f64 for exact results or in f32 for the errors of a naive
//! implementation.

use crate::{
    at_once,
    base::{Error, Result},
    mem::{Access, Arena, HostArenas, Planner, Precision, RawSpan, Scalar, Span, U32},
    ops::{Invalid, Memory, Op, Run, Valid},
};

/// Host arenas with the arithmetic of `S`.
pub struct Reference<S: Scalar> {
    pub arenas: HostArenas<S>,
    /// The first error of a refused op.
    refused: Option<Error>,
}

impl<S: Scalar> Reference<S> {
    pub fn new(plan: &Planner) -> Self {
        Reference { arenas: HostArenas::new(plan), refused: None }
    }

    /// Returns the values of a span in full precision.
    pub fn values(&self, span: RawSpan) -> Vec<f64> {
        self.arenas.get(span).iter().map(|x| x.f64()).collect()
    }

    /// Sets the values of a span in full precision.
    pub fn set(&mut self, span: RawSpan, values: &[f64]) {
        self.arenas.get_mut(span.slice(0, values.len())).iter_mut().zip(values).for_each(|(d, v)| *d = S::of(*v));
    }
}

impl<S: Scalar, O: Op> Run<O> for Reference<S> {
    fn execute(&mut self, op: &Valid<'_, O>) {
        op.reference(&self.arenas.lend(op.spans()));
        op.uses(&mut |access, span| {
            if access != Access::Read && span.arena() == Arena::Act {
                self.arenas.get_mut(span).iter_mut().for_each(|x| *x = x.stored());
            }
        });
    }
}

impl<S: Scalar> Memory for Reference<S> {
    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn products(&self) -> Precision {
        Precision::F32
    }

    fn refuse(&mut self, why: &Invalid) {
        self.refused.get_or_insert_with(|| why.error(self.arenas.owners()));
    }

    fn failed(&self) -> bool {
        self.refused.is_some()
    }

    fn bytes(&self, plan: &Planner) -> usize {
        plan.bytes()
    }

    fn reserve(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn scratch_taken(&mut self) -> usize {
        0
    }

    fn resident(&mut self, _: usize) -> Option<Span<U32>> {
        None
    }

    fn sync(&mut self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    fn write(&mut self, span: RawSpan, values: &[f32]) {
        self.arenas
            .get_mut(span.slice(0, values.len()))
            .iter_mut()
            .zip(values)
            .for_each(|(d, v)| *d = S::of(*v as f64));
    }

    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        let src = self.arenas.get(span.slice(0, values.len()));
        values.iter_mut().zip(src).for_each(|(v, s)| *v = s.f64() as f32);
    }

    fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
        self.arenas.ids_mut(span.first(values.len()).raw()).copy_from_slice(values);
    }

    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
        values.copy_from_slice(self.arenas.ids(span.first(values.len()).raw()));
    }
}

at_once!(Reference<S>, for S: Scalar);
