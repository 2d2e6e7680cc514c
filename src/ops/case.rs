//! A case: one concrete call of an op and its backward pass, with its memory plan and the values of its inputs.
//! The gradient tests and the comparison of backends use the same cases.

use super::{NoOp, any_op::AnyOp};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Arena, Element, HostArenas, Planner, Precision, RawSpan, Scalar, Span, U32, round_bf16},
};

/// The initial values of an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f32),
    /// Given numbers.
    Values(Vec<f32>),
    /// Given ids.
    Ids(Vec<u32>),
}

/// Whether a case with `n` drawn or computed inputs is created. Only Miri skips large ones, which take it
/// minutes.
pub(super) fn affordable(n: usize) -> bool {
    !cfg!(miri) || n <= 1000
}

/// One call of an op, and of its backward pass ([`NoOp`] if it has none).
#[derive(Debug)]
pub struct Case {
    pub name: String,
    /// Seed of the numbers of [`Fill::Normal`]; another seed gives other numbers of the same shape.
    pub seed: u64,
    pub plan: Planner,
    pub fills: Vec<(RawSpan, Fill)>,
    pub fwd: Box<dyn AnyOp>,
    pub bwd: Box<dyn AnyOp>,
    /// (input, its gradient): the gradient test perturbs the input and compares the gradient.
    pub inputs: Vec<(RawSpan, RawSpan)>,
    /// (output, its upstream gradient).
    pub outputs: Vec<(RawSpan, RawSpan)>,
}

impl Case {
    /// Creates a case of an op without a backward pass.
    pub fn forward(name: impl Into<String>, plan: Planner, fwd: impl AnyOp + 'static) -> Self {
        Case::new(name, plan, fwd, NoOp)
    }

    pub fn new(name: impl Into<String>, plan: Planner, fwd: impl AnyOp + 'static, bwd: impl AnyOp + 'static) -> Self {
        Self::boxed(name.into(), plan, Box::new(fwd), Box::new(bwd))
    }

    fn boxed(name: String, plan: Planner, fwd: Box<dyn AnyOp>, bwd: Box<dyn AnyOp>) -> Self {
        let name = format!("{} {name}", fwd.name());
        if let Err(invalid) = fwd.validate().and(bwd.validate()) {
            panic!("case {name}: {}", invalid.why);
        }
        Case { name, seed: 0, plan, fills: Vec::new(), fwd, bwd, inputs: Vec::new(), outputs: Vec::new() }
    }

    /// Returns the names of its ops, forward and backward.
    pub fn ops(&self) -> [&'static str; 2] {
        [self.fwd.name(), self.bwd.name()]
    }

    /// Returns the number of elements in all its arenas.
    pub fn elements(&self) -> usize {
        self.plan.bytes() / 4
    }

    pub fn normal<E: Element>(mut self, span: Span<E>, std: f32) -> Self {
        self.fills.push((span.raw(), Fill::Normal(std)));
        self
    }

    pub fn values<E: Element>(mut self, span: Span<E>, values: Vec<f32>) -> Self {
        assert_eq!(span.len(), values.len());
        self.fills.push((span.raw(), Fill::Values(values)));
        self
    }

    pub fn ids(mut self, span: Span<U32>, ids: Vec<u32>) -> Self {
        assert_eq!(span.len(), ids.len());
        self.fills.push((span.raw(), Fill::Ids(ids)));
        self
    }

    /// Adds a normal input together with the destination of its gradient.
    pub fn input<E: Element, G: Element>(mut self, x: Span<E>, std: f32, dx: Span<G>) -> Self {
        assert_eq!(x.len(), dx.len());
        self.inputs.push((x.raw(), dx.raw()));
        self.normal(x, std)
    }

    /// Adds an output together with its upstream gradient.
    /// The gradient contains fixed normal numbers. With ones, a softmax backward that returns zeros would pass.
    pub fn output<E: Element, G: Element>(mut self, y: Span<E>, dy: Span<G>) -> Self {
        assert_eq!(y.len(), dy.len());
        self.outputs.push((y.raw(), dy.raw()));
        self.normal(dy, 1.0)
    }

    /// Returns the inputs as f32, one entry per fill.
    /// They are the same for every backend of this precision. Values that a bf16 backend stores as bf16 (activations,
    /// and the weights its products read) are already rounded.
    pub fn inputs_f32(&self, precision: Precision) -> Vec<(RawSpan, Vec<f32>)> {
        let seed = self.name.bytes().fold(self.seed, |h, b| h.wrapping_mul(31).wrapping_add(b as u64));
        self.fills
            .iter()
            .enumerate()
            .filter_map(|(i, (span, fill))| match fill {
                Fill::Normal(std) => {
                    let mut draw = Stream::new(seed, Purpose::Test, i as u32);
                    Some((*span, (0..span.len()).map(|_| draw.normal() * std).collect()))
                }
                Fill::Values(v) => Some((*span, v.clone())),
                Fill::Ids(_) => None,
            })
            .map(|(span, mut values)| {
                if precision == Precision::Bf16 && matches!(span.arena(), Arena::Act | Arena::Param) {
                    values.iter_mut().for_each(|x| *x = round_bf16(*x));
                }
                (span, values)
            })
            .collect()
    }

    /// Returns host memory of the case in the arithmetic of `S`, with these inputs ([`Case::inputs_f32`]) and
    /// `background` elsewhere.
    pub fn host<S: Scalar>(&self, background: f64, inputs: &[(RawSpan, Vec<f32>)]) -> HostArenas<S> {
        let mut m = HostArenas::<S>::new(&self.plan);
        use Arena::*;
        for a in [Param, Grad, Moment1, Moment2, Act, Stat] {
            m.arena_mut(a).fill(S::of(background));
        }
        for (span, values) in inputs {
            m.get_mut(*span).iter_mut().zip(values).for_each(|(d, v)| *d = S::of(*v as f64));
        }
        for (span, fill) in &self.fills {
            if let Fill::Ids(ids) = fill {
                m.ids_mut(*span).copy_from_slice(ids);
            }
        }
        m
    }
}
