//! What a run inherits from another: which rows of which tensors, which parameters stay frozen, and what is rejected.

use mipgpu::models;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{Place, TINY, endings::stop_midway};

/// Returns the rows of a tensor of a checkpoint.
fn rows(p: &Place, file: &str, name: &str) -> Vec<Vec<f32>> {
    let bytes = p.read(file);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let width: usize = tensor.shape()[1..].iter().product();
    let numbers: Vec<f32> = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    numbers.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

fn keys(p: &Place, run: &str) -> Vec<String> {
    let items = mipgpu::data::Vocab::open(&p.path(&format!("{run}/items.safetensors"))).unwrap();
    items.keys().map(String::from).collect()
}

/// Returns the JSON report of a run.
fn report(p: &Place, run: &str) -> Value {
    serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap()
}

/// Returns the event "transfer" of a run, per tensor: name, inherited rows, rows, frozen.
fn carried(out: &str) -> (Value, Vec<(String, u64, u64, bool)>) {
    let event = out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|e| e["event"] == "transfer");
    let event = event.expect("a transfer is told");
    let tensors = event["tensors"].as_array().unwrap().iter().map(|t| {
        let number = |key: &str| t[key].as_u64().unwrap();
        (t["name"].as_str().unwrap().to_string(), number("rows"), number("of"), t["frozen"].as_bool().unwrap())
    });
    let tensors = tensors.collect();
    (event, tensors)
}

/// The base knows half of the log's items, half are new, and some of the base's are absent.
fn grown(p: &Place) {
    let mut log = String::from("user,item,timestamp\n");
    for u in 0..60 {
        for t in 0..12 {
            log += &format!("v{u},i{},{}\n", 20 + (u * 5 + t * 3) % 40, 1_000_000_000 + t * 86_400);
        }
    }
    p.write("grown.csv", log);
    let genres: String = (20..60).map(|i| format!("i{i},{}\n", if i % 2 == 0 { "even" } else { "odd" })).collect();
    p.write("items.csv", format!("item,genre\n{genres}"));
    p.well("import grown.csv --items items.csv --out grown -q");
}

/// A network transferred whole and trained with a learning rate of zero is unchanged. Its report on the same data is
/// the same, also with patches, which start as the identity.
#[test]
fn a_transfer_without_training_is_the_base() {
    let p = Place::new();
    let usual = models::ALL.iter().filter(|model| !model.users && model.takes.items());
    for (model, patch) in usual.map(|model| (model.name, model.patches)) {
        p.train(model, &format!("--model {model} --epochs 3 --lr 0.01"));
        let tune = |name: &str, flags: &str| {
            let run = format!("{model}-{name}");
            p.well(&format!("finetune --from {model} data --out {run} --json --lr 0 --epochs 1 {flags}"))
        };
        let out = tune("model", "--transfer model");
        let (_, tensors) = carried(&out);
        assert!(tensors.iter().all(|(_, rows, of, frozen)| rows == of && !frozen), "{tensors:?}");
        assert_eq!(report(&p, model)["full"], report(&p, &format!("{model}-model"))["full"], "{model}");
        if !patch {
            continue;
        }
        for place in ["serial", "parallel"] {
            let out = tune(place, &format!("--transfer patch --patch {place}"));
            let (event, tensors) = carried(&out);
            assert!(tensors.iter().all(|(name, rows, of, frozen)| match name.contains(".patch.") {
                true => *rows == 0 && !frozen,
                false => rows == of && *frozen,
            }));
            assert_eq!(event["trained_parameters"], event["new_parameters"]);
            assert_eq!(report(&p, model)["full"], report(&p, &format!("{model}-{place}"))["full"], "{model} {place}");
            // The patch checkpoint is small: it contains nothing of the base.
            let (whole, patch) = (
                p.read(&format!("{model}/best.safetensors")).len(),
                p.read(&format!("{model}-{place}/best.safetensors")).len(),
            );
            assert!(patch < whole, "{patch} bytes of patches, {whole} of the base");
        }
    }
}

#[test]
fn rows_follow_their_keys_and_new_ones_start_as_told() {
    let p = Place::new();
    grown(&p);
    p.train("base", "--epochs 2 --lr 0.01");
    let old = rows(&p, "base/best.safetensors", "item.weight");
    let old_keys = keys(&p, "base");
    // Training with a learning rate of zero shows the initial value of each row; the seed of its random part is the
    // same.
    for start in ["random", "mean", "content"] {
        let out =
            p.well(&format!("finetune --from base grown --out {start} --json --lr 0 --epochs 1 --fresh-items {start}"));
        let (_, tensors) = carried(&out);
        // 20 of 40 items, and [MASK].
        assert!(tensors.contains(&("item.weight".into(), 21, 41, false)), "{tensors:?}");
    }
    let new_keys = keys(&p, "random");
    let [random, mean, content] =
        ["random", "mean", "content"].map(|run| rows(&p, &format!("{run}/best.safetensors"), "item.weight"));
    let average = |of: &dyn Fn(&str) -> bool| -> Vec<f64> {
        let chosen: Vec<&Vec<f32>> = old_keys.iter().zip(&old).filter(|(k, _)| of(k)).map(|(_, row)| row).collect();
        (0..16).map(|d| chosen.iter().map(|row| row[d] as f64).sum::<f64>() / chosen.len() as f64).collect()
    };
    let number = |key: &str| key[1..].parse::<usize>().unwrap();
    let everywhere = average(&|_| true);
    for (i, key) in new_keys.iter().enumerate() {
        if let Some(at) = old_keys.iter().position(|k| k == key) {
            assert_eq!((&random[i], &mean[i], &content[i]), (&old[at], &old[at], &old[at]), "{key}");
            continue;
        }
        // The known items of the same genre that are still present.
        let alike = average(&|k| number(k) >= 20 && number(k) % 2 == number(key) % 2);
        for d in 0..16 {
            assert!((mean[i][d] as f64 - random[i][d] as f64 - everywhere[d]).abs() < 1e-5, "{key}");
            assert!((content[i][d] as f64 - random[i][d] as f64 - alike[d]).abs() < 1e-5, "{key}");
        }
    }
    // [MASK] is after the items in either catalogue.
    assert_eq!(random[40], old[40]);
}

#[test]
fn each_transfer_takes_what_it_says() {
    let p = Place::new();
    grown(&p);
    p.train("base", "--epochs 1");
    for (transfer, table, layer) in
        [("none", 0, false), ("embedding", 21, false), ("model", 21, true), ("patch", 21, true)]
    {
        let out =
            p.well(&format!("finetune --from base grown --out {transfer} --json --transfer {transfer} --epochs 1"));
        let (_, tensors) = carried(&out);
        let of = |name: &str| tensors.iter().find(|t| t.0 == name).unwrap().clone();
        assert_eq!(of("item.weight").1, table, "{transfer}");
        assert_eq!(of("position.weight").1 > 0, transfer != "none");
        assert_eq!(of("block.0.ffn.up.weight").1 > 0, layer);
        // New items are trained, the network is not.
        assert_eq!((of("item.weight").3, of("block.0.ffn.up.weight").3), (false, transfer == "patch"));
        p.well(&format!("eval {transfer}"));
        p.well(&format!("recommend {transfer} --history i30,i50 --k 3"));
    }
    // The patch checkpoint contains no frozen tensor.
    let bytes = p.read("patch/best.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.names().iter().all(|n| n.contains(".patch.") || n.starts_with("item.")), "{:?}", file.names());
}

/// Frozen parameters are not in the checkpoint of a resumed run: the base supplies them, as at the start.
#[test]
fn a_stopped_patched_run_goes_on_to_the_same_bits() {
    let p = Place::new();
    grown(&p);
    p.train("base", "--epochs 2 --lr 0.01");
    for (data, freeze, flags) in [
        ("grown", "network", "--fresh-items mean"),
        ("data", "all", "--patch parallel --patches 1 --attention-dropout 0.1"),
    ] {
        let [whole, stopped] = ["whole", "stopped"].map(|run| format!("{run}-{freeze}"));
        let words = |run: &str| {
            let often = "--epochs 80 --eval-every 20 --checkpoint-seconds 0";
            format!("finetune --from base {data} --out {run} -q --transfer patch {often} {flags}")
        };
        p.well(&words(&whole));
        let config = String::from_utf8(p.read(&format!("{whole}/config.toml"))).unwrap();
        assert!(config.contains(&format!("freeze = \"{freeze}\"")), "{config}");
        stop_midway(&p, &words(&stopped), &stopped);
        p.well(&format!("eval {stopped} --last"));
        p.well(&format!("train --resume {stopped} -q"));
        p.assert_same_run(&whole, &stopped);
    }
}

#[test]
fn patches_fit_their_base_alone() {
    let p = Place::new();
    p.train("base", "--epochs 1");
    p.train("other", "--epochs 1 --seed 2");
    p.well("finetune --from base data --out patch -q --transfer patch --epochs 1");
    let moved = |from: &str, to: &str| std::fs::rename(p.path(from), p.path(to)).unwrap();
    moved("base", "kept");
    p.refused("eval patch", &["require their base"]);
    moved("other", "base");
    p.refused("eval patch", &["not the weights that the patches were trained on", "fit one base only"]);
    p.refused("train --resume patch", &["not the weights"]);
    moved("base", "other");
    moved("kept", "base");
    p.well("eval patch");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let p = Place::new();
    p.train("base", "--epochs 1 --blocks 2 --heads 4");
    let tune = |flags: &str, says: &[&str]| {
        p.refused(&format!("finetune --from base data --out new {flags}"), says);
        assert!(!p.path("new").exists(), "{flags}");
    };
    let both = "--transfer embedding --task next-item";
    tune("--model sasrec --transfer model", &["the base is a bert4rec", both]);
    p.well(&format!("finetune --from base data --out tables -q --model sasrec {both} --epochs 1"));
    tune("--fields genre", &["no side fields", "or omit them with --fields none"]);
    tune("--width 32 --transfer embedding", &["width 16", "omit --width"]);
    tune("--width 32 --transfer model", &["tensor 'item.weight' is [41, 16] in the base, [41, 32] in the new run"]);
    tune("--transfer none --patch serial", &["freezes nothing"]);
    // Settings that shapes do not reveal: the same tensors would compute something else.
    for transfer in ["model", "patch"] {
        tune(&format!("--transfer {transfer} --blocks 3"), &["--blocks 2, the new run 3", "--transfer embedding"]);
        tune(&format!("--transfer {transfer} --blocks 1"), &["--blocks 2, the new run 1"]);
        tune(&format!("--transfer {transfer} --heads 2"), &["--heads 4, the new run 2", "omit --heads"]);
        tune(&format!("--transfer {transfer} --norm pre"), &["--norm post, the new run pre"]);
        tune(&format!("--transfer {transfer} --projection true"), &["--projection false, the new run true"]);
    }
    // Flags without an effect.
    tune("--transfer patch --patch none", &["--patch none", "serial or parallel"]);
    tune("--transfer patch --freeze none", &["--freeze none", "--transfer model"]);
    tune("--transfer model --patches 1", &["--patches has no effect: the run has no patches"]);
    tune("--transfer none --fresh-rows mean", &["--fresh-rows", "random"]);
    tune("--transfer none --last", &["--last has no effect", "no weights are copied"]);
    tune("--transfer embedding --patch-width 4", &["--patch-width has no effect"]);
    tune("--task next-item --mask 0.3", &["--mask has no effect on --model bert4rec with --task next-item"]);
    p.refused("finetune data --out new", &["no run to start from", "--from"]);
    tune("--freeze network,items", &["leaves nothing to train"]);
    tune("--fresh-rows content", &["no side fields", "--item-fields"]);
    tune("--transfer patch --patches 3", &["--patches must be between 1 and 2"]);
    p.refused("finetune --from data data --out new", &["no run is there"]);
    p.refused("train data --out new --patch serial", &["mipgpu finetune"]);
    p.refused("train data --out new --model sasrec --task masked-item", &["cannot learn", "next-item"]);
    p.refused("train data --out new --task next", &["no task 'next'", "next-item"]);
    p.train("rows", "--epochs 1 --loss sampled-softmax --negatives 5 --table-update rows");
    p.refused("finetune --from rows data --out new --last", &["by rows", "omit --last"]);
    p.well(&format!("train data --out gru -q --model gru4rec --epochs 1 {TINY}"));
    p.refused("finetune --from gru data --out new --transfer patch", &["does not support patches"]);
}

/// Imports the same interactions with the same keys, and one additional user with known items.
fn with_a_newcomer(p: &Place) {
    let mut log = String::from_utf8(p.read("log.csv")).unwrap();
    for t in 0..6 {
        log += &format!("newcomer,i{},{}\n", 3 * t + 1, 1_100_000_000 + t * 86_400);
    }
    p.write("more.csv", log);
    p.well("import more.csv --out more -q");
}

/// With patches, a table is trained only if it has new rows, regardless of the other tables.
#[test]
fn tables_are_frozen_one_by_one() {
    let p = Place::new();
    with_a_newcomer(&p);
    p.train("base", "--epochs 1 --user-width 4");
    let out = p.well("finetune --from base more --out patch --json --transfer patch --epochs 1");
    let (_, tensors) = carried(&out);
    let of = |name: &str| tensors.iter().find(|t| t.0 == name).unwrap().clone();
    assert!(["item.weight", "item.bias", "side.weight"].iter().all(|name| of(name).3), "no item is new: {tensors:?}");
    let (_, known, all, frozen) = of("user.weight");
    assert!(!frozen && known + 1 == all, "one user is new");
    assert!(p.text("patch/config.toml").contains("freeze = \"network,items\""));
    p.well("eval patch");
    // With the mean as initial value, the new user's vector starts at the mean of the others.
    for start in ["random", "mean"] {
        p.well(&format!("finetune --from base more --out {start} -q --lr 0 --epochs 1 --fresh-rows {start}"));
    }
    let [old, random, mean] =
        ["base", "random", "mean"].map(|run| rows(&p, &format!("{run}/best.safetensors"), "user.weight"));
    let last = random.len() - 1;
    for d in 0..4 {
        let middle = old.iter().map(|row| row[d] as f64).sum::<f64>() / old.len() as f64;
        assert!((mean[last][d] as f64 - random[last][d] as f64 - middle).abs() < 1e-5);
        assert!(random[..last].iter().zip(&old).all(|(a, b)| a[d] == b[d]));
    }
}

/// A layer that reads side fields reads them by position.
#[test]
fn fields_keep_their_order() {
    let p = Place::new();
    let about: String = (0..40).map(|i| format!("i{i},g{},d{}\n", i % 3, i % 5)).collect();
    p.write("items.csv", format!("item,genre,director\n{about}"));
    p.well("import log.csv --items items.csv --out rich -q");
    p.well(&format!("train rich --out base -q {TINY} --epochs 1 --fields genre,director --field-width 4"));
    let swapped = "finetune --from base rich --out new --fields director,genre";
    p.refused(
        &format!("{swapped} --transfer model"),
        &["--fields genre,director", "the order of the fields is part of the network"],
    );
    p.refused(&format!("{swapped} --transfer patch"), &["--fields genre,director"]);
    p.refused("finetune --from base rich --out new --transfer patch --fields none", &["the base has 'field.weight'"]);
    assert!(!p.path("new").exists());
    // Tables alone are self-contained; a network that is trained further reports what it omits.
    p.well(&format!("{swapped} --transfer embedding --epochs 1 -q"));
    let out = p.says("finetune --from base rich --out less --transfer model --fields none --epochs 1");
    assert!(out.contains("field.weight") && out.contains("not copied"), "{out}");
}

/// The base's test events are held out of its continuation too; another split of the same data would test on training
/// events.
#[test]
fn what_the_base_learned_is_not_tested_on() {
    let p = Place::new();
    let day = |d: i64| 1_000_000_000 + d * 86_400;
    p.well(&format!(
        "train data --out base -q {TINY} --epochs 1 --split time --cut {} --valid-cut {}",
        day(10),
        day(8)
    ));
    p.well("finetune --from base data --out same -q --epochs 1");
    p.well("finetune --from base data --out other -q --epochs 1 --task next-item");
    for run in ["same", "other"] {
        assert!(p.text(&format!("{run}/config.toml")).contains("kind = \"time\""), "the base's split is kept");
    }
    p.train("loo", "--epochs 1");
    let e = "finetune --from loo data --out new --split last-n --test-n 4";
    p.refused(e, &["leak", "was trained on events of", "omit the split flags"]);
    assert!(!p.path("new").exists());
    // A run from scratch has nothing to leak.
    p.well(&format!("{e} --transfer none --epochs 1 -q"));
    // Other data with the same events are reported, also at evaluation and for the base's base.
    with_a_newcomer(&p);
    let told = p.says("finetune --from loo more --out second --split last-n --test-n 4 --epochs 1");
    assert!(told.contains("its base") && told.contains("held out here"), "{told}");
    p.well("finetune --from second more --out third --epochs 1 -q");
    let told = p.says("eval third");
    assert_eq!(told.matches("was trained on events of").count(), 1, "{told}");
}

/// A run of patches is an ordinary base: its own base completes it, and its patches are transferred and trained
/// further.
#[test]
fn a_patched_run_is_a_base_too() {
    let p = Place::new();
    grown(&p);
    p.train("base", "--epochs 2 --lr 0.01");
    p.well("finetune --from base data --out patch -q --transfer patch --epochs 3 --lr 0.02");
    assert_ne!(report(&p, "base")["full"], report(&p, "patch")["full"]);
    for transfer in ["model", "patch"] {
        let out = p.well(&format!(
            "finetune --from patch data --out on-{transfer} --json --transfer {transfer} --epochs 1 --lr 0"
        ));
        let (_, tensors) = carried(&out);
        assert!(tensors.iter().any(|(name, ..)| name.contains(".patch.")));
        for (name, rows, of, frozen) in &tensors {
            assert!(rows == of, "{name}: {rows} of {of}");
            assert_eq!(*frozen, transfer == "patch" && !name.contains(".patch."), "{name}");
        }
        assert_eq!(report(&p, "patch")["full"], report(&p, &format!("on-{transfer}"))["full"], "{transfer}");
    }
    // A third link with a larger catalogue: rows that only the first run knows arrive through the second.
    let out = p.well("finetune --from on-patch grown --out third --json --transfer patch --epochs 1 --lr 0.01");
    let (_, tensors) = carried(&out);
    assert!(tensors.contains(&("item.weight".into(), 21, 41, false)), "{tensors:?}");
    assert!(p.text("third/config.toml").contains("freeze = \"network\""));
    p.well("eval third");
    p.well("recommend third --history i30,i50 --k 3");
    let start = p.well("finetune --from third grown --out fourth --json --transfer patch --epochs 1 --lr 0");
    assert!(carried(&start).1.iter().all(|(_, rows, of, _)| rows == of));
    assert_eq!(report(&p, "third")["full"], report(&p, "fourth")["full"]);
    // Tables alone omit the patches; `none` omits everything.
    for (transfer, rows) in [("embedding", 41), ("none", 0)] {
        let out =
            p.well(&format!("finetune --from patch data --out {transfer} --json --transfer {transfer} --epochs 1"));
        let (_, tensors) = carried(&out);
        assert!(tensors.iter().all(|(name, ..)| !name.contains(".patch.")), "{tensors:?}");
        assert_eq!(tensors.iter().find(|t| t.0 == "item.weight").unwrap().1, rows);
    }
    p.refused(
        "finetune --from patch data --out x --transfer patch --patch parallel",
        &["different patches", "omit --patch"],
    );
    // The chain must be complete, or it is rejected.
    std::fs::rename(p.path("base"), p.path("elsewhere")).unwrap();
    for words in ["eval third", "finetune --from patch data --out x", "train --resume third"] {
        p.refused(words, &["require their base"]);
    }
}

/// Keys that differ in the spelling of whole numbers are different keys: the program says so, with a hint.
#[test]
fn numbers_written_otherwise_are_told() {
    let p = Place::new();
    let log = |whole: &str, user: &str| {
        let mut log = String::from("user,item,timestamp\n");
        for u in 0..60 {
            for t in 0..12 {
                log += &format!("{u}{user},{}{whole},{}\n", 1 + (u * 5 + t * 3) % 40, 1_000_000_000 + t * 86_400);
            }
        }
        log
    };
    for (name, whole, user) in [("ints", "", ""), ("floats", ".0", ""), ("both", ".00", ".0")] {
        p.write(&format!("{name}.csv"), log(whole, user));
        p.well(&format!("import {name}.csv --out {name} -q"));
    }
    p.well(&format!("train ints --out base -q {TINY} --epochs 1 --user-width 4"));
    let same = p.says("finetune --from base ints --out a --epochs 1");
    assert!(!same.contains("how whole numbers are written"), "{same}");
    let items = p.says("finetune --from base floats --out b --epochs 1");
    let told = "40 of the data's 40 item keys differ from the base's only in how whole numbers are written";
    assert!(items.contains(told) && items.contains(".0' here") && items.contains("import again"), "{items}");
    assert!(!items.contains("user keys differ from the base's"), "{items}");
    // No user key is known: the run is rejected, and the keys are named as the likely reason.
    p.refused("finetune --from base both --out c --epochs 1", &["no user of the new data is known", "whole number"]);
    let both = p.says("finetune --from base both --out c --epochs 1 --user-width 0");
    assert!(both.contains(told), "{both}");
    // Values of side fields, field by field.
    for (name, year) in [("then", ""), ("now", ".0")] {
        let table: String = (1..41).map(|i| format!("{i},g{},{}{year}\n", i % 30, 1990 + i % 4)).collect();
        p.write(&format!("{name}.csv"), format!("item,genre,year\n{table}"));
        p.well(&format!("import ints.csv --items {name}.csv --out {name} -q"));
    }
    p.well(&format!("train then --out fields -q {TINY} --epochs 1 --fields genre,year"));
    let years = p.says("finetune --from fields now --out e --epochs 1");
    assert!(years.contains("4 of the data's 4 'year' value keys differ from the base's"), "{years}");
    assert!(!years.contains("'genre' value"), "{years}");
    // The other way round.
    p.well(&format!("train floats --out other -q {TINY} --epochs 1"));
    assert!(p.says("finetune --from other ints --out d --epochs 1").contains(told));
}

/// Ratings added to the items of a base without ratings start without effect. They start with the identity for the item
/// and zeros for the rating, or zero vectors if they are added to the item.
#[test]
fn ratings_begin_as_nothing() {
    let p = Place::new();
    let mut log = String::from("user,item,rating,timestamp\n");
    for u in 0..60 {
        for t in 0..12 {
            log += &format!("u{u},i{},{},{}\n", (u * 5 + t * 3) % 40, 1 + (u + t) % 5, 1_000_000_000 + t * 86_400);
        }
    }
    p.write("rated.csv", log);
    p.well("import rated.csv --out rated -q");
    p.well(&format!("train rated --out base -q {TINY} --epochs 1"));
    p.well("finetune --from base rated --out joined -q --task rating --epochs 1 --lr 0 --rating-width 4");
    for (i, row) in rows(&p, "joined/best.safetensors", "rating.join.weight").iter().enumerate() {
        assert_eq!(row.len(), 20);
        assert!(row.iter().enumerate().all(|(j, x)| *x == f32::from(u8::from(i == j))), "row {i}: {row:?}");
    }
    assert!(rows(&p, "joined/best.safetensors", "rating.weight").iter().flatten().any(|x| *x != 0.0));
    p.well("finetune --from base rated --out added -q --task rating --epochs 1 --lr 0 --rating-width 0");
    assert!(rows(&p, "added/best.safetensors", "rating.weight").iter().flatten().all(|x| *x == 0.0));
    // The new parameters are trained.
    p.well("finetune --from base rated --out learned -q --task rating --epochs 2 --lr 0.01 --rating-width 4");
    let moved = rows(&p, "learned/best.safetensors", "rating.join.weight");
    assert!(moved.iter().all(|row| row[16..].iter().any(|x| *x != 0.0)), "{moved:?}");
}
