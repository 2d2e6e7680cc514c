//! `mipgpu finetune`: trains a run on other data, starting from a trained run.

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
  mipgpu finetune --from runs/films data/books                         all layers and shared items
  mipgpu finetune --from runs/films --transfer patch data/books        patches on a frozen network
  mipgpu finetune --from runs/films --fresh-rows mean data/films-new   new items added, old ones dropped
  mipgpu finetune --from runs/films --transfer none data/books         baseline from scratch

Settings are those of the base run; --config overrides them, and flags override both. Items, users
and values of side fields are matched by key. For each tensor, the output lists what is loaded,
fresh and frozen. All commands work with the new run: train --resume, eval, recommend, export.

More settings (layers, losses, schedule): mipgpu finetune --help-all")]
pub struct Args {
    /// Data set folder made by `mipgpu import` [default: the built-in MovieLens sample]
    pub(super) data: Option<PathBuf>,
    #[command(flatten)]
    pub(super) start: StartFlags,
    /// Run folder to create [default: runs/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Settings file that overrides the settings of the base: TOML with the long flags of this command, without dashes,
    /// as keys, or the config.toml of a fine-tuned run, to repeat that run; flags override the file
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) place: PlaceFlags,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags that select the base.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StartFlags {
    /// Trained run to start from
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// What is copied from the base [default: model]
    #[arg(long, value_enum)]
    transfer: Option<Transfer>,
    /// Use the newest weights of the base instead of those with the best validation
    #[arg(long)]
    last: bool,
    /// Initial rows of items, users and field values that the base does not know [default: random]
    #[arg(long, value_enum, alias = "fresh-items")]
    fresh_rows: Option<FreshRows>,
}

impl StartFlags {
    /// Returns the name of the first given flag, without leading dashes.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.from.is_some(), "from"),
            (self.transfer.is_some(), "transfer"),
            (self.last, "last"),
            (self.fresh_rows.is_some(), "fresh-rows"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// Overrides the flags of a settings file with these flags.
    ///
    /// # Errors
    /// No base run is given, or the transfer does not use a given flag.
    pub(super) fn over(&self, file: &StartFlags) -> Result<Start> {
        let from =
            self.from.clone().or_else(|| file.from.clone()).ok_or_else(|| {
                Error::user("no run to start from").hint("add --from: mipgpu finetune --from RUN DATA")
            })?;
        let transfer = self.transfer.or(file.transfer).unwrap_or(Transfer::Model);
        let refuse = |given: bool, flag: &str, why: &str| match given && transfer == Transfer::None {
            true => Err(Error::user(format!("--{flag} has no effect: with --transfer none {why}")).hint("omit it")),
            false => Ok(()),
        };
        refuse(self.fresh_rows.is_some(), "fresh-rows", "all rows are fresh and random")?;
        refuse(self.last, "last", "no weights are copied")?;
        let which = if self.last || file.last { Which::Last } else { Which::Best };
        Ok(Start { from, transfer, which, fresh_rows: self.fresh_rows.or(file.fresh_rows) })
    }
}

/// The resolved flags.
pub(super) struct Start {
    pub(super) from: PathBuf,
    pub(super) transfer: Transfer,
    pub(super) which: Which,
    fresh_rows: Option<FreshRows>,
}

impl Args {
    /// Returns the settings file and the base of the run.
    ///
    /// # Errors
    /// As [`SettingsFile::read`] and [`StartFlags::over`].
    pub(super) fn file(&self) -> Result<(SettingsFile, Start)> {
        let file = SettingsFile::read(self.config.as_deref())?;
        let start = self.start.over(&file.start)?;
        Ok((file, start))
    }
}

/// Returns the flags that copy only tables to a model that cannot learn the task of the base. They include the task of
/// the model.
fn tables_alone(settings: &Settings) -> Option<String> {
    let refused = settings.find().is_err();
    let mut own = Settings { task: "auto".into(), ..settings.clone() };
    own.name_task().ok().filter(|()| refused)?;
    Some(format!("--transfer embedding --task {}", own.task))
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    execute(&plan(args, &printer)?, printer)
}

/// Plans a new run and prints what it shares with its base.
///
/// # Errors
/// Data or base cannot be opened, settings contradict each other, the data or the base, or the base was trained on
/// held-out events.
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

/// Returns the configuration of a run on opened data, from an opened base.
///
/// # Errors
/// Settings contradict each other, the data or the base.
pub(super) fn config_of(
    args: &Args,
    file: &SettingsFile,
    start: &Start,
    base: &Base,
    (path, data): (&Path, &Dataset),
) -> Result<RunConfig> {
    let Start { from, transfer, which: checkpoint, fresh_rows } = start;
    let (transfer, fresh_rows) = (*transfer, *fresh_rows);
    // What is frozen is decided again. Patches are kept if layers are.
    let mut theirs = Settings { freeze: Freeze::NONE, keep_side: false, ..base.config.settings.clone() };
    if !transfer.layers() {
        theirs.patch = Patching::None;
    }
    if args.flags.keep_side.is_some() {
        return Err(
            Error::user("--keep-side is set by finetune: it follows from the base and the data").hint("omit it")
        );
    }
    let mut settings = file.settings(&args.flags, &theirs)?;
    settings.keep_side = false;
    // Before the fields are looked up in the base.
    side_tables::name_fields(&mut settings, data.item_fields()).map_err(|e| match &args.flags.fields {
        None => e.at(format!("{}: the new run uses its settings", from.display())),
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
            e.hint(format!("omit --model, or copy only tables with {flags}"))
        }
        _ => e,
    })?;
    settings.find()?;
    let split = match args.split.over(&file.split).spec(data)? {
        Some(split) => split,
        // On its own data, a run keeps the split of the base, so that the base was not trained on held-out events.
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

/// Rejects flags that contradict the transfer.
///
/// # Errors
/// Such a flag is given.
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
            return refuse("freeze none", "--transfer patch freezes the network", "use --transfer model");
        }
        if settings.blocks == 0 {
            return refuse("blocks 0", "patches are placed in blocks, and there are none", "use --transfer model");
        }
        return check_fresh_rows(fresh_rows, data);
    }
    // A base with patches keeps them: they are part of its network.
    let kept = transfer == Transfer::Model && settings.patch == base.config.settings.patch;
    if settings.patch != Patching::None && !kept || transfer != Transfer::Model && settings.freeze != Freeze::NONE {
        let what = format!("--transfer {transfer} freezes nothing and has no patches");
        return Err(Error::user(what).hint("use --transfer patch, or omit --patch and --freeze"));
    }
    check_fresh_rows(fresh_rows, data)
}

/// Checks that the data has side fields if rows are initialised from them.
///
/// # Errors
/// It has none.
fn check_fresh_rows(fresh_rows: Option<FreshRows>, data: &Dataset) -> Result<()> {
    let refuse = |flag: &str, why: &str, hint: &str| Err(Error::user(format!("--{flag}: {why}")).hint(hint));
    match fresh_rows {
        Some(FreshRows::Content) if data.item_fields().iter().next().is_none() => refuse(
            "fresh-rows content",
            "the items of this data set have no side fields",
            "import them with --items FILE --item-fields NAME, or use --fresh-rows mean",
        ),
        _ => Ok(()),
    }
}

/// Returns warnings about test events that the base was trained on.
///
/// # Errors
/// The data set is the base's own with another split, and the base was trained on held-out events.
fn seen_warnings(config: &RunConfig, data: &Dataset) -> Result<Vec<String>> {
    let split = Split::for_task(data, config.split, config.settings.find()?.1.baskets)?;
    let seen = seen_by_bases(config.from.as_ref(), data, &split.test())?;
    if let Some((base, users)) = seen.iter().find_map(|s| s.users.filter(|n| s.same_data && *n > 0).map(|n| (s, n))) {
        return Err(Error::user(format!(
            "leak: {} was trained on events of {} users that are held out by this split of the same data ({})",
            base.run.display(),
            digits(users as u64),
            split.spec().words(data.ticks_per_second())
        ))
        .hint("omit the split flags to keep the split of the base, or train the base again with this split"));
    }
    Ok(lineage_notes(&seen))
}
