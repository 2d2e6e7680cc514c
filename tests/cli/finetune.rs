//! What a run takes over from another: which rows of which tensors, what stays frozen, and what cannot be.

use safetensors::SafeTensors;
use serde_json::Value;

use super::{Place, TINY};

/// The rows of a tensor of a checkpoint.
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

/// What a JSON report of a run says.
fn report(p: &Place, run: &str) -> Value {
    serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap()
}

/// The event "transfer" of a run, tensor by tensor: name, rows taken over, rows, frozen.
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

/// Half of the items of the log are known to the base, half are new, and some of the base's have gone.
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

/// A network taken over whole, and trained with a learning rate of zero, is the network: on the same data its report is the
/// same, with patches too, which begin as nothing.
#[test]
fn a_transfer_without_training_is_the_base() {
    let p = Place::new();
    for (model, patch) in [("bert4rec", true), ("sasrec", true), ("peterrec", true), ("gru4rec", false)] {
        p.train(model, &format!("--model {model} --epochs 3 --lr 0.01 --heads 2"));
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
            // Small: nothing of the base is in it.
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
    // Training with a learning rate of zero shows how each row starts; the seed of its random part is the same.
    for start in ["random", "mean", "content"] {
        let out =
            p.well(&format!("finetune --from base grown --out {start} --json --lr 0 --epochs 1 --fresh-items {start}"));
        let (_, tensors) = carried(&out);
        // 20 of 40 items and [MASK].
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
        // The known items of the same genre, of those that are still there.
        let alike = average(&|k| number(k) >= 20 && number(k) % 2 == number(key) % 2);
        for d in 0..16 {
            assert!((mean[i][d] as f64 - random[i][d] as f64 - everywhere[d]).abs() < 1e-5, "{key}");
            assert!((content[i][d] as f64 - random[i][d] as f64 - alike[d]).abs() < 1e-5, "{key}");
        }
    }
    // [MASK] stands behind either catalogue.
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
    // A patched run goes on where it stopped, and its own file holds no frozen tensor.
    let bytes = p.read("patch/best.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.names().iter().all(|n| n.contains(".patch.") || n.starts_with("item.")), "{:?}", file.names());
    p.well("train --resume patch -q");
}

#[test]
fn patches_fit_their_base_alone() {
    let p = Place::new();
    p.train("base", "--epochs 1");
    p.train("other", "--epochs 1 --seed 2");
    p.well("finetune --from base data --out patch -q --transfer patch --epochs 1");
    p.refused("finetune --from patch data --out again --transfer model", &["consists of patches", "--from"]);
    let moved = |from: &str, to: &str| std::fs::rename(p.path(from), p.path(to)).unwrap();
    moved("base", "kept");
    p.refused("eval patch", &["need their base"]);
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
    p.train("base", "--epochs 1");
    let tune = |flags: &str, says: &[&str]| {
        p.refused(&format!("finetune --from base data --out new {flags}"), says);
        assert!(!p.path("new").exists(), "{flags}");
    };
    let both = "--transfer embedding --task next-item";
    tune("--model sasrec --transfer model", &["the base is a bert4rec", both]);
    p.well(&format!("finetune --from base data --out tables -q --model sasrec {both} --epochs 1"));
    tune("--fields genre", &["no side fields", "or leave them out with --fields none"]);
    tune("--width 32 --transfer embedding", &["width 16", "leave --width out"]);
    tune("--width 32 --transfer model", &["tensor 'item.weight' is [41, 16] in the base, [41, 32] in the new run"]);
    tune("--blocks 3 --transfer patch", &["the base has no 'block.2.", "frozen"]);
    tune("--transfer none --patch serial", &["freezes nothing"]);
    tune("--transfer patch --patches 3", &["1 or 2 patches"]);
    p.refused("finetune --from data data --out new", &["no run is there"]);
    p.refused("train data --out new --patch serial", &["mipgpu finetune"]);
    p.refused("train data --out new --model sasrec --task masked-item", &["cannot learn", "next-item"]);
    p.refused("train data --out new --task next", &["no task 'next'", "next-item"]);
    p.train("rows", "--epochs 1 --loss sampled-softmax --negatives 5 --table-update rows");
    p.refused("finetune --from rows data --out new --last", &["by rows", "leave --last out"]);
    p.well(&format!("train data --out gru -q --model gru4rec --epochs 1 {TINY}"));
    p.refused("finetune --from gru data --out new --transfer patch", &["no place for patches"]);
}
