/*! The result of an evaluation, as one JSON object or as text that states the protocol first.

A number without its protocol is meaningless: excluding the history changes NDCG by a third, and sampled ranking
multiplies it. So the protocol is part of the report and precedes the numbers, and sampled results are separate from
full ranking.
*/

use std::fmt::Write;

use serde::Serialize;

use super::{
    metrics::{Metrics, Sums},
    negatives::Sampling,
};
use crate::{
    base::table::{Align, Table},
    data::{
        cut::when,
        digits,
        split::{SplitSpec, Summary},
    },
};

/// The protocol: what was measured, on which users, by which rules.
#[derive(Clone, Debug, Serialize)]
pub struct Protocol {
    /// "test" or "validation".
    pub part: &'static str,
    pub split: SplitSpec,
    pub summary: Summary,
    /// In words: the events that are a user's history.
    pub history: &'static str,
    /// Whether items of the history are candidates too.
    pub keep_seen: bool,
    /// Always "against the model".
    pub ties: &'static str,
    pub catalogue: usize,
    pub data_users: usize,
    /// Users evaluated.
    pub users: u64,
    /// Users left out because the model knows none of their held-out items.
    pub left_out_unknown_items: usize,
    /// Users left out because the model knows no item of their history.
    pub left_out_unknown_history: usize,
    /// Held-out items that are also in their user's history: excluded with it, so counted as misses.
    pub seen_held_out: usize,
    /// Items of the data that the model does not know.
    pub unknown_items: usize,
    /// Negatives of the sampled rankings; 0 if there are none.
    pub negatives: usize,
    /// Seed of the negatives.
    pub seed: u64,
}

/// One value each for the model and its baselines, under the same ranking: metrics or the sums they are computed from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking<T = Metrics> {
    pub model: T,
    /// The items that occur most often in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub popularity: Option<T>,
    /// The items that the user's earlier baskets contain most often, then the popular ones; for baskets only.
    #[serde(rename = "personal_frequency", skip_serializing_if = "Option::is_none")]
    pub personal: Option<T>,
}

impl<T> Ranking<T> {
    /// Applies `f` to each part.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Ranking<U> {
        Ranking {
            model: f(&self.model),
            popularity: self.popularity.as_ref().map(&f),
            personal: self.personal.as_ref().map(&f),
        }
    }

    /// Returns the baselines that are present, each with its name.
    pub fn beside(&self) -> impl Iterator<Item = (&'static str, &T)> {
        [("popularity", &self.popularity), ("personal", &self.personal)]
            .into_iter()
            .filter_map(|(name, part)| Some((name, part.as_ref()?)))
    }
}

impl Ranking<Sums> {
    /// Adds one user (or, in a slice by item popularity, one held-out item).
    pub fn add(&mut self, ranks: &Ranking<Vec<usize>>) {
        self.model.add(&ranks.model);
        let beside = [(&mut self.popularity, &ranks.popularity), (&mut self.personal, &ranks.personal)];
        for (sums, ranks) in beside {
            sums.iter_mut().zip(ranks).for_each(|(sums, ranks)| sums.add(ranks));
        }
    }
}

/// A ranking among sampled negatives. Its numbers are far higher than those of full ranking and not comparable with
/// them.
#[derive(Clone, Debug, Serialize)]
pub struct Sampled {
    pub sampling: Sampling,
    pub negatives: usize,
    /// Users left out of this ranking only: they know so many items that fewer than `negatives` are left to draw.
    pub left_out: u64,
    #[serde(flatten)]
    pub ranking: Ranking,
}

/// Full ranking over a subset of the users or of the held-out items.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    pub name: String,
    /// For slices by popularity: the number of items of the catalogue in this band.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
    #[serde(flatten)]
    pub ranking: Ranking,
}

/// All results of one evaluation pass.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub protocol: Protocol,
    pub full: Ranking,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sampled: Vec<Sampled>,
    /// Users by the number of events in their history.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_history: Vec<Slice>,
    /// Held-out items by popularity in training; a case is a pair of user and item.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_popularity: Vec<Slice>,
}

impl Report {
    /// Returns the report as a JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Returns the report as text: the protocol, then aligned tables.
    pub fn text(&self) -> String {
        let mut out = self.protocol.text();
        // With one held-out item, recall equals the hit rate: one row shows both.
        let single = self.full.model.at.iter().all(|m| (m.recall - m.hr).abs() < 1e-12);
        let title = format!("full ranking, catalogue of {}", digits(self.protocol.catalogue as u64));
        table(&mut out, &title, &self.full, single);
        if self.full.popularity.is_some() {
            out.push_str("popularity: items by their events in the training part\n");
        }
        if self.full.personal.is_some() {
            out.push_str("personal: items by the number of the user's earlier baskets with them, then by popularity\n");
        }
        for sampled in &self.sampled {
            let title = format!("SAMPLED: {} negatives, drawn {}", sampled.negatives, sampled.sampling.words());
            table(&mut out, &title, &sampled.ranking, single);
            if sampled.left_out > 0 {
                let _ = writeln!(
                    out,
                    "  {} of {} users are left out here: fewer than {} items are left to draw for them",
                    digits(sampled.left_out),
                    digits(self.protocol.users),
                    digits(sampled.negatives as u64)
                );
            }
        }
        if !self.sampled.is_empty() {
            if self.protocol.seen_held_out > 0 {
                out.push_str("\nsampled rankings include the held-out items that are also in the history\n");
            }
            out.push_str(
                "\nsampled numbers are not comparable with full ranking, nor with other numbers of negatives\n",
            );
        }
        slice_table(&mut out, "by history length", "users", &self.by_history);
        slice_table(&mut out, "by popularity of the held-out item", "cases", &self.by_popularity);
        if !self.by_popularity.is_empty() {
            out.push_str(
                "head, mid, tail: most to least popular items, a third of the training events each; cold: \
                 never in training\n",
            );
        }
        out
    }
}

impl Protocol {
    /// Returns a few lines: split, users, candidates, ties.
    fn text(&self) -> String {
        let mut out = String::new();
        let s = &self.summary;
        let _ = writeln!(out, "split    {}", self.split.words(s.ticks_per_second));
        if let (SplitSpec::Time { cut, .. }, Some(valid_cut)) = (self.split, s.valid_cut) {
            let date = |t| when(t, s.ticks_per_second);
            let _ = writeln!(out, "         validation from {}, test from {}", date(valid_cut), date(cut));
        }
        let _ = writeln!(
            out,
            "         events: {} train, {} validate, {} test; equal timestamps keep the order of the input",
            digits(s.train_events),
            digits(s.valid_events),
            digits(s.test_events)
        );
        if let Some(tied) = s.tied_test_users {
            let _ = writeln!(
                out,
                "         for {} of {} test users the first test item shares its timestamp with the item before it",
                digits(tied as u64),
                digits(s.test_users as u64)
            );
        }
        if s.whole_baskets > 0 {
            let _ = writeln!(
                out,
                "         for {} users the cut fell inside a basket, which is held out whole",
                digits(s.whole_baskets as u64)
            );
        }
        if s.unseen_items > 0 {
            let _ = writeln!(
                out,
                "         items that occur only in held-out events: {} (ranked like any other, slice 'cold')",
                digits(s.unseen_items as u64)
            );
        }
        // Users without a held-out event who are not left out for another reason.
        let others = self.left_out_unknown_items + self.left_out_unknown_history;
        let no_history = if self.part == "test" { s.no_history_users } else { 0 };
        let nothing = s.users.saturating_sub(self.users as usize + others + no_history);
        let _ = write!(out, "users    {} evaluated on their {} events", digits(self.users), self.part);
        for (n, why) in [
            (nothing, "with nothing held out for it"),
            (no_history, "with no history before the test"),
            (self.left_out_unknown_items, "with no held-out item known to the model"),
            (self.left_out_unknown_history, "with no history item known to the model"),
        ] {
            if n > 0 {
                let _ = write!(out, "; left out: {} {why}", digits(n as u64));
            }
        }
        let _ = writeln!(out);
        if self.unknown_items > 0 {
            let _ =
                writeln!(out, "         items of the data unknown to the model: {}", digits(self.unknown_items as u64));
        }
        let seen = if self.split.repeats() {
            "items of the history are ranked too, since baskets repeat"
        } else if self.keep_seen {
            "items of the history are ranked too (--keep-seen)"
        } else {
            "items of the history are excluded (--keep-seen ranks them too)"
        };
        let _ = writeln!(out, "ranking  history = {}; {seen}", self.history);
        if self.seen_held_out > 0 {
            let _ = writeln!(
                out,
                "         held-out items that are also in the history: {}; never recommended, so misses of full \
                 ranking\n         (--keep-seen ranks them)",
                digits(self.seen_held_out as u64)
            );
        }
        let _ =
            writeln!(out, "ties     count against the model: rank = 1 + other candidates that score at least as high");
        out
    }
}

/// Appends one table: a row per metric, a column for the model and each baseline.
fn table(out: &mut String, title: &str, ranking: &Ranking, single: bool) {
    let mut table = Table::new().left("metric").right("model");
    for (name, _) in ranking.beside() {
        table.column(name, Align::Right);
        table.column("ratio", Align::Right);
    }
    let mut row = |name: String, value: &dyn Fn(&Metrics) -> f64| {
        let model = value(&ranking.model);
        let mut cells = vec![name, format!("{model:.4}")];
        for (_, baseline) in ranking.beside() {
            let b = value(baseline);
            cells.push(format!("{b:.4}"));
            cells.push(if b > 0.0 { format!("{:.2}", model / b) } else { "-".into() });
        }
        table.row(cells);
    };
    let ks = || ranking.model.at.iter().map(|m| m.k).enumerate();
    for (i, k) in ks() {
        row(format!("NDCG@{k}"), &|m| m.at[i].ndcg);
    }
    for (i, k) in ks() {
        if single {
            row(format!("HR@{k} = Recall@{k}"), &|m| m.at[i].hr);
        } else {
            row(format!("Recall@{k}"), &|m| m.at[i].recall);
            row(format!("HR@{k}"), &|m| m.at[i].hr);
        }
    }
    row("MRR".into(), &|m| m.mrr);
    if !single {
        row("MAP".into(), &|m| m.map);
    }
    let _ = write!(out, "\n{title}\n{table}");
}

/// Appends a table with a row per slice; NDCG and HR at the k nearest to 10.
fn slice_table(out: &mut String, title: &str, cases: &str, slices: &[Slice]) {
    let Some(first) = slices.first() else { return };
    let Some(at) = (0..first.ranking.model.at.len()).min_by_key(|i| first.ranking.model.at[*i].k.abs_diff(10)) else {
        return;
    };
    let k = first.ranking.model.at[at].k;
    let (ndcg, hr) = (format!("NDCG@{k}"), format!("HR@{k}"));
    let mut table = Table::new().left("slice").right(cases).right(&ndcg).right(&hr);
    for (name, _) in first.ranking.beside() {
        table.column(format!("{name}: {ndcg}"), Align::Right);
        table.column(&hr, Align::Right);
    }
    for slice in slices {
        let name = match slice.items {
            Some(n) => format!("{} (items: {})", slice.name, digits(n as u64)),
            None => slice.name.clone(),
        };
        let numbers = |m: &Metrics| [m.at[at].ndcg, m.at[at].hr].map(|x| format!("{x:.4}"));
        let mut row = vec![name, digits(slice.ranking.model.cases)];
        row.extend(numbers(&slice.ranking.model));
        row.extend(slice.ranking.beside().flat_map(|(_, baseline)| numbers(baseline)));
        table.row(row);
    }
    let _ = write!(out, "\n{title}\n{table}");
}
