//! `mipgpu runs`: lists the runs of a folder.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::printer::Printer;
use crate::{
    base::{Error, Result, error::IoContext, table::Table},
    experiment::trials::{Best, best_of, curve_of},
    train::{RunConfig, RunFolder},
};

/// Lists the runs in a folder: data, model, progress, best validation and test. The metric is NDCG@10, for ratings
/// RMSE. Folders without a run are skipped; for a damaged run, the fault is printed.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu runs
  mipgpu runs runs/survey/runs --sort valid
  mipgpu runs --json

State: running (a process trains it), stopped (`mipgpu train --resume` continues it), done, failed
(ended before the first checkpoint), damaged. Age: time since the newest file was written.")]
pub struct Args {
    /// Folder of runs, or a run folder
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
    /// Sort order; best and newest come first
    #[arg(long, value_enum, default_value_t, value_name = "ORDER")]
    sort: Sort,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By name
    #[default]
    Name,
    /// By the best validation
    Valid,
    /// By the test
    Test,
    /// The newest first
    Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Done,
    Failed,
    Damaged,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Done => "done",
            State::Failed => "failed",
            State::Damaged => "damaged",
        }
    }
}

/// A value and its metric.
#[derive(Clone, Copy, Debug)]
struct Measured {
    measure: &'static str,
    value: f64,
}

impl Measured {
    /// Orders the best value first and groups values of the same metric.
    fn order(a: Option<Measured>, b: Option<Measured>) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) if a.measure != b.measure => a.measure.cmp(b.measure),
            (Some(a), Some(b)) if a.measure == "RMSE" => a.value.total_cmp(&b.value),
            (Some(a), Some(b)) => b.value.total_cmp(&a.value),
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }

    /// Formats the value as `0.1234`, with the metric unless it is NDCG@10.
    fn text(self) -> String {
        match self.measure {
            "NDCG@10" => format!("{:.4}", self.value),
            other => format!("{other} {:.4}", self.value),
        }
    }
}

/// A row of the list.
struct Run {
    name: String,
    state: State,
    config: Option<RunConfig>,
    epochs: u32,
    best: Option<Best>,
    test: Option<Measured>,
    /// Time since the newest file was written.
    age: Duration,
    /// The fault of a damaged run.
    fault: Option<String>,
}

/// Runs the command.
pub fn run(args: Args, printer: Printer) -> Result<()> {
    let folder = &args.folder;
    if !folder.is_dir() {
        return Err(Error::user(format!("{}: there is no such folder", folder.display()))
            .hint("give the folder of the runs: mipgpu runs DIR"));
    }
    let mut runs: Vec<Run> = Vec::new();
    if let Some(run) = look_at(folder) {
        runs.push(run);
    } else {
        for entry in fs::read_dir(folder).at_path(folder)? {
            runs.extend(look_at(&entry.at_path(folder)?.path()));
        }
    }
    runs.sort_by(|a, b| a.name.cmp(&b.name));
    match args.sort {
        Sort::Name => {}
        Sort::Valid => runs.sort_by(|a, b| Measured::order(a.valid(), b.valid())),
        Sort::Test => runs.sort_by(|a, b| Measured::order(a.test, b.test)),
        Sort::Age => runs.sort_by_key(|run| run.age),
    }
    if runs.is_empty() {
        printer.say(format_args!("{}: no runs found; `mipgpu train` creates one", folder.display()));
        return Ok(());
    }
    if printer.json {
        runs.iter().for_each(|run| printer.event(&run.json()));
        return Ok(());
    }
    let mut table =
        Table::new().left("run").left("data").left("model").left("task").right("epochs").right("valid NDCG@10");
    table = table.right("test NDCG@10").left("state").right("age");
    for run in &runs {
        let of = |get: &dyn Fn(&RunConfig) -> String| run.config.as_ref().map_or("-".into(), get);
        let number = |measured: Option<Measured>| measured.map_or("-".into(), Measured::text);
        let state = match &run.fault {
            Some(fault) => format!("{}: {fault}", run.state.name()),
            None => run.state.name().into(),
        };
        table.row([
            run.name.clone(),
            of(&|c| c.data.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())),
            of(&|c| c.settings.model.clone()),
            of(&|c| c.settings.task.clone()),
            of(&|c| format!("{}/{}", run.epochs, c.settings.epochs)),
            number(run.valid()),
            number(run.test),
            state,
            age(run.age),
        ]);
    }
    printer.raw(table);
    Ok(())
}

impl Run {
    fn valid(&self) -> Option<Measured> {
        self.best.map(|best| Measured { measure: best.measure, value: best.value })
    }

    fn json(&self) -> Value {
        let config = self.config.as_ref();
        let number = |measured: Option<Measured>| measured.map(|m| json!({ "measure": m.measure, "value": m.value }));
        json!({
            "run": self.name,
            "state": self.state.name(),
            "fault": self.fault,
            "data": config.map(|c| &c.data),
            "model": config.map(|c| &c.settings.model),
            "task": config.map(|c| &c.settings.task),
            "epochs_done": self.epochs,
            "epochs": config.map(|c| c.settings.epochs),
            "best_epoch": self.best.map(|best| best.epoch),
            "valid": number(self.valid()),
            "test": number(self.test),
            "age_seconds": self.age.as_secs(),
        })
    }
}

/// Returns the run in a folder; `None` if there is none.
fn look_at(path: &Path) -> Option<Run> {
    let folder = RunFolder::new(path);
    if !folder.config_path().is_file() {
        return None;
    }
    let config = folder.config();
    // A settings file may be called config.toml too.
    if config.is_err() && ![folder.items(), folder.last(), folder.best()].iter().any(|file| file.exists()) {
        return None;
    }
    let name = match path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => path.display().to_string(),
    };
    let (config, mut fault) = match config {
        Ok(config) => (Some(config), None),
        Err(e) => (None, Some(e.what)),
    };
    let curve = curve_of(path).unwrap_or_else(|e| {
        fault.get_or_insert(e.what);
        Vec::new()
    });
    let test = test_of(&folder.report()).unwrap_or_else(|what| {
        fault.get_or_insert(what);
        None
    });
    let state = if fault.is_some() {
        State::Damaged
    } else if folder.lock().is_err() {
        State::Running
    } else if folder.report().exists() {
        State::Done
    } else if folder.last().exists() {
        State::Stopped
    } else {
        State::Failed
    };
    // The row already names the folder, and the first line of the fault is enough.
    let fault = fault.map(|what| {
        let line = what.lines().next().unwrap_or_default().to_string();
        line.strip_prefix(&format!("{}/", path.display())).map_or(line.clone(), str::to_string)
    });
    let epochs = curve.last().map_or(0, |row| row.epoch);
    Some(Run { name, state, config, epochs, best: best_of(&curve), test, age: age_of(path), fault })
}

/// Reads the test result of a report.json: NDCG@10, or RMSE for ratings. Returns `None` if the run was not evaluated.
fn test_of(report: &Path) -> std::result::Result<Option<Measured>, String> {
    if !report.exists() {
        return Ok(None);
    }
    let bad = |what: String| format!("{}: {what}", report.display());
    let text = fs::read_to_string(report).map_err(|e| bad(e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    if let Some(rmse) = value["model"]["rmse"].as_f64() {
        return Ok(Some(Measured { measure: "RMSE", value: rmse }));
    }
    let lists = value["full"]["model"]["at"].as_array().ok_or_else(|| bad("not the report of a run".into()))?;
    // A catalogue with fewer than 10 items has shorter lists.
    let at_10 = lists.iter().find(|at| at["k"] == 10).and_then(|at| at["ndcg"].as_f64());
    Ok(at_10.map(|value| Measured { measure: "NDCG@10", value }))
}

/// Returns the time since the newest file of a folder was written.
fn age_of(path: &Path) -> Duration {
    let written = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok()?.modified().ok());
    let newest = written.max().unwrap_or(SystemTime::UNIX_EPOCH);
    SystemTime::now().duration_since(newest).unwrap_or_default()
}

/// Formats an age as `40 s`, `5 min`, `3 h` or `12 d`.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_comes_first_and_missing_last() {
        let of = |measure, value| Some(Measured { measure, value });
        let mut all = [None, of("RMSE", 1.2), of("NDCG@10", 0.1), of("RMSE", 0.9), of("NDCG@10", 0.3)];
        all.sort_by(|a, b| Measured::order(*a, *b));
        assert_eq!(all.map(|m| m.map_or(0.0, |m| m.value)), [0.3, 0.1, 0.9, 1.2, 0.0]);
    }

    #[test]
    fn ages_are_told_in_one_unit() {
        let ages = [59, 60, 3599, 3600, 172_799, 172_800].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["59 s", "1 min", "59 min", "1 h", "47 h", "2 d"]);
    }
}
