//! The k best items for any history, from the same encoder and the same scores as evaluation.

use rayon::prelude::*;

use super::{Encoder, Query, evaluate::check_ks, rank::distinct};
use crate::base::Result;

/// One recommended item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub item: u32,
    pub score: f32,
}

/// Returns the `k` best items for each history, best first, or fewer if fewer candidates are left. Items of the history
/// are not candidates unless `keep_seen`. Histories contain the model's item ids, oldest first, and may be empty; the
/// user of each is given by the model's numbering.
///
/// # Errors
/// `k` is 0, larger than the catalogue or more than the device supports; a score is NaN or infinite; the encoder fails.
pub fn recommend(
    encoder: &mut dyn Encoder,
    histories: &[(&[u32], Option<u32>)],
    k: usize,
    keep_seen: bool,
) -> Result<Vec<Vec<Scored>>> {
    let wanted: Vec<Wanted> = histories.iter().map(|&(history, user)| Wanted { history, user, keep_seen }).collect();
    recommend_each(encoder, &wanted, k)
}

/// One history to recommend for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Ids of the model, oldest first; may be empty.
    pub history: &'a [u32],
    /// The model's number of the user.
    pub user: Option<u32>,
    /// Whether items of the history are candidates.
    pub keep_seen: bool,
}

/// [`recommend`] with a rule for each history.
///
/// # Errors
/// As [`recommend`].
pub fn recommend_each(encoder: &mut dyn Encoder, wanted: &[Wanted<'_>], k: usize) -> Result<Vec<Vec<Scored>>> {
    check_ks(&[k], encoder.items())?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let of = |wanted: &Wanted<'_>| if wanted.keep_seen { Vec::new() } else { distinct(wanted.history) };
    let excluded: Vec<Vec<u32>> = wanted.par_iter().map(of).collect();
    let queries: Vec<Query> = wanted
        .iter()
        .zip(&excluded)
        .map(|(w, excluded)| Query { history: w.history, user: w.user, excluded, ..Query::default() })
        .collect();
    encoder.top_k(&queries, k).map_err(|fault| fault.error(|_| String::new()))
}
