/*! What came out of an experiment: rows with their seeds, intervals and tests, and what became of its claims.

All of it is read off the held-out users, one value a user, seed and metric. A row's number is the mean over users and seeds;
its interval, and the tests of differences between rows, user by user, count both as drawn from many ([`crossed`]). Whether
every seed alone says the same is told beside. A claim compares two groups of rows: the mean of either group's rows, user by
user.

[`crossed`]: crate::eval::significance::crossed
*/

use serde::Serialize;

use crate::eval::significance::Paired;

/// A finished or unfinished experiment, ready to be shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// As in the grid: a short name, and what the experiment asks.
    pub name: String,
    pub title: String,
    /// What one must know to read the numbers, a paragraph each: data, rules, departures from what is reproduced.
    pub notes: Vec<String>,
    /// The data sets, one line each: users, items, interactions.
    pub data: Vec<String>,
    /// Machine, device, version.
    pub machine: String,
    /// Runs that are done, of how many.
    pub done: usize,
    pub runs: usize,
    /// Seconds of all finished runs together.
    pub seconds: f64,
    pub tables: Vec<Table>,
    pub findings: Vec<Finding>,
    /// Runs that rows start from: pre-training.
    pub bases: Vec<Base>,
}

/// A table of rows that answer for the same users.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    pub name: String,
    pub title: String,
    /// Where the published numbers come from, if there are any.
    pub published: Option<String>,
    /// Heads of the columns that name a row: model, transfer, ...
    pub columns: Vec<String>,
    /// NDCG@3, ..., or RMSE, MAE.
    pub metrics: Vec<String>,
    /// Whether less is better.
    pub lower: bool,
    /// What numbers are multiplied by where they are shown: 100 for percent.
    pub scale: f64,
    /// In words: split, candidates, users.
    pub protocol: String,
    /// What is to be known of the tests: with two seeds they find too much.
    pub caution: Option<String>,
    pub rows: Vec<ResultRow>,
    /// Names of the slices, by events of a user to train on; those of rows stand in this order.
    pub slices: Vec<Slice>,
}

/// Users of one slice.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slice {
    pub name: String,
    pub users: usize,
}

/// A row of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ResultRow {
    pub name: String,
    /// One for each column of the table.
    pub labels: Vec<String>,
    pub seeds: Vec<Seed>,
    /// One for each metric, not scaled; empty where no seed is done.
    pub mean: Vec<f64>,
    /// 95 %, over users and seeds; `None` where there is but one user.
    pub interval: Vec<Option<[f64; 2]>>,
    /// Standard deviation between seeds; `None` of one seed.
    pub deviation: Option<Vec<f64>>,
    /// As published, scaled already: as it is printed there.
    pub published: Vec<f64>,
    /// The first metric within each slice; `None` where nobody is in it.
    pub slices: Vec<Option<Estimate>>,
    /// The row that it is compared with, and how, a test a metric, each corrected over the rows of the table (Holm).
    pub against: Option<Against>,
}

/// A number and where it may lie.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Estimate {
    pub mean: f64,
    /// `None` of one user: unknown.
    pub interval: Option<[f64; 2]>,
}

/// How a row compares with another, metric by metric.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Against {
    /// Name of the other row.
    pub row: String,
    pub tests: Vec<Test>,
    /// The first metric within each slice, corrected over the rows; `None` where nobody is in it.
    pub slices: Vec<Option<Test>>,
}

/// A paired test, and what each seed alone says.
#[derive(Clone, Debug, Serialize)]
pub struct Test {
    #[serde(flatten)]
    pub result: Paired,
    /// p, corrected for all tests of its family; `None` where there is no p.
    pub p_holm: Option<f64>,
    /// The difference of each seed alone.
    pub by_seed: Vec<f64>,
}

/// One seed of a row or of a base.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seed {
    pub seed: u64,
    pub state: RunState,
    /// One for each metric, not scaled; empty unless it is done.
    pub metrics: Vec<f64>,
    /// Epoch and validation measure of the learning curve.
    pub curve: Vec<(u32, f64)>,
    /// The epoch whose weights were taken.
    pub best: Option<u32>,
    pub seconds: f64,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "why")]
pub enum RunState {
    Done,
    /// Not begun, or stopped on the way.
    #[default]
    Waiting,
    /// It ended with this error.
    Failed(String),
    /// It was done for an earlier grid: what has changed since.
    Stale(String),
}

/// A run that others start from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Base {
    pub name: String,
    /// What the validation measures: NDCG@10, RMSE.
    pub measure: String,
    pub seeds: Vec<Seed>,
}

/// A statement that the experiment puts to the test.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    pub says: String,
    pub claims: Vec<Claim>,
    pub verdict: Verdict,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every claim came out.
    Confirmed,
    /// Some did.
    InPart,
    /// None did: the opposite, or nothing that the tests would vouch for.
    NotConfirmed,
    /// Rows are missing.
    #[default]
    Open,
}

/// A part of a finding: one group of rows against another.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Claim {
    /// In words: "BERT4Rec: MIP over NIP".
    pub what: String,
    pub metric: String,
    /// What numbers are multiplied by where they are shown.
    pub scale: f64,
    pub lower: bool,
    /// What the paper found.
    pub expect: Expect,
    /// `None` while rows are missing. The difference is that of `better` minus `than`.
    pub test: Option<Test>,
    pub outcome: Option<Outcome>,
}

/// What is claimed of the first group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It is better.
    #[default]
    Better,
    /// It is not: worse, or no difference is seen.
    NotBetter,
}

/// What the test says of a claim, at 5 % after Holm's correction over all claims, and with the same sign on every seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Better,
    Worse,
    /// No difference that the test would vouch for.
    NoDifference,
}

impl Claim {
    /// Whether it came out as claimed.
    pub fn holds(&self) -> Option<bool> {
        let better = self.outcome? == Outcome::Better;
        Some(better == (self.expect == Expect::Better))
    }
}
