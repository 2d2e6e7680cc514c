/*! Metrics of predicted click probabilities, and two baselines.

With n impressions, labels t_i in {0, 1}, logits z_i and p_i = sigma(z_i):

| metric | value | worthless | perfect |
|---|---|---|---|
| AUC | share of pairs (click, no click) in which the click has the larger z; equal z count half | 0.5 | 1 |
| log-loss | mean of softplus(z_i) - t_i z_i, the negative log-likelihood of the label | that of the base rate | 0 |
| mean p | mean of p_i; compared with the share of clicks, it shows whether probabilities are right on average | | |

AUC measures the order of the impressions, log-loss the calibration of the probabilities. A model can be good at one
alone. AUC is computed from ranks: (sum of the ranks of clicks - P (P+1) / 2) / (P N) with P clicks and N other
impressions. Ties have their mean rank (Mann and Whitney 1947). This takes n log n instead of n squared operations and
is exact, because the ranks are summed as integers.

| baseline | prediction | what it shows |
|---|---|---|
| base rate | the share of clicks in training, for all impressions | a useful model has a lower log-loss |
| item rate | an item's share of clicks in training, plus [`PRIOR`] impressions at the base rate | popularity alone |

A model's gain over the item rate comes from users.
*/

use serde::Serialize;

use crate::{base::table::Table, data::digits};

/// Impressions at the base rate that are added to each item's own.
pub const PRIOR: f64 = 20.0;

/// Returns the share of pairs in which the click has the larger score, ties counted half; `None` if all labels are
/// equal.
pub fn auc(scores: &[f64], clicked: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), clicked.len());
    let positives = clicked.iter().filter(|c| **c).count() as u128;
    let negatives = clicked.len() as u128 - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let score = |i: &u32| scores[*i as usize];
    order.sort_unstable_by(|a, b| score(a).total_cmp(&score(b)));
    // Twice the mean rank of a tie is whole: the ranks first+1 ..= end have the mean (first+1+end) / 2.
    let mut twice = 0u128;
    let mut first = 0;
    for tie in order.chunk_by(|a, b| score(a) == score(b)) {
        let end = first + tie.len();
        let clicks = tie.iter().filter(|i| clicked[**i as usize]).count();
        twice += clicks as u128 * (first + 1 + end) as u128;
        first = end;
    }
    Some((twice - positives * (positives + 1)) as f64 / (2 * positives * negatives) as f64)
}

/// Returns the mean of softplus(z) - t z, in the form that neither overflows nor cancels.
pub fn log_loss(logits: &[f64], clicked: &[bool]) -> f64 {
    let one = |(z, t): (&f64, &bool)| z.max(0.0) - if *t { *z } else { 0.0 } + (-z.abs()).exp().ln_1p();
    logits.iter().zip(clicked).map(one).sum::<f64>() / logits.len().max(1) as f64
}

/// 1 / (1 + e^-z).
pub fn probability(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// ln(p / (1-p)).
pub fn log_odds(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// The metrics of a set of logits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClickMetrics {
    /// `None` (null) if all labels are equal.
    pub auc: Option<f64>,
    pub log_loss: f64,
    pub mean_probability: f64,
}

impl ClickMetrics {
    pub fn of(logits: &[f64], clicked: &[bool]) -> ClickMetrics {
        let mean = logits.iter().map(|z| probability(*z)).sum::<f64>() / logits.len().max(1) as f64;
        ClickMetrics { auc: auc(logits, clicked), log_loss: log_loss(logits, clicked), mean_probability: mean }
    }
}

/// Shares of clicks in training.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Of all impressions; between 0 and 1 where both kinds occur.
    pub base: f64,
    /// Impressions and clicks of each item (V).
    counts: Vec<[u32; 2]>,
}

impl Rates {
    /// Counts the (item, clicked) rows of training; items are below `items`.
    pub fn count(items: usize, rows: impl Iterator<Item = (u32, bool)>) -> Rates {
        let (mut counts, mut all) = (vec![[0; 2]; items], [0u64; 2]);
        for (item, clicked) in rows {
            let of = &mut counts[item as usize];
            *of = [of[0] + 1, of[1] + clicked as u32];
            all = [all[0] + 1, all[1] + clicked as u64];
        }
        Rates { base: all[1] as f64 / all[0].max(1) as f64, counts }
    }

    /// Returns the share of clicks of an item, smoothed with [`PRIOR`].
    pub fn of(&self, item: u32) -> f64 {
        let [shown, clicks] = self.counts[item as usize];
        (clicks as f64 + PRIOR * self.base) / (shown as f64 + PRIOR)
    }
}

/// Model and baselines on held-out impressions.
#[derive(Clone, Debug, Serialize)]
pub struct ClickReport {
    /// "test" or "validation".
    pub part: &'static str,
    pub impressions: usize,
    pub clicks: usize,
    pub model: ClickMetrics,
    pub item_rate: ClickMetrics,
    pub base_rate: ClickMetrics,
    /// AUC of the run's own score <u,v> + bias, without the head; absent if the items' vectors are not the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_score_auc: Option<f64>,
}

impl ClickReport {
    /// Compares `logits` and the baselines on impressions of `items`.
    pub fn new(
        part: &'static str,
        logits: &[f64],
        items: &[u32],
        clicked: &[bool],
        rates: &Rates,
        run_scores: Option<&[f64]>,
    ) -> Self {
        let by_item: Vec<f64> = items.iter().map(|i| log_odds(rates.of(*i))).collect();
        let base = vec![log_odds(rates.base); items.len()];
        ClickReport {
            part,
            impressions: items.len(),
            clicks: clicked.iter().filter(|c| **c).count(),
            model: ClickMetrics::of(logits, clicked),
            item_rate: ClickMetrics::of(&by_item, clicked),
            base_rate: ClickMetrics::of(&base, clicked),
            run_score_auc: run_scores.and_then(|scores| auc(scores, clicked)),
        }
    }

    /// Returns the report as an aligned table.
    pub fn text(&self) -> String {
        let share = 100.0 * self.clicks as f64 / self.impressions.max(1) as f64;
        let mut table = Table::new().left("").right("AUC").right("log-loss").right("mean p");
        let cell = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
        for (name, m) in [("model", &self.model), ("item rate", &self.item_rate), ("base rate", &self.base_rate)] {
            table.row([name.to_string(), cell(m.auc), cell(Some(m.log_loss)), cell(Some(m.mean_probability))]);
        }
        if self.run_score_auc.is_some() {
            table.row(["the run's score alone".to_string(), cell(self.run_score_auc), cell(None), cell(None)]);
        }
        let impressions = digits(self.impressions as u64);
        format!("\n{}: {impressions} impressions, {share:.2} % clicked\n{table}", self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    /// AUC by its definition, pair by pair.
    fn by_pairs(scores: &[f64], clicked: &[bool]) -> f64 {
        let (mut won, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().zip(clicked).filter(|(_, c)| **c) {
            for (b, _) in scores.iter().zip(clicked).filter(|(_, c)| !**c) {
                won += if a > b { 1.0 } else { 0.5 * f64::from(u8::from(a == b)) };
                pairs += 1.0;
            }
        }
        won / pairs
    }

    #[test]
    fn auc_is_the_share_of_pairs_in_the_right_order() {
        let yes_no = |text: &str| -> Vec<bool> { text.chars().map(|c| c == '1').collect() };
        assert_eq!(auc(&[1.0, 2.0, 3.0], &yes_no("001")), Some(1.0));
        assert_eq!(auc(&[3.0, 2.0, 1.0], &yes_no("001")), Some(0.0));
        assert_eq!(auc(&[5.0; 4], &yes_no("0101")), Some(0.5));
        assert_eq!(auc(&[0.0, -0.0], &yes_no("01")), Some(0.5), "the two zeros are equal");
        // Worked example: of clicks {2, 4} and others {1, 2, 3}: 2 > 1, 2 = 2, and 4 beats all three: 4.5 of 6.
        assert_eq!(auc(&[1.0, 2.0, 2.0, 3.0, 4.0], &yes_no("01001")), Some(0.75));
        assert_eq!((auc(&[1.0, 2.0], &yes_no("11")), auc(&[], &[])), (None, None));
        for (n, distinct) in [(2, 9), (7, 3), (50, 5), (333, 1000), (400, 7)] {
            let mut draw = Stream::new(3, Purpose::Test, n);
            let scores: Vec<f64> = (0..n).map(|_| draw.below(distinct) as f64 - 2.0).collect();
            let clicked: Vec<bool> = (0..n).map(|i| i == 0 || i > 1 && draw.below(3) == 0).collect();
            let (have, want) = (auc(&scores, &clicked).unwrap(), by_pairs(&scores, &clicked));
            assert!((have - want).abs() < 1e-12, "{n}: {have} against {want}");
        }
    }

    #[test]
    fn known_answers() {
        // AUC counted pair by pair in Python; log-loss by PyTorch's binary_cross_entropy_with_logits at f64.
        let z = [0.3, -1.2, 2.0, 0.3, 0.0, -0.7, 1.1, 0.3];
        let t = [1, 0, 1, 0, 0, 1, 1, 1].map(|t| t == 1);
        let m = ClickMetrics::of(&z, &t);
        assert!((m.auc.unwrap() - 0.8).abs() < 1e-15);
        assert!((m.log_loss - 0.5546180957934274).abs() < 1e-15);
        assert!((m.mean_probability - 0.5522090222925992).abs() < 1e-15);
    }

    #[test]
    fn log_loss_in_closed_form_and_far_out() {
        // The constant that fits best is the share of clicks; its log-loss is the entropy.
        let clicked: Vec<bool> = (0..10).map(|i| i < 3).collect();
        let entropy = -(0.3f64 * 0.3f64.ln() + 0.7 * 0.7f64.ln());
        assert!((log_loss(&[log_odds(0.3); 10], &clicked) - entropy).abs() < 1e-14);
        assert!(log_loss(&[log_odds(0.31); 10], &clicked) > entropy);
        assert_eq!(log_loss(&[1e5, -1e5], &[true, false]), 0.0);
        assert_eq!(log_loss(&[1e5, -1e5], &[false, true]), 1e5);
        assert!((log_loss(&[0.0], &[true]) - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn rates_are_drawn_towards_the_base_rate() {
        let rows = (0..100).map(|i| (i % 2, i % 2 == 0 && i < 40));
        let rates = Rates::count(3, rows);
        assert!((rates.base - 0.2).abs() < 1e-15);
        let want = [(20.0 + 4.0) / 70.0, 4.0 / 70.0, 0.2];
        for (item, want) in want.into_iter().enumerate() {
            assert!((rates.of(item as u32) - want).abs() < 1e-15);
        }
    }
}
