//! The list of operations and of their cases: an op that is missing in a backend does not compile.

use super::{case::Case, *};
use crate::{base::Result, mem::Planner};

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
        /// A backend: memory, a schedule, a clock, and an implementation of every op of the list.
        pub trait Backend: Memory + Schedule + Clock $(+ Run<$op>)* {}
        impl<T: Memory + Schedule + Clock $(+ Run<$op>)*> Backend for T {}
    };
}
for_all_ops!(backend_of);

/// Opens a backend for a plan.
pub type Open<'a> = &'a dyn Fn(&Planner) -> Result<Box<dyn Backend>>;

macro_rules! names_of {
    ($($op:ident),*) => {
        /// Returns the names of all ops.
        pub fn names() -> &'static [&'static str] {
            &[$($op::NAME),*]
        }
    };
}
for_all_ops!(names_of);

/// Returns the cases of every op.
pub fn all_cases() -> Vec<Case> {
    families().into_iter().flat_map(|(_, cases)| cases()).collect()
}

/// The name of a family of cases, and the function that creates them.
pub type Family = (&'static str, fn() -> Vec<Case>);

/// Returns the cases of [`all_cases`] in families that the ops define together, none created yet.
pub fn families() -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    macro_rules! add {
        ($($cases:expr),* $(,)?) => { $(all.push((stringify!($cases), || $cases));)* };
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
