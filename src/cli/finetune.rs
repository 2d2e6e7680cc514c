//! `mipgpu finetune`: from a trained run to a run on other data.

use std::path::{Path, PathBuf};

use super::{
    builtin,
    opened::open_data_for,
    precision::{check_precision, choose_fastest},
    printer::Printer,
    settings_file::SettingsFile,
    split_flags::SplitFlags,
    train::{PlaceFlags, Planned, execute},
};
use crate::{
    base::{Error, Result, error::typed},
    data::{Dataset, digits, split::Split},
    layers::{DataSummary, Join},
    train::{
        Flags, Freeze, FreshRows, Origin, Patching, RunConfig, RunFolder, Settings, Transfer, Which,
        folder::free_name,
        lineage::seen_by_bases,
        lineage_notes,
        ratings::scale_after,
        resolve::{default_split, rating_scale, resolve_settings},
        side_tables::{self, SideTables},
        transfer::Base,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu finetune --from runs/films data/books                         all layers, and rows of shared items
  mipgpu finetune --from runs/films --transfer patch data/books        small patches on a frozen network
  mipgpu finetune --from runs/films --fresh-rows mean data/films-new   a grown catalogue: new items, expired ones dropped
  mipgpu finetune --from runs/films --transfer none data/books         the same from scratch, to compare with

Settings are those of the base run, with flags (and --config) over them. Items, users and values of side fields are matched
by key; what was loaded, fresh
and frozen is listed tensor by tensor. The new run is a run like any other: train --resume, eval, recommend, export.

More settings (layers, losses, schedule): mipgpu finetune --help-all")]
pub struct Args {
    /// Data set folder made by `mipgpu import` [default: the built-in MovieLens sample]
    pub(super) data: Option<PathBuf>,
    #[command(flatten)]
    pub(super) start: StartFlags,
    /// Run folder to make [default: runs/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Settings file over the settings of the base: TOML whose keys are the long flags of this command without the
    /// dashes, or the config.toml of a fine-tuned run, to make that run again; flags go over it
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) place: PlaceFlags,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// What a run starts from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StartFlags {
    /// The trained run to start from
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// What is taken over [default: model]
    #[arg(long, value_enum)]
    transfer: Option<Transfer>,
    /// Take the newest weights of the base instead of the best validated ones
    #[arg(long)]
    last: bool,
    /// How rows start of items, users and field values that the base does not know [default: random]
    #[arg(long, value_enum, alias = "fresh-items")]
    fresh_rows: Option<FreshRows>,
}

impl StartFlags {
    /// The first flag that was given, without its dashes.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.from.is_some(), "from"),
            (self.transfer.is_some(), "transfer"),
            (self.last, "last"),
            (self.fresh_rows.is_some(), "fresh-rows"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// These flags over those of a settings file.
    ///
    /// # Errors
    /// Neither names a run; a flag that the transfer does not use.
    pub(super) fn over(&self, file: &StartFlags) -> Result<Start> {
        let from = self
            .from
            .clone()
            .or_else(|| file.from.clone())
            .ok_or_else(|| Error::user("no run to start from").hint("name one: mipgpu finetune --from RUN DATA"))?;
        let transfer = self.transfer.or(file.transfer).unwrap_or(Transfer::Model);
        let refuse = |given: bool, flag: &str, why: &str| match given && transfer == Transfer::None {
            true => {
                Err(Error::user(format!("--{flag} has no effect: with --transfer none {why}")).hint("leave it out"))
            }
            false => Ok(()),
        };
        refuse(self.fresh_rows.is_some(), "fresh-rows", "all rows are fresh, and random")?;
        refuse(self.last, "last", "no weights are taken over")?;
        let which = if self.last || file.last { Which::Last } else { Which::Best };
        Ok(Start { from, transfer, which, fresh_rows: self.fresh_rows.or(file.fresh_rows) })
    }
}

/// The same, settled.
pub(super) struct Start {
    pub(super) from: PathBuf,
    pub(super) transfer: Transfer,
    pub(super) which: Which,
    fresh_rows: Option<FreshRows>,
}

impl Args {
    /// The settings file, and what the run starts from.
    ///
    /// # Errors
    /// As [`SettingsFile::read`] and [`StartFlags::over`].
    pub(super) fn file(&self) -> Result<(SettingsFile, Start)> {
        let file = SettingsFile::read(self.config.as_deref())?;
        let start = self.start.over(&file.start)?;
        Ok((file, start))
    }
}

/// The flags that carry tables to a model which cannot learn the task of the base: its own task must be named too.
fn tables_alone(settings: &Settings) -> Option<String> {
    let refused = settings.find().is_err();
    let mut own = Settings { task: "auto".into(), ..settings.clone() };
    own.name_task().ok().filter(|()| refused)?;
    Some(format!("--transfer embedding --task {}", own.task))
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    execute(&plan(args, &printer)?, printer)
}

/// What a new run is asked to do; says what it shares with its base.
///
/// # Errors
/// Data or a base that cannot be opened, settings that contradict each other or these; held-out events that the base
/// has seen.
pub fn plan(mut args: Args, printer: &Printer) -> Result<Planned> {
    let (file, start) = args.file()?;
    choose_fastest(&mut args.flags, &file, &args.place, printer)?;
    let base = Base::open(&start.from, start.which)?;
    let path = match args.data.as_ref().or(file.data.as_ref()) {
        Some(path) => path.clone(),
        None => builtin::import(printer)?,
    };
    let data = open_data_for(&path, Some(&format!("mipgpu finetune --from {}", typed(&start.from))))?;
    let config = config_of(&args, &file, &start, &base, (&path, &data))?;
    if start.transfer != Transfer::None {
        printer.say(format_args!("shared  {}", base.shared(&data)));
        for warning in base.key_doubts(&data) {
            printer.warn(warning);
        }
    }
    for warning in seen_warnings(&config, &data)? {
        printer.warn(warning);
    }
    let model = &config.settings.model;
    let folder = args.out.map_or_else(|| RunFolder::new(free_name("runs", &path, model)), RunFolder::new);
    let (device, threads) = args.place.over(&file.place);
    check_precision(args.flags.precision.or(file.settings.precision), device)?;
    Ok(Planned { folder, config, data, device, threads, resume: false })
}

/// What is trained on opened data, from an opened base.
///
/// # Errors
/// Settings that contradict each other, the data or the base.
pub(super) fn config_of(
    args: &Args,
    file: &SettingsFile,
    start: &Start,
    base: &Base,
    (path, data): (&Path, &Dataset),
) -> Result<RunConfig> {
    let Start { from, transfer, which: checkpoint, fresh_rows } = start;
    let (transfer, fresh_rows) = (*transfer, *fresh_rows);
    // What was frozen is decided anew; patches stay where layers do.
    let mut theirs = Settings { freeze: Freeze::NONE, keep_side: false, ..base.config.settings.clone() };
    if !transfer.layers() {
        theirs.patch = Patching::None;
    }
    if args.flags.keep_side.is_some() {
        return Err(Error::user("--keep-side is decided by finetune: it follows from the base and the data")
            .hint("leave it out"));
    }
    let mut settings = file.settings(&args.flags, &theirs)?;
    settings.keep_side = false;
    // Before the base is asked whether it knows them.
    side_tables::name_fields(&mut settings, data.item_fields()).map_err(|e| match &args.flags.fields {
        None => e.at(format!("{}: its settings are those of the new run", from.display())),
        Some(_) => e,
    })?;
    check_flags(&args.flags, base, transfer, fresh_rows, &settings, data)?;
    if transfer == Transfer::Patch {
        if settings.patch == Patching::None {
            settings.patch = Patching::Serial;
        }
        if settings.freeze == Freeze::NONE {
            settings.freeze = base.freezes(data, &settings);
        }
    }
    base.check_model(&settings, transfer).map_err(|e| match tables_alone(&settings) {
        Some(flags) if transfer != Transfer::Embedding && settings.model != base.config.settings.model => {
            e.hint(format!("leave --model out, or carry over tables alone with {flags}"))
        }
        _ => e,
    })?;
    settings.find()?;
    let split = match args.split.over(&file.split).spec(data)? {
        Some(split) => split,
        // What the base was not trained on stays what it is judged by.
        None if base.config.data_fingerprint == data.fingerprint()
            && (!settings.find()?.1.baskets || base.config.split.check_whole_baskets().is_ok()) =>
        {
            base.config.split
        }
        None => default_split(&settings)?,
    };
    resolve_settings(&args.flags.given(), &mut settings, data, Some(transfer))?;
    file.refuse_idle(&settings, &base.config.settings, Some(transfer))?;
    let ratings = match (rating_scale(&settings, data, split)?, &base.config.ratings) {
        (Some(new), Some(known)) if matches!(transfer, Transfer::Model | Transfer::Patch) => {
            Some(scale_after(known, new)?)
        }
        (new, _) => new,
    };
    let summary = DataSummary { ratings: ratings.clone(), ..SideTables::data_summary(&settings, data)? };
    if base.leaves_side(&settings, &summary, transfer)? {
        (settings.keep_side, settings.join) = (true, Join::Concat);
    }
    base.check(&settings, &summary, data, transfer)?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or(path.into());
    Ok(RunConfig {
        version: RunConfig::VERSION,
        data: absolute(path),
        data_fingerprint: data.fingerprint().to_string(),
        split,
        from: Some(Origin {
            run: absolute(from),
            checkpoint: *checkpoint,
            sha256: base.sha256().into(),
            transfer,
            fresh_rows: fresh_rows.unwrap_or_default(),
        }),
        ratings,
        settings,
    })
}

/// # Errors
/// A flag without effect.
fn check_flags(
    flags: &Flags,
    base: &Base,
    transfer: Transfer,
    fresh_rows: Option<FreshRows>,
    settings: &Settings,
    data: &Dataset,
) -> Result<()> {
    let refuse = |flag: &str, why: &str, hint: &str| Err(Error::user(format!("--{flag}: {why}")).hint(hint));
    if transfer == Transfer::Patch {
        if flags.patch == Some(Patching::None) {
            return refuse("patch none", "--transfer patch trains patches", "use serial or parallel");
        }
        if flags.freeze == Some(Freeze::NONE) {
            return refuse("freeze none", "--transfer patch leaves the network as it is", "use --transfer model");
        }
        if settings.blocks == 0 {
            return refuse("blocks 0", "patches stand in blocks, and there are none", "use --transfer model");
        }
        return check_fresh_rows(fresh_rows, data);
    }
    // A base with patches keeps them: they are part of its network.
    let kept = transfer == Transfer::Model && settings.patch == base.config.settings.patch;
    if settings.patch != Patching::None && !kept || transfer != Transfer::Model && settings.freeze != Freeze::NONE {
        let what = format!("--transfer {transfer} freezes nothing and has no patches");
        return Err(Error::user(what).hint("use --transfer patch, or leave --patch and --freeze out"));
    }
    check_fresh_rows(fresh_rows, data)
}

/// # Errors
/// Rows by content of data without any.
fn check_fresh_rows(fresh_rows: Option<FreshRows>, data: &Dataset) -> Result<()> {
    let refuse = |flag: &str, why: &str, hint: &str| Err(Error::user(format!("--{flag}: {why}")).hint(hint));
    match fresh_rows {
        Some(FreshRows::Content) if data.item_fields().iter().next().is_none() => refuse(
            "fresh-rows content",
            "the items of this data have no side fields",
            "import them with --items FILE --item-fields NAME, or use --fresh-rows mean",
        ),
        _ => Ok(()),
    }
}

/// What the user should be told of what the base has seen of the test.
///
/// # Errors
/// It is the base's own data under another split: the base was trained on what is held out.
fn seen_warnings(config: &RunConfig, data: &Dataset) -> Result<Vec<String>> {
    let split = Split::for_task(data, config.split, config.settings.find()?.1.baskets)?;
    let seen = seen_by_bases(config.from.as_ref(), data, &split.test())?;
    if let Some((base, users)) = seen.iter().find_map(|s| s.users.filter(|n| s.same_data && *n > 0).map(|n| (s, n))) {
        return Err(Error::user(format!(
            "leak: {} was trained on events of {} users that this split of its own data holds out ({})",
            base.run.display(),
            digits(users as u64),
            split.spec().words(data.ticks_per_second())
        ))
        .hint("leave the split flags out to keep the base's split, or train the base again under this one"));
    }
    Ok(lineage_notes(&seen))
}
