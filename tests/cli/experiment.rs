//! `mipgpu experiment`: the report agrees with the runs, and finished work is never repeated, regardless of how it
//! ended.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{Place, assert_no_leftovers};

const GRID: &str = r#"
name = "halves"
title = "Does the one half help the other?"
seeds = 2
notes = ["Made up."]

[data]
log = { path = "data", get = "mipgpu import log.csv --out data" }
halves = { split = "log", random = 0.5, target-last = 12 }

[settings.tiny]
model = "bert4rec"
width = 16
blocks = 1
heads = 2
length = 20
batch = 16
epochs = 3
eval-every = 1
user-width = 4
checkpoint-seconds = 0

[[base]]
name = "pre"
data = "halves/source"
settings = ["tiny"]

[[table]]
name = "next"
title = "What comes next"
data = "halves/target"
split = { kind = "last-n", valid = 1, test = 2 }
negatives = 5
percent = true
published = "a paper"
metrics = ["NDCG@5", "Recall@3", "MRR"]
columns = ["transfer"]
settings = ["tiny"]
rows = [
    { name = "none", labels = ["none"], published = [1, 2, 3] },
    { name = "embedding", labels = ["embedding"], from = "pre", transfer = "embedding", against = "none" },
    { name = "model", labels = ["model"], from = "pre", against = "none" },
]

[[finding]]
says = "It helps."
claims = [{ what = "pre-trained over from scratch", better = ["embedding", "model"], than = ["none"] }]

[variant.one]
seeds = [7]
"#;

fn json(p: &Place, name: &str) -> Value {
    serde_json::from_str(&p.text(name)).unwrap()
}

/// Returns the modification time of each file of a folder and its subfolders.
fn times(folder: &Path) -> BTreeMap<String, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(times(&path));
        } else {
            found.insert(path.display().to_string(), entry.metadata().unwrap().modified().unwrap());
        }
    }
    found
}

/// Returns the report without the fields that differ between experiments.
fn answers(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("seconds");
    let tables = report["tables"].as_array_mut().unwrap().iter_mut();
    let rows: Vec<&mut Value> = tables.flat_map(|t| t["rows"].as_array_mut().unwrap()).collect();
    for row in rows {
        row["seeds"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|s| drop(s.as_object_mut().unwrap().remove("seconds")));
    }
    for base in report["bases"].as_array_mut().unwrap() {
        base["seeds"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|s| drop(s.as_object_mut().unwrap().remove("seconds")));
    }
    report
}

#[test]
fn the_report_is_what_the_runs_came_to_and_a_second_call_does_nothing() {
    let p = Place::new();
    p.write("grid.toml", GRID);
    let listed = p.well("experiment grid.toml --dry-run -q");
    assert!(listed.contains("mipgpu finetune --from runs/halves/runs/pre-s2 --transfer embedding"), "{listed}");
    assert!(listed.contains("8 runs, 8 to go") && !p.path("runs").exists(), "{listed}");

    let told = p.well("experiment grid.toml -q");
    let out = "runs/halves";
    assert_eq!(told, p.text(&format!("{out}/report.txt")));
    let report = json(&p, &format!("{out}/report.json"));
    assert_eq!((report["done"].as_u64(), report["runs"].as_u64()), (Some(8), Some(8)));
    let table = &report["tables"][0];
    // `eval` alone computes the same numbers.
    let mut mean = 0.0;
    for (k, seed) in [1, 2].into_iter().enumerate() {
        let flags = "--negatives 5 --negative-sampling uniform --k 3,5 --json -q";
        let eval: Value = serde_json::from_str(&p.well(&format!("eval {out}/runs/model-s{seed} {flags}"))).unwrap();
        let at = &eval["sampled"][0]["model"];
        let got = &table["rows"][2]["seeds"][k]["metrics"];
        let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
        assert!(near(&got[0], &at["at"][1]["ndcg"]) && near(&got[1], &at["at"][0]["recall"]), "{got} {at}");
        assert!(near(&got[2], &at["mrr"]), "{got} {at}");
        mean += got[0].as_f64().unwrap() / 2.0;
    }
    assert!((table["rows"][2]["mean"][0].as_f64().unwrap() - mean).abs() < 1e-9);
    // A finding is one test; it compares the two groups' means.
    let means: Vec<f64> = (0..3).map(|r| table["rows"][r]["mean"][0].as_f64().unwrap()).collect();
    let difference = report["findings"][0]["claims"][0]["test"]["difference"].as_f64().unwrap();
    assert!((difference - ((means[1] + means[2]) / 2.0 - means[0])).abs() < 1e-9);
    assert!(p.text(&format!("{out}/report.html")).starts_with("<!"));
    assert!(told.contains("It helps") && told.contains("a paper"), "{told}");

    // Nothing runs again; only the report is rewritten.
    let kept = |p: &Place| [times(&p.path(out).join("runs")), times(&p.path(out).join("users"))];
    let before = kept(&p);
    let again = p.well("experiment grid.toml -q");
    assert!(again == told && kept(&p) == before);
    p.well("experiment grid.toml --report -q");
    assert!(kept(&p) == before);
    // Other evaluation settings are applied to the same runs, which are not trained again.
    p.write("asked.toml", GRID.replace("negatives = 5", "negatives = 3"));
    p.well("experiment asked.toml -q");
    let weights = format!("{out}/runs/none-s1/best.safetensors");
    let full = p.path(&weights).display().to_string();
    assert_eq!(times(&p.path(&format!("{out}/runs")))[&full], before[0][&full]);
    assert_no_leftovers(&p.path(out));

    // A changed grid: the runs that it changes are named, the others are kept.
    p.write(
        "grid.toml",
        GRID.replacen("seeds = 2", "seeds = 1", 1)
            .replace("labels = [\"model\"], from", "labels = [\"model\"], set = { lr = 1e-2 }, from"),
    );
    p.refused("experiment grid.toml -q", &["1 of 4 runs", "model-s1: --lr (none) -> 0.01", "--redo-stale"]);
    let shown = p.well("experiment grid.toml --report -q");
    assert!(shown.contains("--lr (none) -> 0.01"), "{shown}");
    p.well("experiment grid.toml --redo-stale -q");
    let after = json(&p, &format!("{out}/report.json"));
    assert_eq!(after["tables"][0]["rows"][0]["seeds"][0]["metrics"], table["rows"][0]["seeds"][0]["metrics"]);
    assert_ne!(after["tables"][0]["rows"][2]["seeds"][0]["metrics"], table["rows"][2]["seeds"][0]["metrics"]);
}

/// Returns the first metric of a row's first seed from the report, and that of `eval` on the run itself.
fn told_and_true(p: &Place, out: &str, negatives: usize) -> [f64; 2] {
    let report = json(p, &format!("{out}/report.json"));
    let flags = format!("--negatives {negatives} --negative-sampling uniform --k 3,{negatives} --json -q");
    let run = p.well(&format!("eval {out}/runs/none-s7 {flags}"));
    let eval: Value = serde_json::from_str(&run).unwrap();
    let at = eval["sampled"][0]["model"]["at"].as_array().unwrap();
    let at_3 = at.iter().find(|at| at["k"] == 3).unwrap();
    [&report["tables"][0]["rows"][0]["seeds"][0]["metrics"][1], &at_3["recall"]].map(|x| x.as_f64().unwrap())
}

#[test]
fn answers_belong_to_the_run_and_the_question_and_are_whole() {
    let p = Place::new();
    let grid = |epochs: usize, negatives: usize| {
        let grid = GRID.replace("epochs = 3", &format!("epochs = {epochs}"));
        grid.replace("negatives = 5", &format!("negatives = {negatives}"))
            .replace("MRR", "HR@3")
            .replace("NDCG@5", "NDCG@3")
    };
    let out = "runs/halves-one";
    let go = |flags: &str| p.well(&format!("experiment grid.toml --variant one -q {flags}"));
    p.write("grid.toml", grid(3, 5));
    go("");
    // Another run and another evaluation, then the first evaluation again: its result is that of the new run.
    p.write("grid.toml", grid(5, 4));
    go("--redo-stale");
    p.write("grid.toml", grid(5, 5));
    go("");
    let [told, truth] = told_and_true(&p, out, 5);
    assert!((told - truth).abs() < 1e-9, "{told} {truth}");

    // More negatives than items are rejected before any evaluation.
    p.write("many.toml", grid(5, 50));
    p.refused("experiment many.toml --variant one", &["table next", "50 negatives", "no user has more than"]);
    // Truncated or missing files are computed again; an unreadable record is reported in its row.
    let users = p.names(&format!("{out}/users"));
    let file = users.iter().find(|name| name.starts_with("none-s7")).unwrap();
    for name in users.iter().filter(|name| name.starts_with("none-s7")) {
        let path = format!("{out}/users/{name}");
        let cut: Vec<String> = p.text(&path).lines().take(4).map(|l| l.to_string() + "\n").collect();
        p.write(&path, cut.concat());
    }
    let shown = p.well("experiment grid.toml --variant one --report -q");
    assert!(shown.contains("results of 3 users"), "{file}: {shown}");
    go("");
    assert_eq!(told_and_true(&p, out, 5), [told, truth]);
    let record = format!("{out}/runs/model-s7.json");
    let kept = p.text(&record);
    p.write(&record, "{");
    let done = p.run("experiment grid.toml --variant one -q");
    assert!(
        done.code == Some(1) && done.err.contains("1 of 4 runs have failed") && done.out.contains("model-s7.json"),
        "{done:?}"
    );
    p.write(&record, kept);
    go("");

    // A failing evaluation does not affect the training, and another evaluation runs.
    let weights = format!("{out}/runs/none-s7/best.safetensors");
    let trained = times(&p.path(&format!("{out}/runs")))[&p.path(&weights).display().to_string()];
    p.write("grid.toml", grid(5, 3));
    fs::create_dir(p.path(&format!("{out}/aside"))).unwrap();
    fs::rename(p.path(&format!("{out}/runs/none-s7/items.safetensors")), p.path(&format!("{out}/aside/items")))
        .unwrap();
    let done = p.run("experiment grid.toml --variant one -q");
    assert!(done.code == Some(1) && done.err.contains("1 of 4 runs have failed"), "{done:?}");
    fs::rename(p.path(&format!("{out}/aside/items")), p.path(&format!("{out}/runs/none-s7/items.safetensors")))
        .unwrap();
    go("--retry");
    assert_eq!(times(&p.path(&format!("{out}/runs")))[&p.path(&weights).display().to_string()], trained);

    // Read-only commands change nothing: other domains are made under a temporary name.
    let data = times(&p.path(&format!("{out}/data")));
    p.write("grid.toml", grid(5, 3).replace("target-last = 12", "target-last = 11"));
    p.well("experiment grid.toml --variant one --dry-run -q");
    p.well("experiment grid.toml --variant one --report -q");
    p.refused("experiment grid.toml --variant one -q", &["3 of 4 runs", "none-s7: its data"]);
    let after = times(&p.path(&format!("{out}/data")));
    assert!(data.iter().all(|(path, time)| after.get(path) == Some(time)));
}

/// --dry-run prints every command before there are data, and omits the estimates that need data; settings are checked
/// nevertheless.
#[test]
fn a_dry_run_needs_no_data() {
    let p = Place::new();
    p.write("grid.toml", GRID);
    let there = p.well("experiment grid.toml --dry-run -q");
    let commands = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.starts_with("  mipgpu ")).map(str::to_string).collect()
    };
    fs::rename(p.path("data"), p.path("aside")).unwrap();
    let said = p.run("experiment grid.toml --dry-run");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("log: not available yet") && said.err.contains("mipgpu import log.csv --out data"),
        "{said:?}"
    );
    assert!(
        said.out.contains("8 runs, 8 to go") && said.out.contains("without 8 runs that lack their data set"),
        "{said:?}"
    );
    assert!(said.out.contains("pre-s1  (its data set is not available yet)"), "{said:?}");
    // The same commands, except for the names of derived data, which contain a digest of their source, and that of the
    // run's key.
    let plain = |commands: Vec<String>| -> Vec<String> {
        let word = |w: &str| match (w.contains("/halves-"), w.ends_with(".tsv")) {
            (true, _) => w.rsplit('/').next().unwrap().to_string(),
            (_, true) => "TSV".into(),
            _ => w.to_string(),
        };
        commands.iter().map(|c| c.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(plain(commands(&said.out)), plain(commands(&there)));
    assert!(!p.path("runs").exists());
    let events = p.well("experiment grid.toml --dry-run --json -q");
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert!(first["seconds"].is_null() && first["command"].as_str().unwrap().starts_with("mipgpu train "), "{first}");
    p.write("wrong.toml", GRID.replace("heads = 2", "heads = 3"));
    p.refused("experiment wrong.toml --dry-run -q", &["base pre", "3 heads do not divide"]);
    p.write("wrong.toml", GRID.replace("heads = 2", "haeds = 2"));
    p.refused("experiment wrong.toml --dry-run -q", &["wrong.toml: line", "settings.tiny", "did you mean 'heads'?"]);
    // A real run requires the data.
    p.refused("experiment grid.toml -q", &["the data set 'log' is missing", "mipgpu import"]);
}

#[test]
fn killed_in_the_middle_it_ends_as_if_it_had_never_been() {
    let p = Place::new();
    let grid = GRID.replace("epochs = 3", "epochs = 12").replacen("seeds = 2", "seeds = 1", 1);
    p.write("grid.toml", grid);
    p.well("experiment grid.toml --out whole -q --jobs 2");
    let whole = answers(json(&p, "whole/report.json"));
    // In the base and in a row.
    for (i, run) in ["pre-s1", "none-s1"].into_iter().enumerate() {
        let out = format!("cut{i}");
        let mut c = p.command(&format!("experiment grid.toml --out {out} -q --jobs 1"));
        let mut child = c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        let curve = p.path(&format!("{out}/runs/{run}/metrics.jsonl"));
        while fs::read_to_string(&curve).map_or(0, |t| t.lines().count()) < 2 {
            assert!(start.elapsed() < Duration::from_secs(120), "no epoch of {run} within two minutes");
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let report = p.well(&format!("experiment grid.toml --out {out} -q"));
        assert!(report.contains("4 of 4") || report.contains("\"done\""), "{report}");
        assert_eq!(answers(json(&p, &format!("{out}/report.json"))), whole, "{run}");
        p.assert_same_run(&format!("{out}/runs/{run}"), &format!("whole/runs/{run}"));
    }
}

#[test]
fn a_run_that_fails_is_told_in_its_row_and_stops_nothing_else() {
    let p = Place::new();
    let rows = r#"    { name = "wild", labels = ["wild"], set = { lr = 1e30, clip = 0, warmup = 0 }, against = "none" },
]

[[finding]]"#;
    p.write("grid.toml", GRID.replacen("]\n\n[[finding]]", rows, 1));
    let done = p.run("experiment grid.toml --variant one -q");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("1 of 5 runs have failed") && done.err.contains("--retry"), "{done:?}");
    assert!(done.out.contains("not finite") && done.out.contains("wild"), "{done:?}");
    let report = json(&p, "runs/halves-one/report.json");
    let rows = report["tables"][0]["rows"].as_array().unwrap();
    assert_eq!(rows[3]["seeds"][0]["state"]["is"], "failed");
    assert!(rows[3]["mean"].as_array().unwrap().is_empty() && !rows[2]["mean"].as_array().unwrap().is_empty());
    assert_eq!(report["findings"][0]["claims"][0]["test"]["by_seed"].as_array().unwrap().len(), 1);
    // It is retried only on request; if a base fails, runs that start from it fail too.
    let record = p.text("runs/halves-one/runs/wild-s7.json");
    assert_eq!(p.run("experiment grid.toml --variant one -q").code, Some(1));
    assert_eq!(p.text("runs/halves-one/runs/wild-s7.json"), record);
    assert_eq!(p.run("experiment grid.toml --variant one -q --retry").code, Some(1));
    assert_ne!(p.text("runs/halves-one/runs/wild-s7.json"), record);
    let wild =
        GRID.replacen("settings = [\"tiny\"]", "settings = [\"tiny\"]\nset = { lr = 1e30, clip = 0, warmup = 0 }", 1);
    p.write("wild.toml", wild);
    let done = p.run("experiment wild.toml --variant one --out w -q");
    assert!(done.err.contains("3 of 4 runs have failed") && done.out.contains("starts from pre-s7"), "{done:?}");
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_begins() {
    let p = Place::new();
    p.write("grid.toml", GRID);
    p.refused("experiment survy", &["survy", "survey"]);
    p.refused("experiment survey", &["data/ml-1m", "mipgpu data get ml-1m", "--data ml-1m=DIR"]);
    p.refused("experiment grid.toml --data log=nowhere", &["nowhere", "mipgpu import log.csv --out data"]);
    p.refused("experiment grid.toml --data lag=data", &["no data set 'lag'", "log"]);
    p.refused("experiment grid.toml --set tiny.widht=8", &["settings.tiny", "'widht'", "did you mean 'width'"]);
    p.refused("experiment grid.toml --set tiny.width=7", &["base pre", "width", "heads"]);
    p.refused("experiment grid.toml --set tiny.fields=colour", &["base pre", "colour"]);
    p.refused("experiment grid.toml --set tiny.precision=fastest", &["use --precision bf16 or f32"]);
    p.refused("experiment grid.toml --variant big", &["[variant.big]", "one"]);
    p.refused("experiment grid.toml --jobs 0", &["--jobs 0"]);
    p.refused("experiment grid.toml --report --out none", &["none", "nothing to report"]);
    p.write("bad.toml", GRID.replace("metrics = [\"NDCG@5\"", "metrics = [\"NDCG@five\""));
    p.refused("experiment bad.toml", &["bad.toml", "table next", "NDCG@five"]);
    p.refused("experiment grid.toml --set tiny.epochs=3 --variant none", &["[variant.none]", "one"]);
    p.write("spelt.toml", GRID.to_string() + "\n[variant.one.settings.tinny]\nwidth = 8\n");
    p.refused("experiment spelt.toml --variant one", &["variant.one", "did you mean 'tiny'"]);
    p.write("seeds.toml", GRID.replacen("seeds = 2", "seeds = \"two\"", 1));
    p.refused("experiment seeds.toml", &["seeds.toml", "a number of seeds"]);
    p.write("sides.toml", GRID.replace("than = [\"none\"]", "than = [\"model\"]"));
    p.refused("experiment sides.toml", &["'model' is on both sides"]);
    p.write("line.toml", GRID.replace("title = \"What", "title = What"));
    p.refused("experiment line.toml", &["line.toml", "line 3"]);
    p.write(
        "rated.toml",
        GRID.replace("metrics = [\"NDCG@5\", \"Recall@3\", \"MRR\"]", "metrics = [\"RMSE\"]")
            .replace("negatives = 5", "")
            .replace(", published = [1, 2, 3]", ""),
    );
    p.refused("experiment rated.toml", &["table next, row none", "ratings"]);
    // No other process may work on it at the same time.
    fs::create_dir_all(p.path("held")).unwrap();
    let lock = fs::File::create(p.path("held/lock")).unwrap();
    lock.lock().unwrap();
    p.refused("experiment grid.toml --out held", &["held", "another process"]);
    // A read-only report is allowed: it is printed, and nothing is written.
    assert!(p.well("experiment grid.toml --out held --report -q").contains("0 of 8"));
    assert_eq!(p.names("held"), ["lock"]);
}

/// The survey's grid on the built-in sample: every row, every test, and the page.
#[test]
fn the_survey_runs_on_the_built_in_sample() {
    let p = Place::new();
    let text = p.well("experiment survey --quick -q");
    let report = json(&p, "runs/survey-quick/report.json");
    assert_eq!((report["done"].as_u64(), report["runs"].as_u64()), (Some(44), Some(44)));
    let [lists, ratings] = report["tables"].as_array().unwrap().as_slice() else { panic!("two tables") };
    assert_eq!((lists["rows"].as_array().unwrap().len(), ratings["rows"].as_array().unwrap().len()), (26, 4));
    for table in [lists, ratings] {
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["mean"].as_array().unwrap().len(), table["metrics"].as_array().unwrap().len(), "{row}");
        }
    }
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 6);
    assert!(findings.iter().all(|f| f["verdict"] != "open"), "{findings:?}");
    let page = p.text("runs/survey-quick/report.html");
    assert!(page.contains("BERT4Rec") && page.contains("<svg") && page.contains("80.64"), "{} bytes", page.len());
    assert!(text.contains("81.0") || text.contains("80.64"), "{text}");
}
