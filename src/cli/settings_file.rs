//! Settings files (`--config FILE`): the long flags of `train` and `finetune` without leading dashes, read by the same
//! parser, or the config.toml of a run. Flags of the command line override the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory, Parser};

use super::{
    clap_error,
    run_flags::{PlaceFlags, StartFlags},
    split_flags::SplitFlags,
};
use crate::{
    base::{Error, Result, error::nearest},
    data::split::SplitSpec,
    train::{Flags, Origin, RunConfig, Settings, Transfer, Which},
};

/// Long flags of commands with `--config` that are not accepted in a file, and the reasons.
pub const COMMAND_LINE_ONLY: &[(&str, &str)] = &[
    ("config", "a settings file cannot include another one"),
    ("resume", "a resumed run keeps its settings"),
    ("out", "every run has its own folder"),
    ("json", "it is an output option and not part of the run"),
    ("quiet", "it is an output option and not part of the run"),
    ("help", "it prints help"),
    ("version", "it prints the version"),
    ("steps", "it sets the length of `mipgpu profile` and is not part of the run"),
    ("untimed", "it sets the length of `mipgpu profile` and is not part of the run"),
];

/// The flags that a file can contain.
#[derive(Clone, Debug, Default, clap::Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct FileFlags {
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    start: StartFlags,
    #[command(flatten)]
    split: SplitFlags,
    #[command(flatten)]
    settings: Flags,
}

/// A parsed settings file; empty if no file is given.
#[derive(Clone, Debug, Default)]
pub struct SettingsFile {
    path: Option<PathBuf>,
    /// Data set folder.
    pub data: Option<PathBuf>,
    pub place: PlaceFlags,
    /// The base of `finetune`.
    pub start: StartFlags,
    pub split: SplitFlags,
    pub settings: Flags,
    /// Whether the file is the config.toml of a run, which holds all settings, with and without effect.
    resolved: bool,
}

impl SettingsFile {
    /// Reads a settings file.
    ///
    /// # Errors
    /// The file is missing or not valid TOML, a key is unknown (the nearest is suggested), or a flag does not accept
    /// its value.
    pub fn read(path: Option<&Path>) -> Result<SettingsFile> {
        let Some(path) = path else { return Ok(SettingsFile::default()) };
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| broken(path, &e))?;
        let resolved = table.get("settings").is_some_and(toml::Value::is_table);
        let words = if resolved { words_of_run(RunConfig::parse(&text, path)?) } else { words(&table) };
        let words = words.map_err(|e| e.at(path.display()))?;
        let read = FileFlags::try_parse_from(words).map_err(|e| clap_error(&e).at(path.display()))?;
        read.settings.check().map_err(|e| e.at(path.display()))?;
        let FileFlags { data, place, start, split, settings } = read;
        Ok(SettingsFile { path: Some(path.into()), data, place, start, split, settings, resolved })
    }

    /// Checks that the file names no base run, for commands that train from scratch.
    ///
    /// # Errors
    /// It names a base run.
    pub fn check_from_scratch(&self) -> Result<()> {
        let (Some(path), Some(flag)) = (&self.path, self.start.first_given()) else { return Ok(()) };
        let path = path.display();
        Err(match self.resolved {
            true => Error::user(format!("{path}: this is the config.toml of a fine-tuned run"))
                .hint(format!("repeat such a run with: mipgpu finetune --config {path}")),
            false => Error::user(format!("{path}: '{flag}' is a setting of `mipgpu finetune`"))
                .hint("omit it, or use `mipgpu finetune`"),
        })
    }

    /// Overrides `start` with the settings of the file, and then with `flags`.
    ///
    /// # Errors
    /// As [`Flags::check`].
    pub fn settings(&self, flags: &Flags, start: &Settings) -> Result<Settings> {
        flags.check()?;
        let mut settings = start.clone();
        self.settings.apply(&mut settings);
        flags.apply(&mut settings);
        Ok(settings)
    }

    /// Rejects settings of the file that have no effect, with and without the overriding flags. A file may repeat
    /// defaults and settings of `start`.
    ///
    /// # Errors
    /// A setting has no effect; the error names the first one.
    pub fn refuse_idle(&self, settings: &Settings, start: &Settings, transfer: Option<Transfer>) -> Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| !self.resolved) else { return Ok(()) };
        let alone = self.settings(&Flags::default(), start)?;
        let [given, base, usual] = [&alone, start, &Settings::default()].map(|s| serde_json::json!(s));
        for name in self.settings.given() {
            if given[&name] == base[&name] || given[&name] == usual[&name] {
                continue;
            }
            if let (Some(idle), Ok(Some(_)) | Err(_)) = (settings.idle(&name, transfer)?, alone.idle(&name, transfer)) {
                let what = format!("{}: '{name}' has no effect{}", path.display(), idle.why);
                return Err(Error::user(what).hint(idle.hint));
            }
        }
        Ok(())
    }
}

fn broken(path: &Path, e: &toml::de::Error) -> Error {
    Error::user(format!("{}: {}", path.display(), e.to_string().trim_end()))
}

/// Converts a file of settings to words of a command line.
fn words(table: &toml::Table) -> Result<Vec<String>> {
    let command = FileFlags::command();
    let mut words = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(_) if key == "split" => words.extend(words_of_split(value.clone())?),
            _ => words.extend(word(&command, key, value)?),
        }
    }
    Ok(words)
}

/// Converts the `[split]` table of a run's config.toml.
fn words_of_split(split: toml::Value) -> Result<Vec<String>> {
    let spec: SplitSpec =
        split.try_into().map_err(|e: toml::de::Error| Error::user(format!("[split]: {}", e.to_string().trim_end())))?;
    Ok(SplitFlags::args(spec))
}

/// Returns `--key=value`, or `None` for a switch that is off.
fn word(command: &Command, key: &str, value: &toml::Value) -> Result<Option<String>> {
    if let Some((_, why)) = COMMAND_LINE_ONLY.iter().find(|(name, _)| *name == key) {
        return Err(Error::user(format!("'{key}' is not accepted in a settings file: {why}"))
            .hint(format!("use --{key} on the command line")));
    }
    let names = |arg: &clap::Arg| -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(str::to_string).collect()
    };
    let Some(arg) = command.get_arguments().find(|arg| names(arg).iter().any(|name| name == key)) else {
        let known: Vec<String> = command.get_arguments().flat_map(names).collect();
        let e = Error::user(format!("unknown setting '{key}'"));
        return Err(match nearest(key, known.iter().map(String::as_str)) {
            Some(near) => e.hint(format!("did you mean '{near}'?")),
            None => e.hint("settings have the names of the flags of `mipgpu train --help-all`"),
        });
    };
    if !arg.get_action().takes_values() {
        return match value.as_bool() {
            Some(on) => Ok(on.then(|| format!("--{key}"))),
            None => Err(Error::user(format!("{key} = {value}: true or false is expected"))
                .hint(format!("write {key} = true, or {key} = false"))),
        };
    }
    let plain = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Table(_) => String::new(),
        other => other.to_string(),
    };
    match value {
        toml::Value::Table(_) => Err(Error::user(format!("[{key}] is a table, but a value is expected"))
            .hint(format!("write {key} = VALUE, with a value that --{key} accepts"))),
        toml::Value::Array(all) => Ok(Some(format!("--{key}={}", all.iter().map(plain).collect::<Vec<_>>().join(",")))),
        value => Ok(Some(format!("--{key}={}", plain(value)))),
    }
}

/// Converts the configuration of a run to words of a command line.
fn words_of_run(config: RunConfig) -> Result<Vec<String>> {
    let unwritable = |e: toml::ser::Error| Error::internal(format!("settings cannot be written as TOML: {e}"));
    let mut all = words(&toml::Table::try_from(&config.settings).map_err(unwritable)?)?;
    all.extend(SplitFlags::args(config.split));
    all.push(format!("--data={}", config.data.display()));
    if let Some(Origin { run, checkpoint, transfer, fresh_rows, .. }) = config.from {
        all.push(format!("--from={}", run.display()));
        all.push(format!("--transfer={transfer}"));
        all.extend((checkpoint == Which::Last).then(|| "--last".to_string()));
        let fresh = toml::Value::try_from(fresh_rows).map_err(unwritable)?;
        all.extend(fresh.as_str().filter(|_| transfer != Transfer::None).map(|how| format!("--fresh-rows={how}")));
    }
    Ok(all)
}
