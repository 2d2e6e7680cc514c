//! The staging folder in which an output is made: it either becomes the complete output or is removed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::base::{Error, Result, error::IoContext};

/// A kind of folder that the program makes: its name in messages, and the marker file that only such a folder contains.
#[derive(Clone, Copy)]
pub(crate) struct FolderKind {
    pub name: &'static str,
    pub marker: &'static str,
}

/// A folder next to the output in which everything is made. It is removed on drop; [`Staging::publish`] renames it.
pub(crate) struct Staging {
    path: PathBuf,
    kind: FolderKind,
    published: bool,
    /// Locked while the folder is in use, to distinguish it from one that a killed process left behind.
    _lock: File,
}

impl Staging {
    /// Creates the folder; fails if `out` exists. With `force`, an existing folder of the same kind may be replaced,
    /// but nothing else. A folder without the marker was not made by this program and must not be deleted.
    pub fn new(out: &Path, kind: FolderKind, force: bool) -> Result<Staging> {
        check_free(out, kind, force)?;
        let name = out.file_name().ok_or_else(|| {
            Error::user(format!("--out {}: this does not name a folder", out.display()))
                .hint("specify a folder: --out DIR")
        })?;
        let parent = parent_of(out);
        fs::create_dir_all(&parent).at_path(&parent)?;
        let path = parent.join(format!(".{}.importing-{}", name.to_string_lossy(), std::process::id()));
        let lock = claim(out, &parent, &path)?;
        let staging = Staging { path, kind, published: false, _lock: lock };
        recover(out, kind, force)?;
        // Another process may have finished in the meantime.
        check_free(out, kind, force)?;
        Ok(staging)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the folder and its subfolders and renames it to `out`; with `force`, it replaces an existing one.
    pub fn publish(mut self, out: &Path, force: bool) -> Result<()> {
        check_free(out, self.kind, force)?;
        for entry in fs::read_dir(&self.path).at_path(&self.path)? {
            let inner = entry.at_path(&self.path)?.path();
            if inner.is_dir() {
                sync_dir(&inner)?;
            }
        }
        sync_dir(&self.path)?;
        // Two renames are not atomic. Between them the old data are kept whole under a temporary name and restored on
        // failure.
        let aside = aside_of(out);
        let replaces = out.exists();
        if replaces {
            fs::rename(out, &aside).at_path(out)?;
        }
        if let Err(e) = fs::rename(&self.path, out) {
            if replaces {
                let _ = fs::rename(&aside, out);
            }
            return Err(Error::io(out, &e));
        }
        self.published = true;
        if replaces {
            let _ = fs::remove_dir_all(&aside);
        }
        sync_dir(&parent_of(out))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Creates the staging folder `path` and locks it. Only one process may make an output at a time: a second one is
/// rejected. What a killed process left behind is removed. The system releases the lock of a process that dies.
fn claim(out: &Path, parent: &Path, path: &Path) -> Result<File> {
    // The lock on the parent prevents other processes from creating or inspecting such folders meanwhile.
    let gate = File::open(parent).at_path(parent)?;
    // On file systems without locks this protection is absent.
    let _ = lock(&gate);
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.importing-");
    for entry in fs::read_dir(parent).at_path(parent)? {
        let other = entry.at_path(parent)?.path();
        let other_name = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(process) = other_name.strip_prefix(&prefix) else { continue };
        // The process may have finished and removed it by now.
        let Ok(folder) = File::open(&other) else { continue };
        match try_lock(&folder) {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::user(format!("{}: process {process} is creating it right now", out.display()))
                    .hint("wait until it is done, or choose another --out"));
            }
            // Without locks, only the folder of this process is known to be unused.
            Err(TryLockError::Error(_)) if other != path => {}
            Err(TryLockError::Error(_)) | Ok(()) => fs::remove_dir_all(&other).at_path(&other)?,
        }
    }
    fs::create_dir(path).at_path(path)?;
    let made = File::open(path).at_path(path)?;
    let _ = try_lock(&made);
    Ok(made)
}

/// Waits for the lock of a folder. Miri supports no locks on folders, like some file systems.
fn lock(folder: &File) -> io::Result<()> {
    if cfg!(miri) { Err(io::ErrorKind::Unsupported.into()) } else { folder.lock() }
}

/// Takes the lock of a folder if it is free.
fn try_lock(folder: &File) -> std::result::Result<(), TryLockError> {
    if cfg!(miri) { Err(TryLockError::Error(io::ErrorKind::Unsupported.into())) } else { folder.try_lock() }
}

/// Returns the temporary path of an existing output during its replacement.
fn aside_of(out: &Path) -> PathBuf {
    parent_of(out).join(format!(".{}.replaced", out.file_name().unwrap_or_default().to_string_lossy()))
}

/// Cleans up after a process that was killed while it replaced an output. The old output is renamed back if the new one
/// is not yet in its place, and removed otherwise.
fn recover(out: &Path, kind: FolderKind, force: bool) -> Result<()> {
    let aside = aside_of(out);
    if !aside.exists() {
        return Ok(());
    }
    if out.exists() {
        return fs::remove_dir_all(&aside).at_path(&aside);
    }
    fs::rename(&aside, out).at_path(out)?;
    check_free(out, kind, force)
}

fn parent_of(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => PathBuf::from("."),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    // Miri does not support syncing a folder.
    if cfg!(miri) {
        return Ok(());
    }
    File::open(path).and_then(|dir| dir.sync_all()).at_path(path)
}

/// Rejects an existing output: always if it is of another kind, otherwise unless `force`.
pub(crate) fn check_free(out: &Path, kind: FolderKind, force: bool) -> Result<()> {
    let Ok(meta) = out.symlink_metadata() else { return Ok(()) };
    let empty = meta.is_dir() && fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let ours = meta.is_dir() && out.join(kind.marker).is_file();
    match (force, ours) {
        _ if empty => Ok(()),
        (true, true) => Ok(()),
        (false, true) => Err(Error::user(format!("{}: a {} is already there", out.display(), kind.name))
            .hint("choose another --out, or replace it with --force")),
        (_, false) => {
            let (out, name) = (out.display(), kind.name);
            Err(Error::user(format!("{out}: something that is not a {name} is already there"))
                .hint("choose another --out"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::manifest::MANIFEST;

    const DATA_SET: FolderKind = FolderKind { name: "data set", marker: MANIFEST };

    #[test]
    fn a_staging_folder_becomes_the_output_or_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let staging = Staging::new(&out, DATA_SET, false).unwrap();
        fs::write(staging.path().join("x"), "1").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staging = Staging::new(&out, DATA_SET, false).unwrap();
        fs::write(staging.path().join(MANIFEST), "1").unwrap();
        staging.publish(&out, false).unwrap();
        assert!(Staging::new(&out, DATA_SET, false).err().unwrap().to_string().contains("--force"));
        let staging = Staging::new(&out, DATA_SET, true).unwrap();
        fs::write(staging.path().join(MANIFEST), "2").unwrap();
        staging.publish(&out, true).unwrap();
        assert_eq!(fs::read_to_string(out.join(MANIFEST)).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn force_never_deletes_what_is_not_a_data_set() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "…").unwrap();
        let error = Staging::new(dir.path(), DATA_SET, true).err().unwrap();
        assert!(error.to_string().contains("not a data set"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }
}
