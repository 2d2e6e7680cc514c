//! `mipgpu runs`: the list of runs in a folder.

use super::{Place, TINY};
use serde_json::Value;

fn runs(p: &Place, words: &str) -> Vec<Value> {
    p.well(&format!("runs {words} --json")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn runs_are_listed_with_their_numbers_and_states() {
    let p = Place::new();
    std::fs::create_dir(p.path("runs")).unwrap();
    p.train("runs/a", "--epochs 2 --lr 0.01 --eval-every 1");
    p.train("runs/b", "--epochs 1 --model sasrec");
    for name in ["stopped", "failed", "locked", "damaged", "torn"] {
        p.copy("runs/b", &format!("runs/{name}"));
    }
    let remove = |name: &str| std::fs::remove_file(p.path(name)).unwrap();
    remove("runs/stopped/report.json");
    ["report.json", "last.safetensors", "best.safetensors", "metrics.jsonl"]
        .iter()
        .for_each(|file| remove(&format!("runs/failed/{file}")));
    p.write("runs/damaged/config.toml", "version = 2\n");
    p.write("runs/torn/report.json", "{");
    // No runs: skipped.
    p.copy("data", "runs/data");
    std::fs::create_dir(p.path("runs/settings")).unwrap();
    p.write("runs/settings/config.toml", "epochs = 1\n");
    p.write("runs/notes.txt", "");
    let lock = std::fs::File::open(p.path("runs/locked/config.toml")).unwrap();
    lock.lock().unwrap();

    let all = runs(&p, "");
    let states: Vec<(&str, &str)> =
        all.iter().map(|r| (r["run"].as_str().unwrap(), r["state"].as_str().unwrap())).collect();
    assert_eq!(
        states,
        [
            ("a", "done"),
            ("b", "done"),
            ("damaged", "damaged"),
            ("failed", "failed"),
            ("locked", "running"),
            ("stopped", "stopped"),
            ("torn", "damaged"),
        ]
    );
    let a = &all[0];
    let report: Value = serde_json::from_str(&p.text("runs/a/report.json")).unwrap();
    let at = report["full"]["model"]["at"].as_array().unwrap().iter().find(|at| at["k"] == 10).unwrap();
    assert_eq!((&a["test"]["value"], &a["test"]["measure"]), (&at["ndcg"], &"NDCG@10".into()));
    let best = p
        .text("runs/a/metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["valid_ndcg@10"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert_eq!(a["valid"]["value"].as_f64().unwrap(), best);
    assert_eq!((&a["epochs_done"], &a["epochs"], &a["model"]), (&2.into(), &2.into(), &"bert4rec".into()));
    assert!(all[2]["fault"].as_str().unwrap().contains("config.toml"), "{}", all[2]);
    assert!(all[6]["fault"].as_str().unwrap().contains("report.json"), "{}", all[6]);

    let order = |sort: &str, key: &str| -> Vec<f64> {
        runs(&p, &format!("--sort {sort}")).iter().filter_map(|r| r[key]["value"].as_f64()).collect()
    };
    for (sort, key) in [("valid", "valid"), ("test", "test")] {
        let values = order(sort, key);
        assert!(values.len() >= 4 && values.is_sorted_by(|a, b| a >= b), "{sort}: {values:?}");
    }
    let ages: Vec<u64> = runs(&p, "--sort age").iter().map(|r| r["age_seconds"].as_u64().unwrap()).collect();
    assert!(ages.is_sorted(), "{ages:?}");

    let text = p.well("runs");
    let head = text.lines().next().unwrap();
    assert_eq!(
        head.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>(),
        ["run", "data", "model", "task", "epochs", "valid NDCG@10", "test NDCG@10", "state", "age"]
    );
    assert!(text.lines().nth(1).unwrap().contains("  2/2  ") && text.contains("damaged: "), "{text}");
    // A single run; folders without runs.
    assert_eq!(runs(&p, "runs/b").len(), 1);
    let done = p.run("runs data");
    assert!(done.code == Some(0) && done.out.is_empty() && done.err.contains("no runs found"), "{done:?}");
    p.refused("runs nowhere", &["nowhere: there is no such folder", "mipgpu runs DIR"]);
}

#[test]
fn runs_of_ratings_show_their_errors() {
    let p = Place::new();
    let log = p.text("log.csv");
    let rated: String = log.lines().skip(1).enumerate().map(|(i, row)| format!("{row},{}\n", 1 + i * i % 5)).collect();
    p.write("rated.csv", format!("user,item,timestamp,rating\n{rated}"));
    p.well("import rated.csv --out rated -q");
    p.well("train rated --out runs/r -q --model dacf --width 8 --length 20 --epochs 1");
    p.well(&format!("train data --out runs/l -q --epochs 1 {TINY}"));
    let all = runs(&p, "--sort test");
    assert_eq!((&all[0]["run"], &all[1]["test"]["measure"]), (&"l".into(), &"RMSE".into()));
    assert!(p.well("runs").contains("RMSE "));
}
