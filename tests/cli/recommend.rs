//! Recommendation against brute force and against evaluation; the command's inputs and outputs; exported files.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use crate::evaluation::{Fake, dataset, flags, random_dataset, run_of, sequences};
use mipgpu::{
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    cli::{
        export::{self, write},
        recommend::{Args, answer},
    },
    data::{
        Dataset, Vocab,
        split::{HeldOut, Split, SplitSpec},
    },
    eval::{Answer, EvalOptions, Query, Ranks, Scored, evaluate::evaluate_each, recommend::recommend},
    train::OpenRun,
};
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::RowAccessor,
};
use serde_json::Value;

/// Whole-number scores: many ties, which go to the smaller id. Catalogues around the tile and panel sizes.
#[test]
fn lists_equal_sorting_everything() {
    for items in [5, 16, 70, 4100] {
        let mut model = Fake::new(items, 4, false);
        let histories: Vec<Vec<u32>> =
            (0..11u32).map(|h| (0..h).map(|i| (i * 7 + h) % items as u32).collect()).collect();
        let slices: Vec<_> = histories.iter().map(|h| (&h[..], None)).collect();
        for (k, keep_seen) in [(1, false), (5, false), (5, true), (items, false)] {
            let lists = recommend(&mut model, &slices, k, keep_seen).unwrap();
            for (history, list) in histories.iter().zip(lists) {
                let scores = model.scores(history);
                let seen: HashSet<u32> = if keep_seen { HashSet::new() } else { history.iter().copied().collect() };
                let mut expected: Vec<u32> = (0..items as u32).filter(|i| !seen.contains(i)).collect();
                expected.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
                expected.truncate(k);
                let got: Vec<u32> = list.iter().map(|s| s.item).collect();
                assert_eq!(got, expected, "{items} items, k {k}, keep_seen {keep_seen}");
                assert!(list.iter().all(|s| s.score as f64 == scores[s.item as usize]));
            }
        }
    }
}

fn args(more: &[&str]) -> Args {
    flags(&[&["runs/test"], more].concat())
}

fn ask(
    run: &mut OpenRun,
    data: Option<&Dataset>,
    words: &[&str],
    json: bool,
    input: &str,
) -> Result<(String, Vec<String>)> {
    let mut out = String::new();
    let notes = answer(run, data, &args(words), json, input.as_bytes(), &mut |text| out.push_str(text))?;
    Ok((out, notes))
}

fn objects(lines: &str) -> Vec<Value> {
    lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn list(object: &Value) -> Vec<String> {
    object["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap().to_owned()).collect()
}

/// The guarantee: a held-out item is a hit of `eval` at k exactly if it is in the list of `recommend`. It is tested for
/// each part and several k, with one or several items held out.
#[test]
fn evaluation_and_recommendation_agree() {
    let data = random_dataset(120, 300, 12);
    for (spec, split_words) in [
        (SplitSpec::LeaveOneOut, &[][..]),
        (SplitSpec::LastN { valid: 2, test: 3 }, &["--split", "last-n", "--valid-n", "2", "--test-n", "3"]),
        (SplitSpec::LastBasket, &["--split", "last-basket"]),
    ] {
        let split = Split::new(&data, spec).unwrap();
        let (valid, test) = (split.valid(), split.test());
        for (part, name) in [(&valid as &dyn HeldOut, "valid"), (&test, "test")] {
            for k in [1, 10, 50] {
                let length = k.to_string();
                let words = [&["--all-users", "--hold-out", name, "--k", &length], split_words].concat();
                let mut run = run_of(Fake::new(data.items(), 8, true), &data);
                let (out, _) = ask(&mut run, Some(&data), &words, true, "").unwrap();
                let lists: Vec<HashSet<String>> = objects(&out).iter().map(|o| list(o).into_iter().collect()).collect();
                let (mut hits, mut listed) = (0, 0);
                let options = EvalOptions { ks: vec![k], ..EvalOptions::default() };
                let mut model = Fake::new(data.items(), 8, true);
                evaluate_each(&mut model, &data, part, &options, &mut |user| {
                    for (target, rank) in user.targets.iter().zip(&user.ranks.model) {
                        let hit = *rank <= k;
                        let inside = lists[user.user as usize].contains(data.item_keys().key(*target as usize));
                        assert_eq!(hit, inside, "{spec}, {name}, k {k}, user {}", user.user);
                        hits += usize::from(hit);
                        listed += usize::from(inside);
                    }
                    Ok(())
                })
                .unwrap();
                assert!(hits == listed && (k == 1 || hits > 0), "{hits} {listed}");
            }
        }
    }
}

#[test]
fn users_histories_and_lines_get_the_same_list() {
    let data = sequences(&["a b c d", "b c d e f g", "a d e f h i j k l"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let (out, notes) = ask(&mut run, Some(&data), &["--users", "u1,u0", "--k", "3"], true, "").unwrap();
    assert!(notes.is_empty());
    let by_user = objects(&out);
    assert_eq!((&by_user[0]["id"], &by_user[1]["id"]), (&"u1".into(), &"u0".into()));
    let by_history = ask(&mut run, None, &["--history", "b,c,d,e,f,g", "--k", "3"], true, "").unwrap().0;
    assert_eq!(objects(&by_history)[0]["items"], by_user[0]["items"]);
    let lines = r#"{"id": 7, "history": ["b","c","d","e","f","g"]}

        {"history": ["a", "nonsense", "b", "c", "d"], "id": "x"}
        {"id": null, "history": []}"#;
    for batch in ["1", "2", "256"] {
        let (out, notes) = ask(&mut run, None, &["--stdin", "--k", "3", "--batch", batch], true, lines).unwrap();
        let by_line = objects(&out);
        assert_eq!(by_line.len(), 3);
        assert_eq!((&by_line[0]["id"], &by_line[0]["items"]), (&7.into(), &by_user[0]["items"]));
        assert_eq!(
            (&by_line[1]["unknown"], &by_line[1]["items"]),
            (&serde_json::json!(["nonsense"]), &by_user[1]["items"])
        );
        assert_eq!(
            (by_line[2]["history"].as_u64(), list(&by_line[2]).len()),
            (Some(0), 3),
            "no history still gets a list"
        );
        assert!(notes[0].contains("1 event of") && notes[0].contains("nonsense"), "{notes:?}");
        // A list without a known history is reported, with or without JSON.
        assert!(notes.len() == 2 && notes[1].contains("knows: 1 history;"), "{notes:?}");
    }
    let (text, notes) = ask(&mut run, None, &["--stdin", "--k", "2"], false, lines).unwrap();
    assert!(
        text.contains("7: from a history of 6 items\n") && text.contains("x: from a history of 4 items (1 unknown)")
    );
    assert!(text.contains("no known item in the history") && notes.len() == 2, "{text}{notes:?}");
    let first = list(&by_user[0])[0].clone();
    assert!(text.lines().nth(1).unwrap().starts_with(&format!("    1  {first}  ")), "{text}");
}

#[test]
fn seen_items_come_only_when_asked() {
    let data = sequences(&["a b c d e f", "a b c"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let (out, _) = ask(&mut run, Some(&data), &["--all-users", "--k", "6"], true, "").unwrap();
    assert!(list(&objects(&out)[0]).is_empty(), "u0 has seen everything");
    let rest: HashSet<String> = list(&objects(&out)[1]).into_iter().collect();
    assert_eq!(rest, ["d", "e", "f"].map(String::from).into());
    let (out, _) = ask(&mut run, Some(&data), &["--all-users", "--k", "6", "--keep-seen"], true, "").unwrap();
    assert!(objects(&out).iter().all(|o| list(o).len() == 6));
    let (out, _) = ask(&mut run, Some(&data), &["--users", "u1"], true, "").unwrap();
    assert_eq!(list(&objects(&out)[0]).len(), 3, "the default k shrinks to a small catalogue");
}

/// Lists shorter than requested state the reason; one longer than the catalogue is truncated to it.
#[test]
fn short_lists_have_their_reason() {
    let data = sequences(&["a b c d e f", "a b c"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let all = "the history holds 6 of the 6 items, which are not recommended again (--keep-seen)";
    let (out, notes) = ask(&mut run, Some(&data), &["--all-users", "--k", "5"], true, "").unwrap();
    let lists = objects(&out);
    assert_eq!((&lists[0]["short"], list(&lists[0]).len()), (&all.into(), 0));
    assert!(lists[1]["short"].as_str().unwrap().contains("holds 3 of the 6 items") && notes.is_empty(), "{out}");
    let (text, _) = ask(&mut run, Some(&data), &["--all-users", "--k", "5"], false, "").unwrap();
    assert!(text.contains(&format!("no items: {all}\n")) && text.contains("no more: the history holds 3"), "{text}");
    let (out, notes) = ask(&mut run, None, &["--history", "a", "--k", "9", "--keep-seen"], true, "").unwrap();
    assert_eq!(list(&objects(&out)[0]).len(), 6);
    assert!(notes[0].contains("--k 9: more than the 6 items of the catalogue"), "{notes:?}");
    let (out, _) = ask(&mut run, None, &["--history", "a", "--k", "3"], true, "").unwrap();
    assert!(objects(&out)[0]["short"].is_null(), "{out}");
}

/// The protocol that validated the run is the one it recommends by, unless the flag overrides it.
#[test]
fn a_run_recommends_under_its_own_protocol() {
    let data = sequences(&["a b c d e f", "a b c"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let mut length = |keep_seen: bool, words: &[&str]| {
        run.keep_seen = keep_seen;
        let words = [&["--users", "u1", "--k", "6"], words].concat();
        list(&objects(&ask(&mut run, Some(&data), &words, true, "").unwrap().0)[0]).len()
    };
    assert_eq!([length(false, &[]), length(true, &[])], [3, 6]);
    assert_eq!([length(false, &["--keep-seen"]), length(true, &["--keep-seen", "false"])], [6, 3]);
}

/// Keys with commas, in a list and in a file, and keys that the catalogue spells differently.
#[test]
fn keys_are_read_as_they_are() {
    let mut log = Vec::new();
    for u in 0..2 {
        for (t, item) in ["Tea, green", "Cup", "3", "Pot"].into_iter().enumerate() {
            log.push((format!("u, {u}"), item, Some(t as i64)));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (items, users) = (dir.path().join("items.txt"), dir.path().join("users.txt"));
    std::fs::write(&items, "Tea, green\r\nCup\r\n").unwrap();
    std::fs::write(&users, "u, 1\nu, 0\n").unwrap();
    let quoted: Vec<(String, String, Option<i64>)> =
        log.iter().map(|(u, i, t)| (format!("\"{u}\""), format!("\"{i}\""), *t)).collect();
    let data = dataset(&quoted);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let mut first = |words: &[&str]| {
        let (out, notes) = ask(&mut run, Some(&data), &[words, &["--keep-seen"]].concat(), true, "").unwrap();
        let all = objects(&out);
        (all[0]["history"].as_u64().unwrap(), all[0]["items"].clone(), all[0]["id"].clone(), all.len(), notes)
    };
    let by_list = first(&["--history", r#"["Tea, green", "Cup"]"#]);
    let by_file = first(&["--history-file", items.to_str().unwrap()]);
    assert_eq!((by_list.0, by_list.4.len()), (2, 0));
    assert_eq!((by_list.0, by_list.1), (by_file.0, by_file.1));
    // The whole text is one key if its parts are not known keys.
    assert_eq!(first(&["--history", "Tea, green", "--history", "Cup,3"]).0, 3);
    for words in [&["--users-file", users.to_str().unwrap()][..], &["--users", r#"["u, 1","u, 0"]"#]] {
        let (_, _, id, n, _) = first(words);
        assert_eq!((id, n), (Value::from("u, 1"), 2), "{words:?}");
    }
    let notes = first(&["--history", "Tea, green,3.0,Pot"]).4;
    assert!(notes[0].contains("Tea, green") && notes[0].contains("3.0 (the model has '3')"), "{notes:?}");
    assert!(notes[0].contains("keys that hold commas are given as a JSON list"), "{notes:?}");
    let e = ask(&mut run, None, &["--history", "3.0"], true, "").unwrap_err().to_string();
    assert!(e.contains("the model has '3' where '3.0' was typed"), "{e}");
}

#[test]
fn bad_requests_say_what_to_do() {
    let data = sequences(&["apple pear plum fig", "pear plum fig apple"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let mut refuse = |data: Option<&Dataset>, words: &[&str], input: &str, says: &[&str]| {
        let e = ask(&mut run, data, words, false, input).unwrap_err().to_string();
        assert!(says.iter().all(|s| e.contains(s)) && e.contains("hint"), "{words:?}: {e}");
    };
    refuse(Some(&data), &["--users", "u1,u00"], "", &["no user 'u00'", "did you mean 'u0'"]);
    refuse(None, &["--history", "aple,pera"], "", &["none of the 2 items", "did you mean 'apple'"]);
    refuse(None, &["--history", "1234"], "", &["the model does not know the item '1234'", "look like 'apple'"]);
    refuse(None, &["--history", "apple", "--k", "0"], "", &["--k 0 is out of range"]);
    refuse(None, &["--history", "[apple]"], "", &["--history: not a JSON list", "'[\"key\",\"key\"]'"]);
    refuse(Some(&data), &["--users", ","], "", &["no users are named", "--all-users"]);
    refuse(None, &["--history", "apple", "--hold-out", "test"], "", &["--hold-out is for users of the data"]);
    refuse(None, &["--stdin", "--batch", "0"], "", &["--batch 0 is out of range"]);
    refuse(None, &["--stdin"], "{\"history\": [\"apple\"]}\nhello", &["line 2", "not JSON"]);
    refuse(None, &["--stdin"], "{\"histroy\": [\"apple\"]}", &["line 1", "no list called \"history\""]);
    refuse(None, &["--stdin"], "{\"history\": [1.5]}", &["line 1", "1.5 is not an item key"]);
    run.item_keys = Vocab::from_keys(["w", "x", "y", "z"]);
    let e = ask(&mut run, Some(&data), &["--all-users"], false, "").unwrap_err().to_string();
    assert!(e.contains("knows none of the data's 4 items"), "{e}");
}

/// A reader that returns one line at a time and checks that the answer to the preceding line has arrived.
struct Patient<'a> {
    lines: Vec<&'a str>,
    answered: &'a std::cell::Cell<usize>,
    given: usize,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert_eq!(self.answered.get(), self.given, "a line was held back until the next came");
        let Some(line) = self.lines.get(self.given) else { return Ok(0) };
        self.given += 1;
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

#[test]
fn a_program_that_waits_for_each_answer_gets_it() {
    let data = sequences(&["a b c d", "b c d a"]);
    let mut run = run_of(Fake::new(data.items(), 4, true), &data);
    let answered = std::cell::Cell::new(0);
    let lines = vec!["{\"history\": [\"a\"]}\n"; 3];
    let input = Patient { lines, answered: &answered, given: 0 };
    let flags = args(&["--stdin", "--k", "1"]);
    answer(&mut run, None, &flags, true, input, &mut |text| {
        answered.set(answered.get() + text.lines().count());
    })
    .unwrap();
    assert_eq!(answered.get(), 3);
}

fn keys_of(file: &safetensors::SafeTensors<'_>) -> Vec<String> {
    let offsets = file.tensor("key_offsets").unwrap();
    let offsets: Vec<usize> =
        offsets.data().chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()) as usize).collect();
    let bytes = file.tensor("key_bytes").unwrap().data();
    offsets.windows(2).map(|w| String::from_utf8(bytes[w[0]..w[1]].to_vec()).unwrap()).collect()
}

fn floats(file: &safetensors::SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Both formats contain the keys and numbers of the model, and user x item + bias is the model's score.
#[test]
fn exported_vectors_give_the_models_scores() {
    let data = sequences(&["a b c d", "b c d é", "a d 漢字 f h i"]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("vectors");
    let flags: export::Args = flags(&["runs/test", "--out", out.to_str().unwrap(), "--batch", "2"]);
    let mut run = run_of(Fake::new(data.items(), 3, true), &data);
    let written = write(&mut run, Some(&data), "0123abcd", &flags).unwrap();
    let names: Vec<_> =
        written.iter().map(|file| (file.path.file_name().unwrap().to_str().unwrap(), file.rows)).collect();
    let v = data.items();
    assert_eq!(names, [("items.safetensors", v), ("items.parquet", v), ("users.safetensors", 3), ("users.parquet", 3)]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 4, "nothing temporary stays");

    let model = Fake::new(v, 3, true);
    let items = std::fs::read(out.join("items.safetensors")).unwrap();
    let items = safetensors::SafeTensors::deserialize(&items).unwrap();
    assert_eq!(keys_of(&items), data.item_keys().keys().collect::<Vec<_>>());
    assert_eq!(items.tensor("vector").unwrap().shape(), [v, 3]);
    let users = std::fs::read(out.join("users.safetensors")).unwrap();
    let users = safetensors::SafeTensors::deserialize(&users).unwrap();
    assert_eq!(keys_of(&users), ["u0", "u1", "u2"]);
    assert!(users.tensor("bias").is_err());
    let (rows, bias, vectors) = (floats(&items, "vector"), floats(&items, "bias"), floats(&users, "vector"));
    for u in 0..3 {
        for (i, expected) in model.scores(data.items_of(u)).iter().enumerate() {
            let score =
                (0..3).map(|d| vectors[u * 3 + d] as f64 * rows[i * 3 + d] as f64).sum::<f64>() + bias[i] as f64;
            assert!((score - expected).abs() < 1e-6);
        }
    }

    for (name, keys, numbers) in [("items", keys_of(&items), &rows), ("users", keys_of(&users), &vectors)] {
        let file = std::fs::File::open(out.join(format!("{name}.parquet"))).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let mut seen = 0;
        for (i, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            assert_eq!(row.get_string(0).unwrap(), &keys[i]);
            let list = row.get_list(1).unwrap();
            use parquet::record::ListAccessor;
            let vector: Vec<f32> = (0..list.len()).map(|d| list.get_float(d).unwrap()).collect();
            assert_eq!(vector, numbers[i * 3..][..3]);
            if name == "items" {
                assert_eq!(row.get_float(2).unwrap(), bias[i]);
            }
            seen += 1;
        }
        assert_eq!(seen, keys.len());
    }
}

/// A model that fails midway leaves nothing behind and keeps existing files.
#[test]
fn a_failed_export_leaves_no_trace() {
    struct Failing(Fake);
    impl mipgpu::eval::Encoder for Failing {
        fn width(&self) -> usize {
            self.0.width()
        }
        fn items(&self) -> usize {
            self.0.items()
        }
        fn item_vectors(&mut self, items: std::ops::Range<usize>, out: &mut [f32]) -> Result<()> {
            self.0.item_vectors(items, out)
        }
        fn item_biases(&mut self, out: &mut [f32]) -> Result<()> {
            self.0.item_biases(out)
        }
        fn rank(&mut self, _: &[Query<'_>]) -> Answer<Vec<Ranks>> {
            unreachable!("an export ranks nothing")
        }
        fn top_k(&mut self, _: &[Query<'_>], _: usize) -> Answer<Vec<Vec<Scored>>> {
            unreachable!("an export lists nothing")
        }
        fn encode(&mut self, _: &[Query<'_>], _: &mut [f32]) -> Result<()> {
            Err(Error::internal("the machine is on fire"))
        }
    }
    let data = sequences(&["a b c d", "b c d e"]);
    let dir = tempfile::tempdir().unwrap();
    let users: export::Args = flags(&[
        "runs/test",
        "--out",
        dir.path().to_str().unwrap(),
        "--what",
        "users",
        "--format",
        "parquet",
        "--force",
    ]);
    let mut run = run_of(Fake::new(data.items(), 3, true), &data);
    write(&mut run, Some(&data), "old", &users).unwrap();
    let old = std::fs::read(dir.path().join("users.parquet")).unwrap();
    run.encoder = Box::new(Failing(Fake::new(data.items(), 3, true)));
    let e = write(&mut run, Some(&data), "0123abcd", &users).unwrap_err();
    assert!(e.to_string().contains("on fire"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(dir.path().join("users.parquet")).unwrap(), old);
    // It also makes no folder and writes no items that were computed before the failure.
    for out in ["new", ""] {
        let out = dir.path().join(out);
        let both: export::Args = flags(&["runs/test", "--out", out.to_str().unwrap(), "--force"]);
        assert!(write(&mut run, Some(&data), "0123abcd", &both).unwrap_err().to_string().contains("on fire"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

/// Vectors of two checkpoints never end up in one folder.
#[test]
fn vectors_of_another_checkpoint_are_kept_or_replaced_as_a_whole() {
    let data = sequences(&["a b c d", "b c d e"]);
    let dir = tempfile::tempdir().unwrap();
    let mut run = run_of(Fake::new(data.items(), 3, true), &data);
    let mut export = |checkpoint: &str, words: &[&str]| {
        let flags: export::Args = flags(&[&["runs/test", "--out", dir.path().to_str().unwrap()], words].concat());
        write(&mut run, Some(&data), checkpoint, &flags).map_err(|e| e.to_string())
    };
    let names = || {
        let mut names: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    export("one", &["--what", "items"]).unwrap();
    // The same checkpoint completes and repeats existing files; both formats record the checkpoint.
    export("one", &["--what", "users"]).unwrap();
    export("one", &[]).unwrap();
    let all = ["items.parquet", "items.safetensors", "users.parquet", "users.safetensors"];
    assert_eq!(names(), all);
    let bytes = || all.map(|name| std::fs::read(dir.path().join(name)).unwrap());
    let before = bytes();
    // The same holds if all files would be rewritten: the existing vectors must not be lost.
    for words in [&["--what", "users"][..], &["--format", "parquet"], &[]] {
        let e = export("two", words).unwrap_err();
        assert!(e.contains("another run or checkpoint are in the folder") && e.contains("--force"), "{e}");
        assert!(bytes() == before);
    }
    export("two", &["--force"]).unwrap();
    assert!(names() == all && bytes() != before);
    export("one", &["--force"]).unwrap();
    assert!(bytes() == before);
    // Items of the old checkpoint are not comparable with users of the new one.
    export("two", &["--what", "users", "--force"]).unwrap();
    assert_eq!(names(), all[2..]);
    // A file that does not contain vectors of this program is kept.
    std::fs::write(dir.path().join("items.parquet"), "anything").unwrap();
    for words in [&["--force"][..], &[], &["--what", "users"]] {
        let e = export("two", words).unwrap_err();
        assert!(e.contains("items.parquet") && e.contains("no vectors"), "{e}");
    }
    assert_eq!(std::fs::read(dir.path().join("items.parquet")).unwrap(), b"anything");
}

/// The built program from a log to lists with a real model. The per-user ranks of `eval` and the lists of `recommend`
/// give the same hits, in batches or one by one. Titles of the items appear with their keys.
#[test]
fn the_whole_way_through_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let mipgpu = |words: &str, input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
            .args(words.split_whitespace())
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.status.code(), Some(0), "{words}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    };
    let mut s = Stream::new(4, Purpose::Test, 0);
    let mut log = String::from("user,item,timestamp\n");
    for user in 0..60u64 {
        // Distinct items in runs that the model can learn from.
        for step in 0..8 + s.below(12) {
            log += &format!("u{user},m{},{}\n", (user * 3 + step * 2) % 90, 1_500_000_000 + step);
        }
    }
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    let titles: String = (0..90).map(|i| format!("m{i},Film no. {i}\n")).collect();
    std::fs::write(dir.path().join("items.csv"), format!("item,title\n{titles}")).unwrap();
    mipgpu("import log.csv --items items.csv --out data -q", "");
    mipgpu("train data --out run --epochs 2 --width 16 --heads 2 --length 12 --quiet", "");
    let report: Value = serde_json::from_str(&mipgpu("eval run --json --per-user ranks.tsv --k 5,10", "")).unwrap();
    assert_eq!(report["protocol"]["users"], 60);

    let ranks = std::fs::read_to_string(dir.path().join("ranks.tsv")).unwrap();
    let one_by_one = mipgpu("recommend run --all-users --hold-out test --k 10 --json --batch 1", "");
    let lists = objects(&mipgpu("recommend run --all-users --hold-out test --k 10 --json", ""));
    let mut hits = 0;
    for ((line, list_of), alone) in ranks.lines().skip(1).zip(&lists).zip(objects(&one_by_one)) {
        let cells: Vec<&str> = line.split('\t').collect();
        assert_eq!(list_of["id"], cells[0]);
        let place = list(list_of).iter().position(|item| item == cells[2]);
        let rank: usize = cells[3].parse().unwrap();
        assert_eq!(place.map(|p| p + 1), (rank <= 10).then_some(rank), "user {}", cells[0]);
        assert_eq!(list_of, &alone, "the batch does not matter");
        hits += usize::from(rank <= 10);
    }
    let hr = report["full"]["model"]["at"][1]["hr"].as_f64().unwrap();
    assert!((hr - hits as f64 / 60.0).abs() < 1e-12);

    // The same history from the data, from the flag, and from a line.
    let from_data = objects(&mipgpu("recommend run --users u0 --k 3 --json", ""))[0].clone();
    let keys: Vec<String> = std::fs::read_to_string(dir.path().join("log.csv"))
        .unwrap()
        .lines()
        .filter_map(|l| l.strip_prefix("u0,"))
        .map(|l| l.split(',').next().unwrap().to_owned())
        .collect();
    let from_flag = objects(&mipgpu(&format!("recommend run --history {} --k 3 --json", keys.join(",")), ""));
    let line = serde_json::json!({ "id": "u0", "history": keys }).to_string();
    let from_line = objects(&mipgpu("recommend run --stdin --k 3 --json", &line));
    assert_eq!((&from_flag[0]["items"], &from_line[0]), (&from_data["items"], &from_data));
    let best = &from_data["items"][0];
    let item = best["item"].as_str().unwrap();
    assert_eq!(best["title"], format!("Film no. {}", &item[1..]));
    assert!(mipgpu("recommend run --users u0 --k 3", "").contains(&format!("Film no. {}\n", &item[1..])));

    mipgpu("export run --out vectors", "");
    let users = std::fs::read(dir.path().join("vectors/users.safetensors")).unwrap();
    let users = safetensors::SafeTensors::deserialize(&users).unwrap();
    assert_eq!((keys_of(&users).len(), users.tensor("vector").unwrap().shape()), (60, &[60, 16][..]));
}

/// From the outside: exit codes and messages of the three commands.
#[test]
fn the_program_refuses_what_is_not_there() {
    let mipgpu = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_mipgpu")).args(words).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap(), out.stdout)
    };
    for words in [
        &["eval", "no/such/run"][..],
        &["recommend", "no/such/run", "--all-users"],
        &["export", "no/such/run", "--out", "no/such/folder"],
    ] {
        let (code, text, out) = mipgpu(words);
        assert_eq!((code, out.len()), (Some(1), 0), "{words:?}: {text}");
        assert!(text.contains("no/such/run: no such run folder") && text.contains("hint"), "{text}");
    }
    for (words, says) in [
        (&["recommend", "run"][..], "required"),
        (&["recommend", "run", "--all-users", "--stdin"], "cannot be used with"),
        (&["eval", "run", "--negative-sampling", "popular"], "popularity"),
        (&["export", "run", "--out", "x", "--format", "npz"], "parquet"),
        (&["eval", "run", "--kk", "5"], "--k"),
    ] {
        let (code, text, _) = mipgpu(words);
        assert!(code == Some(1) && text.contains(says), "{words:?}: {code:?} {text}");
    }
}
