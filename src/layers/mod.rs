/*! Building blocks of models: `plan` once, then `forward` and `backward`, which mirrors forward. A layer holds only
spans and sizes. It runs its ops on any backend and never names one.

Residual connections y = x + f(x) copy nothing: the gradient span of y *is* that of x, and the branch's first layer
accumulates into it.
*/

mod block;
mod caser_conv;
mod conv_block;
mod data_summary;
mod embed;
mod ffn;
mod gru;
mod input;
mod linear;
mod norm;
mod patch;
mod rated;
mod scored;
mod self_attention;
mod side;
mod transformer;
mod users;

/// The name of the columns of the main input, which precede those of side inputs.
/// Where a run that starts from another run adds side inputs, these columns start as the identity.
pub const INPUT: &str = "input";

pub use block::{Block, BlockConfig, NormPlace};
pub use caser_conv::{CaserConv, CaserConvConfig};
pub use conv_block::{ConvBlock, ConvBlockConfig};
pub use data_summary::{DataSummary, RatingScale};
pub use embed::{Embed, EmbedConfig};
pub use ffn::Ffn;
pub use gru::Gru;
pub use input::{BatchHeader, BatchShape, Capacity, HostInput, Input};
pub use linear::Linear;
pub use norm::Norm;
pub use patch::{Patch, PatchConfig, PatchPlace};
pub use rated::{Rated, RatedConfig};
pub use scored::ScoredRows;
pub use self_attention::SelfAttention;
pub use side::{Fields, Join, Side, SideConfig};
pub use transformer::Transformer;
pub use users::{Spread, Users};

use crate::{base::rng::Purpose, ops::dropout::Dropout};

/// The rows of its sequence that a row can attend to. A task selects a view, and a model supports it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All rows of its sequence. The predicted item is replaced by [MASK].
    Both,
    /// The rows up to itself. The predicted item follows it.
    Past,
}

impl View {
    /// Whether a row sees nothing after itself.
    pub fn is_causal(self) -> bool {
        match self {
            View::Both => false,
            View::Past => true,
        }
    }
}

/// Allocates dropout sites. Every dropout of a model draws from its own stream.
#[derive(Clone, Copy, Debug)]
pub struct Sites {
    seed: u64,
    next: u32,
}

impl Sites {
    pub fn new(seed: u64) -> Self {
        Sites { seed, next: Purpose::Dropout as u32 }
    }

    /// Returns the next site, with drop probability `p`.
    pub fn take(&mut self, p: f32) -> Dropout {
        self.next += 1;
        Dropout { p, seed: self.seed, site: self.next - 1 }
    }
}

/// Returns the dropout in training, and no dropout at evaluation.
pub(crate) fn when(training: bool, drop: Dropout) -> Dropout {
    if training { drop } else { Dropout { p: 0.0, ..drop } }
}
