/*! What an operation is. One file an op: its contract (a struct of spans and sizes with named fields), its shape check,
its cost, its plain-loop reference, and the cases that every backend must pass.

An op does not run itself: a backend implements [`Run`] for every op of the list at the end of this file, so a missing
op is a compile error, and timing, NaN checks or comparing two backends are one blanket implementation each.

Spans may be longer than an op needs (they are planned for the largest batch): an op uses the first elements.
Argument order: destinations, sources, sizes, scalars. Shape letters are those of ARCHITECTURE.md.
*/

#[macro_use]
pub mod define;

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod case;
pub mod ceilings;
pub mod concat;
pub mod cost;
pub mod cross_entropy;
pub mod dilated_conv;
pub mod draw_negatives;
pub mod dropout;
pub mod embedding;
pub mod field_bag;
pub mod gather_sequences;
pub mod gelu;
pub mod gru;
pub mod item_dot;
pub mod layer_norm;
pub mod linear;
pub mod mask_items;
pub mod misuse;
pub mod negative_loss;
pub mod next_items;
pub mod point_loss;
pub mod prove;
pub mod rank;
pub mod reduce;
pub mod row_adamw;
pub mod rows;
pub mod sampled_softmax;
pub mod segment;
pub mod sequence_rows;
pub mod sort_ids;
pub mod top_k;
pub mod valid;
pub mod vertical_conv;
pub mod window_conv;

pub use activation::{ActivationBwd, ActivationFwd};
pub use adamw::{AdamW, Guard};
pub use attention::{AttentionBwd, AttentionFwd};
pub use ceilings::{ExpChain, StreamCopy};
pub use concat::{ConcatBwd, ConcatFwd};
pub use cost::Cost;
pub use cross_entropy::{CrossEntropyBwd, CrossEntropyFwd};
pub use define::Spans;
pub use dilated_conv::{DilatedConvBwd, DilatedConvFwd};
pub use draw_negatives::{DrawCandidates, DrawNegatives, MarkOwn};
pub use dropout::{DropoutAddFwd, DropoutBwd, DropoutFwd};
pub use embedding::{EmbeddingFwd, GatherTable, PositionSum};
pub use field_bag::{BagBwd, BagFwd, BagLists, BagSize};
pub use gather_sequences::GatherSequences;
pub use gelu::{GeluBwd, GeluFwd};
pub use gru::{GruBwd, GruFwd};
pub use item_dot::{ItemDotBwd, ItemDotFwd};
pub use layer_norm::{LayerNormBwd, LayerNormFwd};
pub use linear::{LinearBwd, LinearFwd};
pub use mask_items::MaskItems;
pub use negative_loss::{NegativeLossBwd, NegativeLossFwd};
pub use next_items::NextItems;
pub use point_loss::{PointLossBwd, PointLossFwd};
pub use rank::{CountAtLeast, ScoreItems};
pub use reduce::{GradNorm, WeightedMean};
pub use row_adamw::{AdamWRows, CatchUpRows};
pub use rows::{GatherRows, NO_ROW, ScatterRows};
pub use sampled_softmax::{SampledSoftmaxBwd, SampledSoftmaxFwd};
pub use segment::{SegmentRows, SegmentSum};
pub use sequence_rows::{PoolBwd, PoolFwd, SpreadBwd, SpreadFwd};
pub use sort_ids::{NO_ID, SortIds};
pub use top_k::TopK;
pub use valid::{Invalid, Valid};
pub use vertical_conv::{VerticalConvBwd, VerticalConvFwd};
pub use window_conv::{WindowConvBwd, WindowConvFwd};

use std::time::Instant;

use crate::base;
pub use crate::mem::{Access, Dst, Mode};
use crate::mem::{F32, Lent, Planner, Precision, RawSpan, Scalar, Span, U32};

/// The contract of an operation.
pub trait Op: Spans + Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Whether the spans are large enough for the sizes and the sizes make sense; the message names the field.
    fn check(&self) -> Result<(), String>;

    /// Whether the op is made of products that tensor cores do: in bf16 their operands are rounded, which is part of
    /// the error that a plain implementation makes. All other ops compute in f32 whatever they store.
    const PRODUCTS: bool = false;

    /// Work and traffic of this call, by the rules of [`cost`].
    fn cost(&self) -> Cost;

    /// The operation in plain loops, in the arithmetic of `S`: the oracle at f64, the naive implementation at f32. `m` is what
    /// [`HostArenas::lend`](crate::mem::HostArenas::lend) gives for this op.
    fn reference<S: Scalar>(&self, m: &Lent<'_, S>);
}

/// A backend that can run `O`. Failures are kept, and reported by [`Memory::sync`].
pub trait Run<O: Op>: Memory {
    /// Runs an op that was checked.
    fn execute(&mut self, op: &Valid<'_, O>);

    /// Checks an op and runs it. One that fails its check is not run, and neither is anything after it: see
    /// [`Memory::refuse`].
    fn run(&mut self, op: &O) {
        if self.failed() {
            return;
        }
        match Valid::of(op) {
            Ok(op) => self.execute(&op),
            Err(why) => self.refuse(&why),
        }
    }

    /// Bytes of scratch memory that `op` takes.
    ///
    /// # Errors
    /// No implementation serves these sizes; says which are served.
    fn need(&self, op: &O) -> Result<usize, String> {
        let _ = op;
        Ok(0)
    }
}

/// Moving values between the host and a backend's arenas. Real arenas speak f32 whatever they store.
pub trait Memory {
    /// The element type of [`Act`](crate::mem::Act) arenas.
    fn precision(&self) -> Precision {
        Precision::F32
    }
    /// The type of the factors of products; their sums are f32.
    fn products(&self) -> Precision {
        self.precision()
    }

    /// Fails for good, because an op is not valid: runs nothing from here on, and says why at the next [`Memory::sync`].
    fn refuse(&mut self, why: &Invalid);
    /// Whether a failure is waiting to be reported.
    fn failed(&self) -> bool;

    fn write(&mut self, span: RawSpan, values: &[f32]);
    fn read(&mut self, span: RawSpan, values: &mut [f32]);
    fn write_ids(&mut self, span: Span<U32>, values: &[u32]);
    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]);

    /// Bytes of memory that a plan takes on this kind of backend, without scratch.
    fn bytes(plan: &Planner, precision: Precision) -> usize
    where
        Self: Sized,
    {
        let _ = precision;
        plan.bytes()
    }

    /// Takes scratch memory for what is to come, so that a step takes none.
    ///
    /// # Errors
    /// There is not enough.
    fn reserve(&mut self, bytes: usize) -> base::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// The most scratch memory in bytes that an op has taken since this was called last; 0 where ops take none.
    fn scratch_taken(&mut self) -> usize {
        0
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// The device has failed since the backend was opened, or an op was refused; what was read since then is worth nothing.
    fn sync(&mut self) -> base::Result<()> {
        Ok(())
    }

    /// Room for `len` interactions in the device's own memory, beside everything planned; `None` where there is no such
    /// memory, or not enough of it is left.
    fn resident(&mut self, len: usize) -> Option<Span<U32>> {
        let _ = len;
        None
    }

    /// As [`Memory::write_ids`], for what comes new with every step: may cross while the work before it goes on.
    fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]) {
        self.write_ids(span, values);
    }

    /// Begins to read the first four numbers of `span` as the work so far leaves them; [`Memory::collect`] gives them.
    /// At most four readings may be under way.
    fn read_later(&mut self, span: Span<F32>) -> Later {
        let mut values = [0.0; 4];
        self.read(span.first(4).raw(), &mut values);
        Later::Now(values)
    }

    /// What [`Memory::read_later`] read, waiting for it if need be; NaN once the device has failed.
    fn collect(&mut self, later: Later) -> [f32; 4] {
        match later {
            Later::Now(values) => values,
            Later::Slot(_) | Later::Lost => [f32::NAN; 4],
        }
    }

    /// Says what the work that follows is part of; nobody but a wrapper that watches listens.
    fn enter(&mut self, phase: Phase) {
        let _ = phase;
    }

    /// A moment in the order of the work, for [`Memory::seconds_between`]: when the work so far is done, not when this call
    /// is. At least the last [`MARKS`] are remembered.
    fn mark(&mut self) -> Mark {
        Mark::Now(Instant::now())
    }

    /// Seconds from one mark to a later one, waiting until the work before it is done; NaN once the device has failed or a
    /// mark is forgotten.
    fn seconds_between(&mut self, from: &Mark, to: &Mark) -> f64 {
        match (from, to) {
            (Mark::Now(from), Mark::Now(to)) => to.saturating_duration_since(*from).as_secs_f64(),
            _ => f64::NAN,
        }
    }

    /// Whether [`Memory::replay`] gains from work that comes again: then sizes are worth rounding up.
    fn replays(&self) -> bool {
        false
    }

    /// Runs `body`, or repeats what it did when it was run under this `key` before: the ops it runs, and with which spans
    /// and sizes, must follow from the key alone, and it must neither write nor read.
    fn replay(&mut self, key: u64, body: impl FnOnce(&mut Self))
    where
        Self: Sized,
    {
        let _ = key;
        body(self);
    }
}

/// Parts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Making the batch: gathering, hiding, drawing negatives.
    #[default]
    Batch,
    Forward,
    /// Scores, loss, and its way back to the scored rows.
    Loss,
    Backward,
    /// Gradient norm and optimiser.
    Update,
}

impl Phase {
    pub const ALL: [Phase; 5] = [Phase::Batch, Phase::Forward, Phase::Loss, Phase::Backward, Phase::Update];

    pub fn word(self) -> &'static str {
        match self {
            Phase::Batch => "batch",
            Phase::Forward => "forward",
            Phase::Loss => "loss",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

/// A moment in the order of a backend's work.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// Of a backend whose work is done when it returns.
    Now(Instant),
    /// The so many-th of a device.
    Device(u64),
}

/// Marks that a backend remembers at least.
pub const MARKS: usize = 1 << 14;

/// Numbers on their way from a device.
#[derive(Clone, Copy, Debug)]
pub enum Later {
    /// They are here.
    Now([f32; 4]),
    /// Where the backend finds them.
    Slot(usize),
    /// The device has failed.
    Lost,
}

/// What points at a backend is one: but what it is asked to repeat it runs.
macro_rules! pointer_to_backend {
    ($pointer:ty) => {
        impl<O: Op, B: Run<O> + ?Sized> Run<O> for $pointer {
            fn execute(&mut self, op: &Valid<'_, O>) {
                (**self).execute(op);
            }
            fn need(&self, op: &O) -> Result<usize, String> {
                (**self).need(op)
            }
        }

        impl<B: Memory + ?Sized> Memory for $pointer {
            fn precision(&self) -> Precision {
                (**self).precision()
            }
            fn products(&self) -> Precision {
                (**self).products()
            }
            fn refuse(&mut self, why: &Invalid) {
                (**self).refuse(why);
            }
            fn failed(&self) -> bool {
                (**self).failed()
            }
            fn write(&mut self, span: RawSpan, values: &[f32]) {
                (**self).write(span, values);
            }
            fn read(&mut self, span: RawSpan, values: &mut [f32]) {
                (**self).read(span, values);
            }
            fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
                (**self).write_ids(span, values);
            }
            fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
                (**self).read_ids(span, values);
            }
            fn reserve(&mut self, bytes: usize) -> base::Result<()> {
                (**self).reserve(bytes)
            }
            fn scratch_taken(&mut self) -> usize {
                (**self).scratch_taken()
            }
            fn sync(&mut self) -> base::Result<()> {
                (**self).sync()
            }
            fn resident(&mut self, len: usize) -> Option<Span<U32>> {
                (**self).resident(len)
            }
            fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]) {
                (**self).write_ids_ahead(span, values);
            }
            fn read_later(&mut self, span: Span<F32>) -> Later {
                (**self).read_later(span)
            }
            fn collect(&mut self, later: Later) -> [f32; 4] {
                (**self).collect(later)
            }
            fn enter(&mut self, phase: Phase) {
                (**self).enter(phase);
            }
            fn mark(&mut self) -> Mark {
                (**self).mark()
            }
            fn seconds_between(&mut self, from: &Mark, to: &Mark) -> f64 {
                (**self).seconds_between(from, to)
            }
            fn replays(&self) -> bool {
                (**self).replays()
            }
        }
    };
}
pointer_to_backend!(&mut B);
pointer_to_backend!(Box<B>);

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

/// The one list of ops. `$each` is a macro that is called with all of them.
#[macro_export]
macro_rules! for_all_ops {
    ($each:ident) => {
        $each! {
            NoOp,
            ActivationFwd, ActivationBwd,
            AdamW, Guard, CatchUpRows, AdamWRows,
            AttentionFwd, AttentionBwd,
            BagFwd, BagBwd,
            ConcatFwd, ConcatBwd,
            CrossEntropyFwd, CrossEntropyBwd,
            DilatedConvFwd, DilatedConvBwd,
            DrawNegatives, DrawCandidates, MarkOwn,
            DropoutFwd, DropoutAddFwd, DropoutBwd,
            EmbeddingFwd, GatherTable, PositionSum,
            ExpChain, StreamCopy,
            GatherRows, ScatterRows,
            GatherSequences, MaskItems, NextItems,
            GeluFwd, GeluBwd,
            ItemDotFwd, ItemDotBwd,
            GruFwd, GruBwd,
            LayerNormFwd, LayerNormBwd,
            LinearFwd, LinearBwd,
            NegativeLossFwd, NegativeLossBwd,
            PointLossFwd, PointLossBwd,
            SampledSoftmaxFwd, SampledSoftmaxBwd,
            SpreadFwd, SpreadBwd, PoolFwd, PoolBwd,
            SortIds, SegmentSum, SegmentRows,
            TopK, CountAtLeast, ScoreItems,
            VerticalConvFwd, VerticalConvBwd,
            WeightedMean, GradNorm,
            WindowConvFwd, WindowConvBwd
        }
    };
}

macro_rules! backend_of {
    ($($op:ident),*) => {
        /// Whoever has memory and runs every op of the list.
        pub trait Backend: Memory $(+ Run<$op>)* {}
        impl<T: Memory $(+ Run<$op>)*> Backend for T {}
    };
}
for_all_ops!(backend_of);

macro_rules! names_of {
    ($($op:ident),*) => {
        /// The names of all ops.
        pub fn names() -> &'static [&'static str] {
            &[$($op::NAME),*]
        }
    };
}
for_all_ops!(names_of);

/// The cases of every op, ready to prove backend `B`.
pub fn all_cases<B: Backend + 'static>() -> Vec<Box<dyn case::AnyCase<B>>> {
    families::<B>().into_iter().flat_map(|(_, cases)| cases()).collect()
}

/// The name of a family of cases, and the function that makes them.
pub type Family<B> = (&'static str, fn() -> Vec<Box<dyn case::AnyCase<B>>>);

/// [`all_cases`] in the families that ops define together, none made yet.
pub fn families<B: Backend + 'static>() -> Vec<Family<B>> {
    let mut all: Vec<Family<B>> = Vec::new();
    macro_rules! add {
        ($($cases:expr),* $(,)?) => { $(
            all.push((stringify!($cases), || {
                $cases.into_iter().map(|c| Box::new(c) as Box<dyn case::AnyCase<B>>).collect()
            }));
        )* };
    }
    add!(
        activation::cases(),
        adamw::cases(),
        adamw::guard_cases(),
        attention::cases(),
        ceilings::copy_cases(),
        ceilings::exp_cases(),
        concat::cases(),
        cross_entropy::cases(),
        dilated_conv::cases(),
        draw_negatives::cases(),
        draw_negatives::candidate_cases(),
        draw_negatives::own_cases(),
        dropout::cases(),
        dropout::add_cases(),
        embedding::cases(),
        embedding::gather_cases(),
        embedding::position_cases(),
        field_bag::cases(),
        gather_sequences::cases(),
        gelu::cases(),
        item_dot::cases(),
        item_dot::gradient_cases(),
        gru::cases(),
        layer_norm::cases(),
        linear::cases(),
        mask_items::cases(),
        negative_loss::cases(),
        next_items::cases(),
        point_loss::cases(),
        reduce::mean_cases(),
        reduce::norm_cases(),
        row_adamw::catch_up_cases(),
        row_adamw::cases(),
        rows::cases(),
        sampled_softmax::cases(),
        segment::cases(),
        segment::rows_cases(),
        sequence_rows::spread_cases(),
        sequence_rows::pool_cases(),
        sort_ids::cases(),
        top_k::cases(),
        rank::cases(),
        rank::score_cases(),
        vertical_conv::cases(),
        window_conv::cases(),
    );
    all
}
