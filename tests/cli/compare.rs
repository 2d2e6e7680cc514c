//! `mipgpu compare`: its numbers agree with those of `eval`, and incomparable runs are rejected.

use std::collections::HashMap;

use serde_json::Value;

use super::{Place, TINY};

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

/// Returns a column of a per-user file, by user.
fn column(p: &Place, file: &str, name: &str) -> HashMap<String, f64> {
    let text = p.text(file);
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let at = lines.next().unwrap().iter().position(|c| *c == name).unwrap();
    lines.map(|line| (line[0].to_string(), line[at].parse().unwrap())).collect()
}

#[test]
fn differences_are_those_of_the_runs_user_by_user() {
    let p = Place::new();
    p.train("a", "--epochs 2 --lr 0.01");
    p.train("b", "--epochs 8 --lr 0.01 --model sasrec");
    let told = json(&p.well("compare a b --json --samples 2000"));
    for (run, file) in [("a", "a.tsv"), ("b", "b.tsv")] {
        p.well(&format!("eval {run} -q --per-user {file}"));
    }
    let rows = told["all"].as_array().unwrap();
    let of = |rows: &[Value], metric: &str| rows.iter().find(|r| r["metric"] == metric).cloned();
    for (metric, name) in [("NDCG@10", "ndcg@10"), ("HR@10", "hr@10"), ("MRR", "mrr")] {
        let row = of(rows, metric).unwrap_or_else(|| panic!("{metric} in {rows:?}"));
        let number = |key: &str| row[key].as_f64().unwrap();
        let (a, b) = (column(&p, "a.tsv", name), column(&p, "b.tsv", name));
        let d: Vec<f64> = a.iter().map(|(user, x)| b[user] - x).collect();
        let n = d.len() as f64;
        let mean = d.iter().sum::<f64>() / n;
        let t = mean / (d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        assert_eq!((row["n"].as_u64(), told["users"].as_u64()), (Some(d.len() as u64), Some(d.len() as u64)));
        assert!((number("difference") - mean).abs() < 1e-12 && (number("t") - t).abs() < 1e-6, "{row}");
        let (low, high) = (row["interval"][0].as_f64().unwrap(), row["interval"][1].as_f64().unwrap());
        assert!(low < mean && mean < high && number("p_holm") >= number("p"), "{row}");
    }
    // With one held-out item, recall equals the hit rate and precision the reciprocal rank.
    assert!(of(rows, "Recall@10").is_none() && of(rows, "MAP").is_none());
    let slices = told["by_history"].as_array().unwrap();
    assert_eq!(slices.iter().map(|r| r["n"].as_u64().unwrap()).sum::<u64>(), told["users"].as_u64().unwrap());
    let text = p.well("compare a b a");
    assert!(text.contains("NDCG@10") && text.contains("20-49") && text.contains("p (Holm)"), "{text}");
    // A run compared with itself: no difference and no finding.
    let same = json(&p.well("compare a a --json --no-slices"));
    assert!(same["all"].as_array().unwrap().iter().all(|r| r["difference"] == 0.0 && r["p"] == 1.0), "{same}");
    assert!(same["by_history"].as_array().unwrap().is_empty());
}

#[test]
fn several_held_out_items_and_ratings_are_compared_too() {
    let p = Place::new();
    for (run, flags) in [("a", "--seed 1"), ("b", "--seed 2")] {
        p.train(run, &format!("--epochs 1 --split last-n --test-n 3 {flags}"));
    }
    let told = json(&p.well("compare a b --json --part valid"));
    assert_eq!(told["part"], "validation");
    let told = json(&p.well("compare a b --json"));
    let metrics: Vec<&str> = told["all"].as_array().unwrap().iter().map(|r| r["metric"].as_str().unwrap()).collect();
    assert_eq!(metrics, ["NDCG@10", "Recall@10", "HR@10", "MRR", "MAP"]);

    let log = p.text("log.csv");
    let rated: String = log.lines().skip(1).enumerate().map(|(i, row)| format!("{row},{}\n", 1 + i * i % 5)).collect();
    p.write("rated.csv", format!("user,item,timestamp,rating\n{rated}"));
    p.well("import rated.csv --out rated -q");
    for seed in [1, 2] {
        p.well(&format!("train rated --out r{seed} -q --model dacf --width 8 --length 20 --epochs 2 --seed {seed}"));
    }
    let told = json(&p.well("compare r1 r2 --json"));
    let row = &told["all"][0];
    assert_eq!(row["metric"], "squared error");
    // With one rating per user, the mean of squares is the square of the report's RMSE.
    for (i, run) in ["r1", "r2"].into_iter().enumerate() {
        let report: Value = serde_json::from_str(&p.text(&format!("{run}/report.json"))).unwrap();
        let rmse = report["model"]["rmse"].as_f64().unwrap();
        assert!((row["means"][i].as_f64().unwrap() - rmse * rmse).abs() < 1e-9, "{run}: {row}");
    }
    p.train("lists", "--epochs 1");
    p.refused("compare r1 lists", &["different data"]);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let p = Place::new();
    p.train("a", "--epochs 1");
    p.train("b", "--epochs 1 --split last-n --test-n 2");
    p.refused("compare a b", &["different splits", "same events"]);
    p.refused("compare a nowhere", &["no such run folder"]);
    p.refused("compare a a --samples 3", &["--samples 3"]);
    p.write("more.csv", p.text("log.csv") + "u0,i7,1200000000\n");
    p.well("import more.csv --out more -q");
    p.well(&format!("train more --out c -q {TINY} --epochs 1"));
    p.refused("compare a c", &["different data", "the same data set"]);
    // The data have changed: their users are not those that were held out.
    p.well("import more.csv --out data -q --force");
    p.refused("compare a a", &["has changed since"]);
}
