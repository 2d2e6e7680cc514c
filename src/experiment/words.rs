//! Formatting of numbers and states, shared by the text and the HTML report.

use super::collect::LEVEL;
use super::results::{Base, ClaimOutcome, Expect, ResultRow, RunState, Seed, Table, Test, Verdict};
pub use crate::page::{NOTHING, duration, plain};

/// Returns the number of decimals: two for percent, else four. A scale that is not set counts as 1.
pub fn decimals(scale: f64) -> usize {
    if scale == 100.0 { 2 } else { 4 }
}

/// Formats a number times the scale.
pub fn scaled(x: f64, scale: f64) -> f64 {
    if scale == 0.0 || !scale.is_finite() { x } else { x * scale }
}

pub fn number(x: f64, scale: f64) -> String {
    plain(scaled(x, scale), decimals(scale))
}

/// Formats a number with its sign.
pub fn signed(x: f64, scale: f64) -> String {
    let (x, decimals) = (scaled(x, scale), decimals(scale));
    if x.is_finite() { format!("{x:+.decimals$}") } else { NOTHING.into() }
}

/// Formats half of the interval: `±0.61`. It is unknown for a single user.
pub fn half(interval: Option<[f64; 2]>, scale: f64) -> String {
    let Some([low, high]) = interval else { return "± unknown".into() };
    let half = (high - low) / 2.0;
    if half.is_finite() { format!("±{}", number(half, scale)) } else { String::new() }
}

/// Formats both ends of the interval of a difference.
pub fn interval(interval: Option<[f64; 2]>, scale: f64) -> String {
    let Some([low, high]) = interval else { return "unknown".into() };
    match low.is_finite() && high.is_finite() {
        true => format!("[{}, {}]", signed(low, scale), signed(high, scale)),
        false => NOTHING.into(),
    }
}

pub fn chance(p: Option<f64>) -> String {
    match p.filter(|p| p.is_finite()) {
        None => NOTHING.into(),
        Some(p) if p < 1e-4 => "<0.0001".into(),
        Some(p) => format!("{p:.4}"),
    }
}

/// Formats t or an effect size.
pub fn ratio(x: Option<f64>) -> String {
    x.map_or(NOTHING.into(), |x| plain(x, 2))
}

/// Returns the number of seeds that agree in sign with the overall difference, and the number of seeds.
pub fn agreeing(test: &Test) -> (usize, usize) {
    let sign = |x: f64| x.partial_cmp(&0.0);
    let same = test.by_seed.iter().filter(|d| sign(**d) == sign(test.result.difference)).count();
    (same, test.by_seed.len())
}

pub fn agreement(test: &Test) -> String {
    match agreeing(test) {
        (_, 0) => NOTHING.into(),
        (same, all) => format!("{same}/{all}"),
    }
}

/// Describes what intervals and tests treat as random, for rows with these seeds.
pub fn drawn<'a>(rows: impl Iterator<Item = &'a Vec<Seed>>) -> &'static str {
    match rows.map(|seeds| done(seeds).0).max() {
        Some(0 | 1) | None => "over users only: one seed does not show the variation between seeds",
        _ => "users and seeds are treated as random samples",
    }
}

/// Returns a caution about tests over rows with two seeds, which hardly show the variation between seeds.
pub fn caution<'a>(mut rows: impl Iterator<Item = &'a Vec<Seed>>) -> Option<&'static str> {
    rows.any(|seeds| done(seeds).0 == 2).then_some(
        "With two seeds the tests report too many differences if seeds differ much: 6 to 8 false differences in 100 \
         cases instead of at most 5. With three or more seeds the level holds.",
    )
}

/// The conclusion from a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Better (or worse) at 5 % after Holm's correction, with the same sign on every seed.
    Sure { better: bool },
    /// Better (or worse) at 5 % after Holm's correction, but not on every seed.
    Mixed { better: bool },
    /// No significant difference.
    None,
}

impl Mark {
    pub fn of(test: &Test, lower: bool) -> Self {
        let difference = test.result.difference;
        if test.p_holm.is_none_or(|p| p.is_nan() || p >= LEVEL) || difference == 0.0 {
            return Self::None;
        }
        let (better, (same, all)) = ((difference > 0.0) != lower, agreeing(test));
        if same == all { Self::Sure { better } } else { Self::Mixed { better } }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Sure { better: true } => "better",
            Self::Sure { better: false } => "worse",
            Self::Mixed { better: true } => "better, not on every seed",
            Self::Mixed { better: false } => "worse, not on every seed",
            Self::None => "no clear difference",
        }
    }
}

pub fn outcome(outcome: Option<ClaimOutcome>) -> &'static str {
    match outcome {
        Some(ClaimOutcome::Better) => "better",
        Some(ClaimOutcome::Worse) => "worse",
        Some(ClaimOutcome::NoDifference) => "no clear difference",
        None => "open: rows are missing",
    }
}

pub fn expectation(expect: Expect) -> &'static str {
    match expect {
        Expect::Better => "better",
        Expect::NotBetter => "not better",
    }
}

pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Confirmed => "confirmed",
        Verdict::InPart => "confirmed in part",
        Verdict::NotConfirmed => "not confirmed",
        Verdict::Open => "open: rows are missing",
    }
}

/// Returns the direction of a metric, printed next to its name.
pub fn direction(lower: bool) -> &'static str {
    if lower { "lower is better" } else { "higher is better" }
}

/// Returns the number of finished seeds, and the number of seeds.
pub fn done(seeds: &[Seed]) -> (usize, usize) {
    (seeds.iter().filter(|s| s.state == RunState::Done).count(), seeds.len())
}

fn why(state: &RunState) -> (&'static str, &str) {
    match state {
        RunState::Done => ("done", ""),
        RunState::Waiting => ("waiting", ""),
        RunState::Failed(why) => ("failed", why),
        RunState::Stale(why) => ("stale", why),
    }
}

/// Returns one word for seeds of which none is done: the worst state of any of them.
pub fn standing(seeds: &[Seed]) -> &'static str {
    let words = |word| seeds.iter().any(|s| why(&s.state).0 == word).then_some(word);
    words("failed").or(words("stale")).or(words("done")).unwrap_or("waiting")
}

/// Returns the unfinished seeds, grouped by state and reason: a description and the reason of each group.
pub fn undone(seeds: &[Seed]) -> Vec<(String, String)> {
    let mut fates: Vec<(&RunState, Vec<u64>)> = Vec::new();
    for seed in seeds.iter().filter(|s| s.state != RunState::Done) {
        match fates.iter_mut().find(|(state, _)| *state == &seed.state) {
            Some((_, of)) => of.push(seed.seed),
            None => fates.push((&seed.state, vec![seed.seed])),
        }
    }
    let told = |(state, of): (&RunState, Vec<u64>)| {
        let names: Vec<String> = of.iter().map(u64::to_string).collect();
        let (word, why) = why(state);
        (format!("seed{} {} {word}", if of.len() > 1 { "s" } else { "" }, names.join(", ")), why.trim().to_string())
    };
    fates.into_iter().map(told).collect()
}

/// Returns the name of a row for use outside its table.
pub fn row_name(row: &ResultRow) -> String {
    if row.labels.iter().all(|l| l.is_empty()) { row.name.clone() } else { row.labels.join(", ") }
}

/// Returns the displayed name of the row with this name, or the name itself if there is no such row.
pub fn name_in(table: &Table, name: &str) -> String {
    table.rows.iter().find(|row| row.name == name).map_or(name.to_string(), row_name)
}

/// Returns every failed run: its name and the error.
pub fn failures(results: &super::results::Results) -> Vec<(String, String)> {
    let bases = results.bases.iter().map(|b: &Base| (b.name.clone(), &b.seeds));
    let rows = results
        .tables
        .iter()
        .flat_map(|t| t.rows.iter().map(move |r| (format!("{}: {}", t.title, row_name(r)), &r.seeds)));
    let mut found = Vec::new();
    for (name, seeds) in bases.chain(rows) {
        for seed in seeds {
            if let RunState::Failed(why) = &seed.state {
                found.push((format!("{name}, seed {}", seed.seed), why.trim().to_string()));
            }
        }
    }
    found
}

/// Returns the mean over finished seeds of the validation at the epoch of the selected weights.
pub fn best_of(base: &Base) -> Option<f64> {
    let best = |s: &Seed| s.curve.iter().find(|(epoch, _)| Some(*epoch) == s.best).map(|(_, value)| *value);
    let all: Vec<f64> = base.seeds.iter().filter(|s| s.state == RunState::Done).filter_map(best).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// Returns the labels of a row, or its name if it has none.
pub fn labels(row: &ResultRow) -> Vec<String> {
    if row.labels.is_empty() { vec![row.name.clone()] } else { row.labels.clone() }
}

/// Returns the number of decimals of published numbers: the maximum over all of them.
pub fn printed(table: &Table) -> usize {
    let whole = |x: f64| (x - x.round()).abs() < 1e-6;
    let needs = |x: &f64| (0..4).find(|d| whole(x * 10f64.powi(*d))).unwrap_or(4) as usize;
    table.rows.iter().flat_map(|row| &row.published).filter(|x| x.is_finite()).map(needs).max().unwrap_or(0)
}
