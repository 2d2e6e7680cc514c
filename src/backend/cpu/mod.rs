/*! The CPU backend: rayon over rows, SIMD inside.

All values are stored in f32. In bf16, the factors of the most expensive products (dense layers, attention, dilated
convolutions, scores over the catalogue) are rounded as they are packed and summed in f32. Processors with bf16
instructions multiply twice as fast, and everything but products keeps f32 precision.

Guarantees: a result does not depend on the number of threads, because work is cut by sizes and partial sums are added
in a fixed order. A step in its steady state allocates nothing, because [`scratch`] grows once. Run a whole step inside
`ThreadPool::install`, so that no op pays for entering the pool.
*/

mod activation;
mod adamw;
mod attention;
mod ceilings;
mod concat;
mod cross_entropy;
mod dilated_conv;
mod draw_negatives;
mod dropout;
mod embedding;
mod field_bag;
mod gather_sequences;
mod gelu;
pub mod gemm;
mod gru;
mod item_dot;
mod layer_norm;
mod linear;
mod mask_items;
pub mod math;
mod negative_loss;
mod next_items;
mod point_loss;
pub mod products;
mod rank;
mod reduce;
mod row_adamw;
mod rows;
mod sampled_softmax;
mod scores;
pub mod scratch;
mod segment;
mod sequence_rows;
mod shifted;
pub mod simd;
mod softmax_tiles;
mod sort_ids;
mod top_k;
mod vertical_conv;
mod window_conv;

use crate::{
    at_once,
    base::{Error, Result},
    mem::{Dst, Element, HostArenas, Lent, Planner, Precision, RawSpan, Span, U32},
    ops::{Invalid, Memory, NoOp, Op, Run, Valid},
};

/// Elements of an elementwise op per task: large enough to justify a task, and a multiple of the eight draws of a
/// dropout block.
const CHUNK: usize = 16 * 1024;

/// Host memory of a plan. The threads of the current rayon pool work on it.
pub struct Cpu {
    arenas: HostArenas<f32>,
    products: Precision,
    /// The first error of a refused op.
    refused: Option<Error>,
}

/// The memory that one op works on.
struct Work<'a> {
    lent: Lent<'a, f32>,
    products: Precision,
}

/// Calls `f(args)` with the operand type of the backend's precision: `f::<F32Operand>` or `f::<Bf16Operand>`.
macro_rules! in_precision {
    ($work:expr, $f:ident($($arg:expr),*)) => {
        match $work.products {
            $crate::mem::Precision::F32 => $f::<$crate::backend::cpu::gemm::F32Operand>($($arg),*),
            $crate::mem::Precision::Bf16 => $f::<$crate::backend::cpu::gemm::Bf16Operand>($($arg),*),
        }
    };
}
use in_precision;

impl Cpu {
    /// Allocates zeroed memory for the plan, in f32 throughout.
    pub fn new(plan: &Planner) -> Self {
        Cpu::with(plan, Precision::F32)
    }

    /// Works like [`Cpu::new`], with products in the given precision.
    pub fn with(plan: &Planner, products: Precision) -> Self {
        Cpu { arenas: HostArenas::new(plan), products, refused: None }
    }

    /// Returns the memory of an op.
    fn lend<'a, O: Op>(&'a mut self, op: &'a Valid<'_, O>) -> Work<'a> {
        Work { lent: self.arenas.lend(op.spans()), products: self.products }
    }
}

impl<'a> Work<'a> {
    /// Returns the first `n` elements of a source.
    fn get<E: Element>(&self, span: Span<E>, n: usize) -> &'a [f32] {
        self.lent.get(span.first(n))
    }

    /// Returns the first `n` elements of a destination, which can be taken once.
    #[allow(clippy::mut_from_ref)]
    fn out<E: Element>(&self, span: Span<E>, n: usize) -> &'a mut [f32] {
        self.lent.get_mut(span.first(n))
    }

    /// Returns the first `n` elements of a gradient and whether to add to them, or `None` where it is not wanted.
    #[allow(clippy::mut_from_ref)]
    fn grad<E: Element>(&self, dst: Dst<E>, n: usize) -> Option<(&'a mut [f32], bool)> {
        dst.span().map(|span| (self.out(span, n), dst.accumulates()))
    }

    /// Returns the first `n` ids of a source.
    fn ids(&self, span: Span<U32>, n: usize) -> &'a [u32] {
        self.lent.ids(span.first(n))
    }
}

impl Run<NoOp> for Cpu {
    fn execute(&mut self, _: &Valid<'_, NoOp>) {}
}

impl Memory for Cpu {
    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn products(&self) -> Precision {
        self.products
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
        self.arenas.get_mut(span.slice(0, values.len())).copy_from_slice(values);
    }

    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        values.copy_from_slice(self.arenas.get(span.slice(0, values.len())));
    }

    fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
        self.arenas.ids_mut(span.first(values.len()).raw()).copy_from_slice(values);
    }

    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
        values.copy_from_slice(self.arenas.ids(span.first(values.len()).raw()));
    }
}

at_once!(Cpu);
