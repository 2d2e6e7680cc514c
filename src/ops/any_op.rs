//! Ops without their types, for code that treats all ops alike. It is compiled once instead of once per op.

use std::{any::Any, fmt::Debug};

use super::{Access, Backend, Cost, Invalid, Mode, Op, Run, Valid};
use crate::mem::{Bf16Products, HostArenas, RawSpan, Scalar, Traced};

/// An op of any type. The methods have other names than those of [`Op`] and [`super::Spans`], so that a file may use
/// both traits.
pub trait AnyOp: Any + Debug + Send + Sync {
    /// [`super::Spans::NAME`]
    fn name(&self) -> &'static str;
    /// [`Op::PRODUCTS`]
    fn is_product(&self) -> bool;
    /// [`super::Spans::uses`]
    fn visit(&self, visit: &mut dyn FnMut(Access, RawSpan));
    /// [`super::Spans::field`]
    fn field_name(&self, span: RawSpan) -> Option<&'static str>;
    /// [`super::Spans::sizes`]
    fn sizes_text(&self) -> String;
    /// [`super::Spans::with_modes`]
    fn in_modes(&self, mode: &mut dyn FnMut(usize) -> Mode) -> Box<dyn AnyOp>;
    /// [`super::Spans::with_spans`]
    fn on_spans(&self, change: &mut dyn FnMut(RawSpan) -> RawSpan) -> Box<dyn AnyOp>;
    /// [`Op::cost`]
    fn price(&self) -> Cost;

    /// Checks the op.
    ///
    /// # Errors
    /// It is invalid; see [`Valid::of`].
    fn validate(&self) -> Result<(), Invalid>;

    /// Runs the reference of a valid op.
    fn compute(&self, memory: HostMemory<'_>);

    /// Checks the op and runs it on a backend: [`Run::run`].
    fn run_on(&self, backend: &mut dyn Backend);

    /// Returns the bytes of scratch memory that it needs on a backend: [`Run::need`].
    ///
    /// # Errors
    /// The backend does not support these sizes.
    fn need_on(&self, backend: &dyn Backend) -> Result<usize, String>;
}

/// Declares the types that references compute in.
macro_rules! arithmetics {
    ($($name:ident($scalar:ty)),* $(,)?) => {
        /// Host memory in one of the types that references compute in.
        pub enum HostMemory<'a> {
            $($name(&'a mut HostArenas<$scalar>)),*
        }

        $(impl Arithmetic for $scalar {
            fn memory(arenas: &mut HostArenas<Self>) -> HostMemory<'_> {
                HostMemory::$name(arenas)
            }
        })*

        impl<O: Op> AnyOp for O
        where
            for<'a> dyn Backend + 'a: Run<O>,
        {
            fn compute(&self, memory: HostMemory<'_>) {
                let valid = Valid::of(self).unwrap_or_else(|invalid| panic!("{}: {}", invalid.op, invalid.why));
                match memory {
                    $(HostMemory::$name(m) => self.reference(&m.lend(valid.spans()))),*
                }
            }
            fn name(&self) -> &'static str {
                O::NAME
            }
            fn is_product(&self) -> bool {
                O::PRODUCTS
            }
            fn visit(&self, visit: &mut dyn FnMut(Access, RawSpan)) {
                self.uses(visit);
            }
            fn field_name(&self, span: RawSpan) -> Option<&'static str> {
                self.field(span)
            }
            fn sizes_text(&self) -> String {
                self.sizes()
            }
            fn in_modes(&self, mode: &mut dyn FnMut(usize) -> Mode) -> Box<dyn AnyOp> {
                Box::new(self.with_modes(mode))
            }
            fn on_spans(&self, change: &mut dyn FnMut(RawSpan) -> RawSpan) -> Box<dyn AnyOp> {
                Box::new(self.with_spans(change))
            }
            fn price(&self) -> Cost {
                self.cost()
            }
            fn validate(&self) -> Result<(), Invalid> {
                Valid::of(self).map(|_| ())
            }
            fn run_on(&self, backend: &mut dyn Backend) {
                backend.run(self);
            }
            fn need_on(&self, backend: &dyn Backend) -> Result<usize, String> {
                backend.need(self)
            }
        }
    };
}

/// A type that references compute in.
pub trait Arithmetic: Scalar {
    fn memory(arenas: &mut HostArenas<Self>) -> HostMemory<'_>;
}

arithmetics! {
    F32(f32),
    F64(f64),
    Bf16Products(Bf16Products),
    Traced(Traced),
}
