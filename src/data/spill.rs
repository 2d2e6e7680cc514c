/*! An append-only store of fixed-width records, kept in memory up to a limit and in a temporary file beyond it. All
per-row data of an import is kept in spills, which bounds its memory for any input.
*/

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::base::{Error, Result, error::IoContext};

pub(crate) struct Spill {
    path: PathBuf,
    /// Bytes per buffer: a multiple of the record width, so records never straddle buffers.
    chunk: usize,
    /// Maximum number of bytes in memory.
    limit: u64,
    /// Full buffers, then the one being filled; after the first overflow only the latter.
    chunks: Vec<Vec<u8>>,
    file: Option<File>,
    len: u64,
}

impl Spill {
    /// Creates a store of records of `record` bytes, in buffers of about `chunk` bytes; `path` is created only on
    /// overflow.
    pub fn new(path: &Path, record: usize, chunk: usize, limit: u64) -> Self {
        let chunk = (chunk / record).max(1) * record;
        Spill { path: path.into(), chunk, limit, chunks: Vec::new(), file: None, len: 0 }
    }

    /// Returns the number of bytes in memory.
    #[cfg(feature = "import")]
    pub fn memory(&self) -> u64 {
        self.chunks.iter().map(|c| c.capacity() as u64).sum()
    }

    /// Appends whole records.
    #[inline]
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        loop {
            if let Some(open) = self.chunks.last_mut() {
                let room = self.chunk - open.len();
                if bytes.len() <= room {
                    open.extend_from_slice(bytes);
                    return Ok(());
                }
                let (now, later) = bytes.split_at(room);
                open.extend_from_slice(now);
                bytes = later;
            }
            self.next_chunk()?;
        }
    }

    /// Opens the next buffer because the current one is full or missing; moves to disk when the memory limit is
    /// reached.
    #[cold]
    fn next_chunk(&mut self) -> Result<()> {
        if self.file.is_some() || (self.chunks.len() as u64 + 1) * self.chunk as u64 > self.limit {
            self.flush()?;
        }
        match self.chunks.first_mut() {
            Some(reused) if self.file.is_some() => reused.clear(),
            _ => self.chunks.push(Vec::with_capacity(self.chunk)),
        }
        Ok(())
    }

    /// Moves all buffers to the file and keeps one empty buffer.
    fn flush(&mut self) -> Result<()> {
        if self.chunks.iter().all(Vec::is_empty) {
            return Ok(());
        }
        if self.file.is_none() {
            let options = File::options().read(true).write(true).create(true).truncate(true).open(&self.path);
            self.file = Some(options.at_path(&self.path)?);
        }
        let file = self.file.as_mut().expect("just opened");
        for chunk in &self.chunks {
            file.write_all(chunk).at_path(&self.path)?;
        }
        self.chunks.truncate(1);
        self.chunks[0].clear();
        Ok(())
    }

    /// Calls `f` with all bytes in order, in chunks of whole records, and ends the writing.
    pub fn for_each(&mut self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.file.is_some() {
            self.flush()?;
        }
        let Some(file) = &mut self.file else { return self.chunks.iter().try_for_each(|chunk| f(chunk)) };
        file.seek(SeekFrom::Start(0)).at_path(&self.path)?;
        let (mut buffer, mut left) = (vec![0; self.chunk], self.len);
        while left > 0 {
            let now = left.min(self.chunk as u64) as usize;
            file.read_exact(&mut buffer[..now]).map_err(|e| {
                Error::internal(format!("{}: {e}", self.path.display())).hint("a temporary file of the import changed")
            })?;
            f(&buffer[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // Frees the disk space early; if that fails, the folder of temporary files is removed as a whole later.
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_disk_and_in_memory_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for limit in [0, 100, 1000, u64::MAX] {
            let path = dir.path().join("spill");
            let mut spill = Spill::new(&path, 12, 40, limit);
            let mut expected = Vec::new();
            for i in 0..if cfg!(miri) { 40 } else { 200u32 } {
                let record: Vec<u8> = (0..12 * (i % 9)).map(|j| (i + j) as u8).collect();
                spill.write(&record).unwrap();
                expected.extend(record);
            }
            for _ in 0..2 {
                let mut got = Vec::new();
                spill
                    .for_each(|piece| {
                        assert_eq!(piece.len() % 12, 0);
                        got.extend_from_slice(piece);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(got, expected, "limit {limit}");
            }
            assert_eq!(spill.len, expected.len() as u64);
            assert_eq!(path.exists(), limit < expected.len() as u64);
            drop(spill);
            assert!(!path.exists());
        }
    }

    /// `/dev/full` accepts every open and fails every write with "no space left on device".
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_as_such() {
        let mut spill = Spill::new(Path::new("/dev/full"), 4, 16, 0);
        spill.file = Some(File::options().write(true).open("/dev/full").unwrap());
        let error = (0..9).try_for_each(|_| spill.write(&[0; 4])).unwrap_err();
        spill.file = None;
        assert_eq!(error.kind, crate::base::error::ErrorKind::Internal);
        assert!(error.to_string().contains("free some disk space"), "{error}");
    }
}
