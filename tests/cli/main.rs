/*! Tests the program from the outside: every test runs the built binary in a temporary folder and checks exit codes,
output and files.

| module | subject |
|---|---|
| `baskets` | baskets from import to recommendation |
| `bench` | times of operations |
| `checkpoints` | files that do not match or were altered |
| `compare` | comparisons of runs |
| `documentation` | README.md and docs/ |
| `endings` | runs that end early |
| `errors` | the wording of errors |
| `eval` | metrics against brute force |
| `finetune` | what runs inherit from others |
| `hints` | hints that match the command |
| `items` | item keys found by title |
| `library` | the crate without the program |
| `modes` | every way to train, and the forms of output |
| `profile` | where the time of steps goes |
| `python` | the scripts of examples/python |
| `ratings` | runs that predict ratings |
| `recommend` | lists and exported files |
| `repeats` | users with repeated items |
| `requests` | flags, settings and data that are rejected |
| `resume` | killed runs |
| `runs` | the list of runs |
| `scale_page` | the page of benchmarks |
| `search` | trials of many settings |
*/

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../evaluation/mod.rs"]
mod evaluation;

mod baskets;
mod bench;
mod checkpoints;
mod clicks;
mod compare;
mod devices;
mod documentation;
mod endings;
mod errors;
mod eval;
mod experiment;
mod finetune;
mod hints;
mod items;
mod library;
mod modes;
mod profile;
mod python;
mod ratings;
mod recommend;
mod repeats;
mod requests;
mod resume;
mod runs;
mod scale_page;
mod search;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A temporary folder with `log.csv` imported as `data`: 120 users who walk through 40 items, one step per day.
struct Place(tempfile::TempDir);

/// The result of a program run: exit code, standard output, standard error.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Settings of a model that trains in a moment.
const TINY: &str = "--width 16 --length 20 --warmup 4 --batch 16";

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let mut log = String::from("user,item,timestamp\n");
        for u in 0..120 {
            for t in 0..(6 + u % 30) {
                log += &format!("u{u},i{},{}\n", (u * 7 + t * (1 + u % 3)) % 40, 1_000_000_000 + u * 600 + t * 86_400);
            }
        }
        place.write("log.csv", log);
        place.well("import log.csv --out data -q");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Returns the names in a folder.
    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.path(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Copies a folder of plain files.
    fn copy(&self, from: &str, to: &str) {
        fs::create_dir(self.path(to)).unwrap();
        for name in self.names(from) {
            fs::copy(self.path(from).join(&name), self.path(to).join(&name)).unwrap();
        }
    }

    fn command(&self, words: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mipgpu"));
        c.current_dir(self.0.path()).args(words.split_whitespace()).stdin(Stdio::null());
        // `auto` must be the CPU on every machine.
        c.env("CUDA_VISIBLE_DEVICES", "");
        c
    }

    fn run(&self, words: &str) -> Done {
        done(self.command(words).output().unwrap())
    }

    /// Runs a command that must succeed; returns standard output.
    fn well(&self, words: &str) -> String {
        let done = self.run(words);
        assert_eq!(done.code, Some(0), "{words}: {done:?}");
        done.out
    }

    /// Runs a command that must succeed; returns all output.
    fn says(&self, words: &str) -> String {
        let done = self.run(words);
        assert_eq!(done.code, Some(0), "{words}: {done:?}");
        done.out + &done.err
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Runs a command that must be rejected as a user error with all of `says`; standard output must be empty.
    fn refused(&self, words: &str, says: &[&str]) {
        let done = self.run(words);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{words}: {done:?}");
        assert!(done.err.starts_with("mipgpu: error: ") || done.err.contains("\nmipgpu: error: "), "{words}: {done:?}");
        assert!(!done.err.contains("panicked") && !done.err.contains("os error"), "{words}: {done:?}");
        for word in says {
            assert!(done.err.contains(word), "{words}: '{word}' is missing in: {}", done.err);
        }
    }

    /// Runs `mipgpu train` with a tiny model on the data, quietly.
    fn train(&self, run: &str, flags: &str) -> String {
        self.well(&format!("train data --out {run} -q {TINY} {flags}"))
    }

    /// Asserts that two runs have the same weights and the same learning curve, byte for byte.
    fn assert_same_run(&self, a: &str, b: &str) {
        for file in ["last.safetensors", "best.safetensors", "metrics.jsonl", "report.json"] {
            assert!(
                self.read(&format!("{a}/{file}")) == self.read(&format!("{b}/{file}")),
                "{file} of {a} and {b} differ"
            );
        }
    }
}

fn done(output: Output) -> Done {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Asserts that a folder has no incomplete files.
fn assert_no_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("tmp") && !name.starts_with('.'), "{name} was left in {}", folder.display());
    }
}
