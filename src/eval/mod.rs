/*! Evaluation and recommendation, both computed from the same scores on every device.

[`evaluate`] ranks every held-out item against the whole catalogue. The same pass ranks it among sampled negatives and
computes the baselines. [`recommend`] keeps the best k of the same scores. A model implements [`Encoder`]: it ranks
and selects where its item table resides, so neither the table nor the scores are copied here.
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

/// A history to continue, and the items to rank as its continuation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// Oldest first; may be empty.
    pub history: &'a [u32],
    /// The user, by the model's numbering; `None` if the model does not know the user. Only models with user vectors
    /// read it.
    pub user: Option<u32>,
    /// Items that are not candidates: ascending, distinct.
    pub excluded: &'a [u32],
    /// Items to rank among the candidates, distinct.
    pub targets: &'a [u32],
    /// Lists of items; the targets are also ranked among each list and themselves.
    pub among: &'a [Vec<u32>],
}

/// A rating to predict: the rating of an item by the user with these ratings.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Oldest first; may be empty.
    pub items: &'a [u32],
    /// The rating of each of these items.
    pub ratings: &'a [f32],
    /// The user, by the model's numbering; `None` if the model does not know the user.
    pub user: Option<u32>,
    pub item: u32,
}

/// The reason why a query has no answer.
#[derive(Debug)]
pub enum Fault {
    /// A score is NaN or infinite and has no rank: the first such item and its query.
    NotFinite { query: usize, item: u32 },
    /// The error of the model or its device.
    Failed(Error),
}

/// An answer, or the reason why there is none.
pub type Answer<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Failed(e)
    }
}

impl Fault {
    /// Returns the fault as an error; `whose` words the query: " for user 'x'".
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

/// A trained model as evaluation and recommendation see it: score(history, item) = <encode(history), vector of the
/// item> + bias of the item.
///
/// `encode` is the one place where a masked model predicts the next item: it appends \[MASK\] to the history and
/// returns the vector at that position. Evaluation, recommendation and export all call it, so their results agree. It
/// truncates histories to the model's length.
pub trait Encoder {
    /// Returns the width of the vectors, D.
    fn width(&self) -> usize;

    /// Returns the number of items of the catalogue, V, without special rows.
    fn items(&self) -> usize;

    /// Writes the vectors of a range of items to `out` (items, D), for export block by block.
    ///
    /// # Errors
    /// The device fails.
    fn item_vectors(&mut self, items: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Writes the biases of all items to `out` (V).
    ///
    /// # Errors
    /// The device fails.
    fn item_biases(&mut self, out: &mut [f32]) -> Result<()>;

    /// Returns whether the model's input is a user's last basket alone and not the whole history.
    fn last_basket(&self) -> bool {
        false
    }

    /// Encodes the history of each query and writes its vector to `out` (B, D).
    ///
    /// # Errors
    /// Any error of the model.
    fn encode(&mut self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()>;

    /// Predicts the rating of each question.
    ///
    /// # Errors
    /// The model predicts no ratings, or fails.
    fn predict(&mut self, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let _ = questions;
        Err(Error::user("the model predicts no ratings").hint("train one with --task rating"))
    }

    /// Returns the ranks of every query's targets.
    ///
    /// # Errors
    /// A score of any item for any query is NaN or infinite, or the model fails.
    fn rank(&mut self, queries: &[Query<'_>]) -> Answer<Vec<Ranks>>;

    /// Returns the k best candidates of every query, best first; ties go to the smaller id. A query with fewer
    /// candidates gets fewer.
    ///
    /// # Errors
    /// As [`Encoder::rank`], or the device does not support this k.
    fn top_k(&mut self, queries: &[Query<'_>], k: usize) -> Answer<Vec<Vec<Scored>>>;
}
