//! Result files that appear whole or not at all: written beside their place, synced, renamed.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::base::{Error, Result, error::IoContext};

/// A file written beside its place; removed again unless [`Aside::put`] is reached.
pub(crate) struct Aside {
    pub path: PathBuf,
    pub temporary: PathBuf,
    placed: bool,
}

impl Aside {
    /// Opens the temporary file for `path`.
    pub fn create(path: PathBuf) -> Result<(Aside, File)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&temporary).at_path(&temporary)?;
        Ok((Aside { path, temporary, placed: false }, file))
    }

    /// Moves the finished, synced file into its place.
    pub fn put(mut self, file: &File) -> Result<PathBuf> {
        file.sync_all().at_path(&self.temporary)?;
        fs::rename(&self.temporary, &self.path).at_path(&self.path)?;
        self.placed = true;
        Ok(self.path.clone())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing sensible is left to do if this fails too.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole small file (a table, a report) aside and renames it into place.
///
/// # Errors
/// What `write` and the file system report.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let (aside, file) = Aside::create(path.to_owned())?;
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| Error::io(path, e.error()))?;
    aside.put(&file).map(|_| ())
}
