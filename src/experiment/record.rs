//! The record next to a run folder (`NAME.json`): state and inputs of its job. It is written before the job starts and
//! again when it has ended.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{job::RunJob, results::RunState, trials::digest};
use crate::base::{Error, Result, atomic::write_atomically, error::IoContext};

/// The stage of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Started. If no process runs it, it was interrupted.
    Running,
    Done,
    Failed,
}

/// The record of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`RunJob::key`] of the job, which detects a changed grid.
    pub(super) key: String,
    pub(super) stage: Stage,
    /// The error of a failed job.
    pub(super) why: String,
    /// Whether the training had ended, so that an evaluation failed.
    #[serde(default)]
    pub(super) trained: bool,
    /// Digest of the evaluations.
    #[serde(default)]
    asked: String,
    /// Total seconds of its processes that were not stopped.
    pub seconds: f64,
    /// Warnings of its processes.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Program version and device.
    #[serde(default)]
    pub machine: String,
    /// The command of its training, for readers.
    train: Vec<String>,
}

impl Record {
    /// Creates the record of a job that starts, or continues after the record `before`.
    pub(super) fn begin(job: &RunJob, before: Option<Record>) -> Record {
        let before = before.filter(|before| before.key == job.key);
        let (seconds, warnings) = before.map_or((0.0, Vec::new()), |before| (before.seconds, before.warnings));
        Record {
            warnings,
            key: job.key.clone(),
            stage: Stage::Running,
            why: String::new(),
            trained: false,
            asked: questions(job),
            seconds,
            machine: job.machine.clone(),
            train: job.train.clone(),
        }
    }

    pub(super) fn write(&self, job: &RunJob) -> Result<()> {
        write_atomically(&job.record_path(), |f| writeln!(f, "{:#}", serde_json::json!(self)))
    }
}

fn questions(job: &RunJob) -> String {
    digest(serde_json::json!(job.then).to_string())[..16].into()
}

/// Reads the record of a job. Returns `None` if the job has never started.
///
/// # Errors
/// The record cannot be read.
pub fn record_of(job: &RunJob) -> Result<Option<Record>> {
    let path = job.record_path();
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).at_path(&path)?;
    let record = serde_json::from_str(&text).map_err(|e| {
        Error::user(format!("{}: {e}", path.display()))
            .hint(format!("remove it and {} to repeat this run", job.run().display()))
    })?;
    Ok(Some(record))
}

/// Returns whether the training of a job is complete, including its own evaluation.
pub(super) fn is_trained(job: &RunJob) -> bool {
    job.run().join("report.json").exists()
}

/// Returns the state of a job that no process runs.
pub fn state_of(job: &RunJob) -> RunState {
    let record = match record_of(job) {
        Ok(None) => return RunState::Waiting,
        Ok(Some(record)) => record,
        Err(e) => return RunState::Failed(e.to_string()),
    };
    if record.key != job.key && record.stage == Stage::Failed && !record.trained {
        // The failed job has produced nothing that could be lost.
        return RunState::Waiting;
    }
    if record.key != job.key {
        return RunState::Stale(changed(&record.train, &job.train));
    }
    match record.stage {
        Stage::Done if is_trained(job) && job.leaves.iter().all(|f| f.exists()) => RunState::Done,
        Stage::Done | Stage::Running => RunState::Waiting,
        // Other evaluations may succeed.
        Stage::Failed if record.trained && record.asked != questions(job) => RunState::Waiting,
        Stage::Failed => RunState::Failed(record.why),
    }
}

/// Flags that name devices or folders and do not affect the result.
const PLACES: [&str; 3] = ["--device", "--out", "--from"];

/// Describes the differences between two commands: `--epochs 3 -> 5`.
fn changed(old: &[String], new: &[String]) -> String {
    let flags = |args: &[String]| -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (i, arg) in
            args.iter().enumerate().filter(|(_, arg)| arg.starts_with("--") && !PLACES.contains(&arg.as_str()))
        {
            let value = args.get(i + 1).filter(|v| !v.starts_with("--")).cloned();
            found.insert(arg.clone(), value.unwrap_or_default());
        }
        found
    };
    let (old, new) = (flags(old), flags(new));
    let mut all: Vec<&String> = old.keys().chain(new.keys()).collect();
    all.sort();
    all.dedup();
    let side =
        |v: Option<&String>| v.map_or("(none)".to_string(), |v| if v.is_empty() { "set".into() } else { v.clone() });
    let differences: Vec<String> = all
        .into_iter()
        .filter(|flag| old.get(*flag) != new.get(*flag))
        .map(|flag| format!("{flag} {} -> {}", side(old.get(flag)), side(new.get(flag))))
        .collect();
    if differences.is_empty() { "its data, its base or a default".into() } else { differences.join(", ") }
}

/// Removes all files of a job, including its run folder.
///
/// # Errors
/// A file cannot be removed.
pub fn forget(job: &RunJob) -> Result<()> {
    remove(&job.run())?;
    remove(&job.record_path())
}

/// Prepares a failed job to continue from its last checkpoint. It restarts from scratch if its loss was not finite or
/// its record cannot be read.
///
/// # Errors
/// A file cannot be removed.
pub(super) fn try_again(job: &RunJob) -> Result<()> {
    match record_of(job) {
        Ok(Some(record)) if record.trained || !record.why.contains("not finite") => Ok(()),
        _ => forget(job),
    }
}

/// Removes a file or a folder if it exists.
pub(super) fn remove(path: &Path) -> Result<()> {
    match path.is_dir() {
        true => fs::remove_dir_all(path).at_path(path),
        false if path.exists() => fs::remove_file(path).at_path(path),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let old = ["train", "d", "--epochs", "3", "--lr", "0.1", "--skip"].map(String::from);
        let new = ["train", "d", "--epochs", "5", "--lr", "0.1", "--width", "8"].map(String::from);
        assert_eq!(changed(&old, &new), "--epochs 3 -> 5, --skip set -> (none), --width (none) -> 8");
        assert!(changed(&old, &old).contains("data"));
    }
}
