//! The metrics of a table.

use crate::base::{Error, Result, error::nearest};

/// A metric over held-out events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Ndcg(usize),
    Recall(usize),
    Hr(usize),
    Mrr,
    Map,
    Rmse,
    Mae,
}

impl Metric {
    /// Parses the name of a metric.
    ///
    /// # Errors
    /// There is no metric with this name.
    pub fn parse(text: &str) -> Result<Metric> {
        const ALL: &str = "NDCG@k, Recall@k, HR@k, MRR, MAP; for ratings RMSE, MAE";
        let (name, k) = text.split_once('@').map_or((text, None), |(name, k)| (name, Some(k)));
        let unknown = || {
            let e = Error::user(format!("there is no metric '{text}'"));
            let at = |name: &str| match name {
                "NDCG" | "Recall" | "HR" => {
                    let k = k.filter(|k| k.parse::<usize>().is_ok_and(|k| k > 0)).unwrap_or("10");
                    format!("{name}@{k}")
                }
                name => name.into(),
            };
            // Suggest a metric regardless of case.
            let known = ["NDCG", "Recall", "HR", "MRR", "MAP", "RMSE", "MAE"];
            let small = known.map(str::to_lowercase);
            let near = nearest(&name.to_lowercase(), small.iter().map(String::as_str))
                .and_then(|near| small.iter().position(|name| name == near));
            e.hint(
                near.map_or(ALL.into(), |near| format!("did you mean '{}'? The metrics are: {ALL}", at(known[near]))),
            )
        };
        let at = || k.and_then(|k| k.parse().ok()).filter(|k| *k > 0).ok_or_else(unknown);
        match (name, k) {
            ("NDCG", _) => at().map(Metric::Ndcg),
            ("Recall", _) => at().map(Metric::Recall),
            ("HR", _) => at().map(Metric::Hr),
            ("MRR", None) => Ok(Metric::Mrr),
            ("MAP", None) => Ok(Metric::Map),
            ("RMSE", None) => Ok(Metric::Rmse),
            ("MAE", None) => Ok(Metric::Mae),
            _ => Err(unknown()),
        }
    }

    pub fn of_ratings(self) -> bool {
        matches!(self, Metric::Rmse | Metric::Mae)
    }
}
