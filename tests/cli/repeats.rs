//! Logs with repeated items: the protocol that selects the weights, and that the run stores it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Place;

/// A model that learns such a log in seconds.
const MODEL: &str = "--model sasrec --width 32 --blocks 1 --length 24 --warmup 4 --batch 32 --lr 0.01 --eval-every 1";

/// Imports a log of 160 users with three own items each out of 60, of which one recurs three times out of four. Returns
/// the items of each user, oldest first.
fn repeats(p: &Place) -> Vec<Vec<u32>> {
    let mut state = 7u64;
    let mut draw = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut log = String::from("user,item,timestamp\n");
    let mut users = Vec::new();
    for u in 0..160u64 {
        let own = [u * 7 % 60, (u * 7 + 11) % 60, (u * 7 + 29) % 60];
        // Each item occurs once at first, so every held-out item is in the history.
        let mut items: Vec<u32> = own.iter().map(|i| *i as u32).collect();
        items.extend((0..20).map(|_| own[[0, 0, 0, 0, 0, 0, 1, 2][draw(8) as usize]] as u32));
        for (t, item) in items.iter().enumerate() {
            log += &format!("u{u},i{item},{}\n", 1_000_000_000 + u * 60 + t as u64 * 86_400);
        }
        users.push(items);
    }
    p.write("repeats.csv", log);
    p.well("import repeats.csv --out repeats -q");
    users
}

/// Returns how often the last item is the user's most frequent earlier item: the hit rate of the best list of one item.
fn best_hit_rate(users: &[Vec<u32>]) -> f64 {
    let hits = users.iter().filter(|items| {
        let (last, before) = items.split_last().unwrap();
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        before.iter().for_each(|item| *counts.entry(*item).or_default() += 1);
        counts.iter().max_by_key(|(_, n)| **n).unwrap().0 == last
    });
    hits.count() as f64 / users.len() as f64
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn hr_at_1(report: &Value) -> f64 {
    let at = report["full"]["model"]["at"].as_array().unwrap();
    at.iter().find(|at| at["k"] == 1).unwrap()["hr"].as_f64().unwrap()
}

#[test]
fn a_run_is_validated_and_judged_by_the_protocol_it_was_given() {
    let p = Place::new();
    let users = repeats(&p);
    let best = best_hit_rate(&users);
    assert!(best > 0.65, "{best}");
    let done = p.run(&format!("train repeats --out kept --keep-seen --json {MODEL} --epochs 12"));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("held-out items in the user's history: validation 100 %, test 100 %; ranked like any"));
    assert!(!done.err.contains("always count as misses"), "{}", done.err);
    let told = json(&done.out);
    assert!(told["best"]["epoch"].as_u64().unwrap() > 1, "{told}");
    assert!(p.text("kept/config.toml").contains("keep-seen = true"));

    // The closed form bounds the hit rate, and the model is close to it.
    let eval = |words: &str| json(&p.well(&format!("eval --json --k 1 {words}")));
    let kept = eval("kept");
    assert_eq!(kept["protocol"]["keep_seen"], true);
    assert!((hr_at_1(&kept) - best).abs() < 0.05, "{} beside {best}", hr_at_1(&kept));
    // The report at the end of training uses the same protocol.
    assert_eq!(told["test"]["protocol"]["keep_seen"], true);
    assert_eq!(told["test"]["protocol"]["seen_held_out"], 0);
    // A flag overrides the run's setting in both directions; if the history is excluded, every held-out item is a miss.
    for off in ["--keep-seen false kept", "kept --keep-seen=false"] {
        let excluded = eval(off);
        assert_eq!((&excluded["protocol"]["keep_seen"], hr_at_1(&excluded)), (&false.into(), 0.0));
        assert_eq!(excluded["protocol"]["seen_held_out"], 160);
    }
    assert_eq!(hr_at_1(&eval("--keep-seen kept")), hr_at_1(&kept));
    // A run of an earlier version has no such key and is evaluated as before.
    p.copy("kept", "old");
    let config: Vec<String> = p.text("old/config.toml").lines().map(String::from).collect();
    p.write(
        "old/config.toml",
        config.iter().filter(|l| !l.starts_with("keep-seen")).cloned().collect::<Vec<_>>().join("\n"),
    );
    assert_eq!(eval("old")["protocol"]["keep_seen"], false);

    // Lists have the held-out item first as often as `eval` reports, under the run's protocol; under the other there is
    // no hit.
    let lists = |flags: &str| -> Vec<Value> {
        let out = p.well(&format!("recommend kept --all-users --hold-out test --k 1 --json {flags}"));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let key = |items: &[u32]| Value::from(format!("i{}", items.last().unwrap()));
    let user = |list: &Value| list["id"].as_str().unwrap()[1..].parse::<usize>().unwrap();
    let hits = |lists: &[Value]| lists.iter().filter(|l| l["items"][0]["item"] == key(&users[user(l)])).count();
    assert_eq!(hits(&lists("")) as f64 / 160.0, hr_at_1(&kept));
    assert_eq!(hits(&lists("--keep-seen false")), 0);

    // Compared under the run's protocol; runs of two protocols only if one is specified.
    let compare = |words: &str| json(&p.well(&format!("compare --k 1 --json --no-slices --samples 100 {words}")));
    let alike = compare("kept kept");
    assert_eq!(alike["keep_seen"], true);
    let row = alike["all"].as_array().unwrap().iter().find(|row| row["metric"] == "HR@1").unwrap().clone();
    assert!((row["means"][0].as_f64().unwrap() - hr_at_1(&kept)).abs() < 1e-12, "{row}");
    p.refused("compare kept old", &["different protocols", "--keep-seen true or --keep-seen false"]);
    assert_eq!(compare("kept old --keep-seen false")["keep_seen"], false);

    // A continuation keeps the protocol of its base; a settings file can specify it too.
    p.well("finetune --from kept repeats --out tuned -q --epochs 1");
    assert_eq!(eval("tuned")["protocol"]["keep_seen"], true);
    p.write("kept.toml", "keep-seen = true\n");
    p.well(&format!("train repeats --out filed -q --config kept.toml {MODEL} --epochs 1"));
    assert_eq!(eval("filed")["protocol"]["keep_seen"], true);
}

#[test]
fn a_validation_that_cannot_hit_says_so_and_leaves_the_newest_weights() {
    let p = Place::new();
    let users = repeats(&p);
    let done = p.run(&format!("train repeats --out blind --json {MODEL} --epochs 12"));
    assert_eq!(done.code, Some(0), "{done:?}");
    for says in [
        "held-out items in the user's history: validation 100 %, test 100 %; never ranked",
        "warning: held-out items in the user's history always count as misses",
        "train with --keep-seen to rank them",
        "warning: all 12 validations were 0",
        "100 % of its items are in the user's history: train with --keep-seen",
    ] {
        assert!(done.err.contains(says), "'{says}' is missing: {}", done.err);
    }
    // Of twelve equal validations the newest is kept, because its weights have been trained longest.
    assert_eq!(json(&done.out)["best"]["epoch"], 12);
    let report = json(&p.well("eval blind --json --k 1 --keep-seen"));
    let best = best_hit_rate(&users);
    assert!((hr_at_1(&report) - best).abs() < 0.05, "{} beside {best}", hr_at_1(&report));
    // An equal validation is not an improvement: three in a row end the run.
    let out = p.well(&format!("train repeats --out early --json -q {MODEL} --epochs 12 --patience 3"));
    let early = json(&out);
    assert_eq!((&early["epochs"], &early["best"]["epoch"]), (&4.into(), &4.into()));
}

#[test]
fn the_protocol_is_refused_where_it_means_nothing() {
    let p = Place::new();
    repeats(&p);
    p.well(&format!("train repeats --out kept -q --keep-seen {MODEL} --epochs 1"));
    p.refused("search --out s --over keep-seen=true,false -- train repeats", &["--over keep-seen", "after --"]);
    p.refused("train repeats --out new --keep-seen maybe", &["maybe"]);
    p.write("old.toml", "keep_seen = true\n");
    p.refused("train repeats --out new --config old.toml", &["did you mean 'keep-seen'?"]);
    // Trials of a search are trained and ranked under it.
    let out = p.well(&format!(
        "search --out s --over dropout=0,0.1 --json -q -- train repeats --keep-seen {MODEL} --epochs 2"
    ));
    let trials = json(&out);
    assert!(
        trials["trials"].as_array().unwrap().iter().all(|t| t["best"]["value"].as_f64().unwrap() > 0.0),
        "{trials}"
    );
}

/// Rows of a table are comparable: all of them are evaluated under one protocol.
#[test]
fn rows_of_a_grid_are_judged_by_their_protocol() {
    let p = Place::new();
    repeats(&p);
    let grid = |set: &str| {
        format!(
            r#"
name = "rep"
title = "What comes next"
seeds = [1]
[data]
log = {{ path = "repeats" }}
[settings.tiny]
model = "sasrec"
width = 32
heads = 4
blocks = 1
length = 24
batch = 32
lr = 0.01
epochs = 4
eval-every = 1
patience = 4
keep-seen = true
[[table]]
name = "next"
title = "Next"
data = "log"
metrics = ["HR@1"]
columns = ["dropout"]
settings = ["tiny"]
rows = [
    {{ name = "some", labels = ["0.1"] }},
    {{ name = "none", labels = ["0"], set = {{ {set} }} }},
]
"#
        )
    };
    p.write("mixed.toml", grid("keep-seen = false"));
    p.refused("experiment mixed.toml", &["row none", "its keep-seen differs from that of row some"]);
    p.write("grid.toml", grid("dropout = 0.0"));
    p.well("experiment grid.toml -q");
    let report: Value = serde_json::from_str(&p.text("runs/rep/report.json")).unwrap();
    // The report counts the warnings of the runs.
    let useless = "Warning in 2 runs: --patience 4 cannot end this run early";
    let notes = report["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with(useless)), "{notes:?}");
    for (row, run) in [(0, "some-s1"), (1, "none-s1")] {
        let told = report["tables"][0]["rows"][row]["seeds"][0]["metrics"][0].as_f64().unwrap();
        let eval = json(&p.well(&format!("eval runs/rep/runs/{run} --k 1 --json")));
        assert!(told > 0.0 && (told - hr_at_1(&eval)).abs() < 1e-9, "{run}: {told}");
        assert_eq!(eval["protocol"]["keep_seen"], true);
    }
}
