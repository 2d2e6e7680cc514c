//! `mipgpu search`: its table agrees with the learning curves of its trials; interruptions; and searches that are
//! rejected.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Place, assert_no_leftovers};

const SMALL: &str = "--width 8 --heads 2 --length 10 --warmup 4 --batch 16 --model sasrec";

/// Returns the last event, the table.
fn table(text: &str) -> Value {
    let event: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap();
    assert_eq!(event["event"], "search", "{text}");
    event
}

fn rows(table: &Value) -> &Vec<Value> {
    table["trials"].as_array().unwrap()
}

/// Returns epoch and value of the best validation, from the run's own learning curve.
fn best_of(p: &Place, run: &str, measure: &str) -> (u64, f64) {
    let curve = p.text(&format!("{run}/metrics.jsonl"));
    let values = curve.lines().filter_map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        Some((row["epoch"].as_u64()?, row[measure].as_f64()?))
    });
    let better = |a: f64, b: f64| if measure == "valid_rmse" { b < a } else { b > a };
    values.reduce(|best, new| if better(best.1, new.1) { new } else { best }).unwrap()
}

/// Runs a search with failing trials; returns its table and asserts exit code 1 with a message.
fn failing(p: &Place, flags: &str, command: &str) -> Value {
    let done = p.run(&format!("search --out s --json -q {flags} -- {command}"));
    assert!(done.code == Some(1) && done.err.contains("trials have failed, such as "), "{done:?}");
    table(&done.out)
}

fn search(p: &Place, flags: &str, command: &str) -> Value {
    table(&p.well(&format!("search --out s --json -q {flags} -- {command}")))
}

/// Returns the modification times of a run's files.
fn written(p: &Place, run: &str) -> Vec<(String, std::time::SystemTime)> {
    let time = |name: &String| fs::metadata(p.path(run).join(name)).unwrap().modified().unwrap();
    p.names(run).into_iter().map(|name| (name.clone(), time(&name))).collect()
}

#[test]
fn a_grid_is_ranked_by_the_validation_of_its_runs() {
    let p = Place::new();
    let base = format!("train data {SMALL} --epochs 3 --eval-every 1");
    let told = search(&p, "--over lr=1e-3,0.03 --over dropout=0.3,0.0 --jobs 2", &base);
    let rows = rows(&told);
    assert_eq!(rows.len(), 4);
    let tsv = p.text("s/trials.tsv");
    let mut last = f64::INFINITY;
    for (row, line) in rows.iter().zip(tsv.lines().skip(1)) {
        let (lr, dropout) = (row["settings"]["lr"].as_str().unwrap(), row["settings"]["dropout"].as_str().unwrap());
        let run = format!("s/trials/dropout={dropout},lr={lr}");
        assert_eq!(row["run"], run);
        let (epoch, value) = best_of(&p, &run, "valid_ndcg@10");
        assert_eq!((row["best"]["epoch"].as_u64(), row["best"]["value"].as_f64()), (Some(epoch), Some(value)), "{row}");
        assert!(value <= last && row["state"]["is"] == "done" && row["epochs_done"] == 3, "{row}");
        assert!(line.starts_with(&format!("{lr}\t{dropout}\tNDCG@10\t{value}\t{epoch}\t1\t3\t3\t")), "{line}");
        let config = p.text(&format!("{run}/config.toml"));
        let has = |key: &str| config.lines().any(|l| l.strip_prefix(key).is_some_and(|v| v.starts_with(" = ")));
        assert!(has("lr") && has("dropout") && config.contains("epochs = 3"), "{config}");
        last = value;
    }
    let kept: Value = serde_json::from_str(&p.text("s/trials.json")).unwrap();
    assert_eq!(kept["trials"], told["trials"]);
    assert_eq!(told["best"], rows[0]["name"]);
    assert_no_leftovers(&p.path("s"));
    // A trial is the same as the run of its printed command.
    let command = rows[0]["command"].as_str().unwrap().strip_prefix("mipgpu ").unwrap();
    p.well(&format!("{command} --out again -q"));
    p.assert_same_run("again", rows[0]["run"].as_str().unwrap());
    // The search is repeated in another order: no trial runs again. Then over fewer values: the other trials are kept
    // and reported.
    let before = written(&p, rows[3]["run"].as_str().unwrap());
    let again = search(&p, "--over dropout=0,0.3 --over lr=0.03,0.001", &base);
    assert_eq!(before, written(&p, rows[3]["run"].as_str().unwrap()));
    let names = |t: &Value| t["trials"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&told));
    let said = p.says(&format!("search --out s --over lr=0.001 --over dropout=0,0.1 -- {base}"));
    for words in [
        "the folder holds 3 trials that are not part of this search",
        "dropout=0.3,lr=0.001",
        "higher is better; the test part is not used",
        "lr     dropout  NDCG@10",
        "mipgpu compare s/trials/",
        "--lr 0.001 --dropout 0",
    ] {
        assert!(said.contains(words), "'{words}' is missing in {said}");
    }
    assert!(!said.contains("Recall") && !said.contains("HR@"), "{said}");
    assert_eq!(p.names("s/trials").iter().filter(|n| !n.ends_with(".json")).count(), 5);
}

/// Starts the search of the next test.
fn start(p: &Place, flags: &str) -> Child {
    let mut c = p.command(&format!("search --out s -q --over seed=1,2,3 -- {flags}"));
    c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `done` trials are done and the next one has trained for some epochs.
fn wait_for(p: &Place, child: &mut Child, done: usize) {
    let begun = Instant::now();
    let epochs = || {
        let curve = p.path(&format!("s/trials/seed={}/metrics.jsonl", done + 1));
        fs::read_to_string(curve).map_or(0, |t| t.lines().count())
    };
    let table = || fs::read_to_string(p.path("s/trials.tsv")).unwrap_or_default();
    while table().matches("\tdone").count() < done || epochs() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "not there within two minutes");
        assert!(child.try_wait().unwrap().is_none(), "the search ended before it could be stopped");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_search_that_was_stopped_or_killed_goes_on() {
    let p = Place::new();
    let base = format!("train data {SMALL} --epochs 60 --checkpoint-seconds 0");
    let mut child = start(&p, &base);
    wait_for(&p, &mut child, 0);
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped: 0 of 3 trials") && said.contains("run the same command to continue"), "{said}");
    assert!(p.text("s/trials.tsv").contains("interrupted"), "{}", p.text("s/trials.tsv"));
    let mut child = start(&p, &base);
    wait_for(&p, &mut child, 1);
    // No other process may search here meanwhile.
    p.refused(&format!("search --out s -q --over seed=1 -- {base}"), &["another process is running this search"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let first = written(&p, "s/trials/seed=1");
    let told = search(&p, "--over seed=1,2,3", &base);
    assert!(rows(&told).iter().all(|r| r["state"]["is"] == "done" && r["epochs_done"] == 60), "{told}");
    assert_eq!(first, written(&p, "s/trials/seed=1"), "what was done is done again");
    p.well(&format!("{base} --seed 2 --out whole -q"));
    p.assert_same_run("whole", "s/trials/seed=2");
    assert_no_leftovers(&p.path("s"));
}

#[test]
fn a_trial_that_fails_is_in_its_row_and_one_of_other_data_is_stale() {
    let p = Place::new();
    let base = "train data --width 8 --length 10 --batch 16 --model sasrec --epochs 1 --clip 0 --warmup 0";
    let told = failing(&p, "--over lr=1e30,0.003 --over heads=2,3", base);
    let state = |lr: &str, heads: &str| {
        let of = |r: &&Value| r["settings"]["lr"] == lr && r["settings"]["heads"] == heads;
        let row = rows(&told).iter().find(of).unwrap();
        format!("{} {}", row["state"]["is"], row["state"]["why"])
    };
    assert!(state("1e30", "2").contains("failed") && state("1e30", "2").contains("not finite"), "{told}");
    assert!(state("0.003", "3").contains("failed") && state("0.003", "3").contains("3 heads do not divide"), "{told}");
    assert!(told["best"] == "heads=2,lr=0.003" && state("0.003", "2").contains("done"), "{told}");
    // Failures are kept unless a retry is requested.
    let before = written(&p, "s/trials/heads=2,lr=1e30");
    failing(&p, "--over lr=1e30,0.003 --over heads=2", base);
    assert_eq!(before, written(&p, "s/trials/heads=2,lr=1e30"));
    failing(&p, "--over lr=1e30,0.003 --over heads=2 --retry", base);
    assert_ne!(before, written(&p, "s/trials/heads=2,lr=1e30"));
    let bad = p.run(&format!("search --out s --over lr=1e30 -q -- {base}"));
    assert!(
        bad.code == Some(1) && bad.err.contains("no trial has finished") && bad.err.contains("not finite"),
        "{bad:?}"
    );
    assert!(bad.out.contains("failed: "), "{bad:?}");
    // The data change.
    p.write("more.csv", p.text("log.csv") + "u0,i7,1200000000\n");
    p.well("import more.csv --out data -q --force");
    let flags = "--over lr=0.003,0.004 --over heads=2";
    let said = p.says(&format!("search --out s {flags} -- {base}"));
    assert!(said.contains("1 trials are stale, because an input has changed: heads=2,lr=0.003"), "{said}");
    assert!(said.contains("stale: the data set has changed since") && said.contains("--redo-stale"), "{said}");
    assert!(said.contains("best: heads=2,lr=0.004"), "{said}");
    p.refused(&format!("search --out s --over lr=0.003,0.004 -q --halving 2 -- {base}"), &["are too few to halve"]);
    let told = search(&p, &format!("{flags} --redo-stale"), base);
    assert!(rows(&told).iter().all(|r| r["state"]["is"] == "done"), "{told}");
}

#[test]
fn halving_lets_the_best_go_on() {
    let p = Place::new();
    let base = format!("train data {SMALL} --epochs 4");
    let flags = "--over lr=1e-5,3e-3,1e-4,3e-2 --halving 2";
    let told = search(&p, flags, &base);
    let value = |lr: &str, epochs: u32| best_of(&p, &format!("s/trials/epochs={epochs},lr={lr}"), "valid_ndcg@10").1;
    let best = |mut lrs: Vec<&'static str>, epochs: u32, n: usize| {
        lrs.sort_by(|a, b| value(b, epochs).total_cmp(&value(a, epochs)));
        lrs[..n].to_vec()
    };
    let second = best(vec!["0.00001", "0.003", "0.0001", "0.03"], 1, 2);
    let third = best(second.clone(), 2, 1);
    let runs: Vec<String> = p.names("s/trials").into_iter().filter(|n| !n.ends_with(".json")).collect();
    let mut expected: Vec<String> = ["0.00001", "0.003", "0.0001", "0.03"].map(|lr| format!("epochs=1,lr={lr}")).into();
    expected.extend(second.iter().map(|lr| format!("epochs=2,lr={lr}")));
    expected.extend(third.iter().map(|lr| format!("epochs=4,lr={lr}")));
    expected.sort();
    assert_eq!(runs, expected);
    // The last rung ranks first, regardless of the results of shorter runs.
    assert_eq!(told["best"], format!("epochs=4,lr={}", third[0]));
    assert_eq!(rows(&told).iter().map(|r| r["rung"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2, 2, 1, 1, 1, 1]);
    assert!(rows(&told)[0]["command"].as_str().unwrap().ends_with(&format!("--lr {} --epochs 4", third[0])));
    let said = p.says(&format!("search --out s --dry-run {flags} -- {base}"));
    assert!(
        said.contains("4 trials, 12 epochs in total") && said.contains("the best 1 from scratch with 4 epochs"),
        "{said}"
    );
    assert_eq!(rows(&search(&p, flags, &base)), rows(&told));
    // With other data, the selection from the shorter runs is invalid.
    p.write("more.csv", p.text("log.csv") + "u0,i7,1200000000\n");
    p.well("import more.csv --out data -q --force");
    p.refused(&format!("search --out s -q {flags} -- {base}"), &["4 trials are stale", "--redo-stale"]);
    let anew = search(&p, &format!("{flags} --redo-stale"), &base);
    assert!(rows(&anew).iter().all(|r| r["state"]["is"] == "done") && rows(&anew).len() == 7, "{anew}");
}

#[test]
fn runs_of_other_kinds_are_searched_too() {
    let p = Place::new();
    p.train("base", "--epochs 1");
    let base = "finetune --from base --transfer patch data --epochs 1";
    let over = "--over lr=1e-4..1e-2:log --over patch-width=2..4";
    let told = search(&p, &format!("--random 2 {over}"), base);
    let names: Vec<Value> = rows(&told).iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names.len(), 2);
    let more = search(&p, &format!("--random 3 {over}"), base);
    assert!(rows(&more).len() == 3 && names.iter().all(|n| rows(&more).iter().any(|r| r["name"] == *n)), "{more}");
    for row in rows(&more) {
        let lr: f64 = row["settings"]["lr"].as_str().unwrap().parse().unwrap();
        assert!((1e-4..=1e-2).contains(&lr) && row["state"]["is"] == "done", "{row}");
    }
    // Ratings: lower is better.
    let log = p.text("log.csv");
    let rated: String = log.lines().skip(1).enumerate().map(|(i, row)| format!("{row},{}\n", 1 + i * i % 5)).collect();
    p.write("rated.csv", format!("user,item,timestamp,rating\n{rated}"));
    p.well("import rated.csv --out rated -q");
    let text =
        p.well("search --out r -q --over lr=1e-5,1e-2 -- train rated --model dacf --width 8 --length 20 --epochs 2");
    let of = |lr: &str| best_of(&p, &format!("r/trials/lr={lr}"), "valid_rmse").1;
    let (first, second) = if of("0.01") < of("0.00001") { ("0.01", "0.00001") } else { ("0.00001", "0.01") };
    let at = |lr: &str| text.lines().position(|l| l.trim_start().starts_with(&format!("{lr} "))).unwrap();
    assert!(at(first) < at(second) && text.contains("lower is better") && text.contains("RMSE"), "{text}");
}

#[test]
fn what_cannot_be_searched_is_refused_before_anything_is_made() {
    let p = Place::new();
    let here = p.names(".");
    for (flags, command, says) in [
        ("--over dropuot=0.1", "train data", "did you mean 'dropout'?"),
        ("--over lr=abc,1", "train data", "--lr abc is not a number"),
        ("--over width=1.5", "train data", "--over width=1.5: --width 1.5 is not a whole number"),
        ("--over norm=mid", "train data", "post, pre"),
        ("--over lr=1..2", "train data", "add --random N"),
        ("--over lr=2..1 --random 3", "train data", "the range is empty"),
        ("--over lr=1 --over lr=2", "train data", "another --over"),
        ("--over lr=1", "train data --lr 2", "--lr is searched and also given after --"),
        ("--over lr=1", "train data --out x", "--out is not allowed after --"),
        ("--over lr=1", "train --resume x", "--resume is not allowed after --"),
        ("--over lr=1", "train data --threads 2", "--threads is not allowed after --"),
        ("--over lr=1", "train data --json", "--json is not allowed after --"),
        ("--over lr=1", "train data --epoch 3", "--epochs"),
        ("--over lr=1", "eval data", "cannot be searched"),
        ("--over lr=1", "train data --precision fastest", "use --precision bf16 or f32"),
        ("--over lr=1", "train --help", "prints help"),
        ("--over lr=1", "train nowhere", "nowhere: there is no such folder"),
        ("--over lr=1", "finetune --from nowhere data", "no run is there"),
        ("--over lr=1 --jobs 0", "train data", "--jobs 0"),
        ("--over lr=1 --random 0", "train data", "--random 0"),
        ("--over lr=1,2 --halving 1", "train data", "--halving 1 is out of range"),
        ("--over lr=1,2 --halving 3", "train data", "too few to halve"),
        ("--over epochs=1,2 --halving 2", "train data", "--halving, which sets the epochs"),
    ] {
        p.refused(&format!("search --out s -q {flags} -- {command}"), &[says]);
        assert_eq!(p.names("."), here, "{flags} -- {command}");
    }
    p.refused("search --out s --over lr=1", &["COMMAND"]);
    p.refused("search --out data --over lr=1 -- train data", &["does not hold a search"]);
    let base = format!("train data {SMALL} --epochs 1");
    let listed = p.well(&format!("search --out s --dry-run --over lr=1e-3,2e-3 --over norm=pre,post -- {base}"));
    assert_eq!(p.names("."), here);
    assert_eq!(listed.lines().count(), 5);
    let first = listed.lines().next().unwrap();
    assert_eq!(first, format!("mipgpu {base} --lr 0.001 --norm pre --out s/trials/lr=0.001,norm=pre"));
    assert!(listed.contains("4 trials, 4 epochs in total; nothing was run"), "{listed}");
    // A folder belongs to one command.
    search(&p, "--over lr=1e-3", &base);
    p.refused(
        &format!("search --out s -q --over lr=1e-3 -- train data {SMALL} --epochs 2 --seed 3"),
        &["its trials belong to another command", "--epochs 1 is now 2", "--seed 3 is new", "another --out"],
    );
}
