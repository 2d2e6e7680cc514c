//! `mipgpu experiment`: runs, resumes and reports a grid of runs, with seeds, intervals and tests.

mod plan;
mod show;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::{jobs_progress::JobsProgress, printer::Printer, stop::flag_on_signal};
use crate::{
    backend::{self, Device},
    base::{
        Error, Result,
        atomic::{make_folder, write_atomically},
        error::{IoContext, typed},
    },
    experiment::{
        grid::{Grid, Seeds},
        html::html,
        jobs::Runner,
        record::{forget, state_of},
        results::RunState,
        text::text,
    },
};
use plan::Plan;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu experiment survey --quick                   all rows on the built-in sample, in minutes
  mipgpu experiment survey --dry-run                 list the runs and estimate their time
  mipgpu experiment survey --data ml-1m=data/films   the full experiment
  mipgpu experiment mine.toml --jobs 4               your own grid (format: docs/experiments.md)

The folder holds runs/ (the run folders), users/ (the results of each user), report.txt, report.json
and report.html. Run the same command again to resume a stopped or killed experiment.")]
pub struct Args {
    /// Grid: a TOML file, or the name of a built-in grid: survey
    grid: String,
    /// Folder of the experiment [default: runs/NAME]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Small version of the grid; the same as --variant quick
    #[arg(long, conflicts_with = "variant")]
    quick: bool,
    /// Variants of the grid: [variant.NAME] overrides the rest of the grid
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    variant: Vec<String>,
    /// List the runs and estimate their time; run nothing
    #[arg(long)]
    dry_run: bool,
    /// Only report the finished runs
    #[arg(long, conflicts_with_all = ["dry_run", "jobs", "retry", "redo_stale"])]
    report: bool,
    /// Folder of a data set of the grid
    #[arg(long, value_name = "NAME=DIR")]
    data: Vec<String>,
    /// Change a setting of a group of the grid
    #[arg(long, value_name = "GROUP.KEY=VALUE")]
    set: Vec<String>,
    /// Seeds that replace those of the grid: a number of seeds (5: 1 to 5) or a list (7,8)
    #[arg(long, value_name = "N|LIST")]
    seeds: Option<Seeds>,
    /// Reproduce details of the original code: survey omits validation items from the history of the test
    #[arg(long, value_name = "WHAT")]
    compat: Option<Compat>,
    /// Number of parallel runs [default: limited by cores and memory]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Number of threads per run
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Device: auto, cpu, cuda, cuda:N, emu, ptx, ptx90a, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    device: Device,
    /// Run failed runs again
    #[arg(long)]
    retry: bool,
    /// Repeat runs of an earlier version of the grid; their old results are lost
    #[arg(long)]
    redo_stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Compat {
    Survey,
}

/// Built-in grids.
const BUILT_IN: &[(&str, &str)] = &[("survey", include_str!("survey.toml"))];

pub fn run(args: Args, printer: Printer) -> Result<()> {
    if args.jobs == Some(0) || args.threads == 0 {
        return Err(Error::user("--jobs 0 and --threads 0 are out of range").hint("use at least 1, or omit them"));
    }
    let grid = read(&args)?;
    let name = [vec![grid.name.clone()], variants(&args)].concat().join("-");
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
    if args.dry_run {
        return dry_run(&grid, &args, &out, &printer);
    }
    if args.report && !out.exists() {
        return Err(Error::user(format!("{}: there is nothing to report", out.display()))
            .hint("omit --report to start the experiment, or give its folder with --out DIR"));
    }
    let aside = Aside::new();
    if args.report {
        // The experiment may be running at the same time. It then writes the report files itself.
        let held = lock(&out);
        let plan = Plan::new(&grid, &args, (&out, Some(&aside.0)), &printer)?;
        let states = plan.jobs.iter().map(state_of).collect();
        return report(&grid, &plan, states, (&out, held.is_ok()), &printer);
    }
    make_folder(&out)?;
    let _lock = lock(&out)?;
    sweep(&out.join("data"));
    let mut plan = Plan::new(&grid, &args, (&out, None), &printer)?;
    make_folder(&out.join("users"))?;
    let mut states: Vec<RunState> = plan.jobs.iter().map(state_of).collect();
    settle_stale(&plan, &mut states, &args)?;
    backend::probe(args.device, plan.specs[0].config.settings.precision.on(args.device))?;
    show::drop_damaged(&grid, &plan, &mut states, &printer)?;
    show::estimate(&mut plan, &args, &states, &printer);
    let at_once = show::at_once(&plan, &args);
    show::introduce(&grid, &plan, &states, at_once, &args, &printer);
    let (states, stopped) = go(&plan, &states, at_once, &args, printer)?;
    report(&grid, &plan, states.clone(), (&out, true), &printer)?;
    conclude(&states, stopped, &out)
}

/// Prints the results so far, and writes the report files if `write` is set.
fn report(
    grid: &Grid,
    plan: &Plan,
    states: Vec<RunState>,
    (out, write): (&Path, bool),
    printer: &Printer,
) -> Result<()> {
    let results = show::results(grid, plan, states)?;
    let shown = text(&results);
    if write {
        write_atomically(&out.join("report.json"), |f| writeln!(f, "{:#}", serde_json::json!(results)))?;
        write_atomically(&out.join("report.html"), |f| f.write_all(html(&results).as_bytes()))?;
        write_atomically(&out.join("report.txt"), |f| f.write_all(shown.as_bytes()))?;
    }
    if printer.json {
        let mut event = serde_json::json!({"event": "experiment", "out": out});
        if let (Some(all), serde_json::Value::Object(rest)) = (event.as_object_mut(), serde_json::json!(results)) {
            all.extend(rest);
        }
        printer.event(&event);
    } else {
        printer.raw(shown);
    }
    if write && !printer.json {
        printer.say(format_args!("\nreport  {0}/report.html, {0}/report.txt, {0}/report.json", out.display()));
    }
    Ok(())
}

fn variants(args: &Args) -> Vec<String> {
    if args.quick { vec!["quick".into()] } else { args.variant.clone() }
}

fn read(args: &Args) -> Result<Grid> {
    let built_in = BUILT_IN.iter().find(|(name, _)| *name == args.grid);
    let (text, place) = match built_in {
        Some((name, text)) => (text.to_string(), format!("the grid {name}")),
        None => {
            let path = Path::new(&args.grid);
            let text = fs::read_to_string(path).map_err(|e| {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let e = match e.kind() {
                    std::io::ErrorKind::NotFound => Error::user(format!("{}: there is no such grid", path.display())),
                    _ => Error::io(path, &e),
                };
                e.hint(format!("use a TOML file or a built-in grid: {}", names.join(", ")))
            })?;
            (text, args.grid.clone())
        }
    };
    let mut grid = Grid::parse(&text, &place, &variants(args), &args.set)?;
    if let Some(seeds) = &args.seeds {
        grid.seeds = seeds.clone();
    }
    if args.compat == Some(Compat::Survey) && grid.tables.iter().all(|t| t.of_ratings()) {
        return Err(Error::user("--compat survey has no effect: no table of the grid ranks items").hint("omit it"));
    }
    if args.compat == Some(Compat::Survey) {
        grid.tables.iter_mut().filter(|t| !t.of_ratings()).for_each(|t| t.without_validation = true);
    }
    Ok(grid)
}

/// Removes incomplete data sets that a killed process has left. No other process creates any while the folder is
/// locked.
fn sweep(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(".importing-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Locks the folder against other processes.
fn lock(out: &Path) -> Result<File> {
    let path = out.join("lock");
    let file = File::options().create(true).append(true).open(&path).at_path(&path)?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::user(format!("{}: another process is running this experiment", out.display()))
                .hint("wait for it to end, or choose another folder with --out"))
        }
        // On a file system without locks, continue without one.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Resets runs of an earlier grid with `--redo-stale`, and rejects them otherwise.
fn settle_stale(plan: &Plan, states: &mut [RunState], args: &Args) -> Result<()> {
    let stale: Vec<(usize, String)> = states
        .iter()
        .enumerate()
        .filter_map(|(job, state)| match state {
            RunState::Stale(what) => Some((job, what.clone())),
            _ => None,
        })
        .collect();
    if args.redo_stale {
        for (job, _) in &stale {
            forget(&plan.jobs[*job])?;
            states[*job] = RunState::Waiting;
        }
        return Ok(());
    }
    let Some((_, _)) = stale.first() else { return Ok(()) };
    const SHOWN: usize = 12;
    let mut lines: Vec<String> =
        stale.iter().take(SHOWN).map(|(job, what)| format!("\n  {}: {what}", plan.jobs[*job].name)).collect();
    if stale.len() > SHOWN {
        lines.push(format!("\n  and {} more", stale.len() - SHOWN));
    }
    let what = format!("{} of {} runs belong to an earlier grid:{}", stale.len(), states.len(), lines.concat());
    Err(Error::user(what).hint(
        "use --redo-stale to repeat them (their results are lost), --out DIR for a new folder, or --report for a \
         report",
    ))
}

/// Runs all jobs that are not done. Returns their states and whether a signal stopped them.
fn go(
    plan: &Plan,
    states: &[RunState],
    at_once: usize,
    args: &Args,
    printer: Printer,
) -> Result<(Vec<RunState>, bool)> {
    let stop = flag_on_signal(printer, "every run writes a checkpoint and ends", || {
        Error::user("ended at once: active runs may lose the work since their last checkpoint")
            .hint("run the same command to continue")
    });
    let program = std::env::current_exe().map_err(|e| Error::internal(format!("the path of this program: {e}")))?;
    let runner = Runner { program, at_once, threads: args.threads, stop: &stop, retry: args.retry };
    let waits = |state: &RunState| match state {
        RunState::Failed(_) if args.retry => RunState::Waiting,
        state => state.clone(),
    };
    let states: Vec<RunState> = states.iter().map(waits).collect();
    let mut progress = JobsProgress::new(printer, &plan.jobs, &states);
    let ended = runner.run(&plan.jobs, &mut |event| progress.show(event));
    progress.finish();
    Ok((ended?, stop.load(Ordering::Relaxed)))
}

fn dry_run(grid: &Grid, args: &Args, out: &Path, printer: &Printer) -> Result<()> {
    let aside = Aside::new();
    let mut plan = Plan::new(grid, args, (out, Some(&aside.0)), printer)?;
    // Without the data, the state of a run cannot be determined.
    let state = |(i, job)| if plan.has_data(i) { state_of(job) } else { RunState::Waiting };
    let states: Vec<RunState> = plan.jobs.iter().enumerate().map(state).collect();
    show::estimate(&mut plan, args, &states, printer);
    show::list(&plan, &states, args, (&aside.0, out), printer);
    Ok(())
}

/// A temporary folder for data sets that are only inspected. It is removed at the end.
struct Aside(PathBuf);

impl Aside {
    fn new() -> Aside {
        Aside(std::env::temp_dir().join(format!("mipgpu-experiment-{}", std::process::id())))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the error of the command if it was stopped or runs have failed.
fn conclude(states: &[RunState], stopped: bool, out: &Path) -> Result<()> {
    let count = |of: fn(&RunState) -> bool| states.iter().filter(|s| of(s)).count();
    let failed = count(|s| matches!(s, RunState::Failed(_)));
    let left = count(|s| *s == RunState::Waiting);
    if stopped {
        return Err(Error::user(format!("stopped with {left} of {} runs to go; nothing is lost", states.len()))
            .hint("run the same command to continue"));
    }
    if failed > 0 {
        return Err(Error::user(format!("{failed} of {} runs have failed: see the end of the report", states.len()))
            .hint(format!("use --retry to run them again; their folders: {}", typed(out.join("runs")))));
    }
    Ok(())
}
