//! One job of an experiment or a search: the commands, and the files that they leave.

use std::path::PathBuf;

/// A training and the questions after it.
#[derive(Clone, Debug)]
pub struct RunJob {
    /// Unique; names the files: `FOLDER/NAME`, a run folder, and `FOLDER/NAME.json`, its record.
    pub name: String,
    /// Where.
    pub folder: PathBuf,
    /// Arguments of `mipgpu` that begin it; they name the run folder as --out.
    pub train: Vec<String>,
    /// Arguments of `mipgpu`, one set a command, of what is asked afterwards.
    pub then: Vec<Vec<String>>,
    /// Files that those leave behind; without them the questions are asked again.
    pub leaves: Vec<PathBuf>,
    /// Digest of all that decides what comes out.
    pub key: String,
    /// Jobs (by index) that must be done before.
    pub after: Vec<usize>,
    /// Seconds it may take, for the time that is told; 0: not known.
    pub seconds: f64,
    /// Epochs, for the progress.
    pub epochs: u32,
    /// Program and device, for the record.
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
