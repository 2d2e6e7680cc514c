/*! Runs many jobs, each as a separate process of this program, so that a job that fails or is killed for lack of memory
does not affect the others.

A job is a training run (`train` or `finetune`) and the evaluations of the trained run (`eval`). A
[record](super::record) next to its run folder stores its state. An interrupted job resumes from its last checkpoint.
When the parent process dies, the standard input of its child processes ends: a training process then writes a
checkpoint and stops, an evaluation stops at once ([`ENDS_WITH_PARENT`]).
*/

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

pub use super::job::RunJob;
use super::{
    notices::Notices,
    record::{Record, Stage, forget, is_trained, record_of, remove, state_of, try_again},
    results::RunState,
};
use crate::{
    base::{Error, Result, atomic::make_folder, error::IoContext},
    train::RunFolder,
};

/// Environment variable of a process that must stop, as on Ctrl-C, when its standard input ends.
pub const ENDS_WITH_PARENT: &str = "MIPGPU_ENDS_WITH_PARENT";

/// Events reported while jobs run.
#[derive(Clone, Debug)]
pub enum JobEvent {
    Began {
        job: usize,
    },
    /// An epoch of the job is done.
    Epoch {
        job: usize,
        epoch: u32,
        measure: Option<f64>,
    },
    Ended {
        job: usize,
        state: RunState,
        seconds: f64,
    },
}

/// Runs jobs, several in parallel.
pub struct Runner<'a> {
    /// Path of this program.
    pub program: PathBuf,
    /// Number of parallel jobs.
    pub at_once: usize,
    /// Number of threads per job.
    pub threads: usize,
    /// Set to stop everything: every process then writes a checkpoint and ends.
    pub stop: &'a AtomicBool,
    /// Whether to retry failed jobs.
    pub retry: bool,
}

/// How an attempt at a job ended.
enum JobEnd {
    Done,
    /// It was stopped on request; the next start continues it.
    Stopped,
    /// The job itself is not at fault, and the next start continues it: it was killed by a signal, or another process
    /// uses its run. Shown as failed, with this reason.
    Interrupted(String),
    /// It ended with this error; only a retry starts it again.
    Failed(String),
}

impl From<JobEnd> for RunState {
    fn from(end: JobEnd) -> RunState {
        match end {
            JobEnd::Done => RunState::Done,
            JobEnd::Stopped => RunState::Waiting,
            JobEnd::Interrupted(why) | JobEnd::Failed(why) => RunState::Failed(why),
        }
    }
}

/// Messages from the thread of a job.
enum WorkerEvent {
    Epoch {
        epoch: u32,
        measure: Option<f64>,
    },
    Ended {
        state: RunState,
        seconds: f64,
    },
    /// The job's record could not be written.
    Broken(Error),
}

impl Runner<'_> {
    /// Runs all jobs that are not done; returns the state of every job. A failed job stops only the jobs that start
    /// from it.
    ///
    /// # Errors
    /// The file system reports an error: without records, nothing could be resumed.
    pub fn run(&self, jobs: &[RunJob], observe: &mut dyn FnMut(JobEvent)) -> Result<Vec<RunState>> {
        let mut states: Vec<RunState> = jobs.iter().map(state_of).collect();
        for (job, state) in jobs.iter().zip(&mut states) {
            make_folder(&job.folder)?;
            if self.retry && matches!(state, RunState::Failed(_)) {
                try_again(job)?;
                *state = RunState::Waiting;
            }
        }
        let (send, receive) = mpsc::channel();
        let inputs: Mutex<BTreeMap<usize, ChildStdin>> = Mutex::default();
        let mut running = vec![false; jobs.len()];
        let mut begun = vec![false; jobs.len()];
        let mut broken = None;
        thread::scope(|scope| {
            loop {
                skip_orphans(jobs, &mut states, &begun, observe);
                while running.iter().filter(|r| **r).count() < self.at_once.max(1)
                    && !self.stopped()
                    && broken.is_none()
                {
                    let ready = |i: &usize| {
                        !begun[*i]
                            && states[*i] == RunState::Waiting
                            && jobs[*i].after.iter().all(|base| states[*base] == RunState::Done)
                    };
                    // Start jobs in order, so that the first ones are complete first.
                    let next = (0..jobs.len()).find(ready);
                    let Some(i) = next else { break };
                    (running[i], begun[i]) = (true, true);
                    observe(JobEvent::Began { job: i });
                    let (send, inputs) = (send.clone(), &inputs);
                    scope.spawn(move || self.work(i, &jobs[i], inputs, &send));
                }
                if !running.contains(&true) {
                    break;
                }
                match receive.recv_timeout(Duration::from_millis(100)) {
                    Ok((job, WorkerEvent::Epoch { epoch, measure })) => {
                        observe(JobEvent::Epoch { job, epoch, measure })
                    }
                    Ok((job, WorkerEvent::Ended { state, seconds })) => {
                        running[job] = false;
                        states[job] = state.clone();
                        observe(JobEvent::Ended { job, state, seconds });
                    }
                    Ok((job, WorkerEvent::Broken(e))) => {
                        running[job] = false;
                        broken = Some(e);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                if self.stopped() || broken.is_some() {
                    // Closing their standard input ends the child processes.
                    inputs.lock().unwrap_or_else(|e| e.into_inner()).clear();
                }
            }
        });
        broken.map_or(Ok(states), Err)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs one job and keeps its record up to date.
    fn work(
        &self,
        i: usize,
        job: &RunJob,
        inputs: &Mutex<BTreeMap<usize, ChildStdin>>,
        send: &Sender<(usize, WorkerEvent)>,
    ) {
        let began = Instant::now();
        let ended = (|| {
            let before = record_of(job).ok().flatten();
            if before.as_ref().is_some_and(|before| before.key != job.key) {
                // It failed for an earlier grid.
                forget(job)?;
            }
            let mut record = Record::begin(job, before);
            record.write(job)?;
            let mut warnings = Vec::new();
            let end = self.attempt(i, job, (inputs, &mut warnings), send)?;
            record.warnings.extend(warnings);
            record.warnings.sort();
            record.warnings.dedup();
            record.seconds += began.elapsed().as_secs_f64();
            record.trained = is_trained(job);
            (record.stage, record.why) = match &end {
                JobEnd::Done => (Stage::Done, String::new()),
                JobEnd::Failed(why) => (Stage::Failed, why.clone()),
                JobEnd::Stopped | JobEnd::Interrupted(_) => (Stage::Running, String::new()),
            };
            record.write(job)?;
            Ok((end.into(), record.seconds))
        })();
        let told = ended.map_or_else(WorkerEvent::Broken, |(state, seconds)| WorkerEvent::Ended { state, seconds });
        // The receiver is gone only if the runner itself has ended.
        let _ = send.send((i, told));
    }

    /// Trains (or resumes), then evaluates.
    fn attempt(
        &self,
        i: usize,
        job: &RunJob,
        (inputs, warnings): (&Mutex<BTreeMap<usize, ChildStdin>>, &mut Vec<String>),
        send: &Sender<(usize, WorkerEvent)>,
    ) -> Result<JobEnd> {
        let folder = RunFolder::new(job.run());
        let mut train = None;
        if !is_trained(job) {
            if !self.free(&folder) {
                return Ok(JobEnd::Interrupted(format!("another process is still training {}", folder.path.display())));
            }
            train = Some(if folder.last().exists() {
                let mut resume = vec!["train".to_string(), "--resume".into(), folder.path.display().to_string()];
                if let Some(at) = job.train.iter().position(|word| word == "--device") {
                    resume.extend(job.train[at..].iter().take(2).cloned());
                }
                resume
            } else {
                // It was killed before its first checkpoint.
                if let Err(e) = remove(&folder.path) {
                    return Ok(JobEnd::Failed(e.to_string()));
                }
                job.train.clone()
            });
        }
        for args in train.iter().chain(&job.then) {
            if self.stopped() {
                return Ok(JobEnd::Stopped);
            }
            match self.process(i, args, (inputs, warnings), send)? {
                JobEnd::Done => {}
                other => return Ok(other),
            }
        }
        Ok(JobEnd::Done)
    }

    /// Returns whether no process uses a run; waits for an orphaned process that is about to end.
    fn free(&self, folder: &RunFolder) -> bool {
        let waiting = Instant::now();
        loop {
            if !folder.config_path().exists() || folder.lock().is_ok() {
                return true;
            }
            if waiting.elapsed() > PATIENCE || self.stopped() {
                return false;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs one process; returns `Stopped` if it was stopped.
    fn process(
        &self,
        i: usize,
        args: &[String],
        (inputs, warnings): (&Mutex<BTreeMap<usize, ChildStdin>>, &mut Vec<String>),
        send: &Sender<(usize, WorkerEvent)>,
    ) -> Result<JobEnd> {
        let mut child = Command::new(&self.program)
            .args(args)
            .arg("--json")
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .env(ENDS_WITH_PARENT, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .at_path(&self.program)?;
        let lock = || inputs.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(input) = child.stdin.take() {
            lock().insert(i, input);
        }
        let mut notices = Notices::default();
        let (status, errors, stopped) = listen(&mut child, i, send, &mut notices).at_path(&self.program)?;
        lock().remove(&i);
        warnings.append(&mut notices.warnings);
        if status.success() {
            return Ok(JobEnd::Done);
        }
        if stopped {
            return Ok(JobEnd::Stopped);
        }
        if let Some(signal) = signal_of(status) {
            return Ok(if self.stopped() {
                JobEnd::Stopped
            } else {
                JobEnd::Interrupted(format!(
                    "killed by signal {signal}{}; the next start resumes from its last checkpoint",
                    if signal == 9 { ", as a system without free memory does" } else { "" }
                ))
            });
        }
        Ok(JobEnd::Failed(notices.why(&errors)))
    }
}

/// How long to wait for an orphaned process, which may be in a long step.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads the output of a process until it ends, and keeps its warnings and its error in `notices`. Returns its stderr,
/// and whether it reported that it was stopped.
fn listen(
    child: &mut Child,
    i: usize,
    send: &Sender<(usize, WorkerEvent)>,
    notices: &mut Notices,
) -> std::io::Result<(ExitStatus, String, bool)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let errors = scope.spawn(move || {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            text
        });
        let mut stopped = false;
        for line in stdout.map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
            notices.read(&event);
            match event["event"].as_str() {
                Some("epoch") => {
                    let measure = event["valid_ndcg@10"].as_f64().or(event["valid_rmse"].as_f64());
                    let epoch = event["epoch"].as_u64().unwrap_or(0) as u32;
                    let _ = send.send((i, WorkerEvent::Epoch { epoch, measure }));
                }
                Some("stopped") => stopped = true,
                _ => {}
            }
        }
        let status = child.wait()?;
        let errors = errors.join().unwrap_or_default();
        Ok((status, errors, stopped))
    })
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

/// Marks jobs that can no longer start because the job that they start from has failed.
fn skip_orphans(jobs: &[RunJob], states: &mut [RunState], begun: &[bool], observe: &mut dyn FnMut(JobEvent)) {
    for (i, job) in jobs.iter().enumerate() {
        if states[i] != RunState::Waiting || begun[i] {
            continue;
        }
        let lost = job.after.iter().find(|base| matches!(states[**base], RunState::Failed(_) | RunState::Stale(_)));
        if let Some(base) = lost {
            states[i] = RunState::Failed(format!("it starts from {}, which has failed", jobs[*base].name));
            observe(JobEvent::Ended { job: i, state: states[i].clone(), seconds: 0.0 });
        }
    }
}

/// Estimates the seconds until all of `jobs` are done, `at_once` in parallel, in the order of [`Runner`].
pub fn seconds_in_all(jobs: &[RunJob], at_once: usize) -> f64 {
    let mut done = vec![f64::INFINITY; jobs.len()];
    let mut begun = vec![false; jobs.len()];
    let mut free = vec![0.0f64; at_once.max(1)];
    for _ in jobs {
        let slot = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap_or(0);
        let start = |i: usize| jobs[i].after.iter().map(|base| done[*base]).fold(free[slot], f64::max);
        // The job that can start first; of equal ones, the first.
        let next = (0..jobs.len())
            .filter(|i| !begun[*i] && start(*i).is_finite())
            .min_by(|a, b| start(*a).total_cmp(&start(*b)).then(a.cmp(b)));
        let Some(i) = next else { break };
        begun[i] = true;
        done[i] = start(i) + jobs[i].seconds;
        free[slot] = done[i];
    }
    done.into_iter().filter(|t| t.is_finite()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, seconds: f64, after: &[usize]) -> RunJob {
        let args = ["train", "d", "--epochs", "3"].map(String::from);
        RunJob {
            name: name.into(),
            folder: PathBuf::new(),
            train: args.into(),
            then: Vec::new(),
            leaves: Vec::new(),
            key: "k".into(),
            after: after.into(),
            seconds,
            epochs: 3,
            machine: String::new(),
        }
    }

    #[test]
    fn time_in_all() {
        let jobs = [job("base", 2.0, &[]), job("short", 1.0, &[]), job("a", 5.0, &[0]), job("b", 1.0, &[0])];
        // One at a time: the sum. Two at a time: the chain of 2 + 5, in parallel with the short ones.
        assert_eq!((seconds_in_all(&jobs, 1), seconds_in_all(&jobs, 2)), (9.0, 7.0));
        assert_eq!(seconds_in_all(&[], 2), 0.0);
    }
}
