//! Atomic file writes: a file is written to a temporary name, synced and renamed, so that it is complete or absent.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{Error, Result, error::IoContext};

/// Creates a folder and its missing parents.
///
/// # Errors
/// A file has the name of one of them, or the file system fails.
pub fn make_folder(path: &Path) -> Result<()> {
    if let Some(file) = path.ancestors().find(|at| at.is_file()) {
        return Err(Error::user(format!("{}: this is a file, not a folder", file.display()))
            .hint("specify a folder with --out; it is created if it does not exist"));
    }
    fs::create_dir_all(path).at_path(path)
}

/// A file written to a temporary name. It is removed unless [`Aside::put`] is called.
pub struct Aside {
    pub path: PathBuf,
    pub temporary: PathBuf,
    placed: bool,
}

impl Aside {
    /// Opens the temporary file for `path`: `.NAME.tmp` in the same folder. A leftover of a killed process is
    /// overwritten.
    ///
    /// # Errors
    /// The file system fails.
    pub fn create(path: PathBuf) -> Result<(Aside, File)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.tmp"));
        let file = File::create(&temporary).at_path(&path)?;
        Ok((Aside { path, temporary, placed: false }, file))
    }

    /// Syncs the finished file and moves it into its place. The move is synced too.
    ///
    /// # Errors
    /// The file system fails. An old file at the place is then unchanged.
    pub fn put(mut self, file: &File) -> Result<PathBuf> {
        file.sync_all().at_path(&self.path)?;
        fs::rename(&self.temporary, &self.path).at_path(&self.path)?;
        self.placed = true;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Miri does not support syncing a folder.
        if cfg!(not(miri)) {
            File::open(parent).and_then(|dir| dir.sync_all()).at_path(parent)?;
        }
        Ok(self.path.clone())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.placed {
            // If this fails too, nothing useful is left to do.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `path` through `fill`, to a temporary file first.
///
/// # Errors
/// `fill` or the file system fails. An old file at `path` is then unchanged.
pub fn write_aside(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_file_aside(path, |file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush().at_path(path)
    })
}

/// Works like [`write_aside`], for writers that seek back in the file to complete it.
///
/// # Errors
/// Those of [`write_aside`].
pub fn write_file_aside(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    // A link is resolved to its target. A device or a pipe can only be written directly, never replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let mut out = File::options().write(true).open(path).at_path(path)?;
        return fill(&mut out);
    }
    let (aside, mut file) = Aside::create(path.to_owned())?;
    fill(&mut file)?;
    aside.put(&file).map(|_| ())
}

/// Works like [`write_aside`], for writers that can only fail with I/O errors.
///
/// # Errors
/// Those of [`write_aside`].
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    write_aside(path, |out| fill(out).at_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_and_devices_are_written_through_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, device) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("device"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        for path in [&link, &device] {
            write_atomically(path, |f| f.write_all(b"new")).unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_symlink(), "{}", path.display());
        }
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, |f| f.write_all(b"old")).unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let e = write_atomically(&path, |f| f.write_all(b"half of the n").and(Err(full()))).unwrap_err();
        assert_eq!(e.kind, crate::base::error::ErrorKind::Internal);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
