//! From a CSV log to lists of items: import, train, evaluate, recommend.
//!
//! `cargo run --release --example lists -- LOG.csv OUT` (without arguments: the built-in MovieLens sample, 3 epochs)

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use mipgpu::{Dataset, ImportOptions, Request, Run, Training};

fn main() -> mipgpu::Result<()> {
    let mut words = std::env::args().skip(1).map(PathBuf::from);
    let (log, out) = (words.next(), words.next().unwrap_or("lists-example".into()));
    let data = match log {
        Some(log) => {
            let summary = mipgpu::import(&[log], &out.join("data"), &ImportOptions::default(), &mut |notice| {
                eprintln!("{notice}");
            })?;
            eprintln!("{} interactions", summary.interactions);
            Dataset::open(&out.join("data"))?
        }
        None => mipgpu::import_sample(&out.join("data"))?,
    };
    let training = Training::new().set("epochs", 3)?.set("width", 64)?.set("length", 50)?;
    let trained = training.run(&data, &out.join("run"))?;
    eprintln!("{}", trained.evaluation.text());
    lists(&out.join("run"), &data)
}

/// Prints five items for the first three users of the data.
fn lists(run: &Path, data: &Dataset) -> mipgpu::Result<()> {
    let mut run = Run::open(run)?;
    let request = |user: &str| Request { k: Some(5), ..Request::user(user) };
    for answer in run.recommend(data.user_keys().keys().take(3).map(request).collect())? {
        match answer {
            Ok(list) => println!("{}", list.json()),
            Err(rejected) => eprintln!("{}", rejected.error),
        }
    }
    Ok(())
}
