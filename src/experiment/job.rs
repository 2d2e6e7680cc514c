//! One job of an experiment or a search: its commands, and the files that they create.

use std::path::PathBuf;

/// A training run and its evaluations.
#[derive(Clone, Debug)]
pub struct RunJob {
    /// Unique name, used for the files: `FOLDER/NAME`, a run folder, and `FOLDER/NAME.json`, its record.
    pub name: String,
    /// The folder of these files.
    pub folder: PathBuf,
    /// Arguments of the `mipgpu` command that trains; --out names the run folder.
    pub train: Vec<String>,
    /// Arguments of the `mipgpu` commands that evaluate the run, one list per command.
    pub then: Vec<Vec<String>>,
    /// Files that the evaluations create; if one is missing, they are repeated.
    pub leaves: Vec<PathBuf>,
    /// Digest of everything that determines the result.
    pub key: String,
    /// Indices of the jobs that must be done first.
    pub after: Vec<usize>,
    /// Estimated seconds, for the remaining time; 0: unknown.
    pub seconds: f64,
    /// Number of epochs, for the progress display.
    pub epochs: u32,
    /// Program version and device, for the record.
    pub machine: String,
}

impl RunJob {
    pub fn run(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub(super) fn record_path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }
}
