//! The oracle: every op's plain loops, in f64 to be right or in f32 to be as wrong as a naive implementation.

use crate::{
    mem::{Arena, HostArenas, Planner, RawSpan, Scalar, Span, U32},
    ops::{Memory, Op, Run},
};

/// Host arenas in the arithmetic of `S`.
pub struct Reference<S: Scalar> {
    pub arenas: HostArenas<S>,
}

impl<S: Scalar> Reference<S> {
    pub fn new(plan: &Planner) -> Self {
        Reference { arenas: HostArenas::new(plan) }
    }

    /// The values of a span in full precision.
    pub fn values(&self, span: RawSpan) -> Vec<f64> {
        self.arenas.arena(span.arena)[span.offset..][..span.len].iter().map(|x| x.f64()).collect()
    }

    /// Sets a span in full precision.
    pub fn set(&mut self, span: RawSpan, values: &[f64]) {
        let dst = &mut self.arenas.arena_mut(span.arena)[span.offset..][..values.len()];
        dst.iter_mut().zip(values).for_each(|(d, v)| *d = S::of(*v));
    }
}

impl<S: Scalar, O: Op> Run<O> for Reference<S> {
    fn run(&mut self, op: &O) {
        op.assert_disjoint();
        op.reference(&self.arenas);
    }
}

impl<S: Scalar> Memory for Reference<S> {
    fn write(&mut self, span: RawSpan, values: &[f32]) {
        let dst = &mut self.arenas.arena_mut(span.arena)[span.offset..][..values.len()];
        dst.iter_mut().zip(values).for_each(|(d, v)| *d = S::of(*v as f64));
    }

    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        let src = &self.arenas.arena(span.arena)[span.offset..][..values.len()];
        values.iter_mut().zip(src).for_each(|(v, s)| *v = s.f64() as f32);
    }

    fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
        let raw = span.raw();
        assert!(raw.arena == Arena::Index && values.len() <= raw.len);
        self.arenas.index_mut()[raw.offset..][..values.len()].copy_from_slice(values);
    }

    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
        values.copy_from_slice(&self.arenas.ids(span)[..values.len()]);
    }
}
