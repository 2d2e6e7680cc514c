/*! The folder of a run.

`RUN/config.toml`: the settings · `items.safetensors`: the item vocabulary · `last.safetensors`,
`best.safetensors`: checkpoints · `users.safetensors`, `fields.safetensors`: users and side fields, if they have
vectors · `metrics.jsonl`: the learning curve, a function of settings and data alone · `timing.jsonl`: seconds
and throughput · `report.json`: the evaluation after training.
*/

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    origin::{Origin, Which},
    settings::Settings,
};
use crate::{
    base::{
        Error, Result,
        atomic::{make_folder, write_atomically},
        error::{IoContext, typed},
    },
    data::{Dataset, split::SplitSpec},
    layers::RatingScale,
};

/// The contents of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Version of the folder layout.
    pub version: u32,
    /// The data set it was trained on.
    pub data: PathBuf,
    pub data_fingerprint: String,
    pub split: SplitSpec,
    /// The base run, if the run was fine-tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The scale of the ratings that it predicts, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratings: Option<RatingScale>,
    pub settings: Settings,
}

impl RunConfig {
    pub const VERSION: u32 = 2;
}

impl RunConfig {
    /// Parses a config.toml; `path` names it in errors.
    ///
    /// # Errors
    /// Invalid TOML, another version, or an unknown key.
    pub fn parse(text: &str, path: &Path) -> Result<RunConfig> {
        let unreadable = |e: toml::de::Error| Error::user(format!("{}: {}", path.display(), e.to_string().trim_end()));
        let mut table: toml::Table = toml::from_str(text).map_err(unreadable)?;
        // Check the version first: it may be the cause of other errors.
        let version = table.get("version").and_then(toml::Value::as_integer);
        if version == Some(1) {
            since_version_1(&mut table);
        } else if version != Some(RunConfig::VERSION.into()) {
            let version = version.map_or("unknown version".to_string(), |v| format!("version {v}"));
            return Err(Error::user(format!(
                "{}: a run folder of {version}, this program reads versions 1 to {}",
                path.display(),
                RunConfig::VERSION
            )));
        }
        table.try_into().map_err(unreadable)
    }
}

/// Converts the settings of a version 1 folder to version 2. In version 1, `bf16` was the precision of a GPU,
/// and the CPU computed in f32 regardless.
fn since_version_1(config: &mut toml::Table) {
    config.insert("version".into(), toml::Value::Integer(RunConfig::VERSION.into()));
    let settings = config.get_mut("settings").and_then(toml::Value::as_table_mut);
    let precision = settings.and_then(|settings| settings.get_mut("precision"));
    if let Some(precision) = precision.filter(|precision| precision.as_str() == Some("bf16")) {
        *precision = toml::Value::String("auto".into());
    }
}

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    pub path: PathBuf,
}

impl RunFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        RunFolder { path: path.into() }
    }

    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    pub fn items(&self) -> PathBuf {
        self.path.join("items.safetensors")
    }

    /// The user vocabulary of a run with user vectors.
    pub fn users(&self) -> PathBuf {
        self.path.join("users.safetensors")
    }

    /// The side fields of a run with fields: their values, and the values of each item.
    pub fn fields(&self) -> PathBuf {
        self.path.join("fields.safetensors")
    }

    /// Returns the path of a checkpoint of the run.
    ///
    /// # Errors
    /// It does not exist; the hint says why.
    pub fn checkpoint(&self, which: Which) -> Result<PathBuf> {
        let path = if which == Which::Best { self.best() } else { self.last() };
        if path.exists() {
            return Ok(path);
        }
        let run = self.path.display();
        let (name, hint) = match which {
            Which::Best if self.last().exists() => {
                let run = typed(&self.path);
                (
                    "best",
                    format!(
                        "no epoch was validated yet: use --last, or resume the run with: mipgpu train --resume {run}"
                    ),
                )
            }
            Which::Best => ("best", "the run ended before its first checkpoint: start it again".to_string()),
            Which::Last => ("last", "the run ended before its first checkpoint: start it again".to_string()),
        };
        Err(Error::user(format!("{run}: the run has no {name} checkpoint")).hint(hint))
    }

    pub fn report(&self) -> PathBuf {
        self.path.join("report.json")
    }

    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Creates the folder of a new run. A run that ended before its first checkpoint is replaced, since nothing
    /// is lost.
    ///
    /// # Errors
    /// The folder exists and has a run or other files.
    pub fn create(&self, config: &RunConfig, data: &Dataset) -> Result<()> {
        // Replace only a folder that is recognisably a run and has no other files. A data set, for example,
        // also has an `items.safetensors`.
        let ours = [self.config_path(), self.items(), self.users(), self.fields()];
        let only_ours = || fs::read_dir(&self.path).into_iter().flatten().flatten().all(|e| ours.contains(&e.path()));
        let begun = self.config_path().exists() && self.config().is_ok();
        if begun && (self.last().exists() || self.best().exists()) {
            return Err(Error::user(format!("{}: a run is there already", self.path.display())).hint(format!(
                "continue it with: mipgpu train --resume {}; or choose another folder with --out",
                typed(&self.path)
            )));
        }
        if !(begun && only_ours()) && fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::user(format!("{}: the folder is not empty", self.path.display()))
                .hint("choose a new folder with --out"));
        }
        if begun {
            // Another process may be about to write its first checkpoint.
            self.lock()?;
        }
        make_folder(&self.path)?;
        // Write the config first: a folder with a config and no checkpoint is a run that ended early and may be
        // replaced.
        let text = toml::to_string(config).map_err(|e| Error::internal(format!("config.toml: {e}")))?;
        write_atomically(&self.config_path(), |f| f.write_all(text.as_bytes()))?;
        data.item_keys().save(&self.items())?;
        self.keep_side_tables(&config.settings, data)
    }

    /// Writes the users and side fields of `data` that `settings` use; [`super::SideTables::open`] reads them.
    ///
    /// # Errors
    /// An I/O error, or the data lack a field.
    fn keep_side_tables(&self, settings: &Settings, data: &Dataset) -> Result<()> {
        remove(&self.users())?;
        remove(&self.fields())?;
        if settings.user_width > 0 {
            data.user_keys().save(&self.users())?;
        }
        let names = settings.field_names();
        if names.is_empty() {
            return Ok(());
        }
        let image = data.item_fields().image_of(&names)?;
        write_atomically(&self.fields(), |f| f.write_all(&image))
    }

    /// Removes what [`RunFolder::create`] wrote if the run could not begin. `made`: whether `create` also
    /// created the folder itself.
    pub fn discard(&self, made: bool) {
        if self.last().exists() || self.best().exists() || self.path.join("metrics.jsonl").exists() {
            return;
        }
        for file in [self.items(), self.users(), self.fields(), self.config_path()] {
            let _ = fs::remove_file(file);
        }
        if made {
            // Succeeds only if the folder is empty.
            let _ = fs::remove_dir(&self.path);
        }
    }

    /// Locks the run against training by other processes, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// Another process has the lock.
    pub fn lock(&self) -> Result<File> {
        let path = self.config_path();
        let file = File::open(&path).at_path(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(Error::user(format!("{}: another process is training this run", self.path.display()))
                    .hint("wait for it to end, or start a new run in another folder: --out DIR"))
            }
            // The file system does not support locks; training without one is better than failing.
            Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Reads the configuration of an existing run.
    ///
    /// # Errors
    /// No such folder, no run in it, or one of another version.
    pub fn config(&self) -> Result<RunConfig> {
        let path = self.config_path();
        let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::user(format!("{}: no run is there (it has no config.toml)", self.path.display()))
                    .hint("give the folder that `mipgpu train` wrote; `mipgpu runs` lists run folders")
            }
            _ => Error::io(&path, &e),
        })?;
        let config = RunConfig::parse(&text, &path)?;
        config.settings.check().map_err(|e| e.at(path.display()))?;
        Ok(config)
    }
}

/// Removes a file that a run that ended early has left, if there is one.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).at_path(path),
        _ => Ok(()),
    }
}

/// The first free `FOLDER/DATA-MODEL-N`.
pub fn free_name(folder: &str, data: &Path, model: &str) -> PathBuf {
    let data = data.file_name().map_or("data".into(), |n| n.to_string_lossy());
    (1..)
        .map(|n| PathBuf::from(format!("{folder}/{data}-{model}-{n}")))
        .find(|p| !p.exists())
        .expect("numbers do not end")
}
