/*! Negatives: the items that a target is compared with instead of the whole catalogue, and how often each is drawn.

A [`Sampler`] is the host's part of sampling. It turns the training interactions of each item into the table that the
device draws from ([`crate::ops::DrawNegatives`], [`crate::ops::DrawCandidates`]). It also computes log q, which the
log q correction subtracts from a logit (Bengio and Senecal 2008; Yi et al. 2019). q is the expected count of an item
among the negatives. It is computed from the table that is drawn from and is not an estimate:

| sampler | probability of an item in one draw | log q |
|---|---|---|
| uniform | 1/V | ln(S/V) |
| uniform, unique | each item at most once | ln(S/V), from the probability of being included |
| log-uniform | ln((r+2)/(r+1)) / ln(V+1) at popularity rank r (0 the most popular, ties by id) | ln(S p) |
| popularity | (interactions + 1) / sum | ln(S p) |
| in-batch | the other targets of the batch: popularity, if the batch is a fair sample | ln((B-1) p) |

**Why the target is not corrected.** The softmax over the catalogue has the denominator Z = sum over all k of e^z_k. Let
C_k be the number of times that item k is among the candidates of a row, the target included. Let E[C_k] be its
expectation over the draws. Then sum_k C_k e^z_k / E[C_k] has the expectation Z, term by term: each candidate's logit is
lowered by ln E[C_k]. The target is a candidate exactly once, because draws that hit it are dropped (shared negatives)
or repeated (per-row negatives): E[C_0] = 1, so ln E[C_0] = 0. For a negative, E[C_k] is

| negatives | E[C_k] | reason |
|---|---|---|
| shared | S p_k | they are drawn independently of the row, and the row drops what it excludes |
| per row | S p_k / (1 - m) | a draw is repeated until it misses the excluded items, which have the total mass m |
| in-batch | (B - 1) p_k | B targets, if they are a fair sample of p: the only estimate here |

A row excludes its target; with `--exclude-seen` it excludes all items of its sequence. `free` of
[`crate::ops::DrawCandidates`] is ln(1 - m), computed for each row from the table that is drawn from.

As the number of draws grows, the loss and its gradient approach those of the softmax over the target and all items that
are not excluded. For any number of draws, the denominator is correct in expectation. Yi et al. 2019 also lower the
target's logit by ln(S p_0). This gives the target the weight 1/(S p_0) in the denominator: too much for a rare item,
almost nothing for a popular one, and more draws do not correct it. Khrylchenko et al. 2025 derive the same for in-batch
negatives.
*/

use serde::{Deserialize, Serialize};

use crate::{
    base::{Error, Result, alias::AliasTable},
    ops::draw_negatives::Sampling,
};

/// Selects the distribution of negatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// All items with equal probability.
    #[default]
    Uniform,
    /// By popularity rank, proportional to about 1 / (rank + 1).
    LogUniform,
    /// By number of training interactions.
    Popularity,
    /// The other targets of the batch, without sampling.
    InBatch,
}

impl SamplerKind {
    /// Returns whether the negatives are the batch's own targets, so that nothing is drawn.
    pub fn in_batch(self) -> bool {
        match self {
            SamplerKind::InBatch => true,
            SamplerKind::Uniform | SamplerKind::LogUniform | SamplerKind::Popularity => false,
        }
    }
}

/// Settings of the negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplerSettings {
    pub kind: SamplerKind,
    /// Number of negatives (S) of a batch, or of each scored row; unused for in-batch negatives.
    pub negatives: usize,
    /// Whether each scored row has its own negatives instead of shared ones.
    pub per_row: bool,
    /// Whether no item occurs twice among the negatives of a batch.
    pub unique: bool,
}

impl SamplerSettings {
    /// Checks that these negatives can be drawn from a catalogue of `items`.
    ///
    /// # Errors
    /// They cannot be drawn; the error names the reason and an alternative.
    pub fn check(&self, items: usize) -> Result<()> {
        if items < 2 {
            return Err(Error::user(format!("a catalogue of {items} items has no negatives"))
                .hint("losses with negatives require at least two items; --loss softmax does not"));
        }
        if items >= u32::MAX as usize {
            return Err(Error::user(format!(
                "losses with negatives support at most 2^32 - 2 items; the catalogue has {items}"
            )));
        }
        let in_batch = self.kind.in_batch();
        if self.negatives == 0 && !in_batch {
            return Err(Error::user("this loss cannot be computed with 0 negatives")
                .hint("use --negatives 512, or --negatives 32 if each row has its own negatives"));
        }
        if in_batch && self.per_row {
            return Err(Error::user(
                "--sampler in-batch cannot be combined with --per-position: all rows share the batch",
            )
            .hint("omit --per-position, or use --sampler popularity"));
        }
        if !self.unique {
            return Ok(());
        }
        if self.kind != SamplerKind::Uniform {
            let error =
                "--unique-negatives requires --sampler uniform: for others, the expected count has no exact formula";
            return Err(Error::user(error).hint("use --sampler uniform, or omit --unique-negatives"));
        }
        if self.per_row {
            return Err(Error::user("--unique-negatives requires shared negatives, but here each row has its own")
                .hint("omit --unique-negatives, or use --loss sampled-softmax without --per-position"));
        }
        if self.negatives >= items {
            let error = format!("a catalogue of {items} items does not have {} unique negatives", self.negatives);
            let most = items - 1;
            return Err(Error::user(error).hint(format!("use --negatives {most} or fewer, or --loss softmax")));
        }
        Ok(())
    }

    /// Returns how the drawing op samples, or `None` for in-batch negatives, which are not drawn.
    pub fn sampling(&self) -> Option<Sampling> {
        match self.kind {
            SamplerKind::Uniform if self.unique => Some(Sampling::Unique),
            SamplerKind::Uniform => Some(Sampling::Uniform),
            SamplerKind::LogUniform | SamplerKind::Popularity => Some(Sampling::Alias),
            SamplerKind::InBatch => None,
        }
    }
}

/// The distribution of negatives over one catalogue.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    distribution: Distribution,
}

#[derive(Clone, Debug)]
enum Distribution {
    /// Equal probabilities of this many items.
    Even(usize),
    Table(AliasTable),
    /// Shares of the targets; not drawn from.
    Shares(Vec<f64>),
}

impl Sampler {
    /// Creates the sampler of a catalogue from the number of training interactions of each item, `counts` (V).
    ///
    /// # Errors
    /// As [`SamplerSettings::check`].
    pub fn new(settings: SamplerSettings, counts: &[u64]) -> Result<Self> {
        settings.check(counts.len())?;
        // One more interaction than observed, so that every item can be drawn.
        let popularity = || counts.iter().map(|c| (*c + 1) as f64);
        let distribution = match settings.kind {
            SamplerKind::Uniform => Distribution::Even(counts.len()),
            SamplerKind::LogUniform => Distribution::Table(AliasTable::new(&log_uniform(counts))),
            SamplerKind::Popularity => Distribution::Table(AliasTable::new(&popularity().collect::<Vec<_>>())),
            SamplerKind::InBatch => {
                let total: f64 = popularity().sum();
                Distribution::Shares(popularity().map(|w| w / total).collect())
            }
        };
        Ok(Sampler { settings, distribution })
    }

    /// Returns [`SamplerSettings::sampling`] of its settings.
    pub fn sampling(&self) -> Option<Sampling> {
        self.settings.sampling()
    }

    /// Returns the length of [`Sampler::cells`], 2V or 0, so that memory can be planned before the counts are known.
    pub fn cells_len(kind: SamplerKind, items: usize) -> usize {
        match kind {
            SamplerKind::LogUniform | SamplerKind::Popularity => 2 * items,
            SamplerKind::Uniform | SamplerKind::InBatch => 0,
        }
    }

    /// Returns the table (V,2) that the drawing op reads, or an empty slice.
    pub fn cells(&self) -> &[u32] {
        match &self.distribution {
            Distribution::Table(table) => table.cells(),
            Distribution::Even(_) | Distribution::Shares(_) => &[],
        }
    }

    /// Returns the weight of each item (V,2) in that table, or an empty vector.
    pub fn masses(&self) -> Vec<u32> {
        match &self.distribution {
            Distribution::Table(table) => table.masses(),
            Distribution::Even(_) | Distribution::Shares(_) => Vec::new(),
        }
    }

    /// Returns the probability of each item (V) in one draw.
    pub fn probabilities(&self) -> Vec<f64> {
        match &self.distribution {
            Distribution::Even(items) => vec![1.0 / *items as f64; *items],
            Distribution::Table(table) => table.probabilities(),
            Distribution::Shares(shares) => shares.clone(),
        }
    }

    /// Computes log q (V): the ln of each item's expected count among S negatives. For unique negatives this is the ln
    /// of the probability of being included. For in-batch negatives it is the ln of the item's share of the targets;
    /// the device adds the ln of their number, which differs between batches.
    pub fn log_q(&self) -> Vec<f32> {
        let s = match self.settings.kind {
            SamplerKind::Uniform | SamplerKind::LogUniform | SamplerKind::Popularity => self.settings.negatives as f64,
            SamplerKind::InBatch => 1.0,
        };
        self.probabilities().into_iter().map(|p| (s * p).ln() as f32).collect()
    }
}

/// Returns weights that fall with the popularity rank of an item.
fn log_uniform(counts: &[u64]) -> Vec<f64> {
    let mut by_rank: Vec<u32> = (0..counts.len() as u32).collect();
    by_rank.sort_unstable_by_key(|i| (std::cmp::Reverse(counts[*i as usize]), *i));
    let mut weights = vec![0.0; counts.len()];
    for (rank, item) in by_rank.iter().enumerate() {
        // ln((r+2) / (r+1)), accurate to the last bits for small values.
        weights[*item as usize] = (1.0 / (rank + 1) as f64).ln_1p();
    }
    weights
}

/// Computes beta of gBCE for calibration `t` in 0..=1 and S negatives of V items (Petrov and Macdonald 2023):
/// alpha (t (1 - 1/alpha) + 1/alpha) with alpha = S / (V-1). t = 0 is plain binary cross-entropy; t = 1 restores the
/// probabilities that sampling distorts.
///
/// # Errors
/// `t` is out of range.
pub fn gbce_beta(t: f32, negatives: usize, items: usize) -> Result<f32> {
    if !(0.0..=1.0).contains(&t) {
        return Err(Error::user(format!("--gbce-t {t} is out of range")).hint("it must be between 0 (plain BCE) and 1"));
    }
    // With more negatives than other items there is no distortion to correct.
    let alpha = (negatives as f64 / (items.max(2) - 1) as f64).min(1.0);
    Ok((1.0 - t as f64 * (1.0 - alpha)) as f32)
}
