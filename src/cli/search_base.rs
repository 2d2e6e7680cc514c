//! The command behind the `--` of a search: read as the program itself will read it, and what it makes trials of.

use std::path::{Path, PathBuf};

use clap::{Parser, error::ErrorKind};

use super::{Cli, Command, builtin, opened::open_data, printer::Printer};
use crate::{
    base::{
        Error, Result,
        error::{IoContext, typed},
    },
    experiment::trials::digest,
    train::{Flags, RunFolder, Settings, Which, checkpoint},
};

/// The command that every trial is, read as the program itself will read it.
pub struct Base {
    pub words: Vec<String>,
    /// `None`: the built-in data.
    pub data: Option<PathBuf>,
    config: Option<PathBuf>,
    from: Option<(PathBuf, Which)>,
    pub flags: Flags,
}

impl Base {
    /// # Errors
    /// It is no `train` or `finetune`, or has flags that the search itself gives.
    pub fn read(words: &[String]) -> Result<Base> {
        // Pasted as it was typed.
        let words = words.strip_prefix(&["mipgpu".to_string()]).unwrap_or(words);
        let cli = parse(words).map_err(|e| e.at("the command behind --"))?;
        let own = |flag: &str, hint: &str| Err(Error::user(format!("{flag} behind --")).hint(hint.to_string()));
        if cli.quiet || cli.json {
            return own(if cli.json { "--json" } else { "--quiet" }, "put it in front of the --: it is the search's");
        }
        let out = "leave it out: each trial is a new run in a folder of the search";
        let threads = "put it in front of the --: the search shares the cores among its trials";
        let base = match cli.command {
            Command::Train(a) if a.resume.is_some() => return own("--resume", out),
            Command::Train(a) if a.out.is_some() => return own("--out", out),
            Command::Finetune(a) if a.out.is_some() => return own("--out", out),
            Command::Train(a) if a.job.threads.is_some() => return own("--threads", threads),
            Command::Finetune(a) if a.threads.is_some() => return own("--threads", threads),
            Command::Train(a) => {
                let a = a.job;
                Base { words: words.into(), data: a.data, config: a.config, from: None, flags: a.flags }
            }
            Command::Finetune(a) => {
                let from = Some((a.from, if a.last { Which::Last } else { Which::Best }));
                Base { words: words.into(), data: a.data, config: a.config, from, flags: a.flags }
            }
            _ => {
                return Err(Error::user(format!("`{}` cannot be searched", words[0]))
                    .hint("behind -- stands `train DATA ...` or `finetune --from RUN DATA ...`"));
            }
        };
        Ok(base)
    }

    /// Settings of a trial in which nothing is searched.
    ///
    /// # Errors
    /// A base run or a settings file that cannot be read.
    pub fn settings(&self) -> Result<Settings> {
        let mut settings = match &self.from {
            Some((run, _)) => RunFolder::new(run).config()?.settings,
            None if self.data.is_none() => builtin::settings(),
            None => Settings::default(),
        };
        if let Some(file) = &self.config {
            settings = settings.read(file)?;
        }
        self.flags.apply(&mut settings);
        Ok(settings)
    }

    /// What decides the result beside the words: a digest of the data, of the settings file, of the base.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn inputs(&self, printer: &Printer) -> Result<Inputs> {
        let path = match &self.data {
            Some(path) => path.clone(),
            // Before trials that run at a time would all import it.
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

/// What trials are made of, beside their settings.
pub struct Inputs {
    pub data: String,
    pub config: Option<String>,
    pub from: Option<String>,
}

/// Reads a command line as [`super::main`] does.
///
/// # Errors
/// What is no command, with what the parser suggests.
pub fn parse(words: &[String]) -> Result<Cli> {
    Cli::try_parse_from(std::iter::once("mipgpu").chain(words.iter().map(String::as_str))).map_err(|e| {
        let text = e.render().to_string();
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        let what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_string();
        if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Error::user("it asks for help or the version, not for a run");
        }
        let rest: Vec<&str> = lines.filter(|l| !l.starts_with("Usage") && !l.starts_with("For more")).collect();
        let e = Error::user(what);
        if rest.is_empty() { e } else { e.hint(rest.join(" ").trim_start_matches("tip: ").to_string()) }
    })
}

/// What has changed since a trial was made.
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

/// Takes a flag and its value out of a command.
pub fn drop_flag(words: &mut Vec<String>, flag: &str) {
    if let Some(at) = words.iter().position(|w| w == flag) {
        words.drain(at..(at + 2).min(words.len()));
    }
    let with = format!("{flag}=");
    words.retain(|w| !w.starts_with(&with));
}

/// A command as it is typed.
pub fn in_a_line(words: &[String]) -> String {
    words.iter().map(typed).collect::<Vec<_>>().join(" ")
}
