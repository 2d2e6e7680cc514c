/*! The results of an experiment: rows with their seeds, intervals and tests, and the outcomes of its claims.

All results are computed from one value per held-out user, seed and metric. The value of a row is the mean over users
and seeds. Its interval and the paired tests between rows treat both users and seeds as random samples ([`crossed`]).
Each test also reports whether every single seed agrees. A claim compares the means of two groups of rows, paired by
user.

[`crossed`]: crate::eval::significance::crossed
*/

use serde::Serialize;

use crate::eval::significance::Paired;

/// The results of a finished or unfinished experiment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// The name and the title of the grid.
    pub name: String,
    pub title: String,
    /// Notes, one paragraph each: data, rules, differences from the reproduced work.
    pub notes: Vec<String>,
    /// One line per data set: users, items, interactions.
    pub data: Vec<String>,
    /// Program version and device of the runs.
    pub machine: String,
    /// Number of finished runs, and of all runs.
    pub done: usize,
    pub runs: usize,
    /// Total seconds of all finished runs.
    pub seconds: f64,
    pub tables: Vec<Table>,
    pub findings: Vec<Finding>,
    /// Pre-trained runs that rows start from.
    pub bases: Vec<Base>,
}

/// A table of rows that are evaluated on the same users.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    pub name: String,
    pub title: String,
    /// Source of the published numbers, if there are any.
    pub published: Option<String>,
    /// Headings of the label columns: model, transfer, ...
    pub columns: Vec<String>,
    /// NDCG@3, ..., or RMSE, MAE.
    pub metrics: Vec<String>,
    /// Whether lower is better.
    pub lower: bool,
    /// Factor of printed numbers: 100 for percent.
    pub scale: f64,
    /// Description of split, candidates and users.
    pub protocol: String,
    /// Caution about the tests: with two seeds they report too many differences.
    pub caution: Option<String>,
    pub rows: Vec<ResultRow>,
    /// Slices by the number of training events of a user. The slices of rows have the same order.
    pub slices: Vec<Slice>,
}

/// Name and number of users of a slice.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slice {
    pub name: String,
    pub users: usize,
}

/// A row of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ResultRow {
    pub name: String,
    /// One label per column of the table.
    pub labels: Vec<String>,
    pub seeds: Vec<Seed>,
    /// One value per metric, not scaled; empty if no seed is done.
    pub mean: Vec<f64>,
    /// 95 % interval over users and seeds; `None` for a single user.
    pub interval: Vec<Option<[f64; 2]>>,
    /// Standard deviation between seeds; `None` for one seed.
    pub deviation: Option<Vec<f64>>,
    /// Published values, scaled as in the publication.
    pub published: Vec<f64>,
    /// The first metric within each slice; `None` for an empty slice.
    pub slices: Vec<Option<Estimate>>,
    /// The comparison with another row: one test per metric, corrected over the rows of the table (Holm).
    pub against: Option<Against>,
}

/// A mean and its interval.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Estimate {
    pub mean: f64,
    /// `None` for a single user.
    pub interval: Option<[f64; 2]>,
}

/// Comparison of a row with another row, for each metric.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Against {
    /// Name of the other row.
    pub row: String,
    pub tests: Vec<Test>,
    /// The first metric within each slice, corrected over the rows; `None` for an empty slice.
    pub slices: Vec<Option<Test>>,
}

/// A paired test, with the difference of each seed.
#[derive(Clone, Debug, Serialize)]
pub struct Test {
    #[serde(flatten)]
    pub result: Paired,
    /// p, corrected for all tests of its family; `None` if p is undefined.
    pub p_holm: Option<f64>,
    /// The difference of each single seed.
    pub by_seed: Vec<f64>,
}

/// One seed of a row or of a base.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seed {
    pub seed: u64,
    pub state: RunState,
    /// One value per metric, not scaled; empty unless the run is done.
    pub metrics: Vec<f64>,
    /// Learning curve: (epoch, validation metric).
    pub curve: Vec<(u32, f64)>,
    /// Epoch of the selected weights.
    pub best: Option<u32>,
    pub seconds: f64,
}

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "why")]
pub enum RunState {
    Done,
    /// Not started, or stopped.
    #[default]
    Waiting,
    /// Ended with this error.
    Failed(String),
    /// Done for an earlier grid; describes what has changed.
    Stale(String),
}

/// A run that others start from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Base {
    pub name: String,
    /// Validation metric: NDCG@10 or RMSE.
    pub measure: String,
    pub seeds: Vec<Seed>,
}

/// A statement that the experiment tests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    pub says: String,
    pub claims: Vec<Claim>,
    pub verdict: Verdict,
}

/// The verdict on a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every claim holds.
    Confirmed,
    /// Some claims hold.
    InPart,
    /// No claim holds: the tests show the opposite, or no significant difference.
    NotConfirmed,
    /// Rows are missing.
    #[default]
    Open,
}

/// A part of a finding: a comparison of two groups of rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Claim {
    /// Description, such as "BERT4Rec: MIP over NIP".
    pub what: String,
    pub metric: String,
    /// Factor of printed numbers.
    pub scale: f64,
    pub lower: bool,
    /// The result that the paper reports.
    pub expect: Expect,
    /// `None` while rows are missing. The difference is `better` minus `than`.
    pub test: Option<Test>,
    pub outcome: Option<ClaimOutcome>,
}

/// The claim about the first group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It is better.
    #[default]
    Better,
    /// It is not better: worse, or no significant difference.
    NotBetter,
}

/// The outcome of a claim's test at 5 % after Holm's correction over all claims, with the same sign on every seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimOutcome {
    Better,
    Worse,
    /// No significant difference.
    NoDifference,
}

impl Claim {
    /// Returns whether the claim holds, or `None` while rows are missing.
    pub fn holds(&self) -> Option<bool> {
        let better = self.outcome? == ClaimOutcome::Better;
        Some(better == (self.expect == Expect::Better))
    }
}
