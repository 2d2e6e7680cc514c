/*! Writing a data set folder: files that know their checksum, shards cut to size, and the staging folder that either
becomes the data set as a whole or vanishes.
*/

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    base::{Error, Result, error::IoContext},
    data::{
        import::spill::Spill,
        manifest::{FileEntry, MANIFEST},
        shard::{Shard, header},
        vocab::hex,
    },
};

/// A folder beside the output in which everything is made. Dropped, it is removed; [`Staging::publish`] renames it.
pub(crate) struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    /// Makes the folder; refuses when `out` is taken. With `force`, an earlier data set may be replaced, but nothing
    /// else: a folder without a manifest is not ours to delete.
    pub fn new(out: &Path, force: bool) -> Result<Staging> {
        check_free(out, force)?;
        let name = out.file_name().ok_or_else(|| {
            Error::user(format!("--out {}: this does not name a folder", out.display()))
                .hint("give it a name: --out DIR")
        })?;
        let parent = parent_of(out);
        fs::create_dir_all(&parent).at_path(&parent)?;
        recover(out, force)?;
        let path = parent.join(format!(".{}.importing-{}", name.to_string_lossy(), std::process::id()));
        // Left by a killed process that had the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).at_path(&path)?;
        Ok(Staging { path, published: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the folder and gives it its name, in place of an earlier data set if `force`.
    pub fn publish(mut self, out: &Path, force: bool) -> Result<()> {
        check_free(out, force)?;
        sync_dir(&self.path)?;
        // Two renames cannot be one step; between them the old data stand aside, whole, and come back on failure.
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

/// Where an earlier data set stands while the new one takes its name.
fn aside_of(out: &Path) -> PathBuf {
    parent_of(out).join(format!(".{}.replaced", out.file_name().unwrap_or_default().to_string_lossy()))
}

/// Clears up after a process that was killed while it replaced a data set: the old one gets its name back where the new
/// one had not taken it yet, and is removed where it had.
fn recover(out: &Path, force: bool) -> Result<()> {
    let aside = aside_of(out);
    if !aside.exists() {
        return Ok(());
    }
    if out.exists() {
        return fs::remove_dir_all(&aside).at_path(&aside);
    }
    fs::rename(&aside, out).at_path(out)?;
    check_free(out, force)
}

fn parent_of(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => PathBuf::from("."),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).at_path(path)
}

fn check_free(out: &Path, force: bool) -> Result<()> {
    let Ok(meta) = out.symlink_metadata() else { return Ok(()) };
    let empty = meta.is_dir() && fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let ours = meta.is_dir() && out.join(MANIFEST).is_file();
    match (force, ours) {
        _ if empty => Ok(()),
        (true, true) => Ok(()),
        (false, true) => Err(Error::user(format!("{}: a data set is already there", out.display()))
            .hint("choose another --out, or replace it with --force")),
        (_, false) => Err(Error::user(format!("{}: something that is not a data set is already there", out.display()))
            .hint("choose another --out")),
    }
}

/// A file whose checksum is taken as it is written.
struct HashedFile {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    fn create(path: &Path) -> Result<Self> {
        Ok(HashedFile { path: path.into(), file: File::create(path).at_path(path)?, hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).at_path(&self.path)
    }

    fn finish(self, kind: &str) -> Result<FileEntry> {
        self.file.sync_all().at_path(&self.path)?;
        let name = self.path.file_name().expect("made from a name").to_string_lossy().into_owned();
        Ok(FileEntry {
            name,
            kind: kind.into(),
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
            first_user: None,
            users: None,
            interactions: None,
        })
    }
}

/// Writes a file from its parts.
pub(crate) fn write_file(path: &Path, kind: &str, parts: &[&[u8]]) -> Result<FileEntry> {
    let mut file = HashedFile::create(path)?;
    parts.iter().try_for_each(|part| file.write(part))?;
    file.finish(kind)
}

/// Writes histories, user after user, into shards of about equal size. Columns wait in spills until a shard is full,
/// because its header says how long they are.
pub(crate) struct ShardWriter<'a> {
    dir: &'a Path,
    prefix: &'a str,
    times: bool,
    ratings: bool,
    /// Interactions a shard may hold; a user with more has a shard of their own.
    cap: u64,
    /// Memory for the columns of one shard, in bytes.
    memory: u64,
    open: Option<OpenShard>,
    done: Shards,
}

/// What a [`ShardWriter`] wrote.
#[derive(Default)]
pub(crate) struct Shards {
    pub entries: Vec<FileEntry>,
    /// Interactions of each user.
    pub lengths: Vec<u32>,
    /// Earliest and latest time.
    pub times: Option<[i64; 2]>,
}

impl Shards {
    pub fn interactions(&self) -> u64 {
        self.entries.iter().filter_map(|e| e.interactions).sum()
    }
}

struct OpenShard {
    first_user: u64,
    rows: u64,
    offsets: Vec<u64>,
    times: Spill,
    items: Spill,
    ratings: Spill,
}

impl<'a> ShardWriter<'a> {
    pub fn new(dir: &'a Path, prefix: &'a str, times: bool, ratings: bool, cap: u64, memory: u64) -> Self {
        ShardWriter { dir, prefix, times, ratings, cap, memory, open: None, done: Shards::default() }
    }

    /// Appends the next user's history, oldest first. `times` and `ratings` are empty where the log has none.
    pub fn push(&mut self, items: &[u32], times: &[i64], ratings: &[f32]) -> Result<()> {
        let rows = items.len() as u64;
        if self.open.as_ref().is_some_and(|shard| shard.rows + rows > self.cap) {
            self.close()?;
        }
        let shard = self.open.get_or_insert_with(|| {
            let width = 4 + if self.times { 8 } else { 0 } + if self.ratings { 4 } else { 0 };
            let spill = |name: &str, record: usize| {
                let limit = self.memory * record as u64 / width;
                Spill::new(&self.dir.join(format!("{}{name}.tmp", self.prefix)), record, 1 << 20, limit)
            };
            OpenShard {
                first_user: self.done.lengths.len() as u64,
                rows: 0,
                offsets: vec![0],
                times: spill("times", 8),
                items: spill("items", 4),
                ratings: spill("ratings", 4),
            }
        });
        shard.items.write(bytemuck::cast_slice(items))?;
        if self.times {
            shard.times.write(bytemuck::cast_slice(times))?;
        }
        if self.ratings {
            shard.ratings.write(bytemuck::cast_slice(ratings))?;
        }
        shard.rows += rows;
        shard.offsets.push(shard.rows);
        self.done.lengths.push(items.len() as u32);
        if let (Some(&first), Some(&last)) = (times.first(), times.last()) {
            let [earliest, latest] = self.done.times.unwrap_or([first, last]);
            self.done.times = Some([earliest.min(first), latest.max(last)]);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut shard) = self.open.take() else { return Ok(()) };
        let rows = shard.rows as usize;
        let mut tensors = vec![("offsets", "U64", shard.offsets.len())];
        let mut columns = Vec::new();
        for (present, name, dtype, column) in [
            (self.times, "times", "I64", &mut shard.times),
            (true, "items", "U32", &mut shard.items),
            (self.ratings, "ratings", "F32", &mut shard.ratings),
        ] {
            if present {
                tensors.push((name, dtype, rows));
                columns.push(column);
            }
        }
        let meta = [("first_user", shard.first_user.to_string())];
        let path = self.dir.join(format!("{}-{:05}.safetensors", self.prefix, self.done.entries.len()));
        let mut file = HashedFile::create(&path)?;
        file.write(&header(Shard::FORMAT, &meta, &tensors))?;
        file.write(bytemuck::cast_slice(&shard.offsets))?;
        for column in columns {
            column.for_each(|piece| file.write(piece))?;
        }
        let mut entry = file.finish("shard")?;
        entry.first_user = Some(shard.first_user);
        entry.users = Some(shard.offsets.len() as u64 - 1);
        entry.interactions = Some(shard.rows);
        self.done.entries.push(entry);
        Ok(())
    }

    /// Closes the last shard and gives the list of all.
    pub fn finish(mut self) -> Result<Shards> {
        self.close()?;
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staging_folder_becomes_the_output_or_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let staging = Staging::new(&out, false).unwrap();
        fs::write(staging.path().join("x"), "1").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staging = Staging::new(&out, false).unwrap();
        fs::write(staging.path().join(MANIFEST), "1").unwrap();
        staging.publish(&out, false).unwrap();
        assert!(Staging::new(&out, false).err().unwrap().to_string().contains("--force"));
        let staging = Staging::new(&out, true).unwrap();
        fs::write(staging.path().join(MANIFEST), "2").unwrap();
        staging.publish(&out, true).unwrap();
        assert_eq!(fs::read_to_string(out.join(MANIFEST)).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn force_never_deletes_what_is_not_a_data_set() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "…").unwrap();
        let error = Staging::new(dir.path(), true).err().unwrap();
        assert!(error.to_string().contains("not a data set"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn users_are_never_split_and_shards_keep_to_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "shard", true, false, 10, 0);
        for user in 0..9u32 {
            let n = [3, 4, 25, 1, 9, 1, 1, 8, 2][user as usize];
            writer.push(&vec![user; n], &vec![-(user as i64); n], &[]).unwrap();
        }
        let entries = writer.finish().unwrap().entries;
        let sizes: Vec<_> = entries.iter().map(|e| (e.first_user.unwrap(), e.interactions.unwrap())).collect();
        assert_eq!(sizes, [(0, 7), (2, 25), (3, 10), (5, 10), (8, 2)]);
        let shard = Shard::open(&dir.path().join(&entries[3].name)).unwrap();
        assert_eq!((shard.users(), shard.first_user), (3, 5));
        assert_eq!(&shard.items()[shard.range(2)], [7; 8]);
        assert_eq!(&shard.times().unwrap()[shard.range(1)], [-6]);
    }

    /// `/dev/full` refuses every write with "no space left on device".
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_as_such() {
        let error = write_file(Path::new("/dev/full"), "users", &[b"x"]).unwrap_err();
        assert!(error.to_string().contains("free some disk space"), "{error}");
    }
}
