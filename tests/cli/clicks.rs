//! Click-through prediction on a log of impressions with a planted taste: the whole program, its predictions recomputed
//! from the files alone, and the inputs it rejects.

use std::collections::HashMap;

use mipgpu::{
    backend::Device,
    base::rng::{Purpose, Stream},
    train::{Trained, Which},
};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{Place, TINY, assert_no_leftovers};

const USERS: u64 = 160;
const ITEMS: u64 = 24;
const DAYS: u64 = 40;
/// The first day of the test.
const CUT: u64 = 32;

/// A row of the log: user, item, clicked, day.
type Shown = (u64, u64, bool, u64);

/// A user of taste g is shown a random item per day (two on some days, at the same time). The user clicks items of
/// group g with probability 0.75, others with 0.1. Items alone are uninformative; with the taste, the AUC is about 0.8.
fn shown() -> Vec<Shown> {
    let mut draw = Stream::new(11, Purpose::Test, 0);
    let mut rows = Vec::new();
    for day in 0..DAYS {
        for user in 0..USERS {
            for _ in 0..1 + u64::from(draw.below(5) == 0) {
                let item = draw.below(ITEMS);
                let chance = if item % 4 == user % 4 { 0.75 } else { 0.1 };
                rows.push((user, item, draw.uniform() < chance, day));
            }
        }
    }
    rows
}

/// Imports the log as `shown` and its clicks as `clicked`, and trains a run `base` on the clicks under the time split.
fn place() -> (Place, Vec<Shown>) {
    let (p, rows) = (Place::new(), shown());
    let mut log = String::from("user,item,rating,time\n");
    for (user, item, clicked, day) in &rows {
        log += &format!("u{user},i{item},{},{}\n", u8::from(*clicked), 1_000_000_000 + day * 86_400);
    }
    p.write("shown.csv", log);
    p.well("import shown.csv --out shown -q");
    p.well("import shown.csv --min-rating 1 --out clicked -q");
    let cut = format!("--split time --cut {}", 1_000_000_000 + CUT * 86_400);
    p.well(&format!("train clicked --out base -q {TINY} --epochs 40 --lr 0.01 --blocks 1 {cut}"));
    (p, rows)
}

fn report(p: &Place, out: &str) -> Value {
    serde_json::from_slice(&p.read(&format!("{out}/report.json"))).unwrap()
}

/// Returns the numbers of a tensor.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap();
    data.data().chunks_exact(4).map(|w| f32::from_le_bytes(w.try_into().unwrap())).collect()
}

#[test]
fn a_planted_taste_is_learned_and_predictions_follow_from_the_files() {
    let (p, rows) = place();
    let flags = "--hidden 16,8 --epochs 12 --lr 0.003 --batch 128";
    let text = p.well(&format!("clicks --from base shown --out heads/a -q {flags} --predictions a.tsv --threads 1"));
    assert!(text.contains("AUC") && text.contains("base rate") && text.contains("heads/a/head.safetensors"), "{text}");
    assert_no_leftovers(&p.path("heads/a"));

    let all = report(&p, "heads/a");
    let number = |path: &str| all.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {all:#}"));
    let test: Vec<&Shown> = rows.iter().filter(|r| r.3 >= CUT).collect();
    assert_eq!(number("/test/impressions"), test.len() as f64);
    assert_eq!(number("/test/clicks"), test.iter().filter(|r| r.2).count() as f64);
    assert_eq!(number("/protocol/left_out_users_trained_on"), 0.0);
    // The best possible value is about 0.8; popularity knows nothing, the base rate less.
    assert!(number("/test/model/auc") > 0.7, "{all:#}");
    assert!((0.4..0.6).contains(&number("/test/item_rate/auc")) && number("/test/base_rate/auc") == 0.5, "{all:#}");
    assert!(number("/test/run_score_auc") > 0.6, "{all:#}");
    assert!(number("/test/model/log_loss") < number("/test/base_rate/log_loss") - 0.03, "{all:#}");
    // The probabilities are checked too, not only their order.
    let share = number("/test/clicks") / number("/test/impressions");
    assert!((number("/test/model/mean_probability") - share).abs() < 0.05, "{all:#}");

    // Recomputed from the files: histories from the log, vectors from the run, the rest in plain loops.
    let bytes = p.read("heads/a/head.safetensors");
    let head = SafeTensors::deserialize(&bytes).unwrap();
    let [mean, scale] = ["input.mean", "input.scale"].map(|name| tensor(&head, name));
    let mut run = Trained::open(&p.path("base"), Which::Best, Device::Cpu).unwrap();
    let (d, items) = (run.encoder.width(), run.items.len());
    let mut table = vec![0.0; items * d];
    run.encoder.item_vectors(0..items, &mut table).unwrap();
    let predicted = String::from_utf8(p.read("a.tsv")).unwrap();
    let mut lines: HashMap<(String, String), Vec<(f64, String)>> = HashMap::new();
    for line in predicted.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let key = (cells[0].to_string(), cells[1].to_string());
        lines.entry(key).or_default().push((cells[3].parse().unwrap(), cells[2].to_string()));
    }
    assert_eq!(lines.values().map(Vec::len).sum::<usize>(), test.len());
    for (user, item, clicked, day) in test.into_iter().step_by(7) {
        let key = |item: u64| run.items.find(&format!("i{item}")).unwrap();
        let before = rows.iter().filter(|r| r.0 == *user && r.2 && r.3 < *day);
        let history: Vec<u32> = before.map(|r| key(r.1)).collect();
        let mut u = vec![0.0; d];
        run.encoder.encode(&[mipgpu::eval::Query { history: &history, ..Default::default() }], &mut u).unwrap();
        let v = &table[key(*item) as usize * d..][..d];
        let product = u.iter().zip(v).map(|(u, v)| u * v);
        let x: Vec<f32> = u.iter().chain(v).copied().chain(product).collect();
        let mut h: Vec<f64> = (0..3 * d).map(|k| ((x[k] - mean[k]) * scale[k]) as f64).collect();
        for l in 0..2 {
            let (w, b) = (tensor(&head, &format!("hidden.{l}.weight")), tensor(&head, &format!("hidden.{l}.bias")));
            let unit = |(w, b): (&[f32], &f32)| h.iter().zip(w).map(|(h, w)| h * *w as f64).sum::<f64>() + *b as f64;
            h = w.chunks_exact(h.len()).zip(&b).map(unit).map(|z| z.max(0.0)).collect();
        }
        let (w, b) = (tensor(&head, "out.weight"), tensor(&head, "out.bias"));
        let z = h.iter().zip(&w).map(|(h, w)| h * *w as f64).sum::<f64>() + b[0] as f64;
        let want = 1.0 / (1.0 + (-z).exp());
        let found = &lines[&(format!("u{user}"), format!("i{item}"))];
        let label = u8::from(*clicked).to_string();
        assert!(found.iter().any(|(p, l)| (p - want).abs() < 1e-4 && *l == label), "{want} {label} in {found:?}");
    }

    // The same bytes with any number of threads, and other bytes with another seed.
    p.well(&format!("clicks --from base shown --out heads/b -q {flags} --threads 3"));
    p.well(&format!("clicks --from base shown --out heads/c -q {flags} --seed 2"));
    let weights = |out: &str| p.read(&format!("{out}/head.safetensors"));
    assert!(weights("heads/a") == weights("heads/b") && weights("heads/a") != weights("heads/c"));
}

#[test]
fn stars_a_run_of_the_same_data_and_vectors_from_elsewhere() {
    let (p, _) = place();
    // On the run's own data, its split is that of the impressions, position by position.
    p.well(&format!("train shown --out own -q {TINY} --epochs 1"));
    let json: Value =
        serde_json::from_str(&p.well("clicks --from own --out o -q --json --epochs 1 --hidden 0")).unwrap();
    assert_eq!(json["protocol"]["split"]["kind"], "leave-one-out");
    assert_eq!(
        (&json["test"]["impressions"], &json["head"]["settings"]["hidden"]),
        (&160.into(), &Value::Array(vec![]))
    );
    // The run's exported vectors are the run's vectors and give the same weights.
    p.well("export base --out vectors --what items --format safetensors -q");
    p.well("clicks --from base shown --out d -q --epochs 1");
    p.well("clicks --from base shown --out e -q --epochs 1 --vectors vectors/items.safetensors");
    let (own, read) = (report(&p, "d"), report(&p, "e"));
    assert_eq!((&own["test"]["model"], &own["curve"]), (&read["test"]["model"], &read["curve"]));
    assert!(own["test"]["run_score_auc"].is_number() && read["test"]["run_score_auc"].is_null());
    // Item contents of another width, for all items but two: the group of each as a unit vector.
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 4), }}\n", ITEMS - 2);
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    (2..ITEMS).for_each(|i| (0..4).for_each(|k| npy.extend(f32::from(u8::from(i % 4 == k)).to_le_bytes())));
    p.write("v.npy", npy);
    p.write("v.txt", (2..ITEMS).map(|i| format!("i{i}\n")).collect::<String>());
    let from = "clicks --from base shown -q --vectors v.npy --vector-keys v.txt";
    p.refused(&format!("{from} --out f"), &["no vectors for 2 of the data's 24 items: 'i", "--missing-vectors mean"]);
    assert!(!p.path("f").exists());
    p.well(&format!("{from} --out f --missing-vectors mean --epochs 10 --lr 0.003 --batch 128"));
    let f = report(&p, "f");
    assert_eq!(f["head"]["columns"], "u, v");
    assert!(f["test"]["model"]["auc"].as_f64().unwrap() > 0.65, "{f:#}");
}

/// A run that knows only its users learns their taste too; unknown users are counted. A basket model gets baskets as
/// input.
#[test]
fn runs_of_users_and_of_baskets_give_their_vectors() {
    let (p, rows) = place();
    let cut = format!("--split time --cut {}", 1_000_000_000 + CUT * 86_400);
    let flags = "--epochs 6 --lr 0.003 --batch 128";
    p.well(&format!(
        "train clicked --out who -q {TINY} --model mlp --user-width 16 --epochs 40 --lr 0.01 --blocks 1 {cut}"
    ));
    let done = p.run(&format!("clicks --from who shown --out a {flags}"));
    assert!(done.code == Some(0) && !done.err.contains("have no vector"), "{done:?}");
    let auc = report(&p, "a")["test"]["run_score_auc"].as_f64().unwrap();
    assert!(auc > 0.65, "{auc}: the users' vectors were not asked for");
    let mut log = String::from("user,item,rating,time\n");
    for (user, item, clicked, day) in &rows {
        // Every eighth user has another name.
        let name = if user % 8 == 0 { "x" } else { "u" };
        log += &format!("{name}{user},i{item},{},{}\n", u8::from(*clicked), 1_000_000_000 + day * 86_400);
    }
    p.write("renamed.csv", log);
    p.well("import renamed.csv --out renamed -q");
    let done = p.run(&format!("clicks --from who renamed --out b {flags}"));
    assert!(done.code == Some(0) && done.err.contains("20 of the data's 160 users have no vector"), "{done:?}");
    let strangers = report(&p, "b")["test"]["run_score_auc"].as_f64().unwrap();
    assert!(strangers < auc, "{strangers} and {auc}");
    p.well(&format!("train clicked --out pairs -q {TINY} --task next-basket --epochs 2 {cut}"));
    p.well(&format!("clicks --from pairs shown --out c -q {flags}"));
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let (p, _) = place();
    p.well("import shown.csv --rating-col none --out bare -q");
    p.write("notes.txt", "i1\n");
    std::fs::create_dir(p.path("full")).unwrap();
    p.write("full/x", "");
    for (words, says) in [
        ("clicks --from base bare", &["has no ratings", "--rating-col"][..]),
        ("clicks --from base shown --positive 2", &["none of", "run from 0 to 1", "--positive"]),
        ("clicks --from base shown --positive -1", &["all of", "--positive"]),
        ("clicks --from base clicked", &["all of", "import the impressions without a click too"]),
        ("clicks --from base shown --positive nan", &["--positive NaN"]),
        ("clicks --from base shown --hidden 99999", &["--hidden 99999"]),
        ("clicks --from base shown --hidden 8,0", &["--hidden 0"]),
        ("clicks --from base shown --batch 0", &["--batch 0"]),
        ("clicks --from base shown --epochs 0", &["--epochs 0"]),
        ("clicks --from base shown --lr -1", &["--lr -1"]),
        ("clicks --from base shown --out full", &["not empty", "--out"]),
        ("clicks --from nowhere shown", &["no such run folder"]),
        ("clicks --from base nowhere", &["there is no such folder"]),
        ("clicks --from base shown --vectors notes.txt", &["notes.txt", "mipgpu export"]),
        ("clicks --from base shown --vectors nowhere", &["nowhere: there is no such file"]),
        ("clicks --from base shown --vector-keys notes.txt", &["--vectors"]),
        // The run was trained on events that this split holds out.
        ("clicks --from base shown --split time --cut 2001-09-19", &["leak", "of 160 users", "split"]),
    ] {
        p.refused(&format!("{words} -q"), says);
    }
    // The keys are entirely different.
    p.write("other.csv", "user,item,rating,time\na,x,1,1\na,y,0,2\na,z,1,3\na,x,0,4\n");
    p.well("import other.csv --out other -q");
    p.refused("clicks --from base other -q --split last-n", &["knows none of the data's 3 items"]);
    assert!(!p.path("runs").exists(), "nothing was written");
}

/// A run with a split that counts the clicks' events. The impressions are cut at the same times without a flag, and no
/// event that the run was trained on is held out.
#[test]
fn impressions_are_cut_where_the_run_cut_its_clicks() {
    let (p, rows) = place();
    for (name, flags, held) in [
        ("ratio", "--split ratio --test-share 0.2 --valid-share 0.1", None),
        ("last-n", "--split last-n --test-n 3 --valid-n 2", Some((2, 3))),
        ("loo", "", Some((1, 1))),
        ("basket", "--task next-basket --split last-basket", None),
    ] {
        p.well(&format!("train clicked --out {name} -q {TINY} --epochs 1 {flags}"));
        p.well(&format!("clicks --from {name} shown --out {name}-clicks -q --epochs 1"));
        let all = report(&p, &format!("{name}-clicks"));
        let number =
            |path: &str| all.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {all:#}"));
        assert_eq!(number("/protocol/left_out_users_trained_on"), 0.0, "{name}");
        assert_eq!(all["protocol"]["cut_where_the_run_was"], true);
        if name == "basket" {
            continue;
        }
        // Recomputed from the log: of n clicks a share or a number is held out, and the parts end with a click.
        let (mut want, mut clicked) = ([0u64; 3], [0u64; 3]);
        for user in 0..USERS {
            let days: Vec<u64> = rows.iter().filter(|r| r.0 == user && r.2).map(|r| r.3).collect();
            let n = days.len();
            let (valid, test) = held.unwrap_or(((n / 10).max(1), (n / 5).max(1)));
            // Nothing is held out of a user with too few clicks.
            let end = |rest: usize| if n > valid + test { days[n - rest - 1] } else { DAYS };
            let ends = [end(valid + test), end(test)];
            for row in rows.iter().filter(|r| r.0 == user) {
                let part = ends.iter().filter(|end| row.3 > **end).count();
                want[part] += 1;
                clicked[part] += u64::from(row.2);
            }
        }
        for (i, part) in ["train", "validation", "test"].into_iter().enumerate() {
            assert_eq!(number(&format!("/protocol/{part}/impressions")), want[i] as f64, "{name} {part}");
            assert_eq!(number(&format!("/protocol/{part}/clicks")), clicked[i] as f64, "{name} {part}");
        }
    }
    // Flags that hold out training events of the run are rejected, and the hint works.
    p.refused("clicks --from ratio shown --split last-n --test-n 30 --out x -q", &["leak", "omit the split flags"]);
    p.well("clicks --from ratio shown --out x -q --epochs 1");
}
