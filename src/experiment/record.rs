//! What stands beside a run folder (`NAME.json`): how far its job came, and for what it was made. Written before the job begins
//! and again when it has ended.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{job::RunJob, results::RunState, trials::digest};
use crate::base::{Error, Result, atomic::write_atomically, error::IoContext};

/// How far a job came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Begun; if nobody is at it, it was interrupted.
    Running,
    Done,
    Failed,
}

/// The record of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`RunJob::key`] of what was run: a changed grid is noticed by it.
    pub(super) key: String,
    pub(super) stage: Stage,
    /// Why it failed.
    pub(super) why: String,
    /// Whether the training had ended, so that what failed was a question.
    #[serde(default)]
    pub(super) trained: bool,
    /// Digest of the questions.
    #[serde(default)]
    asked: String,
    /// Seconds of all its processes that came to an end of their own.
    pub seconds: f64,
    /// What its processes warned of.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Program and device.
    #[serde(default)]
    pub machine: String,
    /// What began it, for people.
    train: Vec<String>,
}

impl Record {
    /// Of a job that begins, or goes on after what it has recorded `before`.
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

/// The record of a job; `None`: it never began.
///
/// # Errors
/// A record that cannot be read.
pub fn record_of(job: &RunJob) -> Result<Option<Record>> {
    let path = job.record_path();
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).at_path(&path)?;
    let record = serde_json::from_str(&text).map_err(|e| {
        Error::user(format!("{}: {e}", path.display()))
            .hint(format!("remove it and {} to have this run made again", job.run().display()))
    })?;
    Ok(Some(record))
}

/// Whether the training of a job has come to its end, its own evaluation included.
pub(super) fn is_trained(job: &RunJob) -> bool {
    job.run().join("report.json").exists()
}

/// Where a job stands when nobody is at it.
pub fn state_of(job: &RunJob) -> RunState {
    let record = match record_of(job) {
        Ok(None) => return RunState::Waiting,
        Ok(Some(record)) => record,
        Err(e) => return RunState::Failed(e.to_string()),
    };
    if record.key != job.key && record.stage == Stage::Failed && !record.trained {
        // Nothing is lost.
        return RunState::Waiting;
    }
    if record.key != job.key {
        return RunState::Stale(changed(&record.train, &job.train));
    }
    match record.stage {
        Stage::Done if is_trained(job) && job.leaves.iter().all(|f| f.exists()) => RunState::Done,
        Stage::Done | Stage::Running => RunState::Waiting,
        // Other questions may have answers.
        Stage::Failed if record.trained && record.asked != questions(job) => RunState::Waiting,
        Stage::Failed => RunState::Failed(record.why),
    }
}

/// Flags that say where, and decide nothing.
const PLACES: [&str; 3] = ["--device", "--out", "--from"];

/// What differs between two commands: `--epochs 3 -> 5`.
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
    if differences.is_empty() { "its data, its base, or what is set by default".into() } else { differences.join(", ") }
}

/// Takes away what is there of a job, its run folder included.
///
/// # Errors
/// The file system's.
pub fn forget(job: &RunJob) -> Result<()> {
    remove(&job.run())?;
    remove(&job.record_path())
}

/// Makes a failed job ready to go on: from its last checkpoint, but from nothing where its weights are to blame, or its record.
///
/// # Errors
/// The file system's.
pub(super) fn try_again(job: &RunJob) -> Result<()> {
    match record_of(job) {
        Ok(Some(record)) if record.trained || !record.why.contains("not finite") => Ok(()),
        _ => forget(job),
    }
}

/// Removes a file or a folder, if it is there.
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
