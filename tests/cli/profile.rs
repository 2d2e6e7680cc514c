//! `mipgpu profile`: its numbers add up, its files are complete, and it has no effect on later training.

use std::{collections::HashMap, io::Write, path::Path, process::Command};

use serde_json::Value;

use super::{Place, TINY, assert_no_leftovers};
use mipgpu::{
    backend::{Cpu, wrap::Timed},
    data::{
        Dataset,
        split::{Split, SplitSpec},
    },
    tasks::Sequence,
    train::{BatchLoader, Engine, Settings},
};

const FILES: [&str; 4] = ["profile.html", "profile.json", "profile.txt", "trace.json"];

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

/// Returns a number of the profile by its keys.
fn at(v: &Value, keys: &str) -> f64 {
    keys.split('.').fold(v, |v, key| &v[key]).as_f64().unwrap_or_else(|| panic!("{keys} is no number"))
}

fn sum(rows: &Value, key: &str) -> f64 {
    rows.as_array().unwrap().iter().map(|row| row[key].as_f64().unwrap()).sum()
}

fn assert_near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-6 * a.abs().max(b.abs()), "{what}: {a} and {b}");
}

/// Checks what holds for every profile; returns its JSON. `tracks`: names in the order of the trace.
fn check(p: &Place, folder: &str, steps: u64, tracks: &[&str]) -> Value {
    assert_eq!(p.names(folder), FILES);
    assert_no_leftovers(&p.path(folder));
    let v = json(&p.read(&format!("{folder}/profile.json")));
    assert_eq!((v["version"].as_u64(), v["steps"].as_u64()), (Some(1), Some(steps)));
    // Steps op by op contain the ops. Their share of a step depends on the machine and its load.
    let (wall, ops) = (at(&v, "op_by_op.wall"), at(&v, "op_by_op.ops"));
    assert!(0.0 < ops && ops <= wall, "{ops} s of ops in {wall} s");
    // Event times are in f32.
    let rest: f64 = ["idle", "load", "upload"].iter().map(|part| at(&v, &format!("op_by_op.{part}"))).sum();
    assert!(ops + rest <= wall * (1.0 + 1e-5), "{ops} s of ops and {rest} s beside them in {wall} s");
    // The same calls, grouped in four ways.
    for rows in ["phases", "ops", "layers", "calls"] {
        assert_near(sum(&v[rows], "seconds"), ops, rows);
        assert_near(sum(&v[rows], "share"), 1.0, rows);
        assert_near(sum(&v[rows], "calls"), at(&v, "op_by_op.calls"), rows);
        assert_near(sum(&v[rows], "flop"), sum(&v["ops"], "flop"), rows);
        assert_near(sum(&v[rows], "bytes"), sum(&v["ops"], "bytes"), rows);
        assert_near(sum(&v[rows], "idle"), at(&v, "op_by_op.idle"), rows);
        for row in v[rows].as_array().unwrap() {
            assert!(
                at(row, "spread.p20") <= at(row, "spread.median") && at(row, "spread.median") <= at(row, "spread.p80")
            );
            assert!(row["roof"].is_null() == row["bound"].is_null() && row["roof"].as_f64().is_none_or(|r| r > 0.0));
        }
    }
    let named = |rows: &str, key: &str| -> Vec<String> {
        v[rows].as_array().unwrap().iter().map(|row| row[key].as_str().unwrap_or("").to_string()).collect()
    };
    assert_eq!(named("phases", "phase"), ["batch", "forward", "loss", "backward", "update"]);
    for layer in
        ["batch", "embedding", "block.0.attention.qkv", "block.0.attention", "scored rows", "loss", "optimiser"]
    {
        assert!(named("layers", "layer").iter().any(|l| l == layer), "no {layer} in {:?}", named("layers", "layer"));
    }
    // Rates are the contents of the steps divided by their time.
    for held in ["sequences", "interactions"] {
        let rate = at(&v, &format!("whole.{held}_per_s"));
        assert_near(rate * at(&v, "whole.wall.mean"), at(&v, &format!("whole.{held}")), held);
    }
    assert!(at(&v, "whole.sequences") <= at(&v, "settings.batch"));
    // On the CPU, computation begins and ends while the host launches the step.
    assert!(at(&v, "whole.busy.mean") > 0.0);
    assert!(!v["whole"]["hidden"].is_null() || at(&v, "whole.busy.mean") <= at(&v, "whole.launch.mean"));
    assert!(cfg!(not(target_os = "linux")) || v["load_average"].as_array().unwrap().len() == 3);
    assert!(at(&v, "memory.plan.weights") >= 4.0 * at(&v, "parameters") && at(&v, "parameters") > 0.0);
    assert!(cfg!(not(target_os = "linux")) || at(&v, "memory.peak_process_bytes") > 1e6);
    assert!(["copy", "products", "exps"].iter().all(|c| at(&v, &format!("ceilings.{c}")) > 0.0));
    assert!(at(&v, "validation.users") > 0.0 && at(&v, "validation.users") <= at(&v, "validation.all"));
    // The verdict is in every form of the output.
    let verdict = v["verdict"].as_str().unwrap();
    assert!(verdict.ends_with('.') && verdict.contains('%'), "{verdict}");
    let (text, page) = (p.text(&format!("{folder}/profile.txt")), p.text(&format!("{folder}/profile.html")));
    assert!(text.contains(verdict) && !text.contains("NaN"), "{text}");
    // The page loads nothing and contains what the file contains.
    for outside in ["http", "@import", "url(", " src=", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    let inside = page.split("id=\"profile\">").nth(1).unwrap().split("</script>").next().unwrap();
    assert!(json(inside.as_bytes()) == v, "the page holds other numbers than the file");
    assert!(page.contains("prefers-color-scheme: dark") && page.matches("<svg class=\"plot\"").count() >= 2);
    let events = json(&p.read(&format!("{folder}/trace.json")));
    trace(&events, &v, tracks);
    host(&events, &v, steps as usize);
    v
}

/// The host's track of whole steps matches the steps of the profile, part by part and without a gap.
fn host(trace: &Value, v: &Value, steps: usize) {
    let events = trace["traceEvents"].as_array().unwrap();
    let track: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == 1 && e["tid"] == 1).collect();
    let names: Vec<&str> = track.iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["load batch", "upload", "launch", "wait", "between"].repeat(steps));
    let (from, long) = (|e: &Value| at(e, "ts") * 1e-6, |e: &Value| at(e, "dur") * 1e-6);
    // Each end is rounded to a nanosecond.
    let near = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 3e-9 + 1e-9 * b, "{what}: {a} and {b}");
    track.windows(2).for_each(|e| near(from(e[1]), from(e[0]) + long(e[0]), "a gap"));
    let walls = v["whole"]["walls"].as_array().unwrap();
    assert_eq!(walls.len(), steps);
    for (step, wall) in track.chunks(5).zip(walls) {
        near(from(step[4]) + long(step[4]) - from(step[0]), wall.as_f64().unwrap(), "a step");
    }
    for (i, part) in ["load", "upload", "launch", "wait", "between"].iter().enumerate() {
        let mean = track.iter().skip(i).step_by(5).map(|e| long(e)).sum::<f64>() / steps as f64;
        near(mean, at(v, &format!("whole.{part}.mean")), part);
    }
}

/// Events are in order on every track, and those of ops are the calls of the profile.
fn trace(trace: &Value, v: &Value, tracks: &[&str]) {
    let events = trace["traceEvents"].as_array().unwrap();
    let named = events.iter().filter(|e| e["ph"] == "M" && e["name"] == "thread_name");
    let names: Vec<&str> = named.map(|e| e["args"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, tracks);
    let (mut free, mut ops, mut seconds): (HashMap<(u64, u64), f64>, u64, f64) = (HashMap::new(), 0, 0.0);
    for e in events.iter().filter(|e| e["ph"] == "X") {
        let track = (e["pid"].as_u64().unwrap(), e["tid"].as_u64().unwrap());
        let (from, long) = (e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap());
        let before = free.insert(track, from + long).unwrap_or(0.0);
        // Compared in nanoseconds; the sum of two numbers may differ in its last bit.
        assert!(long >= 0.0 && from >= before - 1e-4, "{e} begins before {before}");
        if e["cat"] == "ops" {
            ops += 1;
            seconds += long * 1e-6;
            assert!(e["args"]["flop"].is_number() && e["args"]["bytes"].is_number(), "{e}");
        }
    }
    let steps = at(v, "steps");
    assert_near(ops as f64, at(v, "op_by_op.calls") * steps, "calls in the trace");
    // Each is rounded to a nanosecond.
    let expected = at(v, "op_by_op.ops") * steps;
    assert!((seconds - expected).abs() <= ops as f64 * 1e-9 + 1e-6 * expected, "{seconds} s and {expected} s");
}

#[test]
fn a_profile_adds_up_and_leaves_no_mark_on_training() {
    let p = Place::new();
    p.train("before", "--epochs 2");
    let shown = p.well(&format!("profile data {TINY} --epochs 2 --steps 5 --untimed 2 --out found -q"));
    let v = check(&p, "found", 5, &["host", "host", "phases", "ops"]);
    assert_eq!(shown, p.text("found/profile.txt"));
    assert_eq!(v["whole"]["hidden"], Value::Null, "the processor does both");
    assert_eq!(v["settings"]["width"], 16);
    // The same ops as in a plain step, with the same counts.
    let data = Dataset::open(&p.path("data")).unwrap();
    let s = Settings { width: 16, length: 20, warmup: 4, batch: 16, task: "masked-item".into(), ..Settings::default() };
    let mut engine = Engine::new(&s, &vec![1; data.items()], |plan| Ok(Timed::new(Box::new(Cpu::new(plan))))).unwrap();
    engine.begin(1);
    (0..16).for_each(|u| engine.push(u, Sequence::Items(data.items_of(u as usize))));
    engine.step(1, 1e-3).unwrap();
    let mut expected: Vec<(String, f64)> =
        engine.backend.rows().iter().map(|row| (row.0.to_string(), row.1 as f64)).collect();
    let mut found: Vec<(String, f64)> =
        v["ops"].as_array().unwrap().iter().map(|r| (r["op"].as_str().unwrap().to_string(), at(r, "calls"))).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected);
    // The next training run is unaffected.
    p.train("after", "--epochs 2");
    p.assert_same_run("before", "after");
    // With --json, stdout has one object with the results; the number of steps exceeds an epoch.
    let line = p.well(&format!("profile data {TINY} --steps 20 --untimed 0 --out again -q --json --model caser"));
    assert_eq!(line.lines().count(), 1);
    let told = json(line.as_bytes());
    assert!(told == json(&p.read("again/profile.json")), "told is not what is kept");
    // 120 users are seven steps of 16 and one of 8: two epochs and four steps have 304.
    assert_eq!((at(&told, "epoch_steps"), at(&told, "whole.sequences")), (8.0, 15.2));
}

#[test]
fn whoever_fills_a_batch_is_told_of_data_that_changed() {
    let p = Place::new();
    let data = Dataset::open(&p.path("data")).unwrap();
    let split = Split::new(&data, SplitSpec::default()).unwrap();
    let s = Settings { width: 16, length: 20, batch: 16, ..Settings::default() };
    let mut engine = Engine::new(&s, &vec![1; data.items()], |plan| Ok(Cpu::new(plan))).unwrap();
    let mut loader = BatchLoader::new(&s, &data, &split).unwrap();
    loader.hold(&mut engine).unwrap();
    assert!(!loader.held(), "the processor reads in place");
    loader.fill(&mut engine, 1, &loader.users()[..16]).unwrap();
    let shard = p.names("data").into_iter().find(|n| n.contains("shard")).unwrap();
    std::fs::File::options().append(true).open(p.path("data").join(&shard)).unwrap().write_all(&[0]).unwrap();
    let told = loader.fill(&mut engine, 1, &loader.users()[..16]).unwrap_err().to_string();
    assert!(
        told.contains(&shard) && told.contains("has changed") && told.contains("hint: restore the original data"),
        "{told}"
    );
}

#[test]
fn kernels_are_profiled_by_events_in_the_order_of_their_work() {
    let p = Place::new();
    let line =
        "profile data --width 16 --heads 2 --blocks 1 --length 12 --batch 16 --steps 3 --untimed 2 --device emu -q";
    p.well(&format!("{line} --out found"));
    let v = check(&p, "found", 3, &["host", "device", "host", "phases", "ops"]);
    assert_eq!((v["precision"].as_str(), v["device"].as_str()), (Some("bf16"), Some("emu")));
    assert!((0.0..=1.0).contains(&at(&v, "whole.hidden")));
    assert!(at(&v, "memory.plan.data") > 0.0, "the device holds the data");
}

/// Builds a library with NVIDIA's name that records its calls.
fn stand_in(folder: &Path) {
    let source = folder.join("nvtx.c");
    let code = "#include <stdio.h>\n#include <stdlib.h>\nstatic FILE* f;\n\
        static FILE* out(void) { if (!f) f = fopen(getenv(\"NVTX_LOG\"), \"w\"); return f; }\n\
        int nvtxRangePushA(const char* name) { fprintf(out(), \"push %s\\n\", name); return 0; }\n\
        int nvtxRangePop(void) { fprintf(out(), \"pop\\n\"); return 0; }\n";
    std::fs::write(&source, code).unwrap();
    let library = folder.join("libnvtx3interop.so.1");
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
    assert!(done.unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn ranges_are_named_where_the_library_is() {
    let p = Place::new();
    stand_in(&p.path(""));
    let mut command = p.command(&format!("profile data {TINY} --steps 2 --untimed 1 --out found -q"));
    command.env("LD_LIBRARY_PATH", p.path("")).env("NVTX_LOG", p.path("log"));
    assert!(command.output().unwrap().status.success());
    assert_eq!(json(&p.read("found/profile.json"))["nvtx"], "libnvtx3interop.so.1");
    let log = p.text("log");
    let (mut open, mut seen): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for line in log.lines() {
        match line.strip_prefix("push ") {
            Some(name) => {
                open.push(name);
                seen.push(open.join("/"));
            }
            None => assert!(open.pop().is_some(), "a range is closed that is not open"),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    for range in ["step", "forward/linear_fwd", "backward/linear_bwd", "update/adamw", "loss/cross_entropy_fwd"] {
        assert!(seen.iter().any(|s| s == range), "no range {range}");
    }
    assert_eq!(seen.iter().filter(|s| *s == "step").count(), 3);
}

#[test]
fn what_cannot_be_profiled_is_told_and_nothing_is_left() {
    let p = Place::new();
    p.refused(&format!("profile data {TINY} --steps 0 --out found"), &["--steps 0", "between 1 and 10000"]);
    p.refused(
        &format!("profile data {TINY} --untimed 99999999 --out found"),
        &["--untimed 99999999", "between 0 and 10000"],
    );
    p.refused("profile nowhere --out found", &["nowhere", "mipgpu import"]);
    p.refused("profile data --heads 7 --out found", &["heads"]);
    p.refused("profile data --device cuda:7 --out found", &["error: "]);
    // Existing files are not touched, and the output is checked before any computation.
    p.write("file", "mine");
    p.refused(&format!("profile data {TINY} --out log.csv"), &["log.csv: this is a file"]);
    p.refused(&format!("profile data {TINY} --out data"), &["data: the folder is not empty", "--out"]);
    p.refused(&format!("profile data {TINY} --out file/within"), &["file: this is a file"]);
    assert_eq!(p.text("file"), "mine");
    assert!(!p.path("found").exists() && !p.path("runs").exists() && !p.path("profiles").exists());
    // Training flags without a meaning here.
    assert_eq!(p.run("profile --resume data").code, Some(1));
    // A generated output name.
    p.well(&format!("profile data {TINY} --steps 1 --untimed 0 -q"));
    assert_eq!(p.names("profiles"), ["data-bert4rec-1"]);
}
