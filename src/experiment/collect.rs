/*! Computes [`Results`](super::results::Results) from the files of finished runs: values per user, means, intervals,
tests and verdicts.

For lists, each user counts once, whatever the number of held-out items. For ratings, each rating counts once, so that
the RMSE of a row is the RMSE over all ratings. The value of a user is then the linearisation of the RMSE: with the sum
S_u of squared errors and the number n_u of ratings, and n-bar the mean of n_u over users,
z_u = RMSE + (S_u - RMSE^2 n_u) / (2 RMSE n-bar). The mean of z_u is the RMSE; absolute errors are treated likewise. All
metrics are therefore means over users, and rows are compared by paired tests over users ([`crossed`]).
*/

use std::{collections::HashMap, fs, path::Path};

use super::{
    metric::Metric,
    results::{Against, Claim, ClaimOutcome, Estimate, Expect, ResultRow, Test},
    trials::{best_of, curve_of},
};
use crate::{
    base::{Error, Result, error::IoContext},
    eval::{
        metrics::{MISS, at_k, average_precision, reciprocal_rank},
        significance::{Crossed, Paired, crossed, holm},
        slices::{HISTORY_FROM, history_name, history_slice},
    },
};

/// Significance level for corrected p.
pub const LEVEL: f64 = 0.05;

/// The results of one run for each user.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub users: Vec<String>,
    /// For each metric and user, the sum of its values. `counts` holds the number of summands: one list, or the user's
    /// ratings.
    pub sums: Vec<Vec<f64>>,
    pub counts: Vec<f64>,
}

/// Reads the ranks that `mipgpu eval --per-user` has written: among `negatives`, or among all items if that is 0.
///
/// # Errors
/// The file is missing or has another form.
pub fn read_lists(path: &Path, metrics: &[Metric], negatives: usize) -> Result<Answers> {
    let text = fs::read_to_string(path).at_path(path)?;
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or("").split('\t').collect();
    let wanted = if negatives > 0 { format!("rank_among_{negatives}_uniform") } else { "rank".into() };
    let damaged = |what: String| {
        Error::user(format!("{}: {what}", path.display())).hint("remove the file; the experiment then creates it again")
    };
    let column = head.iter().position(|h| *h == wanted).ok_or_else(|| damaged(format!("no column '{wanted}'")))?;
    let mut answers = Answers { sums: vec![Vec::new(); metrics.len()], ..Answers::default() };
    for (i, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split('\t').collect();
        // The user has too few items left to draw negatives from.
        if cells.get(column).is_some_and(|cell| cell.is_empty()) {
            continue;
        }
        let rank = |text: &str| if text == "miss" { Some(MISS) } else { text.parse().ok() };
        let ranks: Option<Vec<usize>> = cells.get(column).and_then(|cell| cell.split('|').map(rank).collect());
        let ranks = ranks.ok_or_else(|| damaged(format!("line {} holds no ranks", i + 2)))?;
        answers.users.push(cells[0].to_string());
        answers.counts.push(1.0);
        for (metric, sums) in metrics.iter().zip(&mut answers.sums) {
            sums.push(match *metric {
                Metric::Ndcg(k) => at_k(&ranks, k).ndcg,
                Metric::Recall(k) => at_k(&ranks, k).recall,
                Metric::Hr(k) => at_k(&ranks, k).hr,
                Metric::Mrr => reciprocal_rank(&ranks),
                Metric::Map => average_precision(&ranks),
                Metric::Rmse | Metric::Mae => f64::NAN,
            });
        }
    }
    Ok(answers)
}

/// Reads the ratings that `mipgpu eval --per-user` has written.
///
/// # Errors
/// The file is missing or has another form.
pub fn read_ratings(path: &Path, metrics: &[Metric]) -> Result<Answers> {
    let text = fs::read_to_string(path).at_path(path)?;
    let mut answers = Answers { sums: vec![Vec::new(); metrics.len()], ..Answers::default() };
    for (i, line) in text.lines().enumerate().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| cells.get(at).and_then(|cell| cell.parse::<f64>().ok());
        let (Some(rating), Some(predicted)) = (number(2), number(3)) else {
            return Err(Error::user(format!("{}: line {} holds no ratings", path.display(), i + 1))
                .hint("remove the file; the experiment then creates it again"));
        };
        if answers.users.last().is_none_or(|last| last != cells[0]) {
            answers.users.push(cells[0].to_string());
            answers.counts.push(0.0);
            answers.sums.iter_mut().for_each(|sums| sums.push(0.0));
        }
        let (user, error) = (answers.users.len() - 1, predicted - rating);
        answers.counts[user] += 1.0;
        for (metric, sums) in metrics.iter().zip(&mut answers.sums) {
            sums[user] += if *metric == Metric::Rmse { error * error } else { error.abs() };
        }
    }
    Ok(answers)
}

/// Learning curve: (epoch, validation metric).
pub type Curve = Vec<(u32, f64)>;

/// Reads the learning curve of a run and its best epoch.
///
/// # Errors
/// A line cannot be parsed.
pub fn read_curve(run: &Path) -> Result<(Curve, Option<u32>)> {
    let rows = curve_of(run)?;
    let curve = rows.iter().filter_map(|row| Some((row.epoch, row.measure()?))).collect();
    Ok((curve, best_of(&rows).map(|best| best.epoch)))
}

/// Results of all runs of a table, over the users that all of them have in common.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// The metrics of the table.
    pub metrics: Vec<Metric>,
    pub users: Vec<String>,
    pub counts: Vec<f64>,
    /// Results by row and seed.
    runs: HashMap<(usize, u64), Vec<Vec<f64>>>,
}

impl Answered {
    /// Combines runs, given as `(row, seed)` and their results.
    pub fn new(metrics: Vec<Metric>, runs: Vec<((usize, u64), Answers)>) -> Answered {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (_, answers) in &runs {
            answers.users.iter().for_each(|user| *seen.entry(user).or_default() += 1);
        }
        let Some((_, first)) = runs.first() else { return Answered { metrics, ..Answered::default() } };
        let kept: Vec<usize> =
            (0..first.users.len()).filter(|u| seen[first.users[*u].as_str()] == runs.len()).collect();
        let users: Vec<String> = kept.iter().map(|u| first.users[*u].clone()).collect();
        let counts = kept.iter().map(|u| first.counts[*u]).collect();
        let taken = runs
            .iter()
            .map(|(run, answers)| {
                let place: HashMap<&str, usize> =
                    answers.users.iter().enumerate().map(|(i, u)| (u.as_str(), i)).collect();
                let order: Vec<usize> = users.iter().map(|user| place[user.as_str()]).collect();
                (*run, answers.sums.iter().map(|sums| order.iter().map(|at| sums[*at]).collect()).collect())
            })
            .collect();
        Answered { metrics, users, counts, runs: taken }
    }

    fn seeds_of(&self, rows: &[usize], seeds: &[u64]) -> Vec<u64> {
        seeds.iter().copied().filter(|s| rows.iter().all(|row| self.runs.contains_key(&(*row, *s)))).collect()
    }

    /// Returns the values of the given users, averaged over the given rows, at a seed.
    fn shares(&self, rows: &[usize], seed: u64, metric: usize, among: Option<&[usize]>) -> Vec<f64> {
        let all: Vec<usize>;
        let users = match among {
            Some(users) => users,
            None => {
                all = (0..self.users.len()).collect();
                &all
            }
        };
        let counts: f64 = users.iter().map(|u| self.counts[*u]).sum();
        let mut shares = vec![0.0; users.len()];
        for run in rows.iter().filter_map(|row| self.runs.get(&(*row, seed))) {
            let (sums, per_user) = (&run[metric], counts / users.len() as f64);
            let mean = users.iter().map(|u| sums[*u]).sum::<f64>() / counts;
            let root = mean.sqrt();
            for (share, u) in shares.iter_mut().zip(users) {
                let above = (sums[*u] - mean * self.counts[*u]) / per_user;
                *share += match self.metrics[metric] {
                    Metric::Rmse if root > 0.0 => root + above / (2.0 * root),
                    _ => mean + above,
                } / rows.len() as f64;
            }
        }
        shares
    }

    /// Returns the value of a row at a seed.
    pub fn value(&self, row: usize, seed: u64, metric: usize) -> Option<f64> {
        self.runs.contains_key(&(row, seed)).then(|| mean(&self.shares(&[row], seed, metric, None)))
    }

    /// Estimates a row over its seeds, for all or the given users.
    pub fn estimate(&self, row: usize, seeds: &[u64], metric: usize, among: Option<&[usize]>) -> Option<Estimate> {
        let seeds = self.seeds_of(&[row], seeds);
        if seeds.is_empty() || among.map_or(self.users.len(), <[usize]>::len) == 0 {
            return None;
        }
        let shares: Vec<Vec<f64>> = seeds.iter().map(|seed| self.shares(&[row], *seed, metric, among)).collect();
        let Crossed { mean, interval, .. } = crossed(&shares);
        Some(Estimate { mean, interval })
    }

    /// Tests the second group of rows against the first, over their common seeds, for all or the given users.
    pub fn test(
        &self,
        (first, second): (&[usize], &[usize]),
        seeds: &[u64],
        metric: usize,
        among: Option<&[usize]>,
    ) -> Option<Test> {
        let rows: Vec<usize> = first.iter().chain(second).copied().collect();
        let seeds = self.seeds_of(&rows, seeds);
        let n = among.map_or(self.users.len(), <[usize]>::len);
        if seeds.is_empty() || n == 0 {
            return None;
        }
        let of = |rows: &[usize]| -> Vec<Vec<f64>> {
            seeds.iter().map(|seed| self.shares(rows, *seed, metric, among)).collect()
        };
        let (a, b) = (of(first), of(second));
        let minus = |(a, b): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| b - a).collect() };
        let differences: Vec<Vec<f64>> = a.iter().zip(&b).map(minus).collect();
        let of_all = |seeds: &[Vec<f64>]| seeds.iter().map(|seed| mean(seed)).sum::<f64>() / seeds.len() as f64;
        let Crossed { mean: difference, interval, t, p, effect } = crossed(&differences);
        let result = Paired { n, means: [of_all(&a), of_all(&b)], difference, interval, t, p, effect };
        Some(Test { result, p_holm: None, by_seed: differences.iter().map(|seed| mean(seed)).collect() })
    }

    /// Groups users by their number of training events, which `trained` returns.
    pub fn slices(&self, trained: &dyn Fn(&str) -> usize) -> Vec<(String, Vec<usize>)> {
        let mut slices: Vec<(String, Vec<usize>)> =
            (0..HISTORY_FROM.len()).map(|slice| (history_name(slice), Vec::new())).collect();
        for (u, user) in self.users.iter().enumerate() {
            slices[history_slice(trained(user))].1.push(u);
        }
        slices.retain(|(_, users)| !users.is_empty());
        slices
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Fills in the results of the rows of a table. `against` holds the row that each row is compared with.
pub fn fill(
    rows: &mut [ResultRow],
    against: &[Option<usize>],
    answered: &Answered,
    seeds: &[u64],
    slices: &[(String, Vec<usize>)],
) {
    let metrics = 0..answered.metrics.len();
    for (i, row) in rows.iter_mut().enumerate() {
        let estimates: Vec<Estimate> = metrics.clone().filter_map(|m| answered.estimate(i, seeds, m, None)).collect();
        row.mean = estimates.iter().map(|e| e.mean).collect();
        row.interval = estimates.iter().map(|e| e.interval).collect();
        for seed in &mut row.seeds {
            seed.metrics = metrics.clone().filter_map(|m| answered.value(i, seed.seed, m)).collect();
        }
        let done: Vec<&Vec<f64>> = row.seeds.iter().map(|s| &s.metrics).filter(|m| !m.is_empty()).collect();
        row.deviation = (done.len() > 1).then(|| {
            let deviation = |m: usize| {
                let mean = done.iter().map(|x| x[m]).sum::<f64>() / done.len() as f64;
                (done.iter().map(|x| (x[m] - mean).powi(2)).sum::<f64>() / (done.len() - 1) as f64).sqrt()
            };
            metrics.clone().map(deviation).collect()
        });
        row.slices = slices.iter().map(|(_, users)| answered.estimate(i, seeds, 0, Some(users))).collect();
    }
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        row.against = against[i].and_then(|other| {
            let test = |m: usize, among: Option<&[usize]>| answered.test((&[other], &[i]), seeds, m, among);
            let tests: Option<Vec<Test>> = metrics.clone().map(|m| test(m, None)).collect();
            let slices = slices.iter().map(|(_, users)| test(0, Some(users))).collect();
            Some(Against { row: names[other].clone(), tests: tests?, slices })
        });
    }
    for slice in 0..slices.len() {
        let against = rows.iter_mut().filter_map(|row| row.against.as_mut());
        correct(against.filter_map(|against| against.slices[slice].as_mut()).collect());
    }
    for m in metrics {
        correct(rows.iter_mut().filter_map(|row| row.against.as_mut()).map(|against| &mut against.tests[m]).collect());
    }
}

/// Applies Holm's correction to a family of tests.
pub fn correct(mut tests: Vec<&mut Test>) {
    tests.retain(|test| test.result.p.is_some());
    let p: Vec<f64> = tests.iter().filter_map(|test| test.result.p).collect();
    tests.into_iter().zip(holm(&p)).for_each(|(test, p)| test.p_holm = Some(p));
}

/// Returns the outcome of a claim's test. A difference counts if the corrected p is below 5 % and every seed has the
/// same sign.
pub fn outcome(test: &Test, lower: bool) -> ClaimOutcome {
    let difference = test.result.difference;
    let alike = test.by_seed.iter().all(|d| d.signum() == difference.signum() && *d != 0.0);
    if test.p_holm.is_none_or(|p| p >= LEVEL) || !alike {
        ClaimOutcome::NoDifference
    } else if (difference > 0.0) != lower {
        ClaimOutcome::Better
    } else {
        ClaimOutcome::Worse
    }
}

/// Returns the verdict on a finding from its claims.
pub fn verdict(claims: &[Claim]) -> super::results::Verdict {
    use super::results::Verdict::*;
    let held: Option<Vec<bool>> = claims.iter().map(Claim::holds).collect();
    match held {
        None => Open,
        Some(held) if held.iter().all(|h| *h) => Confirmed,
        // A claim of no difference cannot confirm a finding alone, because too little data would confirm it too.
        Some(held) if held.iter().zip(claims).any(|(held, claim)| *held && claim.expect == Expect::Better) => InPart,
        Some(_) => NotConfirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::Verdict;

    fn lists(values: &[f64]) -> Answers {
        let users = (0..values.len()).map(|u| format!("u{u}")).collect();
        Answers { users, sums: vec![values.to_vec()], counts: vec![1.0; values.len()] }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn files_of_lists_are_read_as_eval_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tsv");
        let head = "user\thistory\theld_out\trank\tpopularity_rank\trank_among_100_uniform\tndcg@10\n";
        fs::write(&path, format!("{head}a\t3\tx|y\t7|miss\t1|2\t1|3\t0.5\nb\t3\tz\t2\t1\t11\t0\n")).unwrap();
        let metrics = [Metric::Ndcg(3), Metric::Recall(2), Metric::Mrr];
        let a = read_lists(&path, &metrics, 100).unwrap();
        // Ranks 1 and 3 of two held-out items: gains 1 and 1/2, ideal 1 + 1/log2(3).
        let ndcg = 1.5 / (1.0 + 1.0 / 3f64.log2());
        assert_eq!(a.users, ["a", "b"]);
        assert!(near(a.sums[0][0], ndcg) && a.sums[0][1] == 0.0 && a.sums[1] == [0.5, 0.0]);
        assert!(near(a.sums[2][1], 1.0 / 11.0));
        let full = read_lists(&path, &metrics, 0).unwrap();
        assert!(near(full.sums[2][0], 1.0 / 7.0) && full.sums[1] == [0.0, 1.0]);
        assert!(read_lists(&path, &metrics, 50).unwrap_err().to_string().contains("rank_among_50_uniform"));
    }

    #[test]
    fn the_root_is_taken_over_all_ratings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.tsv");
        fs::write(&path, "user\titem\trating\tpredicted\na\tx\t5\t4\na\ty\t3\t3\nb\tx\t1\t4\n").unwrap();
        let metrics = vec![Metric::Rmse, Metric::Mae];
        let a = read_ratings(&path, &metrics).unwrap();
        assert_eq!((a.sums[0].as_slice(), a.counts.as_slice()), (&[1.0, 9.0][..], &[2.0, 1.0][..]));
        let answered = Answered::new(metrics, vec![((0, 1), a)]);
        // Squared errors 1, 0, 9 and absolute ones 1, 0, 3.
        assert!(near(answered.value(0, 1, 0).unwrap(), (10.0f64 / 3.0).sqrt()));
        assert!(near(answered.value(0, 1, 1).unwrap(), 4.0 / 3.0));
        assert_eq!(answered.value(0, 2, 0), None);
        let one = answered.estimate(0, &[1], 0, Some(&[1])).unwrap();
        assert_eq!((one.mean, one.interval), (3.0, None));
        // Shares by hand: RMSE r of two users with n-bar 1.5; their mean is r.
        let (r, shares) = ((10.0f64 / 3.0).sqrt(), answered.shares(&[0], 1, 0, None));
        assert!(near(shares[0], r + (1.0 - r * r * 2.0) / (2.0 * r * 1.5)) && near(mean(&shares), r));
    }

    #[test]
    fn rows_are_means_over_users_and_seeds_and_tested_user_by_user() {
        let runs = vec![
            ((0, 1), lists(&[0.0, 0.5, 1.0, 0.2])),
            ((0, 2), lists(&[0.2, 0.5, 1.0, 0.0])),
            ((1, 1), lists(&[0.4, 0.5, 1.0, 0.6])),
            ((1, 2), lists(&[0.2, 0.7, 1.0, 0.4])),
            // Only one seed so far.
            ((2, 1), lists(&[1.0; 4])),
        ];
        let answered = Answered::new(vec![Metric::Mrr], runs);
        let row = |name: &str| ResultRow {
            name: name.into(),
            seeds: [1, 2].map(|seed| super::super::results::Seed { seed, ..Default::default() }).into(),
            ..ResultRow::default()
        };
        let mut rows = vec![row("a"), row("b"), row("c")];
        let slices = answered.slices(&|user| if user == "u3" { 30 } else { 2 });
        assert_eq!(slices.iter().map(|(n, u)| (n.as_str(), u.len())).collect::<Vec<_>>(), [("2-3", 3), ("20-49", 1)]);
        fill(&mut rows, &[None, Some(0), Some(0)], &answered, &[1, 2], &slices);
        assert!(near(rows[0].mean[0], 1.7 / 4.0) && near(rows[1].mean[0], 2.4 / 4.0), "{:?}", rows[1].mean);
        // Seeds of row 1: 0.625 and 0.575; their standard deviation is 0.05 / sqrt 2.
        assert!(near(rows[1].deviation.as_ref().unwrap()[0], 0.05 / 2f64.sqrt()));
        assert!(near(rows[0].slices[0].unwrap().mean, 1.6 / 3.0) && near(rows[0].slices[1].unwrap().mean, 0.1));
        let test = &rows[1].against.as_ref().unwrap().tests[0];
        assert!(near(test.result.difference, 0.175) && near(test.by_seed[0], 0.2) && near(test.by_seed[1], 0.15));
        // Differences of users 0.2, 0.1, 0, 0.4, of seeds 0.2, 0.15: SE^2 = 0.0291667 / 4 + 0.00125 / 2.
        let t = 0.175 / (0.087_5f64 / 12.0 + 0.000_625).sqrt();
        assert!(
            (test.result.t.unwrap() - t).abs() < 1e-9 && test.p_holm.unwrap() >= test.result.p.unwrap(),
            "{test:?}"
        );
        // Slices: only users 0, 1 and 2.
        let slice = rows[1].against.as_ref().unwrap().slices[0].as_ref().unwrap();
        assert!(slice.result.n == 3 && near(slice.result.difference, 0.1));
        // Compared over the common seed; one seed has no deviation.
        assert_eq!(rows[2].against.as_ref().unwrap().tests[0].by_seed.len(), 1);
        assert!(rows[2].deviation.is_none() && rows[2].seeds[1].metrics.is_empty());
    }

    #[test]
    fn verdicts() {
        let test = |difference: f64, p: f64, by_seed: &[f64]| Test {
            result: Paired {
                n: 9,
                means: [0.0; 2],
                difference,
                interval: Some([0.0; 2]),
                t: None,
                p: Some(p),
                effect: None,
            },
            p_holm: Some(p),
            by_seed: by_seed.into(),
        };
        assert_eq!(outcome(&test(0.1, 0.01, &[0.1, 0.1]), false), ClaimOutcome::Better);
        assert_eq!(outcome(&test(0.1, 0.01, &[0.1, 0.1]), true), ClaimOutcome::Worse);
        assert_eq!(outcome(&test(0.1, 0.05, &[0.1, 0.1]), false), ClaimOutcome::NoDifference);
        assert_eq!(outcome(&test(0.1, 0.01, &[0.3, -0.1]), false), ClaimOutcome::NoDifference);
        let claim = |expect, outcome| Claim { expect, outcome, ..Claim::default() };
        let (yes, no) = (Some(ClaimOutcome::Better), Some(ClaimOutcome::NoDifference));
        assert_eq!(verdict(&[claim(Expect::Better, yes), claim(Expect::NotBetter, no)]), Verdict::Confirmed);
        assert_eq!(verdict(&[claim(Expect::Better, yes), claim(Expect::NotBetter, yes)]), Verdict::InPart);
        assert_eq!(verdict(&[claim(Expect::Better, yes), claim(Expect::NotBetter, yes)]), Verdict::InPart);
        assert_eq!(verdict(&[claim(Expect::Better, no), claim(Expect::NotBetter, no)]), Verdict::NotConfirmed);
        assert_eq!(verdict(&[claim(Expect::Better, no)]), Verdict::NotConfirmed);
        assert_eq!(verdict(&[claim(Expect::Better, yes), claim(Expect::Better, None)]), Verdict::Open);
    }
}
