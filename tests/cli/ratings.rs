//! Runs that predict ratings, from import to evaluation, and what they reject.

use serde_json::Value;

use super::{Place, assert_no_leftovers};

const FLAGS: &str = "--task rating --epochs 30 --eval-every 10 --lr 0.01 --dropout 0.05 --blocks 1";

/// Returns a place with 90 users who rate 15 to 25 of 40 items, one rating per day: 3 plus deviations of user and item.
pub(super) fn rated() -> Place {
    let p = Place::new();
    let mut log = String::from("user,item,rating,timestamp\n");
    for u in 0..90 {
        for t in 0..(15 + u % 11) {
            let item = (u * 7 + t * (1 + u % 3)) % 40;
            let rating = 3 + (u % 3 - 1) + (item % 3 - 1);
            log += &format!("u{u},i{item},{rating},{}\n", 1_000_000_000 + u * 600 + t * 86_400);
        }
    }
    p.write("rated.csv", log);
    p.well("import rated.csv --out rated -q");
    p
}

fn report(p: &Place, run: &str) -> Value {
    serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap()
}

fn rmse(report: &Value, whose: &str) -> f64 {
    report[whose]["rmse"].as_f64().unwrap()
}

impl Place {
    fn rate(&self, run: &str, flags: &str) {
        self.well(&format!("train rated --out {run} -q --width 16 --length 30 --warmup 4 --batch 16 {FLAGS} {flags}"));
    }
}

#[test]
fn a_rating_that_none_can_be_is_warned_of_or_refused() {
    let p = rated();
    let log = String::from_utf8(p.read("rated.csv")).unwrap() + "u1,i1,1e30,1500000000\n";
    p.write("far.csv", &log);
    let done = p.run("import far.csv --out far");
    assert!(done.code == Some(0) && done.out.contains("ratings     1 to 1000000"), "{done:?}");
    assert!(done.err.contains("warning: a rating of 1000000") && done.err.contains("which are below 8"), "{done:?}");
    p.refused(
        "import far.csv --out new --rating-range 1,5",
        &["column 'rating': rating '1e30' is outside", "--skip-bad"],
    );
    assert!(!p.path("new").exists());
    for range in ["5,1", "1", "1,2,3", "a,b", "1,inf"] {
        p.refused(&format!("import far.csv --out new --rating-range {range}"), &["such as 0.5,5"]);
    }
    p.well("import far.csv --out new -q --rating-range -5,5 --skip-bad");
    let done = p.run("import rated.csv --out usual");
    assert!(done.code == Some(0) && !done.err.contains("warning"), "{done:?}");
}

#[test]
fn models_of_ratings_do_better_than_mean_ratings_and_are_judged_alike_by_eval() {
    let p = rated();
    for (run, flags) in [
        ("rows", "--model dacf --mask 0.4"),
        ("autoencoder", "--model dacf --mask 0"),
        ("known", "--model bert4rec --mask 0.3 --user-width 6"),
        ("beside", "--model bert4rec --mask 0.3"),
        ("added", "--model bert4rec --mask 0.3 --rating-width 0 --norm pre --projection true"),
    ] {
        p.rate(run, flags);
        let report = report(&p, run);
        let (model, item, all) = (rmse(&report, "model"), rmse(&report, "item_mean"), rmse(&report, "global_mean"));
        assert!(model < 0.9 * item && item < all, "{run}: {model}, item mean {item}, global mean {all}");
        let eval: Value = serde_json::from_str(&p.well(&format!("eval {run} --json"))).unwrap();
        assert_eq!((&eval["model"], &eval["item_mean"]), (&report["model"], &report["item_mean"]), "{run}");
        let curve = String::from_utf8(p.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let rows: Vec<Value> = curve.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows[9]["valid_rmse"].is_number() && rows[8].get("valid_rmse").is_none(), "{curve}");
        assert!(rows.iter().all(|row| row.get("valid_ndcg@10").is_none()), "{curve}");
    }
    let config = String::from_utf8(p.read("rows/config.toml")).unwrap();
    assert!(config.contains("levels = [1.0, 2.0, 3.0, 4.0, 5.0]") && config.contains("task = \"rating\""), "{config}");
    // One line per rating, and the errors are those of the lines.
    let eval: Value = serde_json::from_str(&p.well("eval rows --json --per-user lines.tsv -q")).unwrap();
    let lines = String::from_utf8(p.read("lines.tsv")).unwrap();
    let mut errors = Vec::new();
    for line in lines.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [rating, predicted]: [f64; 2] = [cells[2], cells[3]].map(|cell| cell.parse().unwrap());
        assert!((1.0..=5.0).contains(&predicted));
        errors.push((rating - predicted).powi(2));
    }
    assert_eq!(errors.len(), 90);
    let want = (errors.iter().sum::<f64>() / 90.0).sqrt();
    assert!((want - rmse(&eval, "model")).abs() < 1e-6, "{want} {eval}");
    assert!(p.well("eval rows").contains("item mean"));
}

#[test]
fn patience_ends_a_run_of_ratings_and_a_finished_one_stays_as_it_is() {
    let p = rated();
    p.rate("whole", "--model bert4rec --mask 0.3 --checkpoint-seconds 0");
    p.rate("short", "--model bert4rec --mask 0.3 --checkpoint-seconds 0 --patience 1");
    // The curves agree as far as both go, although one run ended early.
    let (whole, short) = (p.read("whole/metrics.jsonl"), p.read("short/metrics.jsonl"));
    assert!(whole.starts_with(&short));
    p.well("train --resume whole -q");
    assert_eq!(p.read("whole/metrics.jsonl"), whole);
}

#[test]
fn a_run_goes_on_with_other_ratings_of_the_same_scale() {
    let p = rated();
    p.rate("base", "--model dacf --mask 0.4");
    let tune = "--width 16 --epochs 2 -q";
    p.well(&format!("finetune rated --from base --out same {tune}"));
    assert!(rmse(&report(&p, "same"), "model") < 2.0);
    let half = "user,item,rating,timestamp\n".to_string()
        + &(0..60).map(|n| format!("v{},i{},{},{n}\n", n % 6, n % 11, 0.5 + (n % 4) as f64)).collect::<String>();
    p.write("half.csv", half);
    p.well("import half.csv --out half -q");
    p.refused(&format!("finetune half --from base --out b {tune}"), &["rating 0.5", "1 to 5", "--transfer embedding"]);
    p.well(&format!("finetune half --from base --out tables --transfer embedding {tune}"));
    p.refused(&format!("finetune data --from base --out c {tune}"), &["no ratings", "--rating-col"]);
    p.refused("eval base half", &["rating 0.5", "1 to 5"]);
    // From items alone to ratings: parameters that the base lacks start fresh.
    p.well("train rated --out items -q --width 16 --length 30 --epochs 2 --warmup 4 --batch 16");
    p.well("finetune rated --from items --task rating --out ratings --epochs 2 -q");
    assert_no_leftovers(&p.path("ratings"));
}

#[test]
fn what_ratings_cannot_do_is_refused() {
    let p = rated();
    let flags = "--width 16 --length 30 --epochs 2 --warmup 2 -q --out run";
    let next = "--model bert4rec --task masked-item";
    p.refused(&format!("train data --model dacf {flags}"), &["no ratings", "--rating-col", next]);
    p.refused(&format!("train rated --model sasrec --task rating {flags}"), &["sasrec cannot learn", "next-item"]);
    p.refused(&format!("train rated --model dacf --task masked-item {flags}"), &["dacf cannot learn", "rating"]);
    p.refused(&format!("train rated --model dacf --loss bpr {flags}"), &["--loss has no effect", "squared"]);
    p.refused(&format!("train rated --model dacf --negatives 5 {flags}"), &["--negatives has no effect"]);
    p.refused(&format!("train rated --model dacf --table-update rows {flags}"), &["--table-update", "omit"]);
    p.refused(&format!("train rated --model dacf --mask 1.5 {flags}"), &["--mask 1.5"]);
    let same =
        "user,item,rating\n".to_string() + &(0..60).map(|n| format!("v{},i{},4\n", n % 6, n % 11)).collect::<String>();
    p.write("same.csv", same);
    p.well("import same.csv --out same -q");
    p.refused(&format!("train same --model dacf {flags}"), &["all ratings are 4", "--rating-col"]);
    assert!(!p.path("run").exists(), "nothing was begun");
    p.refused(&format!("train rated --model dacf --user-width 4 {flags}"), &["user vectors", "bert4rec"]);
    p.refused(&format!("train rated --model dacf --blocks 0 {flags}"), &["hidden layer", "--blocks to 1"]);
    // This model has only one task, so --task may be omitted.
    p.well(&format!("train rated --model dacf {flags}"));
    for (words, says) in [
        ("recommend run --history i1,i2", ["predicts ratings", "masked-item"]),
        ("recommend run --all-users", ["predicts ratings", "masked-item"]),
        ("export run --out vectors", ["predicts ratings", "masked-item"]),
        ("clicks --from run rated --positive 4 --out heads", ["has no vectors of histories", "masked-item"]),
        ("eval run --k 10", ["--k is for lists", "RMSE"]),
        ("eval run --negatives 10", ["--negatives is for lists", "RMSE"]),
        ("eval run data", ["no ratings", "--rating-col"]),
        ("eval run --batch 0", ["batch of 0", "--batch"]),
    ] {
        p.refused(words, &says);
    }
    assert!(!p.path("vectors").exists() && !p.path("heads").exists(), "nothing was begun");
    assert!(p.well("export run --out items --what items").contains("40 vectors of 16"));
}
