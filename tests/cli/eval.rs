//! Evaluation against brute force in f64, closed forms, and its stated rules.

use std::collections::HashSet;

use crate::evaluation::{Fake, dataset, flags, random_dataset, run_of, sequences};
use mipgpu::{
    base::Result,
    cli::evaluate::{Args, measure},
    data::{
        Dataset, Vocab,
        split::{HeldOut, Split, SplitSpec},
    },
    eval::{
        Encoder, EvalOptions, ItemMap, UserResult, evaluate,
        evaluate::evaluate_each,
        metrics::{MISS, Metrics},
        negatives::Sampling,
        reach::Reach,
        report::Ranking,
    },
};

fn everything() -> EvalOptions<'static> {
    EvalOptions {
        ks: vec![1, 5, 10, 20],
        baseline: true,
        slices: true,
        negatives: 5,
        samplings: vec![Sampling::Uniform, Sampling::Popularity],
        ..EvalOptions::default()
    }
}

fn collect(
    encoder: &mut dyn Encoder,
    data: &Dataset,
    part: &dyn HeldOut,
    options: &EvalOptions<'_>,
) -> Result<(mipgpu::eval::Report, Vec<UserResult>)> {
    let mut users = Vec::new();
    let report = evaluate_each(encoder, data, part, options, &mut |u| {
        users.push(u.clone());
        Ok(())
    })?;
    Ok((report, users))
}

/// Rank by definition: 1 + other candidates that score at least as high.
fn brute_rank(scores: &[f64], target: u32, excluded: &HashSet<u32>) -> usize {
    let others = (0..scores.len() as u32).filter(|i| *i != target && !excluded.contains(i));
    1 + others.filter(|i| scores[*i as usize] >= scores[target as usize]).count()
}

/// NDCG, recall, HR, MRR and MAP by definition, in a different form from the library's: from the whole ranked relevance
/// vector.
fn brute_metrics(all: &[Vec<usize>], k: usize) -> [f64; 5] {
    let (mut ndcg, mut recall, mut hr, mut mrr, mut map) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ranks in all {
        let (mut dcg, mut ideal, mut hits) = (0.0, 0.0, 0);
        for place in 1..=k {
            let here = ranks.iter().filter(|r| **r == place).count();
            dcg += here as f64 * 2f64.ln() / ((place + 1) as f64).ln();
            hits += here;
            if place <= ranks.len() {
                ideal += 2f64.ln() / ((place + 1) as f64).ln();
            }
        }
        ndcg += dcg / ideal;
        recall += hits as f64 / ranks.len() as f64;
        hr += if hits > 0 { 1.0 } else { 0.0 };
        mrr += ranks.iter().map(|r| if *r == MISS { 0.0 } else { 1.0 / *r as f64 }).fold(0.0, f64::max);
        let (mut hits, last) = (0, ranks.iter().filter(|r| **r != MISS).max().copied().unwrap_or(0));
        for place in 1..=last {
            for _ in ranks.iter().filter(|r| **r == place) {
                hits += 1;
                map += hits as f64 / place as f64 / ranks.len() as f64;
            }
        }
    }
    [ndcg, recall, hr, mrr, map].map(|sum| sum / all.len() as f64)
}

fn assert_metrics(got: &Metrics, all: &[Vec<usize>], what: &str) {
    assert_eq!(got.cases as usize, all.len(), "{what}");
    for m in &got.at {
        let names = ["ndcg", "recall", "hr", "mrr", "map"];
        let got = [m.ndcg, m.recall, m.hr, got.mrr, got.map];
        for ((name, a), b) in names.into_iter().zip(got).zip(brute_metrics(all, m.k)) {
            assert!((a - b).abs() < 1e-12, "{what}: {name}@{}: {a}, brute force {b}", m.k);
        }
    }
}

/// Whole-number scores, so that ties are common and identical in f64. One and several held-out items, both parts, both
/// rules for the history, and catalogues below and above one panel of the scoring kernel.
#[test]
fn ranks_and_metrics_equal_brute_force() {
    for (items, spec, keep_seen) in [
        (13, SplitSpec::LeaveOneOut, false),
        (60, SplitSpec::LeaveOneOut, true),
        (60, SplitSpec::LastN { valid: 2, test: 3 }, false),
        (200, SplitSpec::LastN { valid: 1, test: 15 }, false),
        (60, SplitSpec::LastBasket, true),
        (200, SplitSpec::Time { cut: 1_000_000_250, valid_cut: None }, false),
        (200, SplitSpec::Time { cut: 1_000_000_100, valid_cut: Some(1_000_000_050) }, true),
    ] {
        let data = random_dataset(150, items, 8);
        let split = Split::new(&data, spec).unwrap();
        let (valid, test) = (split.valid(), split.test());
        for part in [&valid as &dyn HeldOut, &test] {
            let what = format!("{items} items, {spec}, {}, keep_seen {keep_seen}", part.name());
            let mut model = Fake::new(data.items(), 6, false);
            let options =
                EvalOptions { ks: vec![1, 5, 10], baseline: true, keep_seen, slices: true, ..EvalOptions::default() };
            let (report, users) = collect(&mut model, &data, part, &options).unwrap();

            let mut popularity = vec![0.0f64; data.items()];
            for u in 0..data.users() {
                split.train().items(&data, u).iter().for_each(|i| popularity[*i as usize] += 1.0);
            }
            let (mut all, mut baseline, mut own) = (Vec::new(), Vec::new(), Vec::new());
            let mut next = users.iter();
            for u in 0..data.users() {
                let held = part.held_out(u);
                if held.is_empty() || held.start == 0 {
                    continue;
                }
                let history = &data.items_of(u)[..held.start];
                let targets: HashSet<u32> = data.items_of(u)[held].iter().copied().collect();
                let excluded: HashSet<u32> = if keep_seen { HashSet::new() } else { history.iter().copied().collect() };
                // An item excluded with the history ranks behind everything.
                let rank = |scores: &[f64], t: u32| {
                    if excluded.contains(&t) { MISS } else { brute_rank(scores, t, &excluded) }
                };
                let scores = model.scores(history);
                let got = next.next().unwrap();
                assert_eq!(got.user as usize, u, "{what}");
                assert_eq!(got.targets.iter().copied().collect::<HashSet<_>>(), targets, "{what}");
                let ranks: Vec<usize> = got.targets.iter().map(|t| rank(&scores, *t)).collect();
                assert_eq!(got.ranks.model, ranks, "{what}, user {u}");
                let popular: Vec<usize> = got.targets.iter().map(|t| rank(&popularity, *t)).collect();
                assert_eq!(got.ranks.popularity.as_ref(), Some(&popular), "{what}, user {u}");
                // Here equal times form a basket; one of the user's baskets counts more than all of training.
                let times = &data.times_of(u).unwrap()[..history.len()];
                let bought: HashSet<(i64, u32)> = times.iter().copied().zip(history.iter().copied()).collect();
                let mut frequent = popularity.clone();
                bought.iter().for_each(|(_, item)| frequent[*item as usize] += 1e6);
                let personal: Vec<usize> = got.targets.iter().map(|t| rank(&frequent, *t)).collect();
                assert_eq!(got.ranks.personal, spec.repeats().then(|| personal.clone()), "{what}, user {u}");
                own.push(personal);
                all.push(ranks);
                baseline.push(popular);
            }
            assert!(next.next().is_none() && all.len() > 20, "{what}: {} users", all.len());
            assert_metrics(&report.full.model, &all, &what);
            assert_metrics(report.full.popularity.as_ref().unwrap(), &baseline, &what);
            report.full.personal.iter().for_each(|personal| assert_metrics(personal, &own, &what));

            // Slices partition the same users (or pairs): their weighted means add up to the total.
            let whole = |slices: &[mipgpu::eval::report::Slice]| {
                slices.iter().map(|s| s.ranking.model.cases as f64 * s.ranking.model.at[2].hr).sum::<f64>()
            };
            assert_eq!(report.by_history.iter().map(|s| s.ranking.model.cases).sum::<u64>(), all.len() as u64);
            assert!((whole(&report.by_history) - all.len() as f64 * report.full.model.at[2].hr).abs() < 1e-9);
            let pairs: Vec<usize> = all.iter().flatten().copied().collect();
            let hits = pairs.iter().filter(|r| **r <= 10).count();
            assert!((whole(&report.by_popularity) - hits as f64).abs() < 1e-9, "{what}");
        }
    }
}

/// If the negatives are all items that a user has left, sampled ranking is deterministic and can be checked exactly.
#[test]
fn sampled_ranking_equals_brute_force_over_all_items_left() {
    // Every user has four distinct items of nine; every item occurs in training.
    let data = sequences(&["a b c d", "c d e f", "e f g h", "g h a b", "i a e g", "i b d f"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    assert!(split.train_counts().iter().all(|c| *c > 0));
    let mut model = Fake::new(9, 5, false);
    let options = EvalOptions { ks: vec![1, 2], ..everything() };
    let (report, users) = collect(&mut model, &data, &split.test(), &options).unwrap();
    let (mut all, mut popular) = (Vec::new(), Vec::new());
    for (u, got) in users.iter().enumerate() {
        let events = data.items_of(u);
        let (target, known) = (events[3], events[..3].iter().copied().collect());
        let counts: Vec<f64> = split.train_counts().iter().map(|c| *c as f64).collect();
        let rank = brute_rank(&model.scores(&events[..3]), target, &known);
        let beside = brute_rank(&counts, target, &known);
        let ranks = Ranking { model: vec![rank], popularity: Some(vec![beside]), personal: None };
        assert_eq!(got.sampled, vec![Some(ranks); 2], "user {u}");
        all.push(vec![rank]);
        popular.push(vec![beside]);
    }
    for sampled in &report.sampled {
        assert_metrics(&sampled.ranking.model, &all, "sampled");
        assert_metrics(sampled.ranking.popularity.as_ref().unwrap(), &popular, "sampled popularity");
    }
}

/// A user who has had every item has no negatives: left out of the sampled ranking, counted, and ranked in full.
#[test]
fn who_has_seen_everything_does_not_end_it_for_the_others() {
    let data = sequences(&["a b c d e f g h i", "a b c d", "c d e f", "a b c d e f g h", "e f g h", "g h i a"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let mut model = Fake::new(9, 5, false);
    let options = EvalOptions { negatives: 5, samplings: vec![Sampling::Uniform], ks: vec![1, 5], ..everything() };
    let (report, users) = collect(&mut model, &data, &split.test(), &options).unwrap();
    let mut all = Vec::new();
    for (u, got) in users.iter().enumerate() {
        let events = data.items_of(u);
        let (history, target) = events.split_at(events.len() - 1);
        // Of nine items, users 0 and 3 have none and one left; the others have five.
        let rank = brute_rank(&model.scores(history), target[0], &history.iter().copied().collect());
        let sampled = got.sampled[0].as_ref().map(|ranks| ranks.model.clone());
        assert_eq!(sampled, (![0, 3].contains(&u)).then(|| vec![rank]), "user {u}");
        all.extend(sampled);
        assert_eq!(got.ranks.model, [rank]);
    }
    assert_eq!((report.full.model.cases, report.sampled[0].left_out), (6, 2));
    assert_metrics(&report.sampled[0].ranking.model, &all, "sampled");
    assert!(report.text().contains("2 of 6 users are left out here: fewer than 5 items"), "{}", report.text());
    assert_eq!(report.json()["sampled"][0]["left_out"], 2);
    // Only their cells are empty in the per-user file.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.tsv");
    let words = ["--negatives", "5", "--negative-sampling", "uniform", "--per-user", file.to_str().unwrap()];
    measure(&mut run_of(Fake::new(9, 5, false), &data), &data, &eval_args(&words)).unwrap();
    let lines = std::fs::read_to_string(&file).unwrap();
    let empty = lines.lines().skip(1).map(|line| line.split('\t').nth(5).unwrap().is_empty());
    assert_eq!(empty.collect::<Vec<_>>(), [true, false, false, true, false, false]);
}

/// Counts the held-out items that a ranking can hit, and compares with worked examples.
#[test]
fn held_out_items_that_cannot_be_hit_are_counted() {
    // Test: u0 repeats a; u1 gets e and u2 gets d, which do not occur in training; u3 has no history.
    let data = sequences(&["a b c a", "b c d e", "a b c d", "a"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    // Training: a b, b c, a b, a. Validation: c after a b (in u1's training part); d after b c (in none); c after a b.
    assert_eq!(Reach::of(&data, &split.valid()), Reach { items: 3, seen: 0, untrained: 1 });
    assert_eq!(Reach::of(&data, &split.test()), Reach { items: 3, seen: 1, untrained: 2 });
    // Repeated items count once: of "c a b b" after "a b", a and b are seen.
    let data = sequences(&["a b c a b b", "c a a a a a"]);
    let split = Split::new(&data, SplitSpec::LastN { valid: 0, test: 4 }).unwrap();
    let reach = Reach::of(&data, &split.test());
    assert_eq!(reach, Reach { items: 4, seen: 3, untrained: 0 });
    assert_eq!(reach.share_seen(), 0.75);
}

/// Keys that differ in the spelling of a number are reported and not silently dropped.
#[test]
fn keys_written_another_way_are_named() {
    let data = sequences(&["TEA CUP POT x", "CUP POT TEA x"]);
    let mut run = run_of(Fake::new(4, 2, false), &data);
    run.item_keys = Vocab::from_keys(["tea", "cup", "pot", "x"]);
    run.data_fingerprint = "another".into();
    let e = measure(&mut run, &data, &eval_args(&[])).unwrap_err().to_string();
    assert!(e.contains("the model knows none of them"), "{e}");
    let data = sequences(&["TEA x y x", "CUP y x y"]);
    run.item_keys = Vocab::from_keys(["tea", "cup", "x", "y"]);
    let (_, notes) = measure(&mut run, &data, &eval_args(&[])).unwrap();
    let note =
        "2 items of the data are not matched because their keys are written differently: 'TEA' in the data, 'tea'";
    assert!(notes.iter().any(|n| n.contains(note)), "{notes:?}");
    let numbers = [Vocab::from_keys(["1.0", "2.0"]), Vocab::from_keys(["1", "2"])];
    let none = ItemMap::between(&numbers[0], &numbers[1]).unwrap_err().to_string();
    assert!(none.contains("the model has '1' where the data have '1.0'"), "{none}");
}

/// One-dimensional models: the table is the score. The expected values are worked out in the comments.
#[test]
fn a_small_case_by_hand() {
    let data = sequences(&["a b c d", "b a d c", "a c b e"]);
    let id = |key: &str| data.item_keys().find(key).unwrap() as usize;
    let mut model = Fake::new(data.items(), 1, false);
    model.bias = vec![0.0; 5];
    model.table = vec![0.0; 5];
    for (key, score) in [("a", 5.0), ("b", 4.0), ("c", 3.0), ("d", 3.0), ("e", 3.0)] {
        model.bias[id(key)] = score;
    }
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let options = EvalOptions { ks: vec![1, 2, 3], slices: true, baseline: true, ..EvalOptions::default() };
    let report = evaluate(&mut model, &data, &split.test(), &options).unwrap();
    // u0: history a b c, target d, other candidate e ties: rank 2. u1: history b a d, target c, e ties: rank 2.
    // u2: history a c b, target e, d ties: rank 2.
    let m = &report.full.model;
    assert_eq!(m.mrr, 0.5);
    assert_eq!((m.at(1).unwrap().hr, m.at(2).unwrap().hr), (0.0, 1.0));
    assert!((m.at(3).unwrap().ndcg - 1.0 / 3f64.log2()).abs() < 1e-15);
    // Trained events: a 3, b 2, c 1; d and e never. u0: d ties with e: 2. u1: c (1) beats e: 1. u2: e ties with d: 2.
    assert!((report.full.popularity.as_ref().unwrap().mrr - 2.0 / 3.0).abs() < 1e-15);
    let names: Vec<(&str, u64)> =
        report.by_popularity.iter().map(|s| (s.name.as_str(), s.ranking.model.cases)).collect();
    assert_eq!(names, [("tail", 1), ("cold", 2)]);
    // With seen items ranked too, a and b are above and c d e tie: rank 5.
    let seen = EvalOptions { keep_seen: true, ..options };
    let report = evaluate(&mut model, &data, &split.test(), &seen).unwrap();
    assert!((report.full.model.mrr - 0.2).abs() < 1e-15);
}

/// Baskets: the most frequent items of a user's earlier baskets, compared with worked examples and with popularity.
#[test]
fn personal_frequency_by_hand() {
    let baskets = [["a b", "a c", "b d", "c e"], ["d e", "e", "d", "d f"], ["c", "c d", "e", "a"]];
    let mut log = Vec::new();
    for (u, baskets) in baskets.iter().enumerate() {
        for (t, basket) in baskets.iter().enumerate() {
            log.extend(basket.split_whitespace().map(|item| (format!("u{u}"), item, Some(t as i64))));
        }
    }
    let data = dataset(&log);
    let split = Split::new(&data, SplitSpec::LastBasket).unwrap();
    let (valid, test) = (split.valid(), split.test());
    let options = EvalOptions { ks: vec![1, 3], baseline: true, slices: true, ..EvalOptions::default() };
    let ranks = |part: &dyn HeldOut| -> (mipgpu::eval::Report, Vec<Vec<(&str, usize)>>) {
        let (report, users) = collect(&mut Fake::new(6, 2, false), &data, part, &options).unwrap();
        let named = |u: &UserResult| {
            let ranks = u.ranks.personal.clone().unwrap();
            let keys = u.targets.iter().map(|t| data.item_keys().key(*t as usize));
            let mut named: Vec<(&str, usize)> = keys.zip(ranks).collect();
            named.sort_unstable();
            named
        };
        let all = users.iter().map(named).collect();
        (report, all)
    };
    // Training: a 2, b 1, c 3, d 2, e 2, f 0. Before the test u0 has had a and b twice (a is more popular), c and d
    // once. So c is third, and e ties with none of the rest but is behind these four. u1 has had d and e twice, both
    // trained on twice: d is second, f last of six. u2 has had c twice, d and e once, then a.
    let (report, all) = ranks(&test);
    assert_eq!(all, [vec![("c", 3), ("e", 5)], vec![("d", 2), ("f", 6)], vec![("a", 4)]]);
    let personal = report.full.personal.as_ref().unwrap();
    assert!((personal.mrr - (1.0 / 3.0 + 1.0 / 2.0 + 1.0 / 4.0) / 3.0).abs() < 1e-15);
    let (ideal, m) = (1.0 + 1.0 / 3f64.log2(), personal.at(3).unwrap());
    assert!((m.ndcg - (0.5 + 1.0 / 3f64.log2()) / ideal / 3.0).abs() < 1e-15 && (m.hr - 2.0 / 3.0).abs() < 1e-15);
    // The history of validation ends a basket earlier: u0 has had a twice, b and c once; d, never had, ties with e. u1
    // has e twice before d. u2 has c and d; a and e tie behind them.
    assert_eq!(ranks(&valid).1, [vec![("b", 3), ("d", 5)], vec![("d", 2)], vec![("e", 4)]]);
    let (text, json) = (report.text(), report.json());
    assert!(
        text.contains("popularity  ratio  personal  ratio") && text.contains("personal: items by the number"),
        "{text}"
    );
    assert_eq!(json["full"]["personal_frequency"]["at"][1]["k"], 3);
    assert!(json["by_history"][0]["personal_frequency"]["mrr"].is_f64());
    // Splits of single items have no personal baseline.
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let report = evaluate(&mut Fake::new(6, 2, false), &data, &split.test(), &options).unwrap();
    assert!(report.full.personal.is_none() && !report.text().contains("personal"));
}

#[test]
fn a_constant_model_is_last_and_a_repeated_target_is_a_miss() {
    // u0's held-out item a is also in its history.
    let data = sequences(&["a b c a", "b c d e", "a d e f"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let mut model = Fake::new(data.items(), 2, false);
    model.table.fill(0.0);
    model.bias.fill(1.5);
    let (_, users) = collect(&mut model, &data, &split.test(), &at_one()).unwrap();
    // 6 items; u0 excludes a, which is its target: a miss. u1 excludes b c d: 3 candidates. u2 excludes a d e: 3.
    let ranks: Vec<usize> = users.iter().map(|u| u.ranks.model[0]).collect();
    assert_eq!(ranks, [MISS, 3, 3]);
    let report = evaluate(&mut model, &data, &split.test(), &at_one()).unwrap();
    assert_eq!(report.protocol.seen_held_out, 1);
    assert!(report.text().contains("held-out items that are also in the history: 1"));
    // If history items are ranked too, it is a candidate among all six.
    let keep = EvalOptions { keep_seen: true, ..at_one() };
    let (_, users) = collect(&mut model, &data, &split.test(), &keep).unwrap();
    assert_eq!(users.iter().map(|u| u.ranks.model[0]).collect::<Vec<_>>(), [6, 6, 6]);
}

fn at_one() -> EvalOptions<'static> {
    EvalOptions { ks: vec![1], ..EvalOptions::default() }
}

/// The histories that a model receives: the training part for validation, the training and validation parts for the
/// test.
#[test]
fn the_model_sees_nothing_held_out() {
    let data = random_dataset(80, 40, 2);
    let split = Split::new(&data, SplitSpec::LastN { valid: 2, test: 2 }).unwrap();
    let (valid, test) = (split.valid(), split.test());
    for (part, hidden) in [(&valid as &dyn HeldOut, 4), (&test, 2)] {
        let mut model = Fake::new(data.items(), 3, false);
        evaluate(&mut model, &data, part, &EvalOptions::default()).unwrap();
        let expected: Vec<Vec<u32>> = (0..data.users())
            .filter(|u| data.items_of(*u).len() > 4)
            .map(|u| data.items_of(u)[..data.items_of(u).len() - hidden].to_vec())
            .collect();
        assert_eq!(model.histories, expected, "{}", part.name());
    }
}

#[test]
fn the_batch_does_not_matter() {
    let data = random_dataset(90, 70, 4);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let report = |batch| {
        let options = EvalOptions { batch, ..everything() };
        evaluate(&mut Fake::new(data.items(), 5, true), &data, &split.test(), &options).unwrap().json().to_string()
    };
    let one = report(1);
    assert_eq!(one, report(7));
    assert_eq!(one, report(256));
}

/// The same model with more items and in another order: the same ranks except for unknown items among the candidates,
/// which score last here.
#[test]
fn items_are_matched_by_key() {
    let data = random_dataset(60, 30, 5);
    let v = data.items();
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    // Width 1 and biases only: a score does not depend on the ids in the history.
    let mut model = Fake::new(v, 1, true);
    model.table.fill(0.0);
    let (here, _) = collect(&mut model, &data, &split.test(), &everything()).unwrap();

    let mut keys: Vec<String> = (0..v).rev().map(|i| data.item_keys().key(i).to_owned()).collect();
    keys.extend(["stranger 1".into(), "stranger 2".into()]);
    let vocab = Vocab::from_keys(&keys);
    let mut other = Fake::new(v + 2, 1, true);
    other.table.fill(0.0);
    for i in 0..v {
        other.bias[v - 1 - i] = model.bias[i];
    }
    other.bias[v..].fill(-100.0);
    let map = ItemMap::between(data.item_keys(), &vocab).unwrap();
    assert_eq!((map.unknown(), map.known), (0, v));
    let options = EvalOptions { item_map: Some(&map), ..everything() };
    let (there, _) = collect(&mut other, &data, &split.test(), &options).unwrap();
    assert_eq!(here.full.model, there.full.model);
    assert_eq!(here.full.popularity, there.full.popularity);

    // A model that knows half of the items: users are left out and counted, and the rest is ranked.
    let half = Vocab::from_keys(keys.iter().take(v / 2));
    let map = ItemMap::between(data.item_keys(), &half).unwrap();
    assert_eq!(map.unknown(), v - v / 2);
    let options = EvalOptions { item_map: Some(&map), ..EvalOptions::default() };
    let report = evaluate(&mut Fake::new(v / 2, 2, true), &data, &split.test(), &options).unwrap();
    let p = &report.protocol;
    assert!(p.left_out_unknown_items > 0 && p.unknown_items == v - v / 2);
    assert_eq!(
        p.users as usize + p.left_out_unknown_items + p.left_out_unknown_history,
        split.summary().test_users,
        "nobody is lost without being counted"
    );
    assert!(report.text().contains("unknown to the model: "), "{}", report.text());

    let none = ItemMap::between(data.item_keys(), &Vocab::from_keys(["x", "y"])).unwrap_err().to_string();
    assert!(none.contains("knows none") && none.contains("'x'"), "{none}");
}

#[test]
fn bad_requests_are_refused() {
    let data = sequences(&["a b c d", "b c d e", "a d e f"]);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let refuse = |change: &dyn Fn(&mut EvalOptions<'static>), words: &[&str]| {
        let mut options = everything();
        options.ks = vec![1];
        options.negatives = 2;
        change(&mut options);
        let e = evaluate(&mut Fake::new(6, 2, false), &data, &split.test(), &options).unwrap_err().to_string();
        assert!(words.iter().all(|w| e.contains(w)) && e.contains("hint"), "{e}");
    };
    refuse(&|o| o.ks = vec![0], &["--k 0 is out of range"]);
    refuse(&|o| o.ks = vec![], &["--k is empty"]);
    refuse(&|o| o.ks = vec![5, 7], &["k = 7", "6 items"]);
    refuse(&|o| o.batch = 0, &["batch of 0"]);
    refuse(&|o| o.negatives = 7, &["7 negatives", "6 items"]);
    refuse(&|o| o.negatives = 3, &["3 negatives", "no user has more than 2 items", "set --negatives to at most 2"]);
    refuse(
        &|o| (o.negatives, o.samplings) = (3, vec![Sampling::Popularity]),
        &["3 negatives", "no user has more than 2 items that occur in training"],
    );
    let e = evaluate(&mut Fake::new(5, 2, false), &data, &split.test(), &everything()).unwrap_err().to_string();
    assert!(e.contains("model has 5 items, the data 6"), "{e}");
    for poison in [f32::NAN, f32::INFINITY] {
        let mut model = Fake::new(6, 2, false);
        model.bias[3] = poison;
        let options = EvalOptions { ks: vec![1], ..EvalOptions::default() };
        let e = evaluate(&mut model, &data, &split.test(), &options).unwrap_err().to_string();
        assert!(e.contains("NaN or infinite") && e.contains("item number 3"), "{e}");
    }
    // This split has no validation events.
    let split = Split::new(&data, SplitSpec::LastN { valid: 0, test: 1 }).unwrap();
    let e = evaluate(&mut Fake::new(6, 2, false), &data, &split.valid(), &at_one()).unwrap_err();
    assert!(e.to_string().contains("no user has a validation item"), "{e}");
}

fn eval_args(more: &[&str]) -> Args {
    flags(&[&["runs/test"], more].concat())
}

/// The command: flags to report, the text, JSON, and the per-user file.
#[test]
fn the_command_reports_protocol_and_numbers() {
    let data = random_dataset(70, 300, 6);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.tsv");
    let args = eval_args(&["--negatives", "100", "--k", "10,5", "--per-user", file.to_str().unwrap()]);
    let model = || run_of(Fake::new(data.items(), 4, true), &data);
    let (report, notes) = measure(&mut model(), &data, &args).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let text = report.text();
    for stated in [
        "leave-one-out",
        "ties     count against the model",
        "items of the history are excluded",
        "first test item shares its timestamp",
        "SAMPLED: 100 negatives, drawn uniformly",
        "SAMPLED: 100 negatives, drawn by popularity",
        "not comparable",
        "HR@10 = Recall@10",
        "NDCG@5",
        "cold",
        "by history length",
    ] {
        assert!(text.contains(stated), "no '{stated}' in\n{text}");
    }
    let json = report.json();
    assert_eq!(json["full"]["model"]["at"][1]["k"], 10);
    assert_eq!(json["sampled"][1]["sampling"], "popularity");
    assert_eq!(json["protocol"]["keep_seen"], false);

    // The averages of the file's columns are those of the report.
    let lines: Vec<Vec<String>> =
        std::fs::read_to_string(&file).unwrap().lines().map(|l| l.split('\t').map(String::from).collect()).collect();
    let column = |name: &str| lines[0].iter().position(|c| c == name).unwrap_or_else(|| panic!("no column {name}"));
    let mean = |name: &str| {
        let at = column(name);
        lines[1..].iter().map(|l| l[at].parse::<f64>().unwrap()).sum::<f64>() / (lines.len() - 1) as f64
    };
    assert_eq!(lines.len() - 1, report.full.model.cases as usize);
    assert!((mean("ndcg@10") - report.full.model.at(10).unwrap().ndcg).abs() < 1e-12);
    assert!((mean("mrr") - report.full.model.mrr).abs() < 1e-12);
    assert!((mean("map") - report.full.model.map).abs() < 1e-12);
    let uniform = column("rank_among_100_uniform");
    let hits = lines[1..].iter().filter(|l| l[uniform].parse::<usize>().unwrap() <= 10).count();
    let sampled = report.sampled[0].ranking.model.at(10).unwrap().hr;
    assert!((hits as f64 / (lines.len() - 1) as f64 - sampled).abs() < 1e-12);
    let user = data.user_keys().find(&lines[1][0]).unwrap();
    let last = *data.items_of(user as usize).last().unwrap();
    assert_eq!(lines[1][column("held_out")], data.item_keys().key(last as usize));

    // A failing evaluation does not change the old file and leaves no other behind.
    let failing = eval_args(&["--negatives", "295", "--per-user", file.to_str().unwrap()]);
    assert!(measure(&mut model(), &data, &failing).unwrap_err().to_string().contains("295 negatives"));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), lines.len());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_command_sees_leaks_and_strange_data() {
    let data = random_dataset(70, 50, 6);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    // With leave-one-out training, the third last event of a user was trained on.
    let e = measure(&mut run, &data, &eval_args(&["--split", "last-n", "--test-n", "3"])).unwrap_err().to_string();
    assert!(e.contains("leak") && e.contains("training part of the run"), "{e}");
    let last_two = measure(&mut run, &data, &eval_args(&["--split", "last-n", "--test-n", "2"]));
    assert!(last_two.is_ok(), "the last two were held out by leave-one-out as well");
    run.data_fingerprint = "another".into();
    let (_, notes) = measure(&mut run, &data, &eval_args(&[])).unwrap();
    assert!(notes[0].contains("not the data the run was trained on"), "{notes:?}");
    for (words, says) in [
        (&["--cut", "2001-01-01"][..], "--cut is for --split time"),
        (&["--test-n", "3"], "--test-n is for --split last-n"),
        (&["--split", "time"], "--split time requires --cut"),
        (&["--split", "time", "--cut", "soon"], "not a date"),
        (&["--split", "time", "--cut", "1999-01-01"], "leaves nothing on one side"),
        (&["--k", "0"], "--k 0 is out of range"),
    ] {
        let e = measure(&mut run, &data, &eval_args(words)).unwrap_err().to_string();
        assert!(e.contains(says), "{words:?}: {e}");
    }
    // A k above the catalogue is reduced to a list of all items, with a note.
    let (report, notes) = measure(&mut run, &data, &eval_args(&["--k", "5,5000,6000"])).unwrap();
    let note = format!("--k 5000,6000: more than the {} items of the catalogue", data.items());
    assert!(notes.iter().any(|n| n.contains(&note)), "{notes:?}");
    assert_eq!(report.full.model.at.iter().map(|at| at.k).collect::<Vec<_>>(), [5, data.items()]);
    let time = ["--split", "time", "--cut", "2001-09-09T01:50:00", "--part", "valid", "--k", "5"];
    let (report, _) = measure(&mut run, &data, &eval_args(&time)).unwrap();
    assert!(report.text().contains("test from 2001-09-09 01:50:00 (1000000200)"), "{}", report.text());
}

/// The test is predicted from the training events alone, as in some published code: validation events are neither
/// history nor negatives, and nothing else changes.
#[test]
fn validation_events_can_be_left_out_of_the_history() {
    let data = random_dataset(80, 60, 8);
    let split = Split::new(&data, SplitSpec::LastN { valid: 2, test: 3 }).unwrap();
    let options = EvalOptions { negatives: 20, samplings: vec![Sampling::Uniform], ..EvalOptions::default() };
    let without = EvalOptions { without_validation: true, ..options.clone() };
    let run =
        |options: &EvalOptions| collect(&mut Fake::new(data.items(), 6, false), &data, &split.test(), options).unwrap();
    let ((report, users), (_, full)) = (run(&without), run(&options));
    assert_eq!((report.protocol.history, users.len()), ("the training part", full.len()));
    let mut moved = 0;
    for (a, b) in users.iter().zip(&full) {
        assert_eq!((a.user, &a.targets, a.history + 2), (b.user, &b.targets, b.history));
        moved += usize::from(a.sampled[0] != b.sampled[0]);
        // By definition: the scores after the training events, among all remaining items.
        let history = split.train().items(&data, a.user as usize);
        let excluded: HashSet<u32> = history.iter().copied().collect();
        let scores = Fake::new(data.items(), 6, false).scores(history);
        let expected: Vec<usize> = a
            .targets
            .iter()
            .map(|t| if excluded.contains(t) { MISS } else { brute_rank(&scores, *t, &excluded) })
            .collect();
        assert_eq!(a.ranks.model, expected, "user {}", a.user);
    }
    assert!(moved > 10, "the history moves ranks: {moved}");
}
