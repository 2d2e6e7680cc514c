/*! The best k items for any history, from the same encoder and the same tiles of scores as evaluation.

A user's list is a heap of k while the tiles go by; no score matrix. Equal scores go to the smaller item id.
*/

use std::{cmp::Ordering, collections::BinaryHeap};

use rayon::prelude::*;

use super::{
    Encoder,
    rank::{distinct, exclude},
    score::{Scratch, Table, visit_tiles},
};
use crate::base::{Error, Result};

/// One recommended item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub item: u32,
    pub score: f32,
}

/// Orders so that the greatest is the worst of a list: the lowest score, of equals the largest id.
#[derive(PartialEq)]
struct Worst(Scored);

impl Eq for Worst {}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.item.cmp(&other.0.item))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One user on the way through the tiles.
struct Best {
    k: usize,
    heap: BinaryHeap<Worst>,
    excluded: Vec<u32>,
    cursor: usize,
}

impl Best {
    fn visit(&mut self, first: usize, scores: &mut [f32]) {
        self.cursor = exclude(&self.excluded, self.cursor, first, scores);
        // Ids ascend through the tiles, so a score equal to the worst kept never displaces it.
        let mut floor = self.floor();
        for (i, &score) in scores.iter().enumerate() {
            if score > floor {
                if self.heap.len() == self.k {
                    self.heap.pop();
                }
                self.heap.push(Worst(Scored { item: (first + i) as u32, score }));
                floor = self.floor();
            }
        }
    }

    /// What a score must exceed to be kept; excluded items (minus infinity) never are.
    fn floor(&self) -> f32 {
        if self.heap.len() < self.k { f32::NEG_INFINITY } else { self.heap.peek().map_or(f32::INFINITY, |w| w.0.score) }
    }
}

/// The best `k` items for each history, best first; fewer where fewer candidates are left. Items of the history are no
/// candidates unless `keep_seen`. Histories are ids of the model, oldest first, and may be empty.
///
/// # Errors
/// `k` is 0 or beyond the catalogue; a score that is NaN or infinite; what the encoder reports.
pub fn recommend(
    encoder: &mut dyn Encoder,
    histories: &[&[u32]],
    k: usize,
    keep_seen: bool,
    scratch: &mut Scratch,
) -> Result<Vec<Vec<Scored>>> {
    super::evaluate::check_ks(&[k], encoder.bias().len())?;
    if histories.is_empty() {
        return Ok(Vec::new());
    }
    let width = encoder.width();
    let mut vectors = vec![0.0f32; histories.len() * width];
    encoder.encode(histories, &mut vectors)?;
    let table = Table { rows: encoder.table(), bias: encoder.bias(), width };
    let mut states: Vec<Best> = histories
        .par_iter()
        .map(|history| Best {
            k,
            heap: BinaryHeap::new(),
            excluded: if keep_seen { Vec::new() } else { distinct(history) },
            cursor: 0,
        })
        .collect();
    visit_tiles(table, &vectors, &mut states, scratch, Best::visit).map_err(|at| {
        Error::user(format!("the model's score of item number {} is NaN or infinite", at.item))
            .hint("its training has diverged: use an earlier checkpoint or train with a smaller learning rate")
    })?;
    // Ascending by `Worst` is best first.
    Ok(states.into_iter().map(|s| s.heap.into_sorted_vec().into_iter().map(|w| w.0).collect()).collect())
}
