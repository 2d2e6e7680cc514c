/*! `mipgpu search`: which settings validate best. Every trial is a `train` or `finetune` of its own, as one would type it.

A trial is chosen by its best validation; tests are neither compared nor shown, so that the winner's test is still one. Under
successive halving each rung trains anew: the learning rate falls over the whole length of a run, so that a short run that is
stretched afterwards is not the run that would have been made.
*/

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::{
    jobs_progress::JobsProgress,
    opened::open_data,
    printer::Printer,
    search_base::{Base, Inputs, drop_flag, in_a_line, parse, refusals, why_stale},
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

/// Tries settings and ranks them by the best validation (NDCG@10, or RMSE of ratings): a grid of all combinations, --random N
/// draws, or --halving, which gives all a few epochs and the best ones more. The test is not looked at.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu search --out s1 --over lr=1e-3,3e-4 --over dropout=0.1,0.2,0.3 -- train data/mine --model sasrec --epochs 40
  mipgpu search --out s2 --random 20 --over lr=1e-4..1e-2:log --over width=32,64 -- finetune --from runs/films data/books
  mipgpu search --out s3 --random 27 --halving 3 --over lr=1e-4..1e-2:log -- train data/mine --epochs 81

The same command again goes on where it was stopped; with other --over or --random it adds trials. DIR/trials holds a run a
trial, DIR/trials.tsv and trials.json the table. --halving 3 with 81 epochs gives 27 trials 3 epochs, the best 9 of them 9,
the best 3 of those 27, the best 81, each time from the beginning: the learning rate falls over the length of a run.")]
pub struct Args {
    /// Folder of the search
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// What to try for a setting: NAME=VALUE,VALUE (a semicolon between values with commas in them), or NAME=LOW..HIGH and
    /// NAME=LOW..HIGH:log for --random; once a setting
    #[arg(long, value_name = "NAME=VALUES", required = true)]
    over: Vec<String>,
    /// Draw so many trials instead of trying every combination
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// Successive halving: from one rung to the next the best 1/ETA go on, with ETA times the epochs
    #[arg(long, value_name = "ETA")]
    halving: Option<u32>,
    /// Seed of --random; trial k is the same whatever N is [default: 1]
    #[arg(long, requires = "random")]
    seed: Option<u64>,
    /// Trials at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Threads of each trial [default: all cores, shared by the trials that run at a time]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// List the trials, make nothing
    #[arg(long)]
    dry_run: bool,
    /// Try failed trials again
    #[arg(long)]
    retry: bool,
    /// Make trials anew whose data, base run or settings file have changed since
    #[arg(long)]
    redo_stale: bool,
    /// The `train` or `finetune` that every trial is, without --out and without what is searched
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Set by Ctrl-C; the trials then write checkpoints and end.
static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let search = Search::read(&args)?;
    search.check_folder()?;
    if args.dry_run {
        search.base.data.as_deref().map(open_data).transpose()?;
        search.list(&printer);
        return Ok(());
    }
    // Before anything is made: data or a base that are missing leave no folder behind.
    let inputs = search.base.inputs(&printer)?;
    search.look_ahead(&printer)?;
    let _lock = search.begin()?;
    let stop = || STOP.store(true, Ordering::Relaxed);
    super::stop::on_signal(printer, "the trials write checkpoints and end", stop, || {
        Error::user("ended at once: trials under way may lose what came after their last checkpoint")
            .hint("the same command goes on where it is")
    });
    search.execute(&args, &inputs, printer)
}

/// A search, ready to begin.
struct Search {
    folder: PathBuf,
    asked: Asked,
    base: Base,
    choices: Vec<Choice>,
    rungs: Vec<Rung>,
}

impl Search {
    /// # Errors
    /// A command that is none, settings that are none, values that their flags cannot read.
    fn read(args: &Args) -> Result<Search> {
        for (flag, zero) in
            [("jobs", args.jobs == 0), ("threads", args.threads == Some(0)), ("random", args.random == Some(0))]
        {
            if zero {
                return Err(Error::user(format!("--{flag} 0 makes no sense")).hint("give 1 at least, or leave it out"));
            }
        }
        if let Some(n) = args.random.filter(|n| *n > MOST) {
            return Err(Error::user(format!("--random {n}: more trials than {MOST}")).hint("ask for fewer"));
        }
        let (space, base) = (Space::read(&args.over)?, Base::read(&args.command)?);
        for d in &space.0 {
            if base.flags.given().contains(&d.name) {
                return Err(Error::user(format!("--{} is searched, and stands behind -- too", d.name))
                    .hint("leave it out there, or leave the --over out"));
            }
            if d.name == "keep-seen" {
                return Err(Error::user(
                    "--over keep-seen: trials are ranked by their validation, which it is a rule of",
                )
                .hint("give --keep-seen true or false behind --, the same for all trials"));
            }
            if d.name == "epochs" && args.halving.is_some() {
                return Err(Error::user("--over epochs: --halving chooses the epochs")
                    .hint("give the epochs of the last rung behind --, and leave the --over out"));
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
                return refuse(format!("--halving {eta} makes no sense"), "of --halving 3 the best third goes on");
            }
            if rungs.len() == 1 {
                let what =
                    format!("--halving {eta}: {} trials of {epochs} epochs leave nothing to halve", choices.len());
                return refuse(what, "it takes ETA trials and ETA epochs at least; or leave --halving out");
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
        let search = Search { folder: args.out.clone(), asked, base, choices, rungs };
        search.choices.iter().try_for_each(|c| parse(&search.words(c, search.rungs[0])).map(|_| ()))?;
        Ok(search)
    }

    /// # Errors
    /// The folder holds something else, or trials of another command.
    fn check_folder(&self) -> Result<()> {
        let Some(before) = Asked::read(&self.folder)? else { return Ok(()) };
        let changed = changes(&before.command, &self.asked.command);
        if changed.is_empty() {
            return Ok(());
        }
        let what = format!("{}: its trials are of another command: {}", self.folder.display(), changed.join("; "));
        Err(Error::user(what).hint(format!("choose another --out, or go on with: -- {}", in_a_line(&before.command))))
    }

    /// Writes what is asked for, and keeps others from searching in the same folder.
    fn begin(&self) -> Result<Vec<File>> {
        make_folder(&self.folder)?;
        let before = self.folder.join("search.json");
        let mut locks = Vec::new();
        if before.exists() {
            locks.push(lock(&before)?);
        }
        // First of all that is written: a folder with anything else and without it is no search.
        locks.push(lock(&self.asked.write(&self.folder)?)?);
        make_folder(&self.trials())?;
        Ok(locks)
    }

    /// Says which trials will be refused, before any is begun.
    ///
    /// # Errors
    /// All are.
    fn look_ahead(&self, printer: &Printer) -> Result<()> {
        let commands: Vec<Vec<String>> = self.choices.iter().map(|c| self.words(c, self.rungs[0])).collect();
        let refused: Vec<(String, Error)> = refusals(&self.base, &commands, printer)?
            .into_iter()
            .zip(&self.choices)
            .filter_map(|(e, choice)| Some((self.name(choice, self.rungs[0]), e?)))
            .collect();
        let Some((name, e)) = refused.first() else { return Ok(()) };
        if refused.len() == commands.len() {
            return Err(e.clone().at(format!("every trial is refused; {name}")));
        }
        let (n, all) = (refused.len(), commands.len());
        printer.warn(format_args!("{n} of {all} trials will be refused; the first one, {name}: {}", e.what));
        Ok(())
    }

    fn trials(&self) -> PathBuf {
        self.folder.join("trials")
    }

    /// What tells a trial from others; its epochs too where they are the search's.
    fn choice(&self, choice: &Choice, rung: Rung) -> Choice {
        let epochs = self.asked.halving.map(|_| ("epochs".to_string(), rung.epochs.to_string()));
        choice.iter().cloned().chain(epochs).collect()
    }

    /// The command of a trial, without its folder.
    fn words(&self, choice: &Choice, rung: Rung) -> Vec<String> {
        let mut words = self.base.words.clone();
        if self.asked.halving.is_some() {
            drop_flag(&mut words, "--epochs");
        }
        let flags = self.choice(choice, rung).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        words.extend(flags);
        words
    }

    /// The same in whichever order settings were named.
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

    /// The row of a trial in this state.
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

    /// The trials, and what they would cost.
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
        printer.result(format_args!("{n} trials, {epochs} epochs in all; nothing was run"));
        for r in &self.rungs[1..] {
            printer.result(format_args!("  then the best {} anew with {} epochs", r.trials, r.epochs));
        }
    }

    fn execute(&self, args: &Args, inputs: &Inputs, printer: Printer) -> Result<()> {
        printer.say(format_args!("search  {} trials of: mipgpu {}", self.choices.len(), in_a_line(&self.base.words)));
        if let Some(n) = args.random.filter(|n| *n > self.choices.len()) {
            printer.warn(format_args!("--random {n}: there are {} different ones", self.choices.len()));
        }
        let known: HashSet<String> =
            self.rungs.iter().flat_map(|r| self.choices.iter().map(|c| self.name(c, *r))).collect();
        let others = others(&self.trials(), |name| known.contains(name));
        if !others.is_empty() {
            let names = others.iter().take(5).cloned().collect::<Vec<_>>().join("  ");
            let more = if others.len() > 5 { "  ..." } else { "" };
            printer.say(format_args!(
                "        beside {} others that this search does not ask for: {names}{more}",
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
            if alive.is_empty() || STOP.load(Ordering::Relaxed) {
                break;
            }
        }
        rank(&mut table);
        write_tables(&self.folder, &self.asked, &table)?;
        self.conclude(&table, &others, &printer)
    }

    /// Runs what is not done of a rung; gives its rows.
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
            let what = format!("{} trials were made before something changed: {}", stale.len(), stale.join("  "));
            if self.asked.halving.is_some() {
                return Err(Error::user(what).hint("--redo-stale makes them anew; until then nobody knows who goes on"));
            }
            printer.warn(format_args!("{what}; --redo-stale makes them anew"));
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
            stop: &STOP,
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
                    // Nobody would know what was found.
                    kept = written;
                    STOP.store(true, Ordering::Relaxed);
                }
            }
            progress.show(event);
        });
        progress.finish();
        kept?;
        for (i, state) in after?.into_iter().enumerate() {
            // What is stale was told better before.
            if !matches!(state, RunState::Stale(_)) {
                rows[i] = row(i, state)?;
            }
        }
        Ok(rows)
    }

    /// # Errors
    /// A trial has failed: what calls this program should know that its answer is of the others alone.
    fn refuse_failed(&self, table: &[Trial]) -> Result<()> {
        let failed: Vec<&str> =
            table.iter().filter(|t| matches!(t.state, RunState::Failed(_))).map(|t| t.name.as_str()).collect();
        let Some(first) = failed.first() else { return Ok(()) };
        let (n, all) = (failed.len(), table.len());
        Err(Error::user(format!("{n} of {all} trials have failed, such as {first}: see the table"))
            .hint("the best is that of the others; --retry tries failed ones once more"))
    }

    /// The table, the best trial, and how to make it again.
    fn conclude(&self, table: &[Trial], others: &[String], printer: &Printer) -> Result<()> {
        let stopped = STOP.load(Ordering::Relaxed);
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
                .hint("the same command goes on where it is"));
        }
        if done == 0 {
            let e = Error::user("no trial came to its end");
            let why = table.iter().find_map(|t| match &t.state {
                RunState::Failed(why) => Some(why.replace("\n  hint: ", "; ")),
                _ => None,
            });
            return Err(why.map_or(e.clone(), |why| e.hint(format!("the first one says: {why}"))));
        }
        let Some(best) = best else {
            return Err(Error::user("the split keeps no validation part, by which trials are ranked")
                .hint("give it one: --valid-n 1, --valid-share 0.1, an earlier --valid-cut"));
        };
        let run = typed(&best.run);
        printer.say(format_args!("\nbest: {}\n  {}\nits run:", best.name, best.command));
        printer.say(format_args!("  mipgpu eval {run}"));
        if let Some(second) = table.get(1).filter(|t| t.state == RunState::Done && t.rung == best.rung) {
            let second = typed(&second.run);
            printer.say(format_args!("  mipgpu compare {run} {second} --part valid      better, or lucky?"));
        }
        self.refuse_failed(table)
    }
}

/// Keeps a file until the lock is dropped or the process ends.
fn lock(path: &Path) -> Result<File> {
    let file = File::open(path).at_path(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::user(format!("{}: another process is searching here", path.display()))
                .hint("wait for it to end, or search in another folder with --out"))
        }
        // A file system without locks: better to search than not.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}
