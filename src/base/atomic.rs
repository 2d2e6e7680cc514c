//! Files that are either whole or not there: written aside, synced, renamed.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{Error, Result, error::IoContext};

/// Makes a folder and those above it.
///
/// # Errors
/// A file is in the place of one of them; the file system's.
pub fn make_folder(path: &Path) -> Result<()> {
    if let Some(file) = path.ancestors().find(|at| at.is_file()) {
        return Err(Error::user(format!("{}: this is a file, not a folder", file.display()))
            .hint("name a folder with --out; it is made if it is not there"));
    }
    fs::create_dir_all(path).at_path(path)
}

/// A file written beside its place; removed again unless [`Aside::put`] is reached.
pub struct Aside {
    pub path: PathBuf,
    pub temporary: PathBuf,
    placed: bool,
}

impl Aside {
    /// Opens the temporary file for `path`: `.NAME.tmp` in the same folder, one that an earlier kill left is overwritten.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: PathBuf) -> Result<(Aside, File)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.tmp"));
        let file = File::create(&temporary).at_path(&path)?;
        Ok((Aside { path, temporary, placed: false }, file))
    }

    /// Syncs the finished file and moves it into its place; the move is synced too.
    ///
    /// # Errors
    /// The file system's; an old file at the place is then still there, untouched.
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
            // Nothing sensible is left to do if this fails too.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `path` through `fill`, aside first.
///
/// # Errors
/// Whatever `fill` or the file system says; an old file at `path` is then still there, untouched.
pub fn write_aside(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_file_aside(path, |file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush().at_path(path)
    })
}

/// [`write_aside`] for who goes back in the file to complete it.
///
/// # Errors
/// As [`write_aside`].
pub fn write_file_aside(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    // A link stands for what it points to; a device or a pipe can only be written straight into, never replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let mut out = File::options().write(true).open(path).at_path(path)?;
        return fill(&mut out);
    }
    let (aside, mut file) = Aside::create(path.to_owned())?;
    fill(&mut file)?;
    aside.put(&file).map(|_| ())
}

/// [`write_aside`] for what can only fail in writing.
///
/// # Errors
/// As [`write_aside`].
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
