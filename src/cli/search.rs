/*! `mipgpu search`: hyperparameter search by validation. Every trial is a separate `train` or `finetune` process.

Trials are ranked by their best validation. Test results are neither compared nor printed, so the test of the best trial
remains unbiased. Under successive halving each rung trains from scratch. The learning rate falls over the whole length
of a run, so a short run that is extended differs from a run of the full length.
*/

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use super::{
    jobs_progress::JobsProgress,
    opened::open_data,
    printer::Printer,
    search_base::{Base, Inputs, drop_flag, in_a_line, parse, refusals, why_stale},
    stop::flag_on_signal,
};
use crate::{
    base::{
        Error, Result,
        atomic::make_folder,
        error::{IoContext, typed},
    },
    experiment::{
        jobs::{JobEvent, RunJob, Runner},
        record::{forget, record_of, state_of},
        results::RunState,
        space::{Choice, MOST, Rung, Space, rungs, survivors},
        trials::{
            Asked, Trial, as_event, best_of, changes, curve_of, digest, flags_of, measure_of, name_of, others, rank,
            table_text, write_tables,
        },
    },
};

/// Tries settings and ranks them by their best validation (NDCG@10, or RMSE for ratings): a grid of all combinations,
/// --random N draws, or --halving, which trains all trials for a few epochs and the best ones longer. The test part is
/// not used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu search --out s1 --over lr=1e-3,3e-4 --over dropout=0.1,0.2,0.3 -- train data/mine --model sasrec --epochs 40
  mipgpu search --out s2 --random 20 --over lr=1e-4..1e-2:log --over width=32,64 -- finetune --from runs/base data/books
  mipgpu search --out s3 --random 27 --halving 3 --over lr=1e-4..1e-2:log -- train data/mine --epochs 81

The same command resumes a stopped search; with another --over or --random it adds trials.
DIR/trials holds one run per trial, DIR/trials.tsv and DIR/trials.json hold the table. With
--halving 3 and 81 epochs, 27 trials train for 3 epochs, the best 9 of them for 9, the best 3 for 27
and the best one for 81. Each rung trains from scratch, because the learning rate falls over the
length of a run.")]
pub struct Args {
    /// Folder of the search
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Values of a setting: NAME=VALUE,VALUE (values that contain commas are separated by semicolons), or
    /// NAME=LOW..HIGH and NAME=LOW..HIGH:log with --random; use it once per setting
    #[arg(long, value_name = "NAME=VALUES", required = true)]
    over: Vec<String>,
    /// Draw N random trials instead of running every combination
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// Successive halving: the best 1/ETA of each rung continue in the next one, with ETA times the epochs
    #[arg(long, value_name = "ETA")]
    halving: Option<u32>,
    /// Seed of --random; trial k does not depend on N [default: 1]
    #[arg(long, value_name = "N", requires = "random")]
    seed: Option<u64>,
    /// Number of parallel trials
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Number of threads per trial [default: all cores, divided among the parallel trials]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// List the trials and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Run failed trials again
    #[arg(long)]
    retry: bool,
    /// Repeat trials for which the data, the base run or the settings file have changed
    #[arg(long)]
    redo_stale: bool,
    /// The `train` or `finetune` command of every trial, without --out and without the searched settings
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let mut search = Search::read(&args)?;
    search.check_folder()?;
    if args.dry_run {
        search.base.data.as_deref().map(open_data).transpose()?;
        search.list(&printer);
        return Ok(());
    }
    // Before the folder is created, so that missing data or a missing base leave none behind.
    let inputs = search.base.inputs(&printer)?;
    search.look_ahead(&printer)?;
    let _lock = search.begin()?;
    search.stop = flag_on_signal(printer, "the trials write checkpoints and end", || {
        Error::user("ended at once: running trials may lose the work since their last checkpoint")
            .hint("run the same command to continue")
    });
    search.execute(&args, &inputs, printer)
}

/// A search that is ready to start.
struct Search {
    folder: PathBuf,
    asked: Asked,
    base: Base,
    choices: Vec<Choice>,
    rungs: Vec<Rung>,
    /// Set by the first signal; the trials then write checkpoints and end.
    stop: Arc<AtomicBool>,
}

impl Search {
    /// Parses the arguments.
    ///
    /// # Errors
    /// The command or a setting does not exist, or a flag does not accept a value.
    fn read(args: &Args) -> Result<Search> {
        for (flag, zero) in
            [("jobs", args.jobs == 0), ("threads", args.threads == Some(0)), ("random", args.random == Some(0))]
        {
            if zero {
                return Err(Error::user(format!("--{flag} 0 is out of range")).hint("use at least 1, or omit it"));
            }
        }
        if let Some(n) = args.random.filter(|n| *n > MOST) {
            return Err(
                Error::user(format!("--random {n}: at most {MOST} trials are allowed")).hint("use a smaller number")
            );
        }
        let (space, base) = (Space::read(&args.over)?, Base::read(&args.command)?);
        for d in &space.0 {
            if base.flags.given().contains(&d.name) {
                return Err(Error::user(format!("--{} is searched and also given after --", d.name))
                    .hint("omit it after --, or omit the --over"));
            }
            if d.name == "keep-seen" {
                return Err(Error::user("--over keep-seen: it changes the validation by which trials are ranked")
                    .hint("add --keep-seen true or --keep-seen false after --, the same for all trials"));
            }
            if d.name == "epochs" && args.halving.is_some() {
                return Err(Error::user("--over epochs cannot be used with --halving, which sets the epochs")
                    .hint("give the epochs of the last rung after --, and omit the --over"));
            }
        }
        for (name, value) in space.ends() {
            let words = [&base.words[..], &[format!("--{name}"), value.clone()]].concat();
            parse(&words).map_err(|e| e.at(format!("--over {name}={value}")))?;
        }
        let choices = args.random.map_or_else(|| space.grid(), |n| Ok(space.random(n, args.seed.unwrap_or(1))))?;
        let epochs = base.settings()?.epochs;
        let one = vec![Rung { trials: choices.len(), epochs }];
        let rungs = args.halving.map_or(one, |eta| rungs(choices.len(), epochs, eta));
        if let Some(eta) = args.halving {
            let refuse = |what: String, hint: &str| Err(Error::user(what).hint(hint.to_string()));
            if eta < 2 {
                return refuse(format!("--halving {eta} is out of range"), "it must be at least 2");
            }
            if rungs.len() == 1 {
                let what = format!("--halving {eta}: {} trials of {epochs} epochs are too few to halve", choices.len());
                return refuse(what, "use at least ETA trials and ETA epochs, or omit --halving");
            }
        }
        let asked = Asked {
            version: Asked::VERSION,
            command: base.words.clone(),
            over: args.over.clone(),
            random: args.random,
            halving: args.halving,
            seed: args.seed.unwrap_or(1),
        };
        let search = Search { folder: args.out.clone(), asked, base, choices, rungs, stop: Arc::default() };
        search.choices.iter().try_for_each(|c| parse(&search.words(c, search.rungs[0])).map(|_| ()))?;
        Ok(search)
    }

    /// Checks that the folder is new or belongs to this search.
    ///
    /// # Errors
    /// The folder holds something else, or trials of another command.
    fn check_folder(&self) -> Result<()> {
        let Some(before) = Asked::read(&self.folder)? else { return Ok(()) };
        let changed = changes(&before.command, &self.asked.command);
        if changed.is_empty() {
            return Ok(());
        }
        let what = format!("{}: its trials belong to another command: {}", self.folder.display(), changed.join("; "));
        Err(Error::user(what)
            .hint(format!("choose another --out, or continue with: -- {}", in_a_line(&before.command))))
    }

    /// Writes the request and locks the folder against other searches.
    fn begin(&self) -> Result<Vec<File>> {
        make_folder(&self.folder)?;
        let before = self.folder.join("search.json");
        let mut locks = Vec::new();
        if before.exists() {
            locks.push(lock(&before)?);
        }
        // Written first: a non-empty folder without this file is not a search.
        locks.push(lock(&self.asked.write(&self.folder)?)?);
        make_folder(&self.trials())?;
        Ok(locks)
    }

    /// Warns about trials that will be rejected, before any trial starts.
    ///
    /// # Errors
    /// All trials will be rejected.
    fn look_ahead(&self, printer: &Printer) -> Result<()> {
        let commands: Vec<Vec<String>> = self.choices.iter().map(|c| self.words(c, self.rungs[0])).collect();
        let refused: Vec<(String, Error)> = refusals(&self.base, &commands, printer)?
            .into_iter()
            .zip(&self.choices)
            .filter_map(|(e, choice)| Some((self.name(choice, self.rungs[0]), e?)))
            .collect();
        let Some((name, e)) = refused.first() else { return Ok(()) };
        if refused.len() == commands.len() {
            return Err(e.clone().at(format!("every trial is rejected; {name}")));
        }
        let (n, all) = (refused.len(), commands.len());
        printer.warn(format_args!("{n} of {all} trials will be rejected; the first one, {name}: {}", e.what));
        Ok(())
    }

    fn trials(&self) -> PathBuf {
        self.folder.join("trials")
    }

    /// Returns the settings that identify a trial, including the epochs if the search sets them.
    fn choice(&self, choice: &Choice, rung: Rung) -> Choice {
        let epochs = self.asked.halving.map(|_| ("epochs".to_string(), rung.epochs.to_string()));
        choice.iter().cloned().chain(epochs).collect()
    }

    /// Returns the command of a trial, without its folder.
    fn words(&self, choice: &Choice, rung: Rung) -> Vec<String> {
        let mut words = self.base.words.clone();
        if self.asked.halving.is_some() {
            drop_flag(&mut words, "--epochs");
        }
        let flags = self.choice(choice, rung).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        words.extend(flags);
        words
    }

    /// Returns the name of a trial, which does not depend on the order of the settings.
    fn name(&self, choice: &Choice, rung: Rung) -> String {
        let mut all = self.choice(choice, rung);
        all.sort();
        name_of(&all)
    }

    fn job(&self, choice: &Choice, rung: Rung, inputs: &Inputs) -> RunJob {
        let (name, mut train) = (self.name(choice, rung), self.words(choice, rung));
        let key = json!([flags_of(&train), inputs.data, inputs.config, inputs.from]).to_string();
        train.extend(["--out".to_string(), self.trials().join(&name).display().to_string()]);
        RunJob {
            name,
            folder: self.trials(),
            train,
            then: Vec::new(),
            leaves: Vec::new(),
            key: digest(key),
            after: Vec::new(),
            seconds: 0.0,
            epochs: self.epochs_of(choice, rung),
            machine: String::new(),
        }
    }

    fn epochs_of(&self, choice: &Choice, rung: Rung) -> u32 {
        let searched = choice.iter().find(|(name, _)| name == "epochs").and_then(|(_, value)| value.parse().ok());
        searched.unwrap_or(rung.epochs)
    }

    /// Returns the table row of a trial in the given state.
    fn trial(&self, choice: &Choice, rung: Rung, job: &RunJob, state: RunState) -> Result<Trial> {
        let curve = curve_of(&job.run())?;
        let measured = matches!(state, RunState::Done | RunState::Stale(_));
        Ok(Trial {
            name: job.name.clone(),
            settings: choice.clone(),
            best: best_of(&curve).filter(|_| measured),
            rung: self.rungs.iter().position(|r| *r == rung).unwrap_or(0) + 1,
            epochs: job.epochs,
            epochs_done: curve.last().map_or(0, |row| row.epoch),
            seconds: record_of(job).ok().flatten().map_or(0.0, |record| record.seconds),
            state,
            run: job.run(),
            command: format!("mipgpu {}", in_a_line(&self.words(choice, rung))),
        })
    }

    /// Prints the trials and their cost in epochs.
    fn list(&self, printer: &Printer) {
        let first = self.rungs[0];
        let whole: u64 = self.choices.iter().map(|c| u64::from(self.epochs_of(c, first))).sum();
        let epochs = match self.asked.halving {
            None => whole,
            Some(_) => self.rungs.iter().map(|r| r.trials as u64 * u64::from(r.epochs)).sum(),
        };
        let command = |c: &Choice| {
            let run = self.trials().join(self.name(c, first));
            format!("mipgpu {} --out {}", in_a_line(&self.words(c, first)), typed(run))
        };
        if printer.json {
            let of = |c: &Choice| {
                let settings: serde_json::Map<_, _> = c.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
                json!({"name": self.name(c, first), "settings": settings, "command": command(c)})
            };
            let trials: Vec<Value> = self.choices.iter().map(of).collect();
            let rungs: Vec<Value> =
                self.rungs.iter().map(|r| json!({"trials": r.trials, "epochs": r.epochs})).collect();
            printer.event(
                &json!({"event": "search", "dry_run": true, "trials": trials, "rungs": rungs, "epochs": epochs}),
            );
            return;
        }
        self.choices.iter().for_each(|c| printer.result(command(c)));
        let n = self.choices.len();
        printer.result(format_args!("{n} trials, {epochs} epochs in total; nothing was run"));
        for r in &self.rungs[1..] {
            printer.result(format_args!("  then the best {} from scratch with {} epochs", r.trials, r.epochs));
        }
    }

    fn execute(&self, args: &Args, inputs: &Inputs, printer: Printer) -> Result<()> {
        printer.say(format_args!("search  {} trials of: mipgpu {}", self.choices.len(), in_a_line(&self.base.words)));
        if let Some(n) = args.random.filter(|n| *n > self.choices.len()) {
            printer.warn(format_args!("--random {n}: only {} different trials exist", self.choices.len()));
        }
        let known: HashSet<String> =
            self.rungs.iter().flat_map(|r| self.choices.iter().map(|c| self.name(c, *r))).collect();
        let others = others(&self.trials(), |name| known.contains(name));
        if !others.is_empty() {
            let names = others.iter().take(5).cloned().collect::<Vec<_>>().join("  ");
            let more = if others.len() > 5 { "  ..." } else { "" };
            printer.say(format_args!(
                "        the folder holds {} trials that are not part of this search: {names}{more}",
                others.len()
            ));
        }
        let mut table: Vec<Trial> = Vec::new();
        let mut alive: Vec<usize> = (0..self.choices.len()).collect();
        for (k, rung) in self.rungs.iter().enumerate() {
            if self.rungs.len() > 1 {
                let of = self.rungs.len();
                printer.say(format_args!("rung {} of {of}: {} trials of {} epochs", k + 1, alive.len(), rung.epochs));
            }
            let choices: Vec<&Choice> = alive.iter().map(|i| &self.choices[*i]).collect();
            let rows = self.rung(&choices, *rung, inputs, &table, args, printer)?;
            let goodness: Vec<Option<f64>> = rows.iter().map(|t| t.best.map(|best| best.goodness)).collect();
            table.extend(rows);
            measure_of(&table)?;
            let Some(next) = self.rungs.get(k + 1) else { break };
            alive = survivors(&goodness, next.trials).into_iter().map(|i| alive[i]).collect();
            if alive.is_empty() || self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        rank(&mut table);
        write_tables(&self.folder, &self.asked, &table)?;
        self.conclude(&table, &others, &printer)
    }

    /// Runs the trials of a rung that are not done, and returns the rows of the rung.
    fn rung(
        &self,
        choices: &[&Choice],
        rung: Rung,
        inputs: &Inputs,
        before: &[Trial],
        args: &Args,
        printer: Printer,
    ) -> Result<Vec<Trial>> {
        let jobs: Vec<RunJob> = choices.iter().map(|c| self.job(c, rung, inputs)).collect();
        let mut states: Vec<RunState> = jobs.iter().map(state_of).collect();
        let mut stale = Vec::new();
        for (job, state) in jobs.iter().zip(&mut states) {
            if !matches!(state, RunState::Stale(_)) {
                continue;
            }
            if args.redo_stale {
                forget(job)?;
                *state = RunState::Waiting;
            } else {
                *state = RunState::Stale(why_stale(&job.run(), inputs));
                stale.push(job.name.as_str());
            }
        }
        if !stale.is_empty() {
            let what = format!("{} trials are stale, because an input has changed: {}", stale.len(), stale.join("  "));
            if self.asked.halving.is_some() {
                return Err(Error::user(what).hint("use --redo-stale to repeat them; the next rung depends on them"));
            }
            printer.warn(format_args!("{what}; use --redo-stale to repeat them"));
        }
        let row = |i: usize, state: RunState| self.trial(choices[i], rung, &jobs[i], state);
        let mut rows = states.iter().enumerate().map(|(i, s)| row(i, s.clone())).collect::<Result<Vec<_>>>()?;
        let write = |rows: &[Trial]| {
            let mut all = [before, rows].concat();
            rank(&mut all);
            write_tables(&self.folder, &self.asked, &all)
        };
        write(&rows)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let runner = Runner {
            program: std::env::current_exe().map_err(|e| Error::internal(format!("this program: {e}")))?,
            at_once: args.jobs,
            threads: args.threads.unwrap_or((cores / args.jobs).max(1)),
            stop: &self.stop,
            retry: args.retry,
        };
        if args.retry {
            states.iter_mut().filter(|s| matches!(s, RunState::Failed(_))).for_each(|s| *s = RunState::Waiting);
        }
        let mut progress = JobsProgress::new(printer, &jobs, &states);
        let mut kept = Ok(());
        let after = runner.run(&jobs, &mut |event| {
            if let JobEvent::Ended { job, state, .. } = &event {
                let written = row(*job, state.clone()).and_then(|new| {
                    rows[*job] = new;
                    write(&rows)
                });
                if written.is_err() && kept.is_ok() {
                    // Without the table, the results would be lost.
                    kept = written;
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
            progress.show(event);
        });
        progress.finish();
        kept?;
        for (i, state) in after?.into_iter().enumerate() {
            // The row of a stale trial already holds the reason.
            if !matches!(state, RunState::Stale(_)) {
                rows[i] = row(i, state)?;
            }
        }
        Ok(rows)
    }

    /// Fails if a trial has failed, so that callers know that the ranking is incomplete.
    ///
    /// # Errors
    /// A trial has failed.
    fn refuse_failed(&self, table: &[Trial]) -> Result<()> {
        let failed: Vec<&str> =
            table.iter().filter(|t| matches!(t.state, RunState::Failed(_))).map(|t| t.name.as_str()).collect();
        let Some(first) = failed.first() else { return Ok(()) };
        let (n, all) = (failed.len(), table.len());
        Err(Error::user(format!("{n} of {all} trials have failed, such as {first}: see the table"))
            .hint("the best trial is the best of the others; use --retry to run failed ones again"))
    }

    /// Prints the table, the best trial and its command.
    fn conclude(&self, table: &[Trial], others: &[String], printer: &Printer) -> Result<()> {
        let stopped = self.stop.load(Ordering::Relaxed);
        let done = table.iter().filter(|t| t.state == RunState::Done).count();
        let best = table.first().filter(|t| t.state == RunState::Done && t.best.is_some());
        if printer.json {
            let more = json!({"best": best.map(|t| &t.name), "others": others, "stopped": stopped});
            printer.event(&as_event(&self.asked, table, more));
        } else {
            printer.raw(table_text(table));
        }
        if stopped {
            return Err(Error::user(format!("stopped: {done} of {} trials are done", table.len()))
                .hint("run the same command to continue"));
        }
        if done == 0 {
            let e = Error::user("no trial has finished");
            let why = table.iter().find_map(|t| match &t.state {
                RunState::Failed(why) => Some(why.replace("\n  hint: ", "; ")),
                _ => None,
            });
            return Err(why.map_or(e.clone(), |why| e.hint(format!("the first error: {why}"))));
        }
        let Some(best) = best else {
            return Err(Error::user("the split has no validation part, by which trials are ranked")
                .hint("add one: --valid-n 1, --valid-share 0.1 or an earlier --valid-cut"));
        };
        let run = typed(&best.run);
        printer.say(format_args!("\nbest: {}\n  {}\nnext:", best.name, best.command));
        printer.say(format_args!("  mipgpu eval {run}"));
        if let Some(second) = table.get(1).filter(|t| t.state == RunState::Done && t.rung == best.rung) {
            let second = typed(&second.run);
            printer.say(format_args!("  mipgpu compare {run} {second} --part valid      test the difference"));
        }
        self.refuse_failed(table)
    }
}

/// Locks a file until the lock is dropped or the process ends.
fn lock(path: &Path) -> Result<File> {
    let file = File::open(path).at_path(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::user(format!("{}: another process is running this search", path.display()))
                .hint("wait for it to end, or search in another folder with --out"))
        }
        // On a file system without locks, continue without one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}
