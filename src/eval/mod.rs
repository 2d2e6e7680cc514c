/*! How good a model is, and what it recommends: one arithmetic of scores under both, wherever they are computed.

[`evaluate`] ranks every held-out item against the whole catalogue, and in the same pass against sampled negatives and
beside its baselines; [`recommend`] keeps the best k of the same scores. A model takes part by being an
[`Encoder`]: it ranks and chooses where its item table lies, so that neither the table nor scores come here.
*/

pub mod clicks;
pub mod evaluate;
mod evaluation;
pub mod item_map;
pub mod metrics;
pub mod negatives;
pub mod personal;
pub mod popularity;
pub mod rank;
pub mod ratings;
pub mod reach;
pub mod recommend;
pub mod report;
pub mod significance;
pub mod slices;
pub mod vectors;

pub use evaluate::{EvalOptions, UserResult, evaluate};
pub use evaluation::Evaluation;
pub use item_map::ItemMap;
pub use rank::Ranks;
pub use ratings::{RatingOptions, RatingReport, evaluate_ratings};
pub use recommend::Scored;
pub use report::Report;

use std::ops::Range;

use crate::base::{Error, Result};

/// A history to be continued, and what is asked of its continuation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// Oldest first; may be empty.
    pub history: &'a [u32],
    /// Whose it is, as the model counts its users; `None`: nobody's whom it knows. Only models with user vectors ask.
    pub user: Option<u32>,
    /// Items that are no candidates: ascending, distinct.
    pub excluded: &'a [u32],
    /// Items to rank among the candidates, distinct.
    pub targets: &'a [u32],
    /// Lists of items among which, and themselves, the targets are ranked too.
    pub among: &'a [Vec<u32>],
}

/// A rating asked for: what someone who gave these ratings would give to an item.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Oldest first; may be empty.
    pub items: &'a [u32],
    /// Of each of these.
    pub ratings: &'a [f32],
    /// The model's number of the user; `None`: nobody it knows.
    pub user: Option<u32>,
    pub item: u32,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// A score that is NaN or infinite has no rank: that of this item, in this query, the first that has one.
    NotFinite { query: usize, item: u32 },
    /// What the model or its device reports.
    Failed(Error),
}

/// An answer, or why there is none.
pub type Answer<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Failed(e)
    }
}

impl Fault {
    /// The fault as an error; `whose` gives words for a query: " for user 'x'".
    pub fn error(self, whose: impl FnOnce(usize) -> String) -> Error {
        match self {
            Fault::Failed(e) => e,
            Fault::NotFinite { query, item } => {
                Error::user(format!("the model's score of item number {item}{} is NaN or infinite", whose(query)))
                    .hint("its training has diverged: use an earlier checkpoint or train with a smaller learning rate")
            }
        }
    }
}

/// A trained model as evaluation and recommendation see it: score(history, item) = <encode(history), vector of the item> +
/// bias of the item.
///
/// `encode` is the one place where a masked model is asked about the future: it appends \[MASK\] to the history and
/// gives the vector at that position. Evaluation, recommendation and export all come through it, so they cannot disagree.
/// Histories are cut to the model's length here.
pub trait Encoder {
    /// Width of the vectors, D.
    fn width(&self) -> usize;

    /// Items of the catalogue, V; no special rows.
    fn items(&self) -> usize;

    /// The vectors of some items, `out` (items, D): for export, block by block.
    ///
    /// # Errors
    /// The device has failed.
    fn item_vectors(&mut self, items: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// The biases of all items, `out` (V).
    ///
    /// # Errors
    /// The device has failed.
    fn item_biases(&mut self, out: &mut [f32]) -> Result<()>;

    /// Whether it is asked with a user's last basket alone, not with all of the history.
    fn last_basket(&self) -> bool {
        false
    }

    /// Asks about the history of each query and writes its vector; `out` (B, D).
    ///
    /// # Errors
    /// What the model reports.
    fn encode(&mut self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()>;

    /// The ratings asked for, as the model predicts them.
    ///
    /// # Errors
    /// The model predicts none; what it reports.
    fn predict(&mut self, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let _ = questions;
        Err(Error::user("the model predicts no ratings").hint("train one with --task rating"))
    }

    /// The ranks of every query's targets.
    ///
    /// # Errors
    /// A score that is NaN or infinite, of any item for any query; what the model reports.
    fn rank(&mut self, queries: &[Query<'_>]) -> Answer<Vec<Ranks>>;

    /// The best k candidates of every query, best first, of equal scores the smaller id; fewer where there are no more.
    ///
    /// # Errors
    /// As [`Encoder::rank`]; a k that the device does not serve.
    fn top_k(&mut self, queries: &[Query<'_>], k: usize) -> Answer<Vec<Vec<Scored>>>;
}
