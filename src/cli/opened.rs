//! Flags to open a trained run and its data, shared by several commands.

use std::path::Path;

use crate::{
    backend::Device,
    base::{Error, Result, error::typed},
    data::Dataset,
    train::{OpenRun, Which},
};

/// How to open a trained run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunFlags {
    /// Use the last checkpoint instead of the best
    #[arg(long)]
    pub last: bool,
    /// Where to run: auto, cpu, cuda, cuda:N, emu, ptx, ptx90a (CUDA kernels on the processor, for tests), reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// Opens the checkpoint of a run that the flags select.
///
/// # Errors
/// As [`OpenRun::open`].
pub fn open_run(run: &Path, flags: &RunFlags) -> Result<OpenRun> {
    let which = if flags.last { Which::Last } else { Which::Best };
    OpenRun::open(run, which, flags.device)
}

/// Opens a data set and verifies its checksums (about a second per GB), so that corruption is reported here and not
/// in the middle of the work.
///
/// # Errors
/// There is no data set at the path, or it is damaged.
pub fn open_data(path: &Path) -> Result<Dataset> {
    open_data_for(path, None)
}

/// Like [`open_data`]; `then` is the command that reads the data, without the folder. If the path is a log that was
/// not imported, the hint shows how to import it, followed by that command.
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

/// File extensions of logs, without compression suffixes.
const LOGS: [&str; 6] = ["csv", "tsv", "dat", "inter", "parquet", "txt"];

/// The commands to import a log and continue, if the path is a file or is named like a log.
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

/// Opens the data set at `named`, or else the one that the run was trained on. `moved` is the command with a
/// placeholder for the new path of the data, for the hint.
///
/// # Errors
/// As [`open_data`].
pub fn data_of(run: &OpenRun, named: Option<&Path>, moved: &str) -> Result<Dataset> {
    match named {
        None if !run.data.exists() => {
            let what = format!("{}: the data set of the run does not exist", run.data.display());
            Err(Error::user(what).hint(format!("restore it, or give its new path: {moved}")))
        }
        // The command, without the placeholder of the folder.
        named => open_data_for(named.unwrap_or(&run.data), moved.rsplit_once(' ').map(|(command, _)| command)),
    }
}
