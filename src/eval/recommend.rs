//! The best k items for any history, from the same encoder and the same scores as evaluation.

use rayon::prelude::*;

use super::{Encoder, Query, evaluate::check_ks, rank::distinct};
use crate::base::Result;

/// One recommended item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub item: u32,
    pub score: f32,
}

/// The best `k` items for each history, best first; fewer where fewer candidates are left. Items of the history are no
/// candidates unless `keep_seen`. Histories are ids of the model, oldest first, and may be empty; whose they are, its users.
///
/// # Errors
/// `k` is 0, beyond the catalogue or more than the device serves; a score that is NaN or infinite; what the encoder reports.
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
