//! `mipgpu finetune`: trains a run on other data, starting from a trained run.

use std::path::PathBuf;

use super::{
    builtin,
    opened::open_data_for,
    precision::{check_precision, choose_fastest},
    printer::Printer,
    run_flags::{PlaceFlags, StartFlags},
    settings_file::SettingsFile,
    split_flags::SplitFlags,
    train::{Planned, execute},
};
use crate::{
    base::{Result, error::typed},
    data::Dataset,
    train::{Flags, Pretrained, RunConfig, RunFolder, Transfer, folder::free_name, transfer::Base},
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
    /// Data set folder created by `mipgpu import` [default: the built-in MovieLens sample]
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

impl Args {
    /// Returns the settings file and the base of the run.
    ///
    /// # Errors
    /// As [`SettingsFile::read`] and [`StartFlags::over`].
    pub(super) fn file(&self) -> Result<(SettingsFile, Pretrained)> {
        let file = SettingsFile::read(self.config.as_deref())?;
        let pretrained = self.start.over(&file.start)?;
        Ok((file, pretrained))
    }
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
    let (file, pretrained) = args.file()?;
    choose_fastest(&mut args.flags, &file, &args.place, printer)?;
    let base = pretrained.open()?;
    let path = match args.data.as_ref().or(file.data.as_ref()) {
        Some(path) => path.clone(),
        None => builtin::import(printer)?,
    };
    let data = open_data_for(&path, Some(&format!("mipgpu finetune --from {}", typed(&pretrained.run))))?;
    let config = config_of(&args, &file, &pretrained, &base, &data)?;
    if pretrained.transfer != Transfer::None {
        printer.say(format_args!("shared  {}", base.shared(&data)));
    }
    pretrained.doubts(&base, &config, &data)?.into_iter().for_each(|doubt| printer.warn(doubt));
    let model = &config.settings.model;
    let folder = args.out.map_or_else(|| RunFolder::new(free_name("runs", &path, model)), RunFolder::new);
    let (device, threads) = args.place.over(&file.place);
    check_precision(args.flags.precision.or(file.settings.precision), device)?;
    Ok(Planned { folder, config, data, device, threads, resume: false })
}

/// Returns the configuration of a run on opened data, from an opened base.
///
/// # Errors
/// As [`Pretrained::config`], or a setting of the file has no effect.
pub(super) fn config_of(
    args: &Args,
    file: &SettingsFile,
    pretrained: &Pretrained,
    base: &Base,
    data: &Dataset,
) -> Result<RunConfig> {
    let split = args.split.over(&file.split).spec(data)?;
    let config =
        pretrained.config(base, data, split, &args.flags.given(), |theirs| file.settings(&args.flags, theirs))?;
    file.refuse_idle(&config.settings, &base.config.settings, Some(pretrained.transfer))?;
    Ok(config)
}
