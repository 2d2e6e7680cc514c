/*! Runs many runs: each a process of this program, so that one that fails, or is killed for want of memory, takes none with it.

A job is a training (`train` or `finetune`) and what is asked of the trained run afterwards (`eval`). Beside its run folder
stands a record (`NAME.json`) that is written before the job begins and again when it has ended; it holds the key of the
job, a digest of all that decides its result, so that a changed grid is noticed. A job that was interrupted goes on from its
last checkpoint. A process whose parent has died sees its standard input end, and stops with a checkpoint.
*/

use std::path::PathBuf;

use super::results::State;

/// A training and the questions after it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Unique; names the files: `FOLDER/NAME`, a run folder, and `FOLDER/NAME.json`, its record.
    pub name: String,
    /// Where.
    pub folder: PathBuf,
    /// Arguments of `mipgpu` that begin it; they name the run folder as --out.
    pub train: Vec<String>,
    /// Arguments of `mipgpu`, one set a command, of what is asked afterwards.
    pub then: Vec<Vec<String>>,
    /// Digest of all that decides what comes out.
    pub key: String,
    /// Jobs (by index) that must be done before.
    pub after: Vec<usize>,
    /// Seconds it may take, for the order in which jobs begin and the time that is told; 0: not known.
    pub seconds: f64,
    /// Epochs, for the progress.
    pub epochs: u32,
}

impl Job {
    pub fn run(&self) -> PathBuf {
        self.folder.join(&self.name)
    }
}

/// What is told while jobs run.
#[derive(Clone, Debug)]
pub enum Event {
    Began {
        job: usize,
    },
    /// An epoch of it is done.
    Epoch {
        job: usize,
        epoch: u32,
        measure: Option<f64>,
    },
    Ended {
        job: usize,
        state: State,
        seconds: f64,
    },
}
