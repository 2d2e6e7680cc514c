/*! The CPU backend: rayon over rows, SIMD inside.

Everything is kept in f32. In bf16 the factors of the products that most of a step's time goes to (dense layers,
attention, dilated convolutions, scores over the catalogue) are rounded as they are packed, and summed in f32: processors with
instructions for it multiply twice as fast, and what is not a product keeps its digits.

Promises: a result does not depend on the number of threads (work is cut by sizes, partial sums are added in a fixed
order), and a step in its steady state allocates nothing ([`scratch`] grows once). Run a whole step inside
`ThreadPool::install`, so that no op pays for handing its work to the pool.
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
    mem::{Arena, Dst, Element, HostArenas, Planner, Precision, RawSpan, Span, U32},
    ops::{Memory, NoOp, Run},
};

/// Elements of an elementwise op that one task takes: long enough to be worth handing over, and a multiple of the
/// eight draws of a dropout block.
const CHUNK: usize = 16 * 1024;

/// Host memory of a plan, worked on by the threads of the current rayon pool.
pub struct Cpu {
    arenas: HostArenas<f32>,
    products: Precision,
}

/// `f(args)` with the factors of the backend's precision: `f::<Singles>` or `f::<Pairs>`.
macro_rules! in_precision {
    ($cpu:expr, $f:ident($($arg:expr),*)) => {
        match $cpu.products {
            $crate::mem::Precision::F32 => $f::<$crate::backend::cpu::gemm::Singles>($($arg),*),
            $crate::mem::Precision::Bf16 => $f::<$crate::backend::cpu::gemm::Pairs>($($arg),*),
        }
    };
}
use in_precision;

impl Cpu {
    /// Memory for everything in the plan, starting as zeros; f32 throughout.
    pub fn new(plan: &Planner) -> Self {
        Cpu::with(plan, Precision::F32)
    }

    /// [`Cpu::new`] with products of a precision.
    pub fn with(plan: &Planner, products: Precision) -> Self {
        Cpu { arenas: HostArenas::new(plan), products }
    }

    /// The first `n` elements of a source.
    fn get<E: Element>(&self, span: Span<E>, n: usize) -> &[f32] {
        self.arenas.get(span.first(n))
    }

    /// The first `n` elements of a destination.
    ///
    /// # Safety
    /// As [`HostArenas::get_mut`]: the op has passed `assert_disjoint`, and each destination is taken once.
    #[allow(clippy::mut_from_ref)]
    unsafe fn out<E: Element>(&self, span: Span<E>, n: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.arenas.get_mut(span.first(n)) }
    }

    /// The first `n` elements of a gradient and whether to add to them; `None` where it is not wanted.
    ///
    /// # Safety
    /// As [`Cpu::out`].
    #[allow(clippy::mut_from_ref)]
    unsafe fn grad<E: Element>(&self, dst: Dst<E>, n: usize) -> Option<(&mut [f32], bool)> {
        // SAFETY: the caller's promise.
        dst.span().map(|span| (unsafe { self.out(span, n) }, dst.accumulates()))
    }

    fn ids(&self, span: Span<U32>, n: usize) -> &[u32] {
        self.arenas.ids(span.first(n))
    }
}

impl Run<NoOp> for Cpu {
    fn run(&mut self, _: &NoOp) {}
}

impl Memory for Cpu {
    fn products(&self) -> Precision {
        self.products
    }

    fn write(&mut self, span: RawSpan, values: &[f32]) {
        assert!(values.len() <= span.len);
        self.arenas.arena_mut(span.arena)[span.offset..][..values.len()].copy_from_slice(values);
    }

    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        assert!(values.len() <= span.len);
        values.copy_from_slice(&self.arenas.arena(span.arena)[span.offset..][..values.len()]);
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
