//! `mipgpu finetune`: from a trained run to a run on other data.

use std::path::PathBuf;

use super::{
    builtin,
    evaluate::lineage_notes,
    opened::open_data,
    printer::Printer,
    split_flags::SplitFlags,
    train::{Planned, conclude_settings, execute, free_name, scale, usual_split},
};
use crate::{
    backend::Device,
    base::{Error, Result},
    data::{Dataset, digits, split::Split},
    layers::Facts,
    train::{
        Flags, Freeze, FreshRows, Origin, Patching, RunConfig, RunFolder, Settings, Transfer, Which,
        lineage::seen_by_bases,
        ratings::scale_after,
        sides::{self, Sides},
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
and frozen is listed tensor by tensor. The new run is a run like any other: train --resume, eval, recommend, export.")]
pub struct Args {
    /// Data set folder made by `mipgpu import` [default: the built-in MovieLens sample]
    pub(super) data: Option<PathBuf>,
    /// The trained run to start from
    #[arg(long, value_name = "RUN")]
    pub(super) from: PathBuf,
    /// What is taken over
    #[arg(long, value_enum, default_value = "model")]
    transfer: Transfer,
    /// Take the newest weights of the base instead of the best validated ones
    #[arg(long)]
    pub(super) last: bool,
    /// How rows start of items, users and field values that the base does not know [default: random]
    #[arg(long, value_enum, alias = "fresh-items")]
    fresh_rows: Option<FreshRows>,
    /// Run folder to make [default: runs/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Settings file (TOML) over those of the base; flags go over it
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where to run: auto, cpu, cuda, cuda:N, emu, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    device: Device,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags that carry tables to a model which cannot learn the task of the base: its own task must be named too.
fn tables_alone(settings: &Settings) -> Option<String> {
    let refused = settings.find().is_err();
    let mut own = Settings { task: "auto".into(), ..settings.clone() };
    own.name_task().ok().filter(|()| refused)?;
    Some(format!("--transfer embedding --task {}", own.task))
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let checkpoint = if args.last { Which::Last } else { Which::Best };
    let base = Base::open(&args.from, checkpoint)?;
    let path = match &args.data {
        Some(path) => path.clone(),
        None => builtin::import(&printer)?,
    };
    let data = open_data(&path)?;
    let mut settings = base.config.settings.clone();
    if let Some(file) = &args.config {
        settings = settings.read(file)?;
    }
    args.flags.apply(&mut settings);
    // Before the base is asked whether it knows them.
    sides::name_fields(&mut settings, data.item_fields()).map_err(|e| match &args.flags.fields {
        None => e.at(format!("{}: its settings are those of the new run", args.from.display())),
        Some(_) => e,
    })?;
    check_flags(&args, &settings, &data)?;
    if args.transfer == Transfer::Patch {
        if settings.patch == Patching::None {
            settings.patch = Patching::Serial;
        }
        if settings.freeze == Freeze::NONE {
            settings.freeze = base.freezes(&data, &settings);
        }
    }
    base.check_model(&settings, args.transfer).map_err(|e| match tables_alone(&settings) {
        Some(flags) if args.transfer != Transfer::Embedding && settings.model != base.config.settings.model => {
            e.hint(format!("leave --model out, or carry over tables alone with {flags}"))
        }
        _ => e,
    })?;
    conclude_settings(&args.flags, &mut settings, &data)?;
    let split = match args.split.spec(&data)? {
        Some(split) => split,
        // What the base was not trained on stays what it is judged by.
        None if base.config.data_fingerprint == data.fingerprint()
            && (!settings.find()?.1.baskets || base.config.split.check_whole_baskets().is_ok()) =>
        {
            base.config.split
        }
        None => usual_split(&settings)?,
    };
    let ratings = match (scale(&settings, &data, split)?, &base.config.ratings) {
        (Some(new), Some(known)) if matches!(args.transfer, Transfer::Model | Transfer::Patch) => {
            Some(scale_after(known, new)?)
        }
        (new, _) => new,
    };
    let facts = Facts { ratings: ratings.clone(), ..Sides::facts_of(&settings, &data)? };
    base.check(&settings, &facts, &data, args.transfer)?;
    let folder = args.out.map_or_else(|| RunFolder::new(free_name("runs", &path, &settings.model)), RunFolder::new);
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let origin = Origin {
        run: absolute(args.from),
        checkpoint,
        sha256: base.sha256().into(),
        transfer: args.transfer,
        fresh_rows: args.fresh_rows.unwrap_or_default(),
    };
    if args.transfer != Transfer::None {
        printer.say(format_args!("shared  {}", base.shared(&data)));
        if let Some(warning) = base.other_forms(&data) {
            printer.warn(warning);
        }
    }
    let held = Split::for_task(&data, split, settings.find()?.1.baskets)?;
    for warning in seen_warnings(&origin, &data, &held)? {
        printer.warn(warning);
    }
    let config = RunConfig {
        version: RunConfig::VERSION,
        data: absolute(path),
        data_fingerprint: data.fingerprint().to_string(),
        split,
        from: Some(origin),
        ratings,
        settings,
    };
    let (device, threads) = (args.device, args.threads);
    execute(&Planned { folder, config, data, device, threads, resume: false }, printer)
}

/// # Errors
/// A flag without effect.
fn check_flags(args: &Args, settings: &Settings, data: &Dataset) -> Result<()> {
    let (transfer, flags) = (args.transfer, &args.flags);
    let refuse = |flag: &str, why: &str, hint: &str| Err(Error::user(format!("--{flag}: {why}")).hint(hint));
    let leave = "use --transfer patch, or leave it out";
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
    } else {
        if settings.patch != Patching::None || transfer != Transfer::Model && settings.freeze != Freeze::NONE {
            let what = format!("--transfer {transfer} freezes nothing and has no patches");
            return Err(Error::user(what).hint("use --transfer patch, or leave --patch and --freeze out"));
        }
        for (given, flag) in [(flags.patches.is_some(), "patches"), (flags.patch_width.is_some(), "patch-width")] {
            if given {
                return refuse(flag, "there are no patches", leave);
            }
        }
    }
    match args.fresh_rows {
        Some(_) if transfer == Transfer::None => {
            refuse("fresh-rows", "with --transfer none all rows are fresh, and random", "leave it out")
        }
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
fn seen_warnings(origin: &Origin, data: &Dataset, split: &Split) -> Result<Vec<String>> {
    let seen = seen_by_bases(Some(origin), data, &split.test())?;
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
