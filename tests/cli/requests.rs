//! Invalid requests are rejected with a reason and a hint, before anything is written.

use super::{Place, TINY};

#[test]
fn unknown_flags_and_settings_are_answered_with_the_nearest() {
    let p = Place::new();
    p.refused("train data --epoch 3", &["--epochs"]);
    p.refused("train data --widht 3", &["--width"]);
    p.refused("evaluate data", &["eval"]);
    p.refused("train data --norm mid", &["post", "pre"]);
    p.refused("train data --device cud", &["reference"]);
    for (text, says) in [
        ("dropuot = 0.2", "did you mean 'dropout'?"),
        ("mask_last = 0.2", "did you mean 'mask-last'?"),
        ("zzz = 1", "names of the flags"),
        ("width = \"wide\"", "width"),
        ("width = -1", "width"),
        ("width", "TOML"),
        ("heads = 3", "3 heads do not divide"),
        ("version = 2\n[settings]\nwidth = 8", "missing field `data`"),
        ("resume = \"run\"", "'resume' is not accepted in a settings file"),
        ("transfer = \"model\"", "a setting of `mipgpu finetune`"),
    ] {
        p.write("bad.toml", text);
        p.refused("train data --out run --config bad.toml", &[says]);
    }
    assert_eq!(p.names("."), ["bad.toml", "data", "log.csv"]);
}

#[test]
fn settings_out_of_range_are_refused_before_a_folder_is_made() {
    let p = Place::new();
    for (flags, says) in [
        ("--heads 3", "3 heads do not divide"),
        ("--heads 0", "--heads must be at least 1"),
        ("--width 0", "--width must be between 1 and 65536"),
        ("--batch 0", "--batch must be at least 1"),
        ("--epochs 0", "--epochs must be at least 1"),
        ("--eval-every 0", "--eval-every must be at least 1"),
        ("--threads 0", "--threads 0"),
        ("--dropout 1", "below 0.99998"),
        ("--dropout -0.1", "at least 0"),
        ("--attention-dropout 1.5", "below 0.99998"),
        ("--length 1", "between 2 and"),
        ("--mask 1.5", "between 0 and 1"),
        ("--mask-last nan", "between 0 and 1"),
        ("--beta2 1", "below 1"),
        ("--lr -1", "at least 0"),
        ("--lr inf", "at least 0"),
        ("--clip nan", "at least 0"),
        ("--model bert5rec", "bert4rec"),
        ("--seed -1", "--seed"),
        // Numbers that config.toml cannot store.
        ("--seed 18446744073709551615", "at most 9223372036854775807"),
        ("--targets 9223372036854775808", "at most 9223372036854775807"),
        // Sizes that no machine has memory for.
        ("--batch 100000000000", "at most"),
        ("--ffn-ratio 99999999999999", "4 TB"),
        ("--blocks 1000000", "at most 1024"),
        ("--width 99999999999", "between 1 and 65536"),
        ("--batch 8000000 --length 200 --ffn-ratio 50", "4 TB"),
    ] {
        p.refused(&format!("train data --out run {flags}"), &[says]);
        assert!(!p.path("run").exists(), "{flags} left a folder");
    }
    // Flags that other models, tasks or losses use.
    for (flags, says) in [
        ("--model sasrec --norm post", "--norm has no effect on --model sasrec"),
        ("--model sasrec --mask 0.4", "--mask has no effect on --model sasrec with --task next-item"),
        ("--model gru4rec --heads 2", "used by: bert4rec, sasrec"),
        ("--model caser --blocks 3", "--blocks has no effect"),
        ("--window 3", "used by: caser"),
        ("--targets 3", "used by: next-item"),
        ("--loss sampled-softmax --gbce-t 0.5", "--gbce-t has no effect"),
        ("--loss bce --log-q false", "--log-q has no effect: only --loss sampled-softmax"),
        ("--loss bpr --per-position true", "--per-position has no effect"),
        ("--loss sampled-softmax --sampler in-batch --negatives 9", "--negatives has no effect"),
        ("--exclude-seen true", "--exclude-seen has no effect: full softmax"),
        ("--table-update dense", "--table-update has no effect: full softmax"),
        ("--decay constant --final-lr 0.1", "--final-lr has no effect"),
        ("--mask-last 1 --mask 0.3", "--mask has no effect"),
        ("--patch-width 4", "--patch-width has no effect"),
        ("--device reference --precision bf16", "--precision bf16 has no effect: reference computes in f32"),
        ("--rating-width 4", "--rating-width has no effect"),
        ("--model mlp", "set --user-width"),
        ("--model mlp --user-width 8 --join sum", "--join has no effect"),
    ] {
        p.refused(&format!("train data --out run {flags}"), &[says]);
        assert!(!p.path("run").exists(), "{flags} left a folder");
    }
    p.well("train data --out thirty -q --length 20 --model gru4rec --width 30 --epochs 1");
    p.train("users", "--model mlp --user-width 8 --epochs 1");
    for (words, says) in [
        ("eval users --seed 3", "--seed has no effect: no negatives"),
        ("eval users --negative-sampling uniform", "--negative-sampling has no effect"),
        ("recommend users --all-users --split last-n --test-n 2", "--split has no effect: nothing is held out"),
        ("recommend users --history i1 --test-n 2", "--test-n has no effect: nothing is held out"),
        ("bench --model sasrec --mask 0.3", "--mask has no effect on --model sasrec"),
        ("bench --model sasrec --epochs 3", "--epochs has no effect on the time of an operation"),
        ("profile data --model sasrec --mask 0.3", "--mask has no effect on --model sasrec"),
        ("search --out s --seed 3 --over lr=0.1,0.2 -- train data", "--random"),
        ("experiment survey --report --retry", "cannot be used with"),
        ("search --out s --over mask=0.2,0.3 -- train data --model sasrec", "every trial is rejected"),
    ] {
        p.refused(words, &[says]);
    }
    assert!(!p.path("s").exists());
    // Known only after planning: everything created by then is removed.
    if std::path::Path::new("/proc/meminfo").exists() {
        let large = "--batch 500000 --length 2000 --width 16 --blocks 2";
        p.refused(&format!("train data --out run -q {large}"), &["GB of memory, this machine has", "--batch"]);
        assert!(!p.path("run").exists());
        p.train("run", "--epochs 1");
    }
}

/// Errors known only to the model or from the data: both are detected before the folder is created.
#[test]
fn settings_that_a_plan_refuses_leave_no_folder() {
    let p = Place::new();
    let mut log = String::from("user,item,rating,timestamp\n");
    (0..60).for_each(|i| log += &format!("u{},i{},{},{}\n", i % 6, i % 11, 1 + i % 5, 1_000_000_000 + i));
    p.write("rated.csv", log);
    p.write("genres.csv", (0..11).fold("item,genre\n".into(), |text: String, i| text + &format!("i{i},g{}\n", i % 3)));
    p.write("few.csv", "u,b,i\na,1,x\na,2,y\na,3,z\nb,1,y\nb,2,x\nb,3,z\n");
    p.well("import rated.csv --out rated -q --items genres.csv");
    p.well("import few.csv --out few --user-col u --item-col i --basket-col b -q");
    for (words, says) in [
        ("rated --model dacf --blocks 0", "--blocks to 1 or more"),
        ("rated --model dacf --user-width 8", "omit --user-width and --fields"),
        ("rated --model dacf --fields genre", "omit --user-width and --fields"),
        ("rated --model caser --window 25", "(--window 20), or lengthen the sequences (--length 25)"),
        ("few --task next-basket", "no user has two baskets to train on"),
        ("few --model sasrec --split last-n --test-n 1 --valid-n 1", "no user has 2 events to train on"),
    ] {
        p.refused(&format!("train {words} --out run {TINY}"), &[says, "hint"]);
        assert!(!p.path("run").exists(), "{words} left a folder");
    }
}

#[test]
fn data_and_runs_that_are_not_there_are_told_apart() {
    let p = Place::new();
    std::fs::create_dir(p.path("empty")).unwrap();
    for (words, says) in [
        ("train log.csv", "this is a file, not an imported data set"),
        ("train nowhere", "there is no such folder"),
        ("train empty", "no manifest.json"),
        ("train --resume nowhere", "no run is there"),
        ("train --resume data", "no run is there"),
        ("train data --resume run", "cannot be used with"),
        ("eval nowhere", "no such run folder"),
        ("eval data", "no run is there"),
        ("recommend empty --all-users", "no run is there"),
    ] {
        p.refused(words, &[says]);
    }
    p.refused("train log.csv", &["mipgpu import"]);
}

#[test]
fn a_folder_with_other_things_in_it_is_never_written_into() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let (data, run) = (p.read("data/items.safetensors"), p.read("run/items.safetensors"));
    // A data set, a run and exported vectors each have a file called items.safetensors.
    p.refused(&format!("train data --out data {TINY}"), &["the folder is not empty"]);
    p.refused("train data --out .", &["the folder is not empty"]);
    // A settings file may be called config.toml too, and a failing start must not remove it.
    std::fs::create_dir(p.path("exp")).unwrap();
    p.write("exp/config.toml", "epochs = 1\nwidth = 16\n");
    for flags in ["", "--batch 500000 --length 2000"] {
        p.refused(&format!("train data --config exp/config.toml --out exp {flags}"), &["the folder is not empty"]);
        assert_eq!(p.text("exp/config.toml"), "epochs = 1\nwidth = 16\n");
    }
    std::fs::create_dir(p.path("mine")).unwrap();
    p.refused("train data --out mine --width 16 --batch 500000 --length 2000", &["GB of memory"]);
    assert!(p.names("mine").is_empty(), "an empty folder that was there stays, as it was");
    p.refused("train data --out run", &["a run is there already", "--resume"]);
    p.refused("export run --out data", &["the folder holds a data set"]);
    p.refused("export run --out run", &["the folder holds a run"]);
    // A file is not a folder, and is kept.
    let log = p.read("log.csv");
    for words in ["export run --out log.csv", "export run --out log.csv/x", &format!("train data --out log.csv {TINY}")]
    {
        p.refused(words, &["log.csv: this is a file, not a folder", "--out"]);
    }
    assert!(log == p.read("log.csv"));
    assert!(data == p.read("data/items.safetensors") && run == p.read("run/items.safetensors"));
    p.well("eval run");
}

#[test]
fn a_resumed_run_takes_no_settings_and_no_split() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    for flag in ["--lr 0.1", "--mask-last 0.5", "--split last-n", "--test-n 2", "--cut 2001-09-20"] {
        let name = flag.split(' ').next().unwrap();
        p.refused(&format!("train --resume run {flag}"), &[&format!("{name} cannot be changed on --resume")]);
    }
}

#[test]
fn lists_and_histories_that_cannot_be_are_refused() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    for (words, says) in [
        ("eval run --k 0", "--k 0 is out of range"),
        ("eval run --negatives 1000", "catalogue has 40 items"),
        ("eval run --batch 0", "--batch"),
        ("eval run --split last-n --test-n 3", "leak"),
        ("recommend run --users u0 --k 0", "--k 0 is out of range"),
        ("recommend run --users u0,u777", "no user 'u777'"),
        ("recommend run --history ,", "the history is empty"),
        ("recommend run --history zz,yy", "knows none of the 2 items of the history"),
    ] {
        p.refused(words, &[says]);
    }
}

#[test]
fn losses_that_a_catalogue_cannot_give_are_refused() {
    let p = Place::new();
    let mut one = String::from("user,item,timestamp\n");
    (0..40).for_each(|i| one += &format!("u{},only,{}\n", i % 8, 1_000_000_000 + i));
    p.write("one.csv", one);
    p.well("import one.csv --out one -q");
    for (words, says) in [
        ("train data --out x --loss bce --negatives 0", "0 negatives"),
        ("train data --out x --loss gbce --gbce-t 1.5", "--gbce-t 1.5 is out of range"),
        ("train data --out x --loss sampled-softmax --unique-negatives true --negatives 40", "40 unique negatives"),
        ("train data --out x --loss bpr --sampler in-batch", "in-batch cannot be combined with bce"),
        ("train one --out x --loss bpr", "catalogue of 1 items"),
    ] {
        p.refused(words, &[says]);
        p.refused(words, &["hint"]);
    }
    // Rejected before there is a run.
    assert!(!p.path("x").exists());
}

#[test]
fn short_histories_and_items_without_training_are_counted_not_fatal() {
    let p = Place::new();
    // One user with a single event; an item that occurs only in last position.
    let log = String::from_utf8(p.read("log.csv")).unwrap() + "single,i1,1000000000\nu0,fresh,1900000000\n";
    p.write("more.csv", log);
    p.well("import more.csv --out more -q");
    let out = p.well(&format!("train more --out run --json -q --epochs 1 {TINY}"));
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let summary = &last["test"]["protocol"]["summary"];
    assert_eq!((&summary["train_only_users"], &summary["unseen_items"]), (&1.into(), &1.into()));
    assert_eq!(last["test"]["protocol"]["users"], 120, "the item that was never trained on is ranked, not left out");
    assert!(p.well("recommend run --users single --k 3").contains("from a history of 1 item"));
    p.well("eval run");
}

#[test]
fn a_split_that_leaves_nothing_is_refused() {
    let p = Place::new();
    p.write("short.csv", "user,item,timestamp\na,x,1\na,y,2\nb,y,1\nb,z,2\n");
    p.well("import short.csv --out short -q");
    p.refused("train short --out run", &["empty split", "hint"]);
    p.refused("train data --out run --split last-n --test-n 99", &["empty split", "hint"]);
    p.refused("train data --out run --split time --cut 1999-01-01", &["2001-09-09"]);
    assert!(!p.path("run").exists());
}

#[test]
fn what_negatives_are_told_is_not_ignored() {
    let p = Place::new();
    p.refused(&format!("train data --out run {TINY} --sampler popularity"), &["--sampler", "full softmax", "--loss"]);
    p.write("old.toml", "loss = \"sampled-popularity\"\n");
    p.write("both.toml", "loss = \"sampled-popularity\"\nsampler = \"uniform\"\n");
    p.refused(&format!("train data --out run {TINY} --config both.toml"), &["both.toml", "sampled-softmax"]);
    // The name in earlier versions keeps its meaning; a flag overrides the file.
    for (run, flags, sampler) in [("a", "--negatives 5", "popularity"), ("b", "--sampler in-batch", "in-batch")] {
        p.train(run, &format!("--config old.toml --epochs 1 {flags}"));
        let kept = String::from_utf8(p.read(&format!("{run}/config.toml"))).unwrap();
        assert!(
            kept.contains("loss = \"sampled-softmax\"") && kept.contains(&format!("sampler = \"{sampler}\"")),
            "{kept}"
        );
    }
}

/// An invalid line is answered with its error, the following ones are processed, and the exit code reports it.
#[test]
fn bad_lines_are_answered_and_the_stream_goes_on() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let lines = r#"{"id": 1, "history": ["i1"]}
hello
{"id": 2, "history": ["i2"], "k": 0}
{"id": 3, "histroy": ["i1"]}
{"id": 4, "history": ["i3"], "keys": 1}
{"id": 5, "history": ["i4"]}
"#;
    p.write("lines.jsonl", lines);
    let ask = |flags: &str| {
        let mut c = p.command(&format!("recommend run --stdin --k 3 {flags}"));
        c.stdin(std::fs::File::open(p.path("lines.jsonl")).unwrap());
        super::done(c.output().unwrap())
    };
    for flags in ["--json", "--json --batch 1"] {
        let done = ask(flags);
        assert_eq!(done.code, Some(1), "{done:?}");
        let said: Vec<serde_json::Value> = done.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(said.len(), 6, "{done:?}");
        for (at, id) in [(0, 1), (5, 5)] {
            assert!(said[at]["id"] == id && said[at]["items"].as_array().unwrap().len() == 3, "{}", said[at]);
        }
        for (at, id, says, hint) in [
            (1, serde_json::Value::Null, "not JSON", "history"),
            (2, 2.into(), "\"k\": 0 is not a list length", "from 1 up"),
            (3, 3.into(), "no list called \"history\"", "histroy"),
            (4, 4.into(), "unknown field 'keys'", "did you mean 'k'?"),
        ] {
            let line = &said[at];
            assert!(line["id"] == id && line["line"] == at + 1 && line["items"].is_null(), "{line}");
            assert!(line["error"].as_str().unwrap().contains(says), "{line}");
            assert!(line["hint"].as_str().unwrap().contains(hint), "{line}");
        }
        assert!(done.err.contains("line 2: not JSON") && done.err.contains("3 more invalid lines"), "{done:?}");
    }
    let done = ask("");
    assert!(
        done.code == Some(1) && done.out.contains("line 2: error: not JSON") && done.out.contains("4: error: unknown")
    );
    assert!(done.out.contains("5: from a history of 1 item\n"), "{done:?}");
}

#[test]
fn lists_made_from_nothing_are_counted() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    for flags in ["", " --json"] {
        let mut child = p.command(&format!("recommend run --stdin --k 3{flags}"));
        child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let lines = b"{\"history\": [\"zz\", \"yy\"]}\n{\"history\": [\"i1\"]}\n{\"history\": [\"xx\"]}\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines).unwrap();
        let done = super::done(child.wait_with_output().unwrap());
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.err.contains("skipped in the histories: 3 events") && done.err.contains("zz, yy, xx"), "{done:?}");
        assert!(done.err.contains("without an item that the model knows: 2 histories"), "{done:?}");
    }
}

#[test]
fn vectors_of_two_runs_are_not_mixed() {
    let p = Place::new();
    p.train("a", "--epochs 1");
    p.train("b", "--epochs 1 --seed 2");
    p.well("export a --out vectors --what items");
    let items = p.read("vectors/items.safetensors");
    for words in ["export b --out vectors --what users", "export a --last --out vectors --what users"] {
        p.refused(words, &["vectors of another run or checkpoint are in the folder", "(2 files)", "--force"]);
    }
    // The files of one do not overwrite those of the other.
    p.refused("export b --out vectors --what items", &["vectors/items.safetensors", "are in the folder", "--force"]);
    assert!(
        p.names("vectors") == ["items.parquet", "items.safetensors"] && items == p.read("vectors/items.safetensors")
    );
    p.well("export a --out vectors --what users");
    p.well("export b --out vectors --what users --force");
    assert_eq!(p.names("vectors"), ["users.parquet", "users.safetensors"]);
}

/// If a run ends below popularity, its report suggests settings that fit the run.
#[test]
fn a_run_below_popularity_is_told_what_may_help() {
    let p = Place::new();
    // Half of the users begin with two items that the other half ends with.
    let mut log = String::from("user,item,timestamp\n");
    for u in 0..60 {
        for t in 0..10 {
            let popular = if u % 2 == 0 { t < 2 } else { t >= 8 };
            let item = if popular { t % 2 } else { 2 + (u * 7 + t * 5) % 38 };
            log += &format!("u{u},i{item},{}\n", 1_000_000_000 + u * 600 + t * 86_400);
        }
    }
    p.write("walk.csv", log);
    p.well("import walk.csv --out walk -q");
    let below = |flags: &str| {
        let done = p.run(&format!("train walk --out run {TINY} --lr 0 --epochs 2 --eval-every 1 {flags}"));
        std::fs::remove_dir_all(p.path("run")).unwrap();
        assert_eq!(done.code, Some(0), "{done:?}");
        done
    };
    let done = below("");
    assert!(done.out.contains("times that of popularity"), "{done:?}");
    for says in ["after 8 steps, validation no longer rising", "try --epochs 500", "--model sasrec, which learns"] {
        assert!(done.err.contains(says), "'{says}' is missing: {done:?}");
    }
    let done = below("--model sasrec");
    assert!(done.err.contains("try --epochs 500") && !done.err.contains("--model sasrec, which"), "{done:?}");
}

#[test]
fn a_split_by_time_is_told_in_dates() {
    let p = Place::new();
    let done = p.run(&format!("train data --out run --epochs 1 {TINY} --split time --cut 2001-09-25"));
    assert!(done.err.contains("time: events from 2001-09-25 (1001376000) on are for the test"), "{done:?}");
    assert!(done.out.contains("split    time: events from 2001-09-25"), "{done:?}");
}
