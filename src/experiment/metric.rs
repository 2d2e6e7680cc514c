//! The metrics of a table.

use crate::base::{Error, Result};

/// What is asked of held-out events.
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
    /// # Errors
    /// No metric of that name.
    pub fn parse(text: &str) -> Result<Metric> {
        let unknown = || {
            Error::user(format!("there is no metric '{text}'"))
                .hint("NDCG@k, Recall@k, HR@k, MRR, MAP; of ratings RMSE, MAE")
        };
        let (name, k) = text.split_once('@').map_or((text, None), |(name, k)| (name, Some(k)));
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
