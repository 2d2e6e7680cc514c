//! A trained run as the commands that use one see it.

use std::path::{Path, PathBuf};

use crate::{
    backend::Device,
    base::{Error, Result, error::typed},
    data::{Dataset, Vocab, digits, split::SplitSpec},
    eval::Encoder,
    layers::RatingScale,
    train::{Origin, Trained, Which},
};

/// A run folder, opened.
pub struct OpenRun {
    /// How to speak of it: folder and checkpoint.
    pub name: String,
    pub encoder: Box<dyn Encoder>,
    /// Keys of the model's items, in the order of its table.
    pub item_keys: Vocab,
    /// Keys of the users who have vectors; `None`: the model knows no users.
    pub user_keys: Option<Vocab>,
    /// The data it was trained on, and what that data was then.
    pub data: PathBuf,
    pub data_fingerprint: String,
    /// The split it was trained under.
    pub split: SplitSpec,
    /// The run that it was fine-tuned from.
    pub from: Option<Origin>,
    /// The ratings that it predicts; `None`: it continues histories.
    pub ratings: Option<RatingScale>,
    /// Whether its validation ranked the items of a history too.
    pub keep_seen: bool,
}

impl OpenRun {
    /// Whether items of a history are ranked: what the flag says, else what the run was validated by. Of baskets they
    /// always are.
    ///
    /// # Errors
    /// The flag excludes them where baskets repeat.
    pub fn keeps_seen(&self, flag: Option<bool>, baskets: bool) -> Result<bool> {
        if flag == Some(false) && baskets {
            return Err(Error::user("--keep-seen false has no effect on baskets: people buy again what they bought")
                .hint("leave it out"));
        }
        Ok(baskets || flag.unwrap_or(self.keep_seen))
    }

    /// The model's number of each user of the data, by key; `None` of nobody it knows, as all are where it has no users.
    pub fn known_users(&self, data: &Dataset) -> Vec<Option<u32>> {
        let find = |key| self.user_keys.as_ref()?.find(key);
        data.user_keys().keys().map(find).collect()
    }

    /// How many users of the data have no vector in a model of users, in words; `None` where all have one, or nobody has.
    pub fn strangers(&self, data: &Dataset) -> Option<String> {
        let unknown = self.known_users(data).iter().filter(|user| user.is_none()).count();
        (self.user_keys.is_some() && unknown > 0).then(|| {
            format!(
                "{} of the data's {} users have no vector in the model: they are asked for as somebody it does not know",
                digits(unknown as u64),
                digits(data.users() as u64)
            )
        })
    }
}

/// How a trained run is opened.
#[derive(Clone, Debug, clap::Args)]
pub struct RunFlags {
    /// Take the last checkpoint instead of the best
    #[arg(long)]
    pub last: bool,
    /// Where to run: auto, cpu, cuda, cuda:N, emu (CUDA kernels on the processor, for tests), reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// Opens the best checkpoint of a run, or the last.
///
/// # Errors
/// No such folder, no run in it, or a checkpoint that is damaged or does not fit.
pub fn open_run(run: &Path, flags: &RunFlags) -> Result<OpenRun> {
    let last = flags.last;
    if !run.is_dir() {
        return Err(Error::user(format!("{}: no such run folder", run.display()))
            .hint("give the folder that `mipgpu train` wrote; it names it at the end"));
    }
    let which = if last { Which::Last } else { Which::Best };
    let trained = Trained::open(run, which, flags.device).map_err(|e| match e.room {
        // The hint of a training, which can have smaller batches.
        Some(_) => e.hint("the run's model needs that much: use a machine with more memory, or --device cpu"),
        None => e,
    })?;
    Ok(OpenRun {
        name: format!("{} ({})", run.display(), if last { "last checkpoint" } else { "best checkpoint" }),
        encoder: trained.encoder,
        item_keys: trained.items,
        user_keys: trained.side_tables.users,
        data: trained.config.data,
        data_fingerprint: trained.config.data_fingerprint,
        split: trained.config.split,
        from: trained.config.from,
        ratings: trained.config.ratings,
        keep_seen: trained.config.settings.keep_seen,
    })
}

/// Opens a data set and compares every byte with its checksums (about a second per GB): an altered byte is reported
/// here, not met during the work.
///
/// # Errors
/// No data set there, or a damaged one.
pub fn open_data(path: &Path) -> Result<Dataset> {
    open_data_for(path, None)
}

/// The same; `then` is the command that reads the data, up to the folder. Where the path is a log that was not
/// imported, the hint shows the import and that command.
///
/// # Errors
/// As [`open_data`].
pub fn open_data_for(path: &Path, then: Option<&str>) -> Result<Dataset> {
    let log = if path.is_dir() { None } else { import_first(path, then) };
    if !path.exists() {
        let (what, hint) = match log {
            Some(commands) => ("there is no such file or folder", commands),
            None => (
                "there is no such folder",
                "give the folder of a data set; make one with `mipgpu import LOG --out DIR`".to_string(),
            ),
        };
        return Err(Error::user(format!("{}: {what}", path.display())).hint(hint));
    }
    let data = Dataset::open(path).map_err(|e| match log {
        Some(commands) => e.hint(commands),
        None => e,
    })?;
    data.verify()?;
    Ok(data)
}

/// How logs end, without what packs them.
const LOGS: [&str; 6] = ["csv", "tsv", "dat", "inter", "parquet", "txt"];

/// How to import a log and go on, for a path that is a file or is named like a log.
fn import_first(log: &Path, then: Option<&str>) -> Option<String> {
    let name = log.file_name()?.to_string_lossy();
    let name = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
    if stem.is_empty() || !(log.is_file() || LOGS.contains(&end.to_lowercase().as_str())) {
        return None;
    }
    let folder = typed(Path::new("data").join(stem));
    let import = format!("mipgpu import {} --out {folder}", typed(log));
    Some(match then {
        Some(then) => format!("import the log first: {import} && {then} {folder}"),
        None => format!("import the log first: {import}; then give {folder}"),
    })
}

/// Opens the data that were named, or else those that the run was trained on; `moved` says how the command is told
/// where these are now.
///
/// # Errors
/// As [`open_data`].
pub fn data_of(run: &OpenRun, named: Option<&Path>, moved: &str) -> Result<Dataset> {
    match named {
        None if !run.data.exists() => {
            let what = format!("{}: the data that the run was trained on are no longer there", run.data.display());
            Err(Error::user(what).hint(format!("put them back, or say where they are: {moved}")))
        }
        // The command, without the word that stands for the folder.
        named => open_data_for(named.unwrap_or(&run.data), moved.rsplit_once(' ').map(|(command, _)| command)),
    }
}
