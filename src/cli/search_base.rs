//! The command after the `--` of a search, which every trial runs.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::{
    Cli, Command, builtin, clap_error, finetune, opened::open_data, printer::Printer, settings_file::SettingsFile,
    train,
};
use crate::{
    base::{
        Error, Result,
        error::{IoContext, typed},
    },
    data::{Dataset, split::Split},
    experiment::trials::digest,
    train::{Flags, RunFolder, Settings, Which, checkpoint, run, transfer},
};

/// The command of every trial, parsed as the program parses it.
pub struct Base {
    pub words: Vec<String>,
    /// Data set folder; `None` for the built-in data.
    pub data: Option<PathBuf>,
    config: Option<PathBuf>,
    file: SettingsFile,
    from: Option<(PathBuf, Which)>,
    pub flags: Flags,
}

impl Base {
    /// Parses the command.
    ///
    /// # Errors
    /// It is neither `train` nor `finetune`, or has flags that the search sets.
    pub fn read(words: &[String]) -> Result<Base> {
        // Accept a pasted command line.
        let words = words.strip_prefix(&["mipgpu".to_string()]).unwrap_or(words);
        let cli = parse(words).map_err(|e| e.at("the command after --"))?;
        let own =
            |flag: &str, hint: &str| Err(Error::user(format!("{flag} is not allowed after --")).hint(hint.to_string()));
        if cli.quiet || cli.json {
            return own(if cli.json { "--json" } else { "--quiet" }, "place it before the --, as a flag of the search");
        }
        let out = "omit it: each trial is a new run in the folder of the search";
        let threads = "place it before the --: the search divides the cores among its trials";
        let base = match cli.command {
            Command::Train(a) if a.resume.is_some() => return own("--resume", out),
            Command::Train(a) if a.out.is_some() => return own("--out", out),
            Command::Finetune(a) if a.out.is_some() => return own("--out", out),
            Command::Train(a) if a.job.place.threads.is_some() => return own("--threads", threads),
            Command::Finetune(a) if a.place.threads.is_some() => return own("--threads", threads),
            Command::Train(a) => {
                let (file, a) = (a.job.file()?, a.job);
                let data = a.data.or_else(|| file.data.clone());
                Base { words: words.into(), data, config: a.config, file, from: None, flags: a.flags }
            }
            Command::Finetune(a) => {
                let (file, pretrained) = a.file()?;
                let data = a.data.or_else(|| file.data.clone());
                let from = Some((pretrained.run, pretrained.which));
                Base { words: words.into(), data, config: a.config, file, from, flags: a.flags }
            }
            _ => {
                return Err(Error::user(format!("`{}` cannot be searched", words[0]))
                    .hint("use `train DATA ...` or `finetune --from RUN DATA ...` after --"));
            }
        };
        Ok(base)
    }

    /// Returns the settings of the command, without searched values.
    ///
    /// # Errors
    /// The base run or the settings file cannot be read.
    pub fn settings(&self) -> Result<Settings> {
        let start = match &self.from {
            Some((run, _)) => RunFolder::new(run).config()?.settings,
            None if self.data.is_none() => builtin::settings(),
            None => Settings::default(),
        };
        self.file.settings(&self.flags, &start)
    }

    /// Returns the inputs that determine the result in addition to the words: digests of data, settings file and base.
    ///
    /// # Errors
    /// An input is missing or damaged.
    pub fn inputs(&self, printer: &Printer) -> Result<Inputs> {
        let path = match &self.data {
            Some(path) => path.clone(),
            // Import it here, before parallel trials would all import it.
            None => builtin::import(printer)?,
        };
        let config = self.config.as_ref().map(|file| std::fs::read(file).at_path(file).map(digest)).transpose()?;
        let of_base = |(run, which): &(PathBuf, Which)| {
            checkpoint::open(&RunFolder::new(run).checkpoint(*which)?).map(|opened| opened.sha256().to_string())
        };
        Ok(Inputs {
            data: open_data(&path)?.fingerprint().to_string(),
            config,
            from: self.from.as_ref().map(of_base).transpose()?,
        })
    }
}

/// Returns for each trial why it would be rejected, before any trial starts. Data and base are opened once, and each
/// command is parsed and planned as its process will do it.
///
/// # Errors
/// Data or base cannot be opened.
pub fn refusals(base: &Base, commands: &[Vec<String>], printer: &Printer) -> Result<Vec<Option<Error>>> {
    let path = match &base.data {
        Some(path) => path.clone(),
        None => builtin::import(printer)?,
    };
    let data = Dataset::open(&path)?;
    let from = base.from.as_ref().map(|(run, which)| transfer::Base::open(run, *which)).transpose()?;
    let usual = if base.data.is_none() { builtin::settings() } else { Settings::default() };
    let refused = |words: &Vec<String>| -> Result<()> {
        let config = match (parse(words)?.command, &from) {
            (Command::Train(a), _) => train::config_of(&a.job, &base.file, &usual, (&path, &data))?,
            (Command::Finetune(a), Some(from)) => {
                let (file, pretrained) = a.file()?;
                finetune::config_of(&a, &file, &pretrained, from, &data)?
            }
            _ => return Ok(()),
        };
        run::check(&config, &data, &Split::for_task(&data, config.split, config.settings.find()?.1.baskets)?)
    };
    Ok(commands.iter().map(|words| refused(words).err()).collect())
}

/// The inputs of trials in addition to their settings.
pub struct Inputs {
    pub data: String,
    pub config: Option<String>,
    pub from: Option<String>,
}

/// Parses a command line as [`super::main`] does.
///
/// # Errors
/// It is not a valid command; the error includes the suggestion of the parser.
pub fn parse(words: &[String]) -> Result<Cli> {
    Cli::try_parse_from(std::iter::once("mipgpu").chain(words.iter().map(String::as_str))).map_err(|e| clap_error(&e))
}

/// Returns what has changed since a trial was run.
pub fn why_stale(run: &Path, inputs: &Inputs) -> String {
    let config = RunFolder::new(run).config();
    let what = match &config {
        Ok(config) if config.data_fingerprint != inputs.data => "the data set has changed since",
        Ok(config) if config.from.as_ref().map(|f| &f.sha256) != inputs.from.as_ref() => {
            "the base run has changed since"
        }
        _ => "the settings file or the command has changed since",
    };
    what.into()
}

/// Removes a flag and its value from a command.
pub fn drop_flag(words: &mut Vec<String>, flag: &str) {
    if let Some(at) = words.iter().position(|w| w == flag) {
        words.drain(at..(at + 2).min(words.len()));
    }
    let with = format!("{flag}=");
    words.retain(|w| !w.starts_with(&with));
}

/// Formats a command as a line of shell input.
pub fn in_a_line(words: &[String]) -> String {
    words.iter().map(typed).collect::<Vec<_>>().join(" ")
}
