//! Progress of many runs: a bar over all runs and one for each active run on a terminal, lines elsewhere, JSON events
//! on request.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::printer::Printer;
use crate::experiment::{
    jobs::{JobEvent, RunJob},
    results::RunState,
    words::duration,
};

/// Shows the progress of jobs.
pub struct JobsProgress<'a> {
    printer: Printer,
    jobs: &'a [RunJob],
    bars: Option<(MultiProgress, ProgressBar)>,
    running: BTreeMap<usize, (Option<ProgressBar>, Option<f64>)>,
    /// Number of jobs that have ended or need not start.
    settled: usize,
    /// Work of all waiting jobs, and the part of it that is done.
    work: f64,
    worked: f64,
    started: Instant,
}

impl<'a> JobsProgress<'a> {
    /// Creates the display. `states` holds the states of the jobs before the first one starts.
    pub fn new(printer: Printer, jobs: &'a [RunJob], states: &[RunState]) -> Self {
        let settled = states.iter().filter(|state| **state != RunState::Waiting).count();
        let bars = printer.progress_bar().then(|| {
            let all = MultiProgress::new();
            let bar = all.add(ProgressBar::new(jobs.len() as u64).with_position(settled as u64));
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} runs, {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            (all, bar)
        });
        let work = jobs.iter().zip(states).filter(|(_, s)| **s == RunState::Waiting).map(|(job, _)| weight(job)).sum();
        let running = BTreeMap::new();
        JobsProgress { printer, jobs, bars, running, settled, work, worked: 0.0, started: Instant::now() }
    }

    pub fn show(&mut self, event: JobEvent) {
        match event {
            JobEvent::Began { job } => {
                let bar = self.bars.as_ref().map(|(all, _)| {
                    let bar = all.add(ProgressBar::new(self.jobs[job].epochs.into()));
                    let style = ProgressStyle::with_template("{bar:24} epoch {pos}/{len} {prefix} {msg}");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_prefix(self.jobs[job].name.clone());
                    bar
                });
                self.running.insert(job, (bar, None));
                if self.printer.json {
                    self.printer.event(&json!({"event": "began", "run": self.jobs[job].name}));
                }
            }
            JobEvent::Epoch { job, epoch, measure } => {
                if let Some((bar, last)) = self.running.get_mut(&job) {
                    *last = measure.or(*last);
                    if let Some(bar) = bar {
                        bar.set_position(epoch.into());
                        bar.set_message(last.map_or(String::new(), |m| format!("valid {m:.4}")));
                    }
                }
            }
            JobEvent::Ended { job, state, seconds } => self.ended(job, &state, seconds),
        }
        if let Some((_, bar)) = &self.bars {
            bar.set_position(self.settled as u64);
            bar.set_message(self.left());
        }
    }

    fn ended(&mut self, job: usize, state: &RunState, seconds: f64) {
        let (bar, measure) = self.running.remove(&job).unwrap_or_default();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let name = &self.jobs[job].name;
        if *state != RunState::Waiting {
            self.settled += 1;
            self.worked += weight(&self.jobs[job]);
        }
        if self.printer.json {
            self.printer.event(&json!({"event": "run", "run": name, "state": state, "seconds": seconds}));
            return;
        }
        let measure = measure.map_or(String::new(), |m| format!(", last validation {m:.4}"));
        let (done, all) = (self.settled, self.jobs.len());
        let line = match state {
            RunState::Done => format!("[{done}/{all}] {name}: done in {seconds:.0} s{measure}; {}", self.left()),
            RunState::Failed(why) => format!("[{done}/{all}] {name}: FAILED: {why}"),
            RunState::Waiting | RunState::Stale(_) => {
                format!("        {name}: stopped; it resumes from its checkpoint")
            }
        };
        match &self.bars {
            Some((_, bar)) => bar.println(line),
            None => self.printer.say(line),
        }
    }

    /// Estimates the remaining time from the work done since the start.
    fn left(&self) -> String {
        if self.worked == 0.0 {
            return "remaining time unknown".into();
        }
        let left = self.started.elapsed().as_secs_f64() * (self.work - self.worked).max(0.0) / self.worked;
        format!("about {} left", duration(left))
    }

    pub fn finish(&self) {
        if let Some((_, bar)) = &self.bars {
            bar.finish_and_clear();
        }
    }
}

/// Returns the weight of a job in the estimate: its estimated seconds, or 1.
fn weight(job: &RunJob) -> f64 {
    if job.seconds > 0.0 { job.seconds } else { 1.0 }
}
