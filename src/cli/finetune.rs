//! `mipgpu finetune`: from a trained run to a run on other data.

use std::path::PathBuf;

use super::{
    builtin,
    opened::open_data,
    printer::Printer,
    split_flags::SplitFlags,
    train::{Planned, conclude_settings, execute, free_name, scale, usual_split},
};
use crate::{
    backend::Device,
    base::{Error, Result},
    layers::Facts,
    train::{
        Flags, Freeze, FreshItems, Origin, Patching, RunConfig, RunFolder, Settings, Transfer, Which,
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
  mipgpu finetune --from runs/films --fresh-items mean data/films-new  a grown catalogue: new items, expired ones dropped
  mipgpu finetune --from runs/films --transfer none data/books         the same from scratch, to compare with

Settings are those of the base run, with flags (and --config) over them. Items, users and values of side fields are matched
by key; what was loaded, fresh
and frozen is listed tensor by tensor. The new run is a run like any other: train --resume, eval, recommend, export.")]
pub struct Args {
    /// Data set folder made by `mipgpu import` [default: the built-in MovieLens sample]
    data: Option<PathBuf>,
    /// The trained run to start from
    #[arg(long, value_name = "RUN")]
    from: PathBuf,
    /// What is taken over
    #[arg(long, value_enum, default_value = "model")]
    transfer: Transfer,
    /// Take the newest weights of the base instead of the best validated ones
    #[arg(long)]
    last: bool,
    /// How rows start of items that the base does not know
    #[arg(long, value_enum, default_value_t)]
    fresh_items: FreshItems,
    /// Run folder to make [default: runs/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Settings file (TOML) over those of the base; flags go over it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to run: auto, cpu, cuda, cuda:N, emu, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    device: Device,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    flags: Flags,
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
    let path = match args.data {
        Some(path) => path,
        None => builtin::import(&printer)?,
    };
    let data = open_data(&path)?;
    let mut settings = base.settings.clone();
    if let Some(file) = &args.config {
        settings = settings.read(file)?;
    }
    args.flags.apply(&mut settings);
    // Before the base is asked whether it knows them.
    sides::name_fields(&mut settings, data.item_fields()).map_err(|e| match &args.flags.fields {
        None => e.at(format!("{}: its settings are those of the new run", args.from.display())),
        Some(_) => e,
    })?;
    if args.transfer == Transfer::Patch {
        if settings.patch == Patching::None {
            settings.patch = Patching::Serial;
        }
        if settings.freeze == Freeze::None {
            settings.freeze = if base.knows_all(&data, &settings) { Freeze::All } else { Freeze::Network };
        }
    } else if settings.patch != Patching::None || args.transfer != Transfer::Model && settings.freeze != Freeze::None {
        return Err(Error::user(format!("--transfer {} freezes nothing and has no patches", args.transfer))
            .hint("use --transfer patch, or leave --patch and --freeze out"));
    }
    base.check_model(&settings, args.transfer).map_err(|e| match tables_alone(&settings) {
        // With --transfer embedding nothing but the width is refused there.
        Some(flags) if args.transfer != Transfer::Embedding => {
            e.hint(format!("leave --model out, or carry over tables alone with {flags}"))
        }
        _ => e,
    })?;
    conclude_settings(&args.flags, &mut settings, &data)?;
    let split = args.split.spec(&data)?.unwrap_or(usual_split(&settings)?);
    let ratings = match (scale(&settings, &data, split)?, &base.ratings) {
        (Some(new), Some(known)) if matches!(args.transfer, Transfer::Model | Transfer::Patch) => {
            Some(scale_after(known, new)?)
        }
        (new, _) => new,
    };
    let facts = Facts { ratings: ratings.clone(), ..Sides::facts_of(&settings, &data)? };
    base.check(&settings, &facts, args.transfer)?;
    let folder = args.out.map_or_else(|| RunFolder::new(free_name(&path, &settings.model)), RunFolder::new);
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let origin = Origin {
        run: absolute(args.from),
        checkpoint,
        sha256: base.sha256().into(),
        transfer: args.transfer,
        fresh_items: args.fresh_items,
    };
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
