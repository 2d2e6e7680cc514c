/*! How good a model is, and what it recommends: one scoring routine ([`score`]) under both.

[`evaluate`] ranks every held-out item against the whole catalogue, and in the same pass against sampled negatives and
beside a popularity baseline; [`recommend`] keeps the best k of the same scores. A model takes part by being an
[`Encoder`].
*/

pub mod evaluate;
pub mod item_map;
pub mod metrics;
pub mod negatives;
pub mod popularity;
pub mod rank;
pub mod recommend;
pub mod report;
pub mod score;
pub mod slices;
pub mod vectors;

pub use evaluate::{EvalOptions, UserResult, evaluate};
pub use item_map::ItemMap;
pub use report::Report;

use crate::base::Result;

/// A trained model as evaluation and recommendation see it: score(history, item) = <encode(history), table\[item\]> +
/// bias\[item\].
///
/// `encode` is the one place where a masked model is asked about the future: it appends \[MASK\] to the history and
/// gives the vector at that position. Evaluation, recommendation and export all come through it, so they cannot disagree.
pub trait Encoder {
    /// Width of the vectors, D.
    fn width(&self) -> usize;
    /// Item vectors (V, D); V = catalogue size, no special rows.
    fn table(&self) -> &[f32];
    /// Item biases (V).
    fn bias(&self) -> &[f32];
    /// Appends \[MASK\] to each history (oldest first; cut to the model's length here) and writes its vector; `out` (B, D).
    /// A history may be empty.
    ///
    /// # Errors
    /// What the model reports.
    fn encode(&mut self, histories: &[&[u32]], out: &mut [f32]) -> Result<()>;
}
