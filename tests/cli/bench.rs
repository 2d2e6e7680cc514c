//! Tests `mipgpu bench` from the outside: what is timed, what is written, and how two results are compared.

use std::{collections::BTreeSet, path::Path, process::Command};

use mipgpu::ops::Spans;
use serde_json::Value;

/// Runs the command; returns its output and exit code.
fn bench(args: &[&str]) -> (String, String, i32) {
    let out = Command::new(env!("CARGO_BIN_EXE_mipgpu")).arg("bench").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr), out.status.code().unwrap())
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn names() -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    macro_rules! add {
        ($($op:ident),*) => { $( names.insert(<mipgpu::ops::$op as Spans>::NAME); )* };
    }
    mipgpu::for_all_ops!(add);
    names
}

/// Checks that every op is timed: an op outside all shapes would never be.
#[test]
fn every_op_is_in_some_shape() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.json");
    let (stdout, stderr, code) =
        bench(&["--shrink", "--seconds", "1e-6", "--device", "cpu", "--out", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("ceilings") && stdout.contains("linear_bwd"), "{stdout}");
    let kept = read(&path);
    let rows = kept["rows"].as_array().unwrap();
    let met: BTreeSet<&str> = rows.iter().map(|r| r["op"].as_str().unwrap()).collect();
    // Ceilings have separate measurements; only devices that hold the data gather sequences; rows catch up once, and a
    // second time is no work.
    let elsewhere = ["no_op", "stream_copy", "exp_chain", "gather_sequences", "catch_up_rows"];
    let mut left = names();
    left.retain(|name| !met.contains(name) && !elsewhere.contains(name));
    assert!(left.is_empty(), "in no shape: {left:?}");
    let number = |r: &Value, key: &str| r[key].as_f64().unwrap_or_else(|| panic!("{key} of {r}"));
    for r in rows {
        let (p20, median, p80) = (number(r, "p20"), number(r, "median"), number(r, "p80"));
        assert!(0.0 < p20 && p20 <= median && median <= p80, "{r}");
        assert!(number(r, "calls") >= 1.0 && number(r, "memory") > 0.0 && number(r, "roof") >= 0.0, "{r}");
    }
    for key in ["copy", "products", "exps"] {
        assert!(number(&kept["ceilings"], key) > 1e6, "{}", kept["ceilings"]);
    }
    // Each key occurs once: the same work in two places is one row with more calls.
    let keys: Vec<_> =
        rows.iter().map(|r| (&r["shape"], &r["part"], &r["op"], &r["sizes"])).map(|k| format!("{k:?}")).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
}

/// The calls of a step follow from its settings: two blocks have a known number of norms, and there is one update.
#[test]
fn calls_are_those_of_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.json");
    let flags =
        ["--model", "sasrec", "--width", "16", "--heads", "2", "--blocks", "2", "--length", "10", "--batch", "3"];
    let rest =
        ["--items", "50", "--dropout", "0.25", "--seconds", "1e-6", "--device", "cpu", "--out", path.to_str().unwrap()];
    let (_, stderr, code) = bench(&[&flags[..], &rest[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    let kept = read(&path);
    let rows: Vec<&Value> = kept["rows"].as_array().unwrap().iter().filter(|r| r["part"] == "train").collect();
    let of = |op: &str| rows.iter().filter(|r| r["op"] == op).copied().collect::<Vec<_>>();
    assert!(rows.iter().all(|r| r["shape"] == "own"));
    // 3 sequences of 10 items: 30 rows; each but the last of a sequence predicts the next item.
    let attention = of("attention_fwd");
    assert_eq!(attention.len(), 1);
    assert_eq!(attention[0]["calls"], 2);
    assert_eq!(attention[0]["sizes"], "b 3 n 30 h 2 k 8 t 10 causal");
    let loss = of("cross_entropy_bwd");
    assert_eq!((loss.len(), &loss[0]["calls"], &loss[0]["sizes"]), (1, &1.into(), &"m 27 d 16 v 50".into()));
    let linear: u64 = of("linear_fwd").iter().map(|r| r["calls"].as_u64().unwrap()).sum();
    assert_eq!(linear, 2 * 4);
    assert!(of("dropout_fwd").iter().all(|r| r["sizes"].as_str().unwrap().contains("dropout 0.25")));
    // A product of (30,16) by (16,48) has 2 * 30 * 16 * 48 operations.
    let qkv = of("linear_fwd").into_iter().find(|r| r["sizes"] == "n 30 i 16 o 48").unwrap();
    let flop = qkv["flop"].as_f64().unwrap();
    assert_eq!(flop, 46_080.0);
}

#[test]
fn an_earlier_result_is_put_beside_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let base = ["--shrink", "--shapes", "caser-d64", "--only", "linear", "--seconds", "1e-6", "--device", "cpu"];
    let with = |rest: &[&str]| bench(&[&base[..], rest].concat());
    assert_eq!(with(&["--out", &path("a.json")]).2, 0);
    let (stdout, stderr, code) = with(&["--compare", &path("a.json"), "--out", &path("b.csv")]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("compared with the earlier result") && stdout.contains("  x"), "{stdout}{stderr}");
    let csv = std::fs::read_to_string(path("b.csv")).unwrap();
    let mut lines = csv.lines();
    let columns = lines.next().unwrap().split(',').count();
    assert!(lines.all(|l| l.split(',').count() == columns && l.contains("caser-d64")));
    // The earlier rows are made a thousand times faster, so the new ones are below them. On another machine, shares of
    // the roofline are compared.
    for (machine, said) in [(None, "of their speed"), (Some("another"), "of their share of the ceiling")] {
        let mut kept = read(Path::new(&path("a.json")));
        for row in kept["rows"].as_array_mut().unwrap() {
            for key in ["median", "least", "p20", "p80"] {
                row[key] = (row[key].as_f64().unwrap() / 1000.0).into();
            }
            row["roof"] = (row["roof"].as_f64().unwrap() * 1000.0 + 1.0).into();
        }
        kept["machine"] = machine.map_or(kept["machine"].clone(), Value::from);
        std::fs::write(path("c.json"), kept.to_string()).unwrap();
        let (_, stderr, code) = with(&["--compare", &path("c.json"), "--fail-below", "0.8"]);
        assert!(code == 2 && stderr.contains(said), "{code} {stderr}");
    }
    // Nothing to compare is a failure.
    let mut kept = read(Path::new(&path("a.json")));
    kept["rows"] = Value::Array(Vec::new());
    std::fs::write(path("c.json"), kept.to_string()).unwrap();
    let (_, stderr, code) = with(&["--compare", &path("c.json")]);
    assert!(code == 1 && stderr.contains("no row with these"), "{code} {stderr}");
}

/// Backward ops are part of cases named after their forward op.
#[test]
fn cases_are_timed_by_the_names_of_ops() {
    let (stdout, stderr, code) =
        bench(&["--shapes", "none", "--cases", "--only", "gelu_bwd", "--seconds", "1e-6", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let rows = stdout.lines().filter(|line| line.starts_with("gelu_bwd")).count();
    assert!(rows >= 3 && !stdout.contains("gelu_fwd"), "{stdout}");
}

#[test]
fn what_cannot_be_timed_is_told() {
    for (args, part) in [
        (&["--shapes", "bert5"][..], "there is no shape 'bert5'"),
        (&["--shapes", "none"], "nothing to time"),
        (&["--seconds", "0"], "--seconds 0 is out of range"),
        (&["--items", "50"], "no effect"),
        (&["--items", "0", "--model", "caser"], "--items 0 is out of range"),
        (&["--out", "no/such/folder/x.json"], "there is no folder"),
        (&["--compare", "x.json", "--fail-below", "NaN"], "--fail-below is out of range"),
        (&["--out", "x.txt"], "in neither .json nor .csv"),
        (&["--compare", "nowhere.json"], "nowhere.json"),
        (&["--model", "bert4rec", "--heads", "7"], "heads"),
        (&["--precision", "bf16", "--device", "reference"], "computes in f32"),
        (&["--shrink", "--shapes", "mlp-d64", "--device", "cpu", "--only", "nothing_like_it"], "no operation has"),
    ] {
        let (_, stderr, code) = bench(args);
        assert!(code == 1 && stderr.contains(part), "{args:?}: {code} {stderr}");
    }
}
