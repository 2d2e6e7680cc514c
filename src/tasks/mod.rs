/*! Tasks, one file each: how a batch is made out of sequences, what is scored, and the loss. */

pub mod loss;
pub mod masked_item;
pub mod negatives;

pub use loss::{Loss, LossKind, LossSettings};
pub use masked_item::{Batch, MaskSettings, MaskedItem, Sequence};
pub use negatives::{Sampler, SamplerKind, SamplerSettings};
