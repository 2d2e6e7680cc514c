/*! The input of the head for an impression: x = [u | v | u v], with standardised columns.

u (D) is the vector that a trained run computes for the history and the user of the impression. A run with basket
queries uses the newest basket with a click instead of the history. v (C) is the vector of the item: the run's own, or
one from a file. If both have the same width, x also holds their elementwise products. The sum of the products is the
run's score, which dense layers over u and v would learn only slowly. Nothing here is trained, so all vectors are
computed once, for each distinct history once.

Vectors of different runs may have sizes from 0.01 to 100. Columns are therefore standardised to mean 0 and variance 1
over the training impressions, so that one learning rate fits all runs. A column that is constant there becomes 0. An
item without a vector gets the mean of all impressions, which is 0, in the columns of v.
*/

use rayon::prelude::*;

use crate::{
    base::{Error, Result},
    data::impressions::{Impression, Impressions},
    eval::{Encoder, Query},
};

/// The row of an item that has no vector.
pub const NO_VECTOR: u32 = u32::MAX;
/// Number of rows that one worker sums. The sums are added in order, so results do not depend on the number of threads.
const CHUNK: usize = 4096;

/// Frozen vectors and the mean and scale that standardise them.
pub struct Inputs {
    /// (R,D) vector of each history.
    users: Vec<f32>,
    d: usize,
    /// (·,C) vectors of items.
    items: Vec<f32>,
    c: usize,
    /// Row of each item of the data, or [`NO_VECTOR`].
    row: Vec<u32>,
    /// (I) mean of each column over the training rows.
    pub mean: Vec<f32>,
    /// (I) 1 / standard deviation; 0 for constant columns.
    pub scale: Vec<f32>,
}

/// Computes the vectors (R,D) of all histories. `known` holds the encoder's number of each user of the data, if it has
/// one.
///
/// # Errors
/// The model fails, a vector is NaN or infinite, or memory cannot hold the vectors.
pub fn encode(
    encoder: &mut dyn Encoder,
    impressions: &Impressions,
    known: &[Option<u32>],
    done: &mut dyn FnMut(usize),
) -> Result<Vec<f32>> {
    // Large enough to keep a device busy. The encoder divides it into its own batches.
    const BLOCK: usize = 2048;
    let (n, d, basket) = (impressions.histories(), encoder.width(), encoder.last_basket());
    let mut vectors = Vec::new();
    let bytes = n as u64 * d as u64 * 4;
    vectors.try_reserve_exact(n * d).map_err(|_| {
        Error::user(format!("the vectors of {n} histories require {} GB of memory", bytes.div_ceil(1 << 30)))
            .hint("import only a part of the log")
    })?;
    vectors.resize(n * d, 0.0);
    for (block, out) in vectors.chunks_mut(BLOCK * d).enumerate() {
        let first = block * BLOCK;
        let asked = (first..first + out.len() / d).map(|h| Query {
            history: if basket { impressions.last_basket(h) } else { impressions.history(h) },
            user: known[impressions.whose(h)],
            ..Query::default()
        });
        let queries: Vec<Query> = asked.collect();
        encoder.encode(&queries, out)?;
        done(first + queries.len());
    }
    if vectors.iter().any(|x| !x.is_finite()) {
        return Err(Error::user("the run produces vectors that are NaN or infinite")
            .hint("its training diverged: use an earlier checkpoint, or train with a lower --lr"));
    }
    Ok(vectors)
}

impl Inputs {
    /// Builds the inputs from `users` (R,D) and `items` (·,C), standardised over the training rows. Item i of the data
    /// has row `row[i]` of `items`.
    pub fn new(
        [users, items]: [Vec<f32>; 2],
        [d, c]: [usize; 2],
        row: Vec<u32>,
        impressions: &Impressions,
        train: &[u32],
    ) -> Inputs {
        let mut inputs = Inputs { users, d, items, c, row, mean: Vec::new(), scale: Vec::new() };
        inputs.standardise(impressions, train);
        inputs
    }

    /// Returns whether u and v have the same width, so that x holds their products.
    pub fn product(&self) -> bool {
        self.d == self.c
    }

    /// Returns D and C.
    pub fn widths(&self) -> [usize; 2] {
        [self.d, self.c]
    }

    /// Returns the number of columns, I.
    pub fn width(&self) -> usize {
        self.d + self.c + if self.product() { self.d } else { 0 }
    }

    /// Returns u and v of an impression.
    fn vectors(&self, r: &Impression) -> (&[f32], Option<&[f32]>) {
        let row = self.row[r.item as usize];
        let v = (row != NO_VECTOR).then(|| &self.items[row as usize * self.c..][..self.c]);
        (&self.users[r.history as usize * self.d..][..self.d], v)
    }

    /// Computes the run's own score of an impression, without the item's bias. Returns `None` if there is no such
    /// score.
    pub fn score(&self, r: &Impression) -> Option<f64> {
        let (u, v) = self.vectors(r);
        v.filter(|_| self.product()).map(|v| u.iter().zip(v).map(|(u, v)| *u as f64 * *v as f64).sum())
    }

    /// Calls `put` with the number and the unscaled value of each column that the impression fills.
    fn columns(&self, r: &Impression, mut put: impl FnMut(usize, f32)) {
        let (u, v) = self.vectors(r);
        u.iter().enumerate().for_each(|(k, u)| put(k, *u));
        let Some(v) = v else { return };
        v.iter().enumerate().for_each(|(k, v)| put(self.d + k, *v));
        if self.product() {
            u.iter().zip(v).enumerate().for_each(|(k, (u, v))| put(self.d + self.c + k, u * v));
        }
    }

    /// Computes mean and deviation of each column over the training rows that fill it, in two passes, in f64.
    fn standardise(&mut self, impressions: &Impressions, train: &[u32]) {
        let width = self.width();
        let sums = |term: &(dyn Fn(usize, f32) -> f64 + Sync)| {
            let part = |rows: &[u32]| {
                let mut sum = vec![0.0f64; width];
                rows.iter().for_each(|r| self.columns(&impressions.rows[*r as usize], |k, x| sum[k] += term(k, x)));
                sum
            };
            let parts: Vec<Vec<f64>> = train.par_chunks(CHUNK).map(part).collect();
            let mut sum = vec![0.0f64; width];
            parts.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(s, x)| *s += x));
            sum
        };
        let counts = sums(&|_, _| 1.0);
        let mean: Vec<f64> = sums(&|_, x| x as f64).iter().zip(&counts).map(|(s, n)| s / n.max(1.0)).collect();
        let square = sums(&|k, x| (x as f64 - mean[k]).powi(2));
        let deviation = square.iter().zip(&counts).map(|(s, n)| (s / n.max(1.0)).sqrt());
        // A deviation in the order of rounding errors belongs to a constant column and counts as 0.
        let scale = deviation.zip(&mean).map(|(s, m)| if s > 1e-6 * m.abs() && s > 1e-30 { 1.0 / s } else { 0.0 });
        (self.scale, self.mean) = (scale.map(|x| x as f32).collect(), mean.iter().map(|m| *m as f32).collect());
    }

    /// Writes x (M,I) of the given rows.
    pub fn fill(&self, impressions: &Impressions, rows: &[u32], out: &mut [f32]) {
        out.par_chunks_mut(self.width()).zip(rows).for_each(|(x, r)| {
            x.fill(0.0);
            let r = &impressions.rows[*r as usize];
            self.columns(r, |k, value| x[k] = (value - self.mean[k]) * self.scale[k]);
        });
    }
}
