//! Every way to train works through the program, and the output has the requested form.

use mipgpu::models;
use serde_json::Value;

use super::{Place, TINY};

/// Returns the learning curve of a run.
fn curve(p: &Place, run: &str) -> Vec<Value> {
    let text = String::from_utf8(p.read(&format!("{run}/metrics.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(p: &Place, run: &str) -> Vec<f64> {
    curve(p, run).iter().map(|row| row["loss"].as_f64().unwrap()).collect()
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let p = Place::new();
    for (run, seed) in [("a", 5), ("b", 5), ("c", 6)] {
        p.train(run, &format!("--epochs 2 --eval-every 1 --seed {seed}"));
    }
    p.assert_same_run("a", "b");
    assert_ne!(losses(&p, "a"), losses(&p, "c"));
}

#[test]
fn the_reference_device_learns_what_the_cpu_learns() {
    let p = Place::new();
    let flags = "--epochs 3 --lr 0.01 --dropout 0.1 --attention-dropout 0.1 --blocks 1";
    p.train("cpu", &format!("--device cpu {flags}"));
    p.train("reference", &format!("--device reference {flags}"));
    let (cpu, reference) = (losses(&p, "cpu"), losses(&p, "reference"));
    assert_eq!(cpu.len(), 3);
    // The same draws with sums in another order: f32 rounding over about twenty steps.
    for (a, b) in cpu.iter().zip(&reference) {
        assert!((a - b).abs() < 1e-3, "{cpu:?} {reference:?}");
    }
    assert!(cpu[2] < cpu[0], "{cpu:?}");
}

#[test]
fn flags_go_over_the_settings_file_and_the_run_keeps_what_held() {
    let p = Place::new();
    p.write("s.toml", "width = 8\nepochs = 2\nnorm = \"pre\"\nmask-last = 0.5\nlength = 12\n");
    p.well("train data --out run -q --config s.toml --width 16 --warmup 3");
    let text = String::from_utf8(p.read("run/config.toml")).unwrap();
    for line in
        ["width = 16", "epochs = 2", "norm = \"pre\"", "mask-last = 0.5", "length = 12", "warmup = 3", "blocks = 2"]
    {
        assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
    }
    assert_eq!(losses(&p, "run").len(), 2);
}

#[test]
fn the_fastest_precision_is_measured_and_kept() {
    let p = Place::new();
    p.write("s.toml", "precision = \"fastest\"\n");
    for (run, flags) in [("flag", "--precision fastest"), ("file", "--config s.toml")] {
        let said = p.says(&format!("train data --out {run} {TINY} --epochs 1 --device cpu {flags}"));
        let line = said.lines().find_map(|l| l.strip_prefix("measured  a dense layer in bf16 takes ")).expect(&said);
        let ratio: f64 = line.split(' ').next().unwrap().parse().unwrap();
        let kept = String::from_utf8(p.read(&format!("{run}/config.toml"))).unwrap();
        // The ratio is printed with two digits: near the threshold either choice may be right.
        for (precision, possible) in [("bf16", ratio <= 0.9), ("f32", ratio >= 0.9)] {
            let chosen = kept.lines().any(|l| l == format!("precision = \"{precision}\""));
            assert!(possible || !chosen, "{ratio} {kept}");
        }
        assert!(!kept.contains("fastest"), "{kept}");
        p.well(&format!("eval {run} -q"));
    }
    // Repeating the run uses the stored precision and measures nothing.
    let again = p.says("train --config flag/config.toml --out again");
    assert!(!again.contains("measured"), "{again}");
    p.assert_same_run("flag", "again");
}

#[test]
fn every_kind_of_model_and_loss_trains_and_is_evaluated() {
    let p = Place::new();
    for (run, flags) in [
        ("uniform", "--loss sampled-uniform --negatives 15"),
        ("popular", "--loss sampled-popularity --negatives 15"),
        ("plain-logits", "--loss sampled-softmax --sampler popularity --negatives 15 --log-q false"),
        ("log-uniform", "--loss sampled-softmax --sampler log-uniform --negatives 15 --exclude-seen true"),
        ("in-batch", "--loss sampled-softmax --sampler in-batch"),
        ("own", "--loss sampled-softmax --per-position true --negatives 10"),
        ("bce", "--loss bce --negatives 1"),
        ("gbce", "--loss gbce --negatives 15 --gbce-t 0.5 --sampler popularity"),
        ("bpr", "--loss bpr --negatives 4 --exclude-seen true"),
        ("pre", "--norm pre"),
        ("projected", "--projection true"),
        ("both", "--norm pre --projection true --heads 4 --blocks 1 --decay linear"),
        ("bag", "--blocks 0 --decay constant"),
        ("last-only", "--mask-last 1"),
    ] {
        p.train(run, &format!("--epochs 8 --lr 0.01 {flags}"));
        let losses = losses(&p, run);
        assert!(losses.iter().all(|l| l.is_finite()) && losses[7] < losses[0], "{run}: {losses:?}");
        let report: Value = serde_json::from_str(&p.well(&format!("eval {run} --json --no-slices"))).unwrap();
        let ndcg = report["full"]["model"]["at"][2]["ndcg"].as_f64().unwrap();
        // The final report of `train` agrees with `eval`.
        let kept: Value = serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap();
        let at_10 = kept["full"]["model"]["at"].as_array().unwrap().iter().find(|at| at["k"] == 10).unwrap();
        assert_eq!(at_10["ndcg"].as_f64().unwrap(), ndcg, "{run}");
    }
}

/// The users walk through the items: the next item depends on the sequence, not on the counts.
#[test]
fn losses_with_negatives_learn_what_counts_do_not_tell() {
    let p = Place::new();
    for (run, flags) in [
        ("in-batch", "--loss sampled-softmax --sampler in-batch"),
        ("own", "--loss sampled-softmax --sampler popularity --per-position true --negatives 10"),
        ("gbce", "--loss gbce --negatives 4"),
        ("bpr", "--loss bpr --negatives 4"),
    ] {
        p.train(run, &format!("--epochs 150 --lr 0.01 --eval-every 150 {flags}"));
        let report: Value = serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap();
        let ndcg = |of: &str| report["full"][of]["at"][1]["ndcg"].as_f64().unwrap();
        assert!(ndcg("model") > 2.0 * ndcg("popularity"), "{run}: {} against {}", ndcg("model"), ndcg("popularity"));
    }
}

#[test]
fn patience_ends_a_run_that_no_longer_improves() {
    let p = Place::new();
    // With a learning rate of 0 nothing improves: all validations are equal, none is better than the first, and the
    // newest is kept.
    let out = p.train("run", "--epochs 30 --lr 0 --eval-every 1 --patience 3 --json");
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["epochs"], &last["best"]["epoch"]), (&4.into(), &4.into()));
    assert_eq!(curve(&p, "run").len(), 4);
}

#[test]
fn splits_by_time_and_by_number_reach_from_training_to_evaluation() {
    let p = Place::new();
    for (run, flags, kind) in [
        ("time", "--split time --cut 2001-09-25", "time"),
        ("two-cuts", "--split time --cut 2001-09-25 --valid-cut 2001-09-20", "time"),
        ("last", "--split last-n --test-n 2 --valid-n 2", "last-n"),
        ("no-validation", "--split last-n --test-n 2 --valid-n 0", "last-n"),
    ] {
        p.train(run, &format!("--epochs 1 {flags}"));
        // The run stores its split: no flag is needed to repeat it.
        let report: Value = serde_json::from_str(&p.well(&format!("eval {run} --json"))).unwrap();
        assert_eq!(report["protocol"]["split"]["kind"], kind, "{run}");
        let kept: Value = serde_json::from_slice(&p.read(&format!("{run}/report.json"))).unwrap();
        assert_eq!(report["protocol"]["summary"], kept["protocol"]["summary"], "{run}");
    }
    // Without validation events, no number is reported.
    let done = p.run(&format!("train data --out silent --json --epochs 1 {TINY} --split last-n --valid-n 0"));
    assert!(done.out.lines().last().unwrap().contains(r#""best":null"#), "{done:?}");
    p.refused("eval no-validation --part valid", &["empty split"]);
}

/// Heads belong to attention: models without it accept every width.
#[test]
fn widths_that_heads_do_not_divide_are_for_models_without_heads() {
    let p = Place::new();
    for model in models::ALL.iter().filter(|model| !model.uses.contains(&"heads") && model.takes.items()) {
        let name = model.name;
        let model = if model.users { format!("{name} --user-width 6") } else { name.to_string() };
        let done = p.run(&format!("train data --out {name} --model {model} --epochs 1 --width 10 --length 20"));
        assert!(done.code == Some(0) && !done.err.contains("heads"), "{model}: {done:?}");
        p.well(&format!("eval {name}"));
    }
    p.refused("train data --out run --model sasrec --width 10", &["4 heads do not divide a width of 10"]);
}

#[test]
fn json_is_one_object_a_line_and_quiet_says_nothing() {
    let p = Place::new();
    let commands = [
        ("import log.csv --out again --force", Some("import")),
        (&format!("train data --out run --epochs 2 --eval-every 1 {TINY}"), None),
        ("eval run --negatives 5", Some("eval")),
        ("recommend run --users u0,u1 --k 3", None),
        ("recommend run --history i1,nonsense --k 3", None),
        ("export run --out vectors", Some("export")),
        ("train --resume run", Some("done")),
    ];
    for (words, last_event) in commands {
        let done = p.run(&format!("{words} --json -q"));
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{words}");
        let objects: Vec<Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!objects.is_empty() && objects.iter().all(Value::is_object), "{words}: {}", done.out);
        if let Some(event) = last_event {
            assert_eq!(objects.last().unwrap()["event"], event, "{words}");
        }
        if words.starts_with("train data") {
            let events: Vec<&str> = objects.iter().map(|o| o["event"].as_str().unwrap()).collect();
            assert_eq!(events, ["ready", "epoch", "epoch", "done"]);
        }
    }
    // Without -q, messages go to stderr and only results to stdout.
    let done = p.run("recommend run --history i1,nonsense --k 3");
    assert!(done.err.contains("mipgpu: warning:") && !done.out.contains("warning"), "{done:?}");
}

/// Programs read warnings and errors of `train`, `finetune` and `eval` as events; people read them on stderr.
#[test]
fn warnings_and_errors_of_runs_are_events_too() {
    let p = Place::new();
    let objects = |out: &str| -> Vec<Value> { out.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let train = format!("train data --epochs 1 --lr 0 --json {TINY}");
    let done = p.run(&format!("{train} --out run"));
    let told = objects(&done.out);
    assert!(done.code == Some(0) && told.last().unwrap()["event"] == "done", "{done:?}");
    let warnings = told.iter().filter(|event| event["event"] == "warning");
    let warnings: Vec<&str> = warnings.map(|event| event["text"].as_str().unwrap()).collect();
    assert!(warnings.contains(&"with --lr 0 no weight changes, and nothing is learned"), "{done:?}");
    let printed: Vec<&str> = done.err.lines().filter_map(|line| line.strip_prefix("mipgpu: warning: ")).collect();
    assert_eq!(warnings, printed);
    let quiet = p.run(&format!("{train} --out quiet -q"));
    assert!(quiet.err.is_empty() && objects(&quiet.out).iter().all(|event| event["event"] != "warning"), "{quiet:?}");
    // An error is one event, even of a command line that is not understood.
    for words in [
        "eval none --json",
        "--json -q train none --out new",
        "finetune --from none data --json",
        "train data --out new --json --no-such-flag",
    ] {
        let done = p.run(words);
        let told = objects(&done.out);
        assert!(done.code == Some(1) && told.len() == 1 && told[0]["event"] == "error", "{words}: {done:?}");
        let hint = told[0]["hint"].as_str().map_or(String::new(), |hint| format!("\n  hint: {hint}"));
        let text = format!("mipgpu: error: {}{hint}\n", told[0]["what"].as_str().unwrap());
        assert!(done.err.ends_with(&text), "{words}: {done:?}");
    }
    // Without --json, and in other commands, stdout has only results.
    p.refused("eval none", &["none"]);
    p.refused("recommend none --all-users --json", &["none"]);
}

#[test]
fn help_and_version_are_results() {
    let p = Place::new();
    for words in
        ["--help", "--version", "help train", "import --help", "train -h", "eval -h", "recommend -h", "export -h"]
    {
        assert!(p.well(words).contains("mipgpu"), "{words}");
    }
    assert!(!p.well("--help").contains("fine-tune"), "help promises what is not there");
    // The usual settings fit two screens; `--help-all` shows all of them.
    for command in ["train", "finetune", "profile"] {
        let (usual, all) = (p.well(&format!("{command} --help")), p.well(&format!("{command} --help-all")));
        assert!(usual.lines().count() < 120, "{command} --help has {} lines", usual.lines().count());
        let settings = serde_json::json!(mipgpu::train::Settings::default());
        for name in settings.as_object().unwrap().keys() {
            assert!(all.contains(&format!("--{name}")), "{command} --help-all leaves out --{name}");
        }
        assert!(usual.contains("--width") && !usual.contains("--beta2") && usual.contains("--help-all"), "{usual}");
    }
    // Every command that has more to show names the flag for it, and no help names the parser's own.
    for (command, text) in [
        ("train", "Print the usual flags; all flags: --help-all"),
        ("import", "Print help; descriptions of values: --help-all"),
        ("compare", "Print help\n"),
    ] {
        for flag in ["-h", "--help"] {
            let help = p.well(&format!("{command} {flag}"));
            assert!(help.contains(text) && !help.contains("see more with"), "{command} {flag}: {help}");
        }
        assert!(p.well(&format!("{command} --help-all")).contains("-h, --help"), "{command} --help-all");
    }
    // Numbers, shares and choices have placeholders of their own.
    let all = p.well("train --help-all");
    for flag in
        ["--width <N>", "--lr <X>", "--mask <SHARE>", "--dilations <N,N,…>", "--fields <NAMES>", "--norm <PLACE>"]
    {
        assert!(all.contains(flag), "{flag}: {all}");
    }
    let words = all.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("pairwise losses (bce, gbce and bpr)") && !words.contains('{'), "{all}");
    for (n, flag) in all.split("\n      --").enumerate() {
        assert!(n == 0 || flag.matches("[default").count() <= 1, "two defaults: {flag}");
    }
    // Common names in the field are aliases.
    let train = |run: &str, flags: &str| p.well(&format!("train data --out {run} -q --epochs 1 --warmup 4 {flags}"));
    train("theirs", "--dim 16 --max-len 20 --batch-size 8 --layers 1 --max-grad-norm 1 --learning-rate 0.01");
    train("ours", "--width 16 --length 20 --batch 8 --blocks 1 --clip 1 --lr 0.01");
    p.assert_same_run("theirs", "ours");
    // Shells and man read the same definitions.
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(p.well(&format!("completions {shell}")).contains("mipgpu"), "{shell}");
    }
    p.write("completions.bash", p.well("completions bash"));
    let complete = "source completions.bash; COMP_WORDS=(mipgpu tra); COMP_CWORD=1; \
                    _mipgpu mipgpu tra mipgpu; echo ${COMPREPLY[@]}";
    let out = std::process::Command::new("bash").args(["-c", complete]).current_dir(p.path(".")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "train", "{out:?}");
    p.well("man --out man -q");
    assert!(p.text("man/mipgpu-train.1").contains("weight\\-decay"), "{}", p.text("man/mipgpu-train.1"));
    // Every setting shows its default.
    let help = p.well("train --help-all");
    for flag in ["--width", "--lr", "--mask-last", "--patience", "--seed"] {
        let place = help.find(&format!("      {flag} ")).unwrap_or_else(|| panic!("{flag} is missing"));
        let next = help[place + 8..].find("\n      --").map_or(help.len(), |n| place + 8 + n);
        assert!(help[place..next].contains("[default:"), "{}", &help[place..next]);
    }
}
