/*! Operations. Each op has one file with its contract (a struct of spans and sizes with named fields), its
shape check, its cost, its reference in plain loops, and the cases that every backend must pass.

An op does not run itself. A backend implements [`Run`] for every op in `list.rs`, so a missing op is a compile
error, and timing, NaN checks and the comparison of backends are one blanket implementation each.

Spans may be longer than an op needs, because they are planned for the largest batch; the op uses the first
elements. Argument order: destinations, sources, sizes, scalars. Shape letters are those of ARCHITECTURE.md.
*/

#[macro_use]
pub mod define;

pub mod activation;
pub mod adamw;
pub mod any_op;
pub mod attention;
pub mod case;
pub mod ceilings;
pub mod concat;
pub mod cost;
pub mod cross_entropy;
pub mod dilated_conv;
pub mod draw_negatives;
pub mod dropout;
mod dropout_site;
pub mod embedding;
pub mod field_bag;
pub mod gather_sequences;
pub mod gelu;
pub mod gru;
pub mod item_dot;
pub mod layer_norm;
pub mod linear;
mod list;
pub mod mask_items;
mod memory;
pub mod misuse;
pub mod negative_loss;
pub mod next_items;
mod op;
pub mod point_loss;
pub mod prove;
pub mod rank;
pub mod reduce;
pub mod row_adamw;
pub mod rows;
mod run;
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
pub use any_op::AnyOp;
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
pub use list::{Backend, Family, Open, all_cases, families, names};
pub use mask_items::MaskItems;
pub use memory::{Clock, Later, MARKS, Mark, Memory, Phase, Schedule};
pub use negative_loss::{NegativeLossBwd, NegativeLossFwd};
pub use next_items::NextItems;
pub use op::{NoOp, Op};
pub(crate) use op::{area, fits};
pub use point_loss::{PointLossBwd, PointLossFwd};
pub use rank::{CountAtLeast, ScoreItems};
pub use reduce::{GradNorm, WeightedMean};
pub use row_adamw::{AdamWRows, CatchUpRows};
pub use rows::{GatherRows, NO_ROW, ScatterRows};
pub use run::Run;
pub use sampled_softmax::{SampledSoftmaxBwd, SampledSoftmaxFwd};
pub use segment::{SegmentRows, SegmentSum};
pub use sequence_rows::{PoolBwd, PoolFwd, SpreadBwd, SpreadFwd};
pub use sort_ids::{NO_ID, SortIds};
pub use top_k::TopK;
pub use valid::{Invalid, Valid};
pub use vertical_conv::{VerticalConvBwd, VerticalConvFwd};
pub use window_conv::{WindowConvBwd, WindowConvFwd};

pub use crate::mem::{Access, Dst, Mode};
