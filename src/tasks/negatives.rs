/*! Negatives: the items a target is compared with, instead of the whole catalogue, and how often each is drawn.

A [`Sampler`] is the host's part: it turns the training interactions of each item into the table the device draws from
([`crate::ops::DrawNegatives`], [`crate::ops::DrawCandidates`]), and says how often an item is among the negatives, which is
what the logQ correction takes off a logit (Bengio and Senecal 2008; Yi et al. 2019). That number is the expected count under
the very table that is drawn from, not an estimate of it:

| sampler | drawn with probability | log q |
|---|---|---|
| uniform | 1/V | ln(S/V) |
| uniform, unique | each item at most once | ln(S/V), the probability to be among them |
| log-uniform | ln((r+2)/(r+1)) / ln(V+1) at popularity rank r (0 the most popular, ties by id) | ln(S p) |
| popularity | (interactions + 1) / sum | ln(S p) |
| in-batch | the other targets of the batch: by popularity, as far as the batch is a fair sample | ln((B-1) p) |

**Why the target has none.** The softmax over the catalogue has the denominator Z = sum over all k of e^z_k. Let C_k be
how often item k is among the candidates of a row, the target included, and E[C_k] the expectation over the draws. Then
sum_k C_k e^z_k / E[C_k] has the expectation Z, term by term: each candidate's logit is lowered by ln E[C_k]. The target
is a candidate once, whatever is drawn, because draws that hit it are left out (shared) or made again (a row's own):
E[C_0] = 1, so ln E[C_0] = 0. Of a negative E[C_k] is
- S p_k where negatives are shared: they are drawn without regard to the row, and what the row excludes is left out;
- S p_k / (1 - m) where they are the row's own and drawn again until they miss what it excludes, of mass m in all (the target;
  with `--exclude-seen` all items of its sequence): `free` of [`crate::ops::DrawCandidates`] is ln(1 - m), computed for
  each row from the very table that is drawn from;
- (B - 1) p_k in-batch, with B targets, where they are a fair sample of p: the one estimate here.

With more and more draws the loss and its gradient go to those of the softmax over the target and all that is not
excluded; at any number of them the denominator is right in the mean. To lower the target's logit by ln(S p_0) as well,
as Yi et al. 2019 write it, gives the target the weight 1/(S p_0) in the denominator: too much of a rare one, next to
nothing of a popular one, and more draws do not correct it (Khrylchenko et al. 2025 derive the same for in-batch
negatives).
*/

use serde::{Deserialize, Serialize};

use crate::{
    base::{Error, Result, alias::AliasTable},
    ops::draw_negatives::Sampling,
};

/// Which distribution negatives come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// Each item alike.
    #[default]
    Uniform,
    /// By popularity rank, falling like 1 / (rank + 1).
    LogUniform,
    /// By training interactions.
    Popularity,
    /// The targets of the batch: popular items, at no cost for drawing.
    InBatch,
}

impl SamplerKind {
    /// Whether the negatives are the batch's own targets, and nothing is drawn.
    pub fn in_batch(self) -> bool {
        match self {
            SamplerKind::InBatch => true,
            SamplerKind::Uniform | SamplerKind::LogUniform | SamplerKind::Popularity => false,
        }
    }
}

/// What negatives there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplerSettings {
    pub kind: SamplerKind,
    /// Negatives (S) of a batch, or of each scored row; of no meaning in-batch.
    pub negatives: usize,
    /// Each scored row has negatives of its own, instead of all rows the same.
    pub per_row: bool,
    /// No item comes twice among the negatives of a batch.
    pub unique: bool,
}

impl SamplerSettings {
    /// Whether a catalogue of `items` has such negatives.
    ///
    /// # Errors
    /// It has not; says why and what to ask for instead.
    pub fn check(&self, items: usize) -> Result<()> {
        if items < 2 {
            return Err(Error::user(format!("negatives of a catalogue of {items} items: there are none"))
                .hint("a catalogue wants two items or more; for full softmax use --loss softmax"));
        }
        if items >= u32::MAX as usize {
            return Err(Error::user(format!("negatives of a catalogue of {items} items: at most 2^32 - 2")));
        }
        let in_batch = self.kind.in_batch();
        if self.negatives == 0 && !in_batch {
            return Err(Error::user("a sampled loss with 0 negatives")
                .hint("say how many: --negatives 512, or 32 where each row has its own"));
        }
        if in_batch && self.per_row {
            return Err(Error::user("in-batch negatives of each row's own: they are the batch's, all rows share them")
                .hint("share them, or draw with --sampler popularity"));
        }
        if !self.unique {
            return Ok(());
        }
        if self.kind != SamplerKind::Uniform {
            let error =
                "different negatives that are not uniform: how often each item is among them has no exact formula";
            return Err(Error::user(error).hint("use --sampler uniform, or let items come more than once"));
        }
        if self.per_row {
            return Err(Error::user("different negatives of each row's own are not drawn")
                .hint("leave --unique-negatives out, or share negatives among the rows: --loss sampled-softmax"));
        }
        if self.negatives >= items {
            let error = format!("{} different negatives of a catalogue of {items} items", self.negatives);
            let most = items - 1;
            return Err(
                Error::user(error).hint(format!("a target has {most} others: ask for fewer, or --loss softmax"))
            );
        }
        Ok(())
    }

    /// What the drawing op is told; `None` in-batch, where nothing is drawn.
    pub fn sampling(&self) -> Option<Sampling> {
        match self.kind {
            SamplerKind::Uniform if self.unique => Some(Sampling::Unique),
            SamplerKind::Uniform => Some(Sampling::Uniform),
            SamplerKind::LogUniform | SamplerKind::Popularity => Some(Sampling::Alias),
            SamplerKind::InBatch => None,
        }
    }
}

/// How negatives are drawn from one catalogue.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    distribution: Distribution,
}

#[derive(Clone, Debug)]
enum Distribution {
    /// Over this many items, each alike.
    Even(usize),
    Table(AliasTable),
    /// Of the targets; not drawn from.
    Shares(Vec<f64>),
}

impl Sampler {
    /// Draws from a catalogue whose items had `counts` (V) training interactions.
    ///
    /// # Errors
    /// As [`SamplerSettings::check`].
    pub fn new(settings: SamplerSettings, counts: &[u64]) -> Result<Self> {
        settings.check(counts.len())?;
        // An interaction more than there were, so that every item can be drawn.
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

    /// As [`SamplerSettings::sampling`].
    pub fn sampling(&self) -> Option<Sampling> {
        self.settings.sampling()
    }

    /// Numbers of the table that the drawing op reads, 2V or none: to plan it before the counts are known.
    pub fn cells_len(kind: SamplerKind, items: usize) -> usize {
        match kind {
            SamplerKind::LogUniform | SamplerKind::Popularity => 2 * items,
            SamplerKind::Uniform | SamplerKind::InBatch => 0,
        }
    }

    /// (V,2) the table that the drawing op reads, or nothing.
    pub fn cells(&self) -> &[u32] {
        match &self.distribution {
            Distribution::Table(table) => table.cells(),
            Distribution::Even(_) | Distribution::Shares(_) => &[],
        }
    }

    /// (V,2) what each item weighs in that table, or nothing.
    pub fn masses(&self) -> Vec<u32> {
        match &self.distribution {
            Distribution::Table(table) => table.masses(),
            Distribution::Even(_) | Distribution::Shares(_) => Vec::new(),
        }
    }

    /// (V) the probability of each item in one draw.
    pub fn probabilities(&self) -> Vec<f64> {
        match &self.distribution {
            Distribution::Even(items) => vec![1.0 / *items as f64; *items],
            Distribution::Table(table) => table.probabilities(),
            Distribution::Shares(shares) => shares.clone(),
        }
    }

    /// (V) ln of each item's expected count among S negatives; unique: of its probability to be among them; in-batch: of its
    /// share of the targets: their number, which changes from batch to batch, is added on the device.
    pub fn log_q(&self) -> Vec<f32> {
        let s = match self.settings.kind {
            SamplerKind::Uniform | SamplerKind::LogUniform | SamplerKind::Popularity => self.settings.negatives as f64,
            SamplerKind::InBatch => 1.0,
        };
        self.probabilities().into_iter().map(|p| (s * p).ln() as f32).collect()
    }
}

/// Weights falling with an item's popularity rank.
fn log_uniform(counts: &[u64]) -> Vec<f64> {
    let mut by_rank: Vec<u32> = (0..counts.len() as u32).collect();
    by_rank.sort_unstable_by_key(|i| (std::cmp::Reverse(counts[*i as usize]), *i));
    let mut weights = vec![0.0; counts.len()];
    for (rank, item) in by_rank.iter().enumerate() {
        // ln((r+2) / (r+1)), to the last bits where it is small.
        weights[*item as usize] = (1.0 / (rank + 1) as f64).ln_1p();
    }
    weights
}

/// beta of gBCE for calibration `t` in 0..=1 and S negatives of V items (Petrov and Macdonald 2023):
/// alpha (t (1 - 1/alpha) + 1/alpha) with alpha = S / (V-1). t = 0 is plain binary cross-entropy, t = 1 gives back the
/// probabilities that sampling distorts.
///
/// # Errors
/// `t` lies outside.
pub fn gbce_beta(t: f32, negatives: usize, items: usize) -> Result<f32> {
    if !(0.0..=1.0).contains(&t) {
        return Err(Error::user(format!("gBCE with t = {t}")).hint("t is between 0 (plain BCE) and 1: --gbce-t 0.75"));
    }
    // More negatives than other items: nothing is left to undo.
    let alpha = (negatives as f64 / (items.max(2) - 1) as f64).min(1.0);
    Ok((1.0 - t as f64 * (1.0 - alpha)) as f32)
}
