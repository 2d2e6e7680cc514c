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
    check_ks(&[k], encoder.items())?;
    if histories.is_empty() {
        return Ok(Vec::new());
    }
    let of = |(history, _): &(&[u32], Option<u32>)| if keep_seen { Vec::new() } else { distinct(history) };
    let excluded: Vec<Vec<u32>> = histories.par_iter().map(of).collect();
    let queries: Vec<Query> = histories
        .iter()
        .zip(&excluded)
        .map(|(&(history, user), excluded)| Query { history, user, excluded, ..Query::default() })
        .collect();
    encoder.top_k(&queries, k).map_err(|fault| fault.error(|_| String::new()))
}
