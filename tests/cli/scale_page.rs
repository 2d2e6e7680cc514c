//! The page of benches/scale.py, from a small made-up result: it needs python3 and no built program.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Map, Value, json};

#[path = "../../src/page/sound.rs"]
mod sound;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns python's output; `None` if it is missing, which is an error on a test machine (CI is set).
fn python(words: &[&str]) -> Option<Output> {
    match Command::new("python3").current_dir(ROOT).env("PYTHONDONTWRITEBYTECODE", "1").args(words).output() {
        Ok(out) => Some(out),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none(), "python3: {e}");
            eprintln!("python3: {e}; the page of benches/scale.py is not tested");
            None
        }
    }
}

/// Returns a point of one run with the results `numbers`.
fn point(sweep: &str, series: &str, x: u64, numbers: Value, more: Value) -> Value {
    let numbers = numbers.as_object().unwrap();
    let spread: Map<String, Value> = numbers.iter().map(|(k, v)| (k.clone(), json!([v, v]))).collect();
    let mut out = json!({
        "name": format!("{sweep}/{series}/{x}"), "sweep": sweep, "series": series, "x": x, "command": "step --json <&>",
        "runs": [numbers], "median": numbers, "spread": spread,
    });
    out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    out
}

/// Two points of each series, and a failed one.
fn result() -> Value {
    let mut points = Vec::new();
    let step = |ms: f64| {
        json!({
            "wall_s": 2.0, "cpu_s": 3.0, "peak": 9e7, "planned": 8e7, "major_faults": 0, "disk_bytes": 0,
            "ms": ms, "seq_s": 64e3 / ms, "batch": 64,
            "tokens": 100.0 * ms, "scored": 640, "params": 70_000, "load_ms": 0.25,
            "own": 8e7, "mapped": 1e7, "users": 100.0 * ms,
            "open_ms": 2.0, "split_ms": 4.0,
        })
    };
    for (i, ms) in [1.5, 15.0].into_iter().enumerate() {
        let x = [1000, 10_000][i];
        let tables = json!({"tables": 4, "width": 64});
        points.push(point("catalogue", "full", x, step(ms), tables.clone()));
        points.push(point("catalogue", "sampled", x, step(2.0 * ms), tables));
        points.push(point(
            "scored",
            "full",
            [16, 64][i],
            step(3.0 * ms),
            json!({"tables": 4, "width": 64, "items": 500}),
        ));
        let imported = json!({"wall_s": ms, "cpu_s": ms, "peak": 9e7, "log_bytes": 1e6, "data_bytes": 1e6});
        points.push(point("interactions", "import", x, imported, json!({})));
        points.push(point("interactions", "warm", x, step(4.0 * ms), json!({})));
        // The smaller one was read from the page cache.
        let cold = json!({
            "wall_s": 1.0, "cpu_s": 1.0, "peak": 9e7, "major_faults": 0, "disk_bytes": 7_000_000 * i,
            "data_bytes": 7e6, "open_ms": 30.0 * ms, "split_ms": 60.0 * ms, "users": 1000
        });
        points.push(point("interactions", "cold", x, cold, json!({})));
        let length = [50, 200][i];
        points.push(point("length", "step", length, step(5.0 * ms), json!({})));
        let ops = json!({"wall_s": 1.0, "cpu_s": 1.0, "peak": 9e7, "ms": ms, "all_ms": 7.0 * ms, "attention_ms": ms});
        points.push(point("length", "ops", length, ops, json!({})));
        points.push(point("width", "step", [32, 64][i], step(8.0 * ms), json!({})));
    }
    let wrong = json!({"runs": [], "wrong": "needs <more> memory"});
    points.push(point("catalogue", "full", 1_000_000, json!({}), wrong));
    for p in &mut points {
        if p["median"].get("ms").is_some() && p["series"] != "ops" {
            p["runs"][0]["dtype"] = json!("f32");
        }
    }
    json!({
        "date": "2026-01-01", "device": "cpu", "cpu": "a <processor>", "cores": 2, "memory": 1u64 << 34, "gpu": null,
        "system": "Linux",
        "commit": "0123456", "command": "python benches/scale.py", "rounds": 1, "seconds": 1.0,
        "loadavg": [0.5, 1.5], "files": "ext4",
        "points": points,
    })
}

fn written(folder: &Path) -> (PathBuf, PathBuf) {
    let (json, html) = (folder.join("scale.json"), folder.join("scale.html"));
    std::fs::write(&json, result().to_string()).unwrap();
    (json, html)
}

fn succeeded(out: &Output) {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn the_page_holds_every_sweep_and_asks_no_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_, html) = written(folder.path());
    let Some(out) = python(&["benches/scale.py", "--page", folder.path().to_str().unwrap()]) else { return };
    succeeded(&out);
    let page = std::fs::read_to_string(html).unwrap();
    assert_eq!(sound::faults(&page), Vec::<String>::new());
    assert!(!sound::says_nan(&page));
    let points = [
        "full softmax, 10³: 1.50 ms",
        "full softmax, 10⁴: 15.0 ms",
        "1,024 negatives, table by rows, 10⁴: 30.0 ms",
        "full softmax, 64: 45.0 ms",
        "import of the log, 10⁴: 15.0 s",
        "a step, 10³: 6.00 ms",
        "a step, 10⁴: 60.0 ms",
        "loading its batch, from memory, 10⁴: 0.250 ms",
        "splitting, files in memory, 10³: 0.00400 s",
        "splitting, from disk, 10⁴: 0.900 s",
        "a step, 50: 7.50 ms",
        "a step, 200: 75.0 ms",
        "attention, forward and backward, 200: 15.0 ms",
        "all other operations, 200: 90.0 ms",
        "a sequence, 200: 1.17 ms",
        "a step, 32: 12.0 ms",
        "a step, 64: 120 ms",
    ];
    for point in points {
        assert!(page.contains(&format!("<title>{point}</title>")), "no point {point}");
    }
    assert!(page.contains("needs &lt;more&gt; memory") && page.contains("a &lt;processor&gt;"));
    // The style of the program's own pages; nothing is loaded.
    assert!(
        page.contains(include_str!("../../src/page/plot.css"))
            && page.contains(include_str!("../../src/page/page.css"))
    );
    for outside in ["http:", "https:", "//", "src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
}

#[test]
fn what_came_from_memory_is_not_called_cold() {
    let folder = tempfile::tempdir().unwrap();
    let (_, html) = written(folder.path());
    let Some(out) = python(&["benches/scale.py", "--page", folder.path().to_str().unwrap()]) else { return };
    succeeded(&out);
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("Not cold: 10³ interactions"));
    assert!(!page.contains("from disk, 10³"), "a point that read nothing is drawn as cold");
    for (size, files, read) in [("10³", "in memory", "0"), ("10³", "not cold", "0"), ("10⁴", "from disk", "7.00")] {
        let cells = [size, files, read].map(|cell| format!("<td class=\"n\">{cell}</td>")).concat();
        assert!(page.contains(&format!("<tr>{cells}")), "{size}, {files}, {read} MB read");
    }
}

/// Draws with `save`, as after every run.
const SAVE: &str = r#"
import copy, json, sys
sys.path.insert(0, "benches")
import scale
folder, broken = sys.argv[1], sys.argv[2] == "broken"
with open(folder + "/scale.json", encoding="utf-8") as f: result = json.load(f)
before = copy.deepcopy(result)
if broken: scale.scale_page.root = folder
result["commit"] = before["commit"] = "measured just now"
drawn = scale.save(result, folder)
assert drawn != broken, drawn
assert result == before, "drawing has changed the result"
"#;

#[test]
fn what_was_measured_is_kept_as_it_is_whether_the_page_can_be_drawn_or_not() {
    for how in ["whole", "broken"] {
        let folder = tempfile::tempdir().unwrap();
        let (json, html) = written(folder.path());
        let Some(out) = python(&["-c", SAVE, folder.path().to_str().unwrap(), how]) else { return };
        succeeded(&out);
        let mut want = result();
        want["commit"] = json!("measured just now");
        let kept: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        assert_eq!(kept, want, "{how}");
        assert_eq!(html.exists(), how == "whole");
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(told.contains("the page cannot be drawn (FileNotFoundError"), how == "broken", "{told}");
    }
}
