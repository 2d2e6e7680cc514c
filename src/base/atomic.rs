//! Files that are either whole or not there: written aside, synced, renamed.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use super::{Result, error::IoContext};

/// Writes `path` through `fill`: into `path` + `.tmp` first, synced and renamed when all went well, removed otherwise.
///
/// # Errors
/// Whatever `fill` or the file system says; an old file at `path` is then still there, untouched.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let aside = Path::new(&name);
    let write = || {
        let mut file = BufWriter::new(File::create(aside)?);
        fill(&mut file)?;
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(aside, path)?;
        // The rename itself must reach the disk too.
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(dir) => File::open(dir)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(aside);
        })
        .at_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomically(&path, |f| f.write_all(b"old")).unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let e = write_atomically(&path, |f| f.write_all(b"half of the n").and(Err(full()))).unwrap_err();
        assert_eq!(e.kind, crate::base::error::Kind::Internal);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
