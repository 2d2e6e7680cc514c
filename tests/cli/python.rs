//! The scripts of examples/python, which are written from docs/formats.md, print the lists and ratings of the program.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use mipgpu::models;
use serde_json::{Value, json};

use super::{Place, baskets, ratings};

const FLAGS: &str = "--width 16 --length 12 --warmup 4 --batch 16 --epochs 2 --lr 0.01 --precision f32 -q";

/// Runs of bert4rec and sasrec: name, script, command.
const TRANSFORMERS: &[[&str; 3]] = &[
    ["post", "topk_bert4rec", "train data"],
    ["pre", "topk_bert4rec", "train data --norm pre --projection true"],
    ["next", "topk_bert4rec", "train data --task next-item --projection true"],
    ["next-pre", "topk_bert4rec", "train data --task next-item --norm pre --blocks 3 --heads 2 --ffn-ratio 2"],
    ["concat", "topk_bert4rec", "train side --fields all --user-width 5"],
    ["sum", "topk_bert4rec", "train side --fields genres --field-width 6 --user-width 5 --join sum"],
    ["users", "topk_bert4rec", "train data --task next-item --user-width 4"],
    ["sasrec", "topk_sasrec", "train data --model sasrec"],
    ["sasrec-side", "topk_sasrec", "train side --model sasrec --fields genres,color --user-width 3"],
    ["sasrec-seen", "topk_sasrec", "train data --model sasrec --keep-seen"],
];

/// Runs of the other models.
const OTHERS: &[[&str; 3]] = &[
    ["gru", "topk_gru4rec", "train data --model gru4rec"],
    ["gru-side", "topk_gru4rec", "train side --model gru4rec --blocks 1 --fields all --user-width 5 --keep-seen"],
    ["masked", "topk_peterrec", "train data --model peterrec --task masked-item"],
    ["next", "topk_peterrec", "train data --model peterrec --task next-item --blocks 3 --dilations 1,2"],
    ["even", "topk_peterrec", "train data --model peterrec --taps 4 --dilations 1"],
    ["conv-side", "topk_peterrec", "train side --model peterrec --fields all --user-width 5 --join sum"],
    ["caser", "topk_caser", "train data --model caser"],
    ["caser-masked", "topk_caser", "train data --model caser --task masked-item"],
    ["caser-users", "topk_caser", "train data --model caser --user-width 6 --window 3 --targets 2"],
    ["caser-side", "topk_caser", "train side --model caser --user-width 6 --fields all --horizontal 3 --vertical 2"],
    ["mlp", "topk_mlp", "train data --model mlp --user-width 6"],
    ["mlp-flat", "topk_mlp", "train data --model mlp --user-width 6 --blocks 0"],
];

/// Runs that are fine-tuned from another one. `part` has some of the items and users of `data`, in another
/// order.
const TUNED: &[[&str; 3]] = &[
    ["post", "topk_bert4rec", "train data"],
    ["serial", "topk_bert4rec", "finetune --from post --transfer patch part"],
    ["parallel", "topk_bert4rec", "finetune --from post --transfer patch --patch parallel --patch-width 5 data"],
    ["chained", "topk_bert4rec", "finetune --from serial --transfer patch data"],
    ["concat", "topk_bert4rec", "train side --norm pre --fields all --user-width 5"],
    ["concat-patch", "topk_bert4rec", "finetune --from concat --transfer patch --patches 1 part"],
    ["concat-less", "topk_bert4rec", "finetune --from concat --freeze network --user-width 0 part"],
    ["concat-none", "topk_bert4rec", "finetune --from concat --fields none --user-width 0 data"],
    ["concat-bare", "topk_bert4rec", "finetune --from concat --freeze network --fields none --user-width 0 data"],
    ["sum", "topk_bert4rec", "train side --fields all --user-width 5 --join sum"],
    ["sum-less", "topk_bert4rec", "finetune --from sum --freeze network,users --fields none data"],
    ["sum-users", "topk_bert4rec", "finetune --from sum --freeze network --user-width 0 part"],
    ["sum-none", "topk_bert4rec", "finetune --from sum --fields none --user-width 0 data"],
    ["sasrec", "topk_sasrec", "train data --model sasrec"],
    ["sasrec-patch", "topk_sasrec", "finetune --from sasrec --transfer patch --last part"],
    ["masked", "topk_peterrec", "train data --model peterrec --task masked-item"],
    ["masked-patch", "topk_peterrec", "finetune --from masked --transfer patch data"],
    ["causal", "topk_peterrec", "train data --model peterrec --task next-item --user-width 4"],
    ["causal-patch", "topk_peterrec", "finetune --from causal --transfer patch --patch parallel --patches 1 part"],
    ["gru", "topk_gru4rec", "train data --model gru4rec"],
    ["gru-tables", "topk_gru4rec", "finetune --from gru --freeze network part"],
    ["caser", "topk_caser", "train data --model caser --user-width 4"],
    ["caser-users", "topk_caser", "finetune --from caser --freeze network,items part"],
];

const BASKETS: &[[&str; 3]] = &[
    ["post", "topk_baskets", "train orders --task next-basket"],
    ["pre", "topk_baskets", "train orders --task next-basket --norm pre --projection true --user-width 5"],
    ["masked", "topk_bert4rec", "train orders --split last-basket"],
    ["tuned", "topk_baskets", "finetune --from post --transfer patch --task next-basket orders"],
];

const RATINGS: &[[&str; 3]] = &[
    ["dacf", "rate_dacf", "train rated --model dacf"],
    ["deep", "rate_dacf", "train fine --model dacf --blocks 3 --mask 0.4"],
    ["rows", "rate_dacf", "finetune --from deep --freeze network fine"],
    ["levels", "rate_bert4rec", "train rated --model bert4rec --task rating --user-width 4"],
    ["added", "rate_bert4rec", "train fine --task rating --rating-width 0 --norm pre --projection true"],
];

/// Calls a script once per line of standard input, and prints an empty line after each.
const CALLS: &str = "
import json, runpy, sys
for line in sys.stdin:
    sys.argv = json.loads(line)
    runpy.run_path(sys.argv[0], run_name='__main__')
    print()
";

/// A frame becomes the lists of `recommend`.
#[test]
fn a_frame_becomes_lists() {
    if !imports("pandas") {
        return;
    }
    let p = Place::new();
    let mut command = python();
    command.env("MIPGPU", env!("CARGO_BIN_EXE_mipgpu")).env("CUDA_VISIBLE_DEVICES", "").current_dir(p.path(""));
    command.args([&format!("{EXAMPLES}/frame_to_lists.py"), "log.csv", "out", "epochs=1", "width=16", "length=20"]);
    let done = super::done(command.output().unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    let mut found: Vec<[String; 4]> = Vec::new();
    for line in p.text("out/lists.csv").lines().skip(1) {
        found.push(line.split(',').map(String::from).collect::<Vec<_>>().try_into().unwrap());
    }
    let lists = p.well("recommend out/run --all-users --k 10 --json");
    let mut rows = 0;
    for list in lists.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        for (i, item) in list["items"].as_array().unwrap().iter().enumerate() {
            let [user, rank, key, score] = &found[rows];
            assert_eq!(
                (user.as_str(), rank.parse(), key.as_str()),
                (list["id"].as_str().unwrap(), Ok(i + 1), item["item"].as_str().unwrap())
            );
            assert!(close(score.parse().unwrap(), item["score"].as_f64().unwrap()), "{score}: {item}");
            rows += 1;
        }
    }
    assert!(rows == found.len() && rows > 100, "{rows} of {} rows", found.len());
}

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python");

/// The lists above compare every model of the program with its own script, `topk_MODEL.py` or `rate_MODEL.py`.
#[test]
fn every_model_has_a_script() {
    for model in models::ALL {
        let scripts = ["topk", "rate"].map(|what| format!("{what}_{}", model.name));
        let run = [TRANSFORMERS, OTHERS, TUNED, BASKETS, RATINGS]
            .concat()
            .into_iter()
            .find(|r| scripts.contains(&r[1].into()));
        let [_, script, _] = run.unwrap_or_else(|| panic!("no run of {} is compared with a script", model.name));
        assert!(Path::new(EXAMPLES).join(format!("{script}.py")).is_file(), "examples/python/{script}.py is missing");
    }
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", EXAMPLES).env("OPENBLAS_NUM_THREADS", "1");
    command
}

fn numpy() -> bool {
    imports("numpy")
}

/// Returns whether python3 has the module that a script requires. Without it a test does nothing.
fn imports(module: &str) -> bool {
    let why = match python().args(["-c", &format!("import tomllib, {module}")]).output() {
        Ok(done) if done.status.success() => return true,
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(e) => e.to_string(),
    };
    assert!(std::env::var_os("MIPGPU_REQUIRE_NUMPY").is_none(), "python3 with {module} is required: {why}");
    eprintln!("examples/python is not tested, because python3 cannot import what it requires: {why}");
    false
}

/// Key and number of each line of a call.
type Lines = Vec<(String, f64)>;

fn lines(text: &str) -> Lines {
    let line = |line: &str| {
        let (key, number) = line.rsplit_once('\t').unwrap();
        (key.to_owned(), number.parse().unwrap())
    };
    text.lines().map(line).collect()
}

/// Returns what a script prints for each list of arguments.
fn call(p: &Place, script: &str, run: &str, calls: &[Vec<String>]) -> Vec<Lines> {
    let path = format!("{EXAMPLES}/{script}.py");
    let input: String =
        calls.iter().map(|call| json!([&[path.clone(), run.into()], &call[..]].concat()).to_string() + "\n").collect();
    let mut command = python();
    command.current_dir(p.path("")).args(["-c", CALLS]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = super::done(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{script} {run}: {done:?}");
    let all: Vec<Lines> = done.out.split_terminator("\n\n").map(lines).collect();
    assert_eq!(all.len(), calls.len(), "{script} {run}: {}", done.out);
    // As a separate command, as users call it.
    let mut command = python();
    command.env_remove("PYTHONPATH").current_dir(p.path("")).args([&path, run]).args(calls.last().unwrap());
    let done = super::done(command.output().unwrap());
    assert_eq!(Some(&lines(&done.out)), all.last(), "{script} {run}: {done:?}");
    all
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * a.abs().max(b.abs()) + 1e-6
}

/// Asserts that the program's list is the beginning of the script's list of all items, up to the order of equal
/// scores.
fn same(list: &Value, script: &[(String, f64)], what: &str) {
    let items = list["items"].as_array().unwrap();
    assert!(items.len() == script.len().min(10) && items.len() >= 5, "{what}: {list} {script:?}");
    for (rank, item) in items.iter().enumerate() {
        let (key, score) = (item["item"].as_str().unwrap(), item["score"].as_f64().unwrap());
        let own = script.iter().find(|(k, _)| k == key).unwrap_or_else(|| panic!("{what}: no {key} in {script:?}")).1;
        assert!(close(score, own) && close(score, script[rank].1), "{what}, rank {rank}: {list} {script:?}");
    }
}

/// Returns histories of the given lengths, with repeated items in long ones, and one with an unknown key.
fn histories(prefix: &str, items: usize, lengths: &[usize]) -> Vec<Vec<String>> {
    let walk = |n: &usize| (0..*n).map(|t| format!("{prefix}{}", (t * t + 3 * t + n) % items)).collect();
    let mut all: Vec<Vec<String>> = lengths.iter().map(walk).collect();
    all.push(vec![format!("{prefix}3"), "unknown".into(), format!("{prefix}21")]);
    all
}

fn arguments(history: &[String], user: Option<&str>) -> Vec<String> {
    let mut all = vec!["--k".into(), "1000".into(), "--history".into(), json!(history).to_string()];
    all.extend(user.into_iter().flat_map(|user| ["--user".into(), user.into()]));
    all
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Trains the runs, and compares lists for new histories and for users with histories in the data of the run.
fn compare(
    p: &Place,
    runs: &[[&str; 3]],
    histories: &[Vec<String>],
    users: &[&str],
    of_user: impl Fn(&str, &str) -> Vec<String>,
) {
    for [run, script, command] in runs {
        p.well(&format!("{command} --out {run} {FLAGS}"));
        let input: String = histories.iter().map(|h| json!({"history": h}).to_string() + "\n").collect();
        p.write("histories.jsonl", input);
        let mut stdin = p.command(&format!("recommend {run} --stdin --json -q"));
        stdin.stdin(File::open(p.path("histories.jsonl")).unwrap());
        let mut lists = objects(&super::done(stdin.output().unwrap()).out);
        lists.extend(objects(&p.well(&format!("recommend {run} --users {} --json -q", users.join(",")))));
        let of_users = users.iter().map(|user| arguments(&of_user(command, user), Some(user)));
        let calls: Vec<Vec<String>> = histories.iter().map(|h| arguments(h, None)).chain(of_users).collect();
        assert_eq!(lists.len(), calls.len(), "{run}: {lists:?}");
        for ((list, own), call) in lists.iter().zip(call(p, script, run, &calls)).zip(&calls) {
            same(list, &own, &format!("{script} {run} {call:?}"));
        }
    }
}

/// Compares runs on `data`, on `side` with two fields, and on `part` with some of the items in another order.
fn compare_items(runs: &[[&str; 3]]) {
    if !numpy() {
        return;
    }
    let p = Place::new();
    // Items with no, one and several genres; i39 has no row.
    let rows = (0..39).map(|i| {
        let genres: Vec<&str> = (0..4).filter(|j| (i >> j) & 1 == 1).map(|j| ["a", "b", "c", "d"][j]).collect();
        format!("i{i},{},{}\n", ["red", "green", "blue"][i % 3], genres.join("|"))
    });
    p.write("items.csv", format!("item,color,genres\n{}", rows.collect::<String>()));
    let log = p.text("log.csv");
    let left_out = |item: &str| ["i7", "i20", "i33"].contains(&item);
    let mut kept: Vec<&str> = log.lines().skip(1).filter(|row| !left_out(row.split(',').nth(1).unwrap())).collect();
    kept.reverse();
    p.write("part.csv", format!("user,item,timestamp\n{}\n", kept.join("\n")));
    p.well("import log.csv --items items.csv --out side -q");
    p.well("import part.csv --items items.csv --item-fields genres,color --out part -q");
    let of_user = |command: &str, user: &str| {
        let rows = log.lines().map(|row| row.split(',').collect::<Vec<_>>()).filter(|row| row[0] == user);
        let items = rows.map(|row| row[1].to_owned());
        items.filter(|item| !command.ends_with(" part") || !left_out(item)).collect()
    };
    compare(&p, runs, &histories("i", 40, &[0, 1, 4, 10, 11, 12, 13, 30]), &["u3", "u29", "u118"], of_user);
}

#[test]
fn transformers() {
    compare_items(TRANSFORMERS);
}

#[test]
fn other_models() {
    compare_items(OTHERS);
}

#[test]
fn runs_that_go_on_from_another() {
    compare_items(TUNED);
}

#[test]
fn next_baskets() {
    if !numpy() {
        return;
    }
    let p = baskets::place();
    let log = p.text("orders.csv");
    // The last basket of a customer, or the whole history if the task is not next-basket.
    let of_user = |command: &str, user: &str| {
        let rows = log.lines().map(|row| row.split(',').collect::<Vec<_>>());
        let rows: Vec<_> = rows.filter(|row| row[0] == user).collect();
        let last = rows.last().unwrap()[1];
        let kept = rows.iter().filter(|row| !command.contains("next-basket") || row[1] == last);
        kept.map(|row| row[2].to_owned()).collect()
    };
    compare(&p, BASKETS, &histories("p", 30, &[0, 1, 3, 8, 9, 10, 20]), &["c5", "c7", "c88"], of_user);
}

/// Compares the predictions of `eval` for each user's last rating, predicted from the earlier ones.
#[test]
fn predicted_ratings() {
    if !numpy() {
        return;
    }
    let p = ratings::rated();
    let log = p.text("rated.csv");
    // More different ratings than levels.
    let fine = log.lines().enumerate().map(|(i, row)| match row.split(',').collect::<Vec<_>>()[..] {
        [user, item, rating, time] if i > 0 => format!("{user},{item},{rating}.{:02},{time}\n", i * 37 % 100),
        _ => format!("{row}\n"),
    });
    p.write("fine.csv", fine.collect::<String>());
    p.well("import fine.csv --out fine -q");
    for [run, script, command] in RATINGS {
        p.well(&format!("{command} --out {run} {FLAGS}"));
        p.well(&format!("eval {run} --per-user ratings.tsv -q"));
        let table = p.text("ratings.tsv");
        let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split('\t').collect()).collect();
        assert_eq!(rows[0], ["user", "item", "rating", "predicted"]);
        let log = p.text(if command.contains("fine") { "fine.csv" } else { "rated.csv" });
        let calls: Vec<Vec<String>> = rows[1..]
            .iter()
            .step_by(9)
            .map(|row| {
                let rated = log.lines().map(|row| row.split(',').collect::<Vec<_>>()).filter(|r| r[0] == row[0]);
                let mut rated: Vec<String> = rated.map(|row| format!("{}={}", row[1], row[2])).collect();
                assert!(rated.pop().unwrap().starts_with(row[1]), "the last rating is held out");
                [arguments(&rated, Some(row[0])), vec!["--item".into(), row[1].into()]].concat()
            })
            .collect();
        for (row, own) in rows[1..].iter().step_by(9).zip(call(&p, script, run, &calls)) {
            let (key, rating) = &own[0];
            assert!(
                own.len() == 1 && key == row[1] && close(*rating, row[3].parse().unwrap()),
                "{run} {row:?} {own:?}"
            );
        }
    }
}
