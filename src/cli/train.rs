//! `mipgpu train`: trains a model on a data set (or the built-in one), evaluates it, and writes a run folder.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::json;

use super::{
    builtin, doubts,
    opened::{open_data, open_data_for},
    precision::{check_precision, choose_fastest, warn_of_slow_bf16},
    printer::{self, Printer},
    progress::Progress,
    run_flags::PlaceFlags,
    settings_file::SettingsFile,
    split_flags::SplitFlags,
};
use crate::{
    backend::{self, Device},
    base::{Error, Result, error::typed},
    data::{Dataset, digits, split::Split},
    eval::Evaluation,
    tasks::Pairs,
    train::{
        Flags, Freeze, Patching, RunConfig, RunFolder, Settings, Which,
        checkpoint::TrainState,
        finish::evaluate_best,
        folder::free_name,
        resolve::{default_split, rating_scale, resolve_settings},
        run::{self, TrainJob},
        train,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu train                                       on the built-in sample
  mipgpu train data/mine --out runs/mine --epochs 60
  mipgpu train data/mine --config wide.toml --lr 0.001
  mipgpu train --resume runs/mine

The run folder holds config.toml, items.safetensors (item keys; users.safetensors, fields.safetensors with --user-width,
--fields), best.safetensors, last.safetensors, metrics.jsonl,
timing.jsonl and report.json. Ctrl-C writes a checkpoint first.

More settings (layers, losses, schedule): mipgpu train --help-all")]
pub struct Args {
    /// Run folder to create [default: runs/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Resume this run from its last checkpoint; the result is bit-identical to that of an uninterrupted run
    #[arg(long, value_name = "RUN", conflicts_with_all = ["data", "out", "config"])]
    pub(super) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(super) job: JobArgs,
}

/// Model, data and device: shared by all commands that train like `mipgpu train`.
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    /// Data set folder created by `mipgpu import` [default: the built-in MovieLens sample]
    pub(super) data: Option<PathBuf>,
    /// Settings file: TOML whose keys are the long flags of this command without the dashes, or the config.toml of a
    /// run, to repeat that run; flags override the file
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) place: PlaceFlags,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    pub(super) flags: Flags,
}

impl JobArgs {
    /// Reads the settings file and rejects settings that do not apply to a run from scratch.
    ///
    /// # Errors
    /// As [`SettingsFile::read`].
    pub(super) fn file(&self) -> Result<SettingsFile> {
        let file = SettingsFile::read(self.config.as_deref())?;
        file.check_from_scratch().map(|()| file)
    }
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    if args.resume.is_some() {
        let (folder, config, data) = reopen(&args)?;
        let (device, threads) = args.job.place.over(&PlaceFlags::default());
        return execute(&Planned { folder, config, data, device, threads, resume: true }, printer);
    }
    let Prepared { config, data, device, threads } = prepare(args.job, "mipgpu train", &printer)?;
    let out = args.out.unwrap_or_else(|| free_name("runs", &config.data, &config.settings.model));
    execute(&Planned { folder: RunFolder::new(out), config, data, device, threads, resume: false }, printer)
}

/// A run that is about to start or resume.
pub struct Planned {
    pub folder: RunFolder,
    pub config: RunConfig,
    pub data: Dataset,
    pub device: Device,
    pub threads: Option<usize>,
    pub resume: bool,
}

/// Trains to the end and evaluates.
///
/// # Errors
/// Errors of the run; an interruption.
pub fn execute(planned: &Planned, printer: Printer) -> Result<()> {
    let started = Instant::now();
    let Planned { folder, config, data, device, threads, resume } = planned;
    let (device, resume) = (*device, *resume);
    let pool = super::thread_pool(*threads)?;
    let (run, again) = (folder.clone(), typed(&folder.path));
    // `stopped` is set by Ctrl-C: the run then writes a checkpoint and ends. `trained` is set after the last
    // checkpoint: everything after it can be repeated.
    let (stopped, trained) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (of_signal, of_parent, done) = (stopped.clone(), stopped.clone(), trained.clone());
    let stop = move || {
        of_signal.store(true, Ordering::Relaxed);
        if done.load(Ordering::Relaxed) {
            let e = Error::user("stopped during the test evaluation; the training is complete and nothing is lost");
            std::process::exit(printer::report(&e.hint(format!("evaluate it: mipgpu train --resume {again}"))).into());
        }
    };
    super::stop::on_signal(printer, "the run writes a checkpoint after this step", stop, move || ended_at_once(&run));
    super::stop::end_with_parent(move || of_parent.store(true, Ordering::Relaxed));
    let split = Split::for_task(data, config.split, config.settings.find()?.1.baskets)?;
    // Check before writing anything: an unusable device or invalid settings must not leave a run folder behind.
    backend::probe(device, config.settings.precision.on(device))?;
    let made = !folder.path.exists();
    if !resume {
        run::check(config, data, &split)?;
        folder.create(config, data)?;
    }
    let _lock = folder.lock()?;
    introduce(&printer, config, data, &split, device, pool.current_num_threads());
    printer.say(format_args!("run     {}", folder.path.display()));
    pool.install(|| doubts::before(&printer, config, (data, &split), device))?;
    let chosen = backend::choose(device).0;
    warn_of_slow_bf16(&printer, chosen, config.settings.precision.on(chosen), &pool);
    let job = TrainJob { config, data, split: &split, folder, device, resume, stop: &stopped };
    let mut progress = Progress::new(printer, &config.settings);
    let result = pool.install(|| train(&job, &mut |event| progress.show(event)));
    progress.finish();
    if result.is_err() && !resume {
        folder.discard(made);
    }
    let state = result?;
    if !state.done {
        if printer.json {
            printer.event(&json!({"event": "stopped", "run": folder.path, "epochs": state.epoch, "step": state.step}));
        }
        return Err(Error::user(format!(
            "stopped after {} of {} epochs; everything up to here is in {}",
            state.epoch,
            config.settings.epochs,
            folder.last().display()
        ))
        .hint(format!("continue with: mipgpu train --resume {}", typed(&folder.path))));
    }
    pool.install(|| doubts::after(&printer, config, &state, data, &split))?;
    trained.store(true, Ordering::Relaxed);
    let report = pool.install(|| evaluate_best(folder, data, &split, device))?;
    conclude(&printer, folder, config, &state, &report, started)
}

/// The error after a second signal, which loses the work since the last checkpoint.
fn ended_at_once(folder: &RunFolder) -> Error {
    let what = "ended at once: the training since the last checkpoint is lost";
    match folder.last().exists() {
        true => Error::user(what).hint(format!("continue with: mipgpu train --resume {}", typed(&folder.path))),
        false => Error::user("ended at once: there was no checkpoint yet").hint("run the same command again"),
    }
}

fn reopen(args: &Args) -> Result<(RunFolder, RunConfig, Dataset)> {
    let folder = RunFolder::new(args.resume.clone().unwrap_or_default());
    let given = args.job.flags.given().into_iter().next().or(args.job.split.first_given().map(str::to_string));
    if let Some(flag) = given {
        return Err(Error::user(format!("--{flag} cannot be changed on --resume"))
            .hint("a resumed run keeps its original settings; start a new run to change them"));
    }
    let config = folder.config()?;
    if !folder.last().exists() {
        return Err(Error::user(format!("{}: no checkpoint to resume from", folder.path.display()))
            .hint("the run was stopped before its first checkpoint: start it again"));
    }
    let data = open_data(&config.data).map_err(|e| match config.data.exists() {
        true => e,
        false => Error::user(format!("{}: the run's data set does not exist", config.data.display()))
            .hint("restore it, or correct `data` in the run's config.toml"),
    })?;
    if data.fingerprint() != config.data_fingerprint {
        return Err(Error::user(format!("{}: the data set has changed since the run began", config.data.display()))
            .hint("import the same data again, or start a new run"));
    }
    Ok((folder, config, data))
}

/// The configuration of a new run, its data, and its device.
pub struct Prepared {
    pub config: RunConfig,
    pub data: Dataset,
    pub device: Device,
    pub threads: Option<usize>,
}

/// Resolves the configuration of a new run; `command` is the command that hints show.
///
/// # Errors
/// Data that cannot be opened; settings that contradict each other or the data.
pub fn prepare(mut args: JobArgs, command: &str, printer: &Printer) -> Result<Prepared> {
    let file = args.file()?;
    choose_fastest(&mut args.flags, &file, &args.place, printer)?;
    let (path, start) = match args.data.as_ref().or(file.data.as_ref()) {
        Some(path) => (path.clone(), Settings::default()),
        None => (builtin::import(printer)?, builtin::settings()),
    };
    let data = open_data_for(&path, Some(command))?;
    let config = config_of(&args, &file, &start, (&path, &data))?;
    let (device, threads) = args.place.over(&file.place);
    check_precision(args.flags.precision.or(file.settings.precision), device)?;
    Ok(Prepared { config, data, device, threads })
}

/// The configuration of a run on opened data. The file's settings override `start`, and flags override both.
///
/// # Errors
/// Settings that contradict each other or the data.
pub(super) fn config_of(
    args: &JobArgs,
    file: &SettingsFile,
    start: &Settings,
    (path, data): (&Path, &Dataset),
) -> Result<RunConfig> {
    let mut settings = file.settings(&args.flags, start)?;
    if settings.patch != Patching::None || settings.freeze != Freeze::NONE || settings.keep_side {
        let flags = if settings.patch != Patching::None { "--transfer patch" } else { "--freeze network" };
        return Err(Error::user("patches and frozen parts require a pre-trained network")
            .hint(format!("start from a trained run: mipgpu finetune --from RUN {flags} DATA")));
    }
    settings.find()?;
    let split = args.split.over(&file.split).spec(data)?.unwrap_or(default_split(&settings)?);
    resolve_settings(&args.flags.given(), &mut settings, data, None)?;
    file.refuse_idle(&settings, start, None)?;
    let ratings = rating_scale(&settings, data, split)?;
    Ok(RunConfig {
        version: RunConfig::VERSION,
        data: std::path::absolute(path).unwrap_or(path.into()),
        data_fingerprint: data.fingerprint().to_string(),
        split,
        from: None,
        ratings,
        settings,
    })
}

/// Prints the data, split, model, task and device of a run.
pub fn introduce(printer: &Printer, config: &RunConfig, data: &Dataset, split: &Split, device: Device, threads: usize) {
    let s = &config.settings;
    let summary = split.summary();
    printer.say(format_args!(
        "data    {}: {} users, {} items, {} interactions",
        config.data.display(),
        digits(data.users() as u64),
        digits(data.items() as u64),
        digits(data.interactions())
    ));
    printer.say(format_args!(
        "split   {}\n        {} training interactions; {} validation users, {} test users",
        config.split.words(summary.ticks_per_second),
        digits(summary.train_events),
        digits(summary.valid_users as u64),
        digits(summary.test_users as u64)
    ));
    let uses = |name: &str| s.find().is_ok_and(|(model, _)| model.uses.contains(&name));
    let blocks = if uses("blocks") { format!(", {} blocks", s.blocks) } else { String::new() };
    let heads = if uses("heads") { format!(", {} heads", s.heads) } else { String::new() };
    printer.say(format_args!(
        "model   {}, width {}{blocks}{heads}, length {}, dropout {}",
        s.model, s.width, s.length, s.dropout
    ));
    let mut parts = Vec::new();
    if !s.field_names().is_empty() {
        parts.push(format!("fields {} ({} wide each)", s.field_names().join(", "), s.field_width));
    }
    if s.user_width > 0 {
        parts.push(format!("users {} wide", s.user_width));
    }
    if !parts.is_empty() {
        let joined = if uses("join") { format!(", joined by {}", name(s.join)) } else { String::new() };
        printer.say(format_args!("side    {}{joined}", parts.join(", ")));
    }
    printer.say(format_args!(
        "task    {}{}, loss {}",
        s.task,
        if s.task != "next-item" { format!(", mask {}, mask-last {}", s.mask, s.mask_last) } else { String::new() },
        if config.ratings.is_some() { "squared error of masked ratings".into() } else { loss_in_words(s) }
    ));
    if s.find().is_ok_and(|(_, task)| task.baskets) {
        let with = Pairs::new(data, split.train(), s.seed).users().len();
        printer.say(format_args!(
            "        {} users have two baskets or more to learn from; {} have fewer and are not trained on",
            digits(with as u64),
            digits((data.users() - with) as u64)
        ));
    }
    if let Some(from) = &config.from {
        let which = if from.checkpoint == Which::Best { "best" } else { "last" };
        printer.say(format_args!("from    {}, {which} checkpoint, transfer {}", from.run.display(), from.transfer));
    }
    let (device, chosen) = backend::choose(device);
    let precision = format!("{:?}", s.precision.on(device)).to_lowercase();
    printer.say(format_args!("device  {chosen}, {precision}, {threads} threads"));
}

/// The name of a value on the command line.
fn name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
}

/// `gbce (t 0.75) against 128 uniform negatives of each position, without the user's own items`
fn loss_in_words(settings: &Settings) -> String {
    let c = settings.loss();
    let mut words = name(c.kind);
    if !c.kind.sampled() {
        return words;
    }
    if c.kind.calibrated() {
        words += &format!(" (t {})", c.gbce_t);
    }
    if c.kind.correctable() && c.log_q {
        words += " (logQ corrected)";
    }
    let (n, sampler) = (digits(c.sampler.negatives as u64), name(c.sampler.kind));
    words += &match c.sampler.per_row {
        _ if c.sampler.kind.in_batch() => " against the batch's other targets".to_string(),
        true => format!(" against {n} {sampler} negatives of each position"),
        false if c.sampler.unique => format!(" against {n} different {sampler} negatives of a batch"),
        false => format!(" against {n} {sampler} negatives of a batch"),
    };
    words + if c.exclude_seen { ", without the user's own items" } else { "" }
}

/// Runs that learn more than popularity usually take more steps than this.
const FEW_STEPS: u64 = 2000;

/// Advice for a run whose lists are worse than the most popular items.
fn below_popularity(config: &RunConfig, state: &TrainState) -> String {
    let s = &config.settings;
    let validated = state.history.iter().rev().find(|row| row.ndcg.is_some()).map(|row| row.epoch);
    // The validation counts as rising if its best is in the last fifth of the epochs, since a rising curve also falls
    // now and then. Take the first epoch with the best value: equal values later are not a rise.
    let first = state.best.and_then(|(_, best)| state.history.iter().find(|row| row.ndcg == Some(best)));
    let rising = match (first, validated) {
        (Some(row), Some(last)) => row.epoch + last / 5 >= last,
        _ => false,
    };
    let few = state.step < FEW_STEPS;
    let times = FEW_STEPS.div_ceil(state.step.max(1)).clamp(2, 1000) as u32;
    let curve = match (validated, rising) {
        (None, _) => "",
        (_, true) => ", validation still rising",
        (_, false) => ", validation no longer rising",
    };
    let mut ways = Vec::new();
    if few || rising {
        ways.push(format!("--epochs {}", s.epochs.saturating_mul(times)));
    }
    if s.task == "masked-item" && config.from.is_none() {
        ways.push("--model sasrec, which learns the next item at every position".into());
    }
    if ways.is_empty() {
        ways.push("an import without rare items (--min-item), or another --dropout, --lr or --width".into());
    }
    format!("  after {} steps{curve}; try {}", digits(state.step), ways.join(", or "))
}

fn conclude(
    printer: &Printer,
    folder: &RunFolder,
    config: &RunConfig,
    state: &TrainState,
    report: &Evaluation,
    started: Instant,
) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let run = typed(&folder.path);
    if printer.json {
        let best = state.best.map(|(epoch, measure)| match report {
            Evaluation::Ranking(_) => json!({"epoch": epoch, "valid_ndcg@10": measure}),
            Evaluation::Ratings(_) => json!({"epoch": epoch, "valid_rmse": measure}),
        });
        printer.event(&json!({
            "event": "done", "run": folder.path, "epochs": state.epoch, "best": best, "seconds": seconds,
            "test": report.json(),
        }));
        return Ok(());
    }
    if let Some((epoch, measure)) = state.best {
        let name = if let Evaluation::Ranking(_) = report { "NDCG@10" } else { "RMSE" };
        printer.say(format_args!(
            "\nbest validation {name} {measure:.4} at epoch {epoch}; the test below uses those weights"
        ));
    } else {
        printer.say("\nno validation: the test below uses the newest weights");
    }
    printer.raw(report.text());
    let report = match report {
        Evaluation::Ranking(report) => report,
        Evaluation::Ratings(_) => {
            printer.say(format_args!("\ndone in {seconds:.0} s; next:\n  mipgpu eval {run} --per-user ratings.tsv"));
            return Ok(());
        }
    };
    let at_10 = report.full.map(|metrics| metrics.at(10).map_or(0.0, |at| at.ndcg));
    let times: Vec<String> = at_10
        .beside()
        .filter(|(_, b)| **b > 0.0)
        .map(|(name, b)| (if name == "personal" { "personal frequency" } else { name }, at_10.model / b))
        .map(|(of, times)| format!("{times:.2} times that of {of}"))
        .collect();
    if !times.is_empty() {
        printer.result(format_args!("\nNDCG@10 is {}", times.join(", ")));
    }
    if at_10.popularity.is_some_and(|popularity| at_10.model < popularity) {
        printer.say(below_popularity(config, state));
    }
    printer.say(format_args!(
        "\ndone in {seconds:.0} s; next:\n  mipgpu eval {run}\n  mipgpu recommend {run} --all-users --k 10\n  mipgpu \
         export {run} --out vectors"
    ));
    Ok(())
}
