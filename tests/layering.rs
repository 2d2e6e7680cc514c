//! Checks the layering of the modules: the `use crate::` lines of each module may name only the modules allowed here.

use std::{collections::BTreeSet, fs, path::Path};

/// (module, modules it may use). `base` may use none. Only `cli` prints or exits; lints in Cargo.toml deny it
/// elsewhere.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("mem", &["base"]),
    ("ops", &["base", "mem"]),
    ("backend", &["base", "mem", "ops"]),
    ("data", &["base"]),
    ("layers", &["base", "mem", "ops"]),
    ("models", &["base", "mem", "ops", "layers"]),
    ("tasks", &["base", "mem", "ops", "layers", "models", "data"]),
    ("eval", &["base", "data"]),
    ("train", &["base", "mem", "ops", "backend", "layers", "models", "tasks", "data", "eval"]),
    ("recommender", &["base", "backend", "data", "eval", "train"]),
    ("page", &["base"]),
    ("measure", &["base", "mem", "ops", "backend", "layers", "models", "tasks", "data", "eval", "train", "page"]),
    ("experiment", &["base", "data", "eval", "train", "page"]),
    (
        "cli",
        &[
            "base",
            "backend",
            "data",
            "eval",
            "train",
            "recommender",
            "experiment",
            "layers",
            "models",
            "tasks",
            "measure",
        ],
    ),
];

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Returns the text before the file's own tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

/// Returns every module named after `crate::`, alone or first in a group.
fn modules_used(text: &str) -> Vec<String> {
    // A link in a comment is not a use.
    let text: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + 7..];
        if !rest.starts_with('{') {
            used.push(word(rest));
            continue;
        }
        // In a group, the first word of each part at depth one.
        let (mut depth, mut start) = (0, true);
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if depth == 1 && start && (c.is_alphabetic() || c == '_') => {
                    used.push(word(&rest[i..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used
}

#[test]
fn every_module_uses_only_the_modules_below_it() {
    let modules: Vec<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (module, allowed) in ALLOWED {
        let mut files = Vec::new();
        sources(&Path::new("src").join(module), &mut files);
        assert!(!files.is_empty(), "src/{module} has no sources");
        for (path, text) in files {
            for used in modules_used(product(&text)) {
                seen += 1;
                if modules.contains(&used.as_str()) && used != *module && !allowed.contains(&used.as_str()) {
                    faults.push(format!("{path}: {module} uses {used}"));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found: modules_used no longer recognises the `use` lines");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_stays_in_its_modules_with_a_reason() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for (path, text) in files {
        let lines: Vec<&str> = product(&text).lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            let home = ["src/mem/", "src/backend/", "src/data/shard.rs"].iter().any(|r| path.starts_with(r));
            assert!(home, "{path}:{}: unsafe outside mem, backend and data/shard.rs", i + 1);
            // Above the block, or once in the head of the file if every block has the same reason.
            let near = lines[i.saturating_sub(6)..=i].iter().any(|l| l.contains("SAFETY"));
            let head = lines.iter().take_while(|l| !l.starts_with("use ")).any(|l| l.contains("SAFETY"));
            let reason = near || head;
            assert!(reason, "{path}:{}: unsafe without a SAFETY line", i + 1);
        }
    }
}

/// Modules that name `clap`: `cli`, and those below it whose settings derive their values on the command line.
const NAME_CLAP: [&str; 6] = ["cli", "data", "layers", "mem", "tasks", "train"];

#[test]
fn only_listed_modules_name_clap() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let names_clap =
        |text: &str| product(text).lines().any(|line| line.split("//").next().unwrap_or("").contains("clap"));
    let module = |path: &str| path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs").to_string();
    let found: BTreeSet<String> =
        files.iter().filter(|(_, text)| names_clap(text)).map(|(path, _)| module(path)).collect();
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), NAME_CLAP);
}

#[test]
fn modules_used_finds_groups_and_single_names() {
    let text = "use crate::{\n    base::{Error, Result},\n    mem::Span,\n};\nlet x = crate::ops::fits(&[]);";
    assert_eq!(modules_used(text), ["base", "mem", "ops"]);
}
