//! Hints match the command that was typed, and settings without an effect are rejected.

use super::{Place, TINY};

/// Runs a command that must be rejected; returns the hint.
fn hint(p: &Place, words: &str) -> String {
    let done = p.run(words);
    assert_eq!(done.code, Some(1), "{words}: {done:?}");
    let at = done.err.find("hint: ").unwrap_or_else(|| panic!("{words}: no hint: {done:?}"));
    done.err[at..].trim().to_string()
}

#[test]
fn data_that_are_not_there_are_answered_by_who_asks() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    p.write("grid.toml", "");
    for words in [
        "train gone",
        "finetune --from run gone",
        "split gone --random 0.3 --out two",
        "profile gone",
        "search --out s --over lr=1,2 -- train gone",
        "eval run gone",
        "recommend run --all-users --data gone",
        "export run --out v --data gone",
        "clicks --from run gone",
    ] {
        let hint = hint(&p, words);
        assert!(hint.contains("mipgpu import LOG --out DIR") && !hint.contains("RUN"), "{words}: {hint}");
    }
    // The run's data have moved: each command's hint says how to specify their location.
    std::fs::rename(p.path("data"), p.path("moved")).unwrap();
    for (words, says, again) in [
        ("eval run", "mipgpu eval run DATA", "eval run moved"),
        ("recommend run --all-users", "mipgpu recommend run --data DIR", "recommend run --all-users --data moved"),
        ("export run --out v", "mipgpu export run --data DIR", "export run --out v --data moved"),
        ("clicks --from run", "mipgpu clicks --from run DATA", ""),
        ("compare run run", "`data` in run/config.toml", ""),
        ("train --resume run", "config.toml", ""),
    ] {
        let hint = hint(&p, words);
        assert!(hint.contains(says), "{words}: {hint}");
        if !again.is_empty() {
            p.well(again);
        }
    }
}

#[test]
fn a_log_in_place_of_a_data_set_is_answered_with_the_commands_that_import_it() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    std::fs::copy(p.path("log.csv"), p.path("my log.csv.gz")).unwrap();
    for (words, says) in [
        ("train log.csv", "mipgpu import log.csv --out data/log && mipgpu train data/log"),
        ("profile log.csv", "mipgpu import log.csv --out data/log && mipgpu profile data/log"),
        ("finetune --from run log.csv", "mipgpu import log.csv --out data/log && mipgpu finetune --from run data/log"),
        ("eval run log.csv", "mipgpu import log.csv --out data/log && mipgpu eval run data/log"),
        (
            "recommend run --all-users --data log.csv",
            "mipgpu import log.csv --out data/log && mipgpu recommend run --data data/log",
        ),
        ("split log.csv --random 0.3 --out two", "mipgpu import log.csv --out data/log; then give data/log"),
        // Not there, but named like a log.
        ("train logs/gone.tsv", "mipgpu import logs/gone.tsv --out data/gone && mipgpu train data/gone"),
        ("train gone.inter.gz", "mipgpu import gone.inter.gz --out data/gone && mipgpu train data/gone"),
    ] {
        let hint = hint(&p, words);
        assert_eq!(hint, format!("hint: import the log first: {says}"), "{words}");
    }
    let done = super::done(p.command("train").arg("my log.csv.gz").output().unwrap());
    assert!(
        done.err.contains("mipgpu import 'my log.csv.gz' --out 'data/my log' && mipgpu train 'data/my log'"),
        "{done:?}"
    );
    // The commands work as they are shown.
    p.well("import log.csv --out data/log -q");
    p.well(&format!("train data/log --out next -q --epochs 1 {TINY}"));
}

#[test]
fn a_transfer_that_does_not_fit_names_what_to_omit() {
    let p = Place::new();
    p.train("base", "--epochs 1");
    for (flags, says, never) in [
        // Tables alone are already the request, so they are not offered as a solution.
        ("--transfer embedding --length 10", "omit --length, or use --transfer none", "--transfer embedding"),
        ("--transfer model --length 10", "omit --length, or use --transfer none", "embedding"),
        ("--transfer model --ffn-ratio 2", "omit --ffn-ratio: the base's layers were trained", "--length"),
        ("--transfer embedding --width 32", "omit --width", "--transfer embedding"),
        ("--transfer patch --length 10", "omit --length", "--width"),
    ] {
        let hint = hint(&p, &format!("finetune --from base data --out new {flags}"));
        assert!(hint.contains(says) && !hint.contains(never), "{flags}: {hint}");
    }
    // The hints work.
    p.well("finetune --from base data --out a -q --epochs 1 --transfer none --length 10");
    p.well("finetune --from base data --out b -q --epochs 1 --transfer embedding --ffn-ratio 2");
    // `--resume` belongs to `train`.
    let again = hint(&p, "finetune --from base data --out a");
    assert!(again.contains("mipgpu train --resume a"), "{again}");
    let frozen = hint(&p, "train data --out new --freeze network");
    assert!(frozen.contains("finetune --from RUN --freeze network"), "{frozen}");
}

#[test]
fn settings_that_do_nothing_are_told() {
    let p = Place::new();
    p.refused(&format!("train data --out run {TINY} --mask 0"), &["--mask 0 masks nothing", "--mask-last 1"]);
    let says = |flags: &str, says: &[&str]| {
        let done = p.run(&format!("train data --out run {TINY} --epochs 2 --eval-every 1 {flags}"));
        assert_eq!(done.code, Some(0), "{flags}: {done:?}");
        std::fs::remove_dir_all(p.path("run")).unwrap();
        says.iter().for_each(|word| assert!(done.err.contains(word), "{flags}: '{word}' is missing: {}", done.err));
        done.err
    };
    says("--lr 0", &["warning: with --lr 0 no weight changes"]);
    says("--patience 2", &["warning: --patience 2 cannot end this run early", "2 validations"]);
    let none = "--split last-n --valid-n 0 --patience 3";
    says(none, &["warning: --patience 3 has no effect: the split has no validation part"]);
    let quiet = says("--patience 1", &[]);
    assert!(!quiet.contains("warning: --"), "{quiet}");
    p.train("rated", "--epochs 1");
    for (words, says) in [
        ("eval rated --threads 0", "--threads 0"),
        ("recommend rated --all-users --threads 0", "--threads 0"),
        ("compare rated rated --threads 0", "--threads 0"),
        ("export rated --out v --threads 0", "--threads 0"),
    ] {
        p.refused(words, &[says]);
    }
    // Results do not depend on the threads.
    for words in ["eval rated --json", "recommend rated --all-users --json", "compare rated rated --json"] {
        assert_eq!(p.well(&format!("{words} --threads 1")), p.well(&format!("{words} --threads 2")), "{words}");
    }
    p.well("export rated --out one --threads 1");
    p.well("export rated --out two --threads 2");
    assert!(p.read("one/users.safetensors") == p.read("two/users.safetensors"));
}

#[test]
fn lists_longer_than_the_catalogue_are_cut_with_a_word() {
    let p = Place::new();
    p.train("run", "--epochs 1");
    let word = "--k 41: more than the 40 items of the catalogue";
    for (words, length) in [
        ("eval run --k 41 --json", "\"k\":40"),
        ("compare run run --k 41 --json", "NDCG@40"),
        ("recommend run --history i1 --k 41 --keep-seen --json", "\"short\""),
    ] {
        let done = p.run(words);
        assert!(done.code == Some(0) && done.err.contains(word), "{words}: {done:?}");
        assert_eq!(done.out.contains(length), !words.starts_with("recommend"), "{words}: {done:?}");
    }
}

/// The numbers of the estimate, compared with a worked example.
#[test]
fn a_large_catalogue_is_told_what_the_full_softmax_costs() {
    let p = Place::new();
    let mut log = String::from("user,item,timestamp\n");
    for i in 0..100_100u32 {
        log += &format!("u{},i{i},{}\n", i % 143, 1_000_000_000 + i);
    }
    p.write("many.csv", log);
    p.well("import many.csv --out many -q");
    let small = "--width 8 --heads 2 --length 20 --blocks 1 --epochs 1 --batch 128";
    let done = p.run(&format!("train many --out full {small}"));
    assert_eq!(done.code, Some(0), "{done:?}");
    // 143 users with 698 training events, of which 20 are read: 4 of them are masked in 85 % of the sequences,
    // otherwise 1.
    let flop = 8.0 * 143.0 * (0.85 * 4.0 + 0.15) * 100_100.0 * 8.0 / 1e9;
    for says in [
        "full softmax over 100,100 items is slow on the CPU".to_string(),
        format!("({flop:.1} GFLOP per epoch"),
        "--loss sampled-softmax --sampler popularity --negatives 512".into(),
    ] {
        assert!(done.err.contains(&says), "'{says}' is missing: {}", done.err);
    }
    let sampled = p.run(&format!("train many --out sampled {small} --loss sampled-softmax --negatives 64"));
    assert!(sampled.code == Some(0) && !sampled.err.contains("full softmax over"), "{sampled:?}");
}
