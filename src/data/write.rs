//! Writes the files of a data set folder: computes the checksum of each and limits the size of shards.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    base::{Result, error::IoContext},
    data::{
        Vocab,
        dataset::COUNTS_FORMAT,
        fields::{FieldBuilder, ItemFields},
        hex::hex,
        history::History,
        manifest::{FileEntry, MANIFEST, Manifest},
        shard::{Shard, header},
        spill::Spill,
    },
};

/// A file with its checksum, computed as it is written.
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

/// Writes a vocabulary, `users` or `items`; key number i gets id i.
pub(crate) fn write_keys<'k>(dir: &Path, kind: &str, keys: impl Iterator<Item = &'k str>) -> Result<FileEntry> {
    let (head, columns) = Vocab::file(keys);
    let path = dir.join(format!("{kind}.safetensors"));
    write_file(&path, kind, &[&head, columns.offsets(), columns.order(), &columns.bytes])
}

/// Writes the number of interactions of each item.
pub(crate) fn write_counts(dir: &Path, counts: &[u32]) -> Result<FileEntry> {
    let head = header(COUNTS_FORMAT, &[], &[("counts", "U32", counts.len())]);
    write_file(&dir.join("item_counts.safetensors"), "item_counts", &[&head, bytemuck::cast_slice(counts)])
}

/// Writes the side fields of the items.
pub(crate) fn write_fields(dir: &Path, fields: &[FieldBuilder]) -> Result<FileEntry> {
    write_file(&dir.join("item_fields.safetensors"), "item_fields", &[&ItemFields::image(fields)])
}

/// Writes the manifest last, because a folder without one is not a data set.
pub(crate) fn write_manifest(dir: &Path, manifest: &mut Manifest) -> Result<()> {
    write_file(&dir.join(MANIFEST), "manifest", &[manifest.text()?.as_bytes()]).map(drop)
}

/// The columns of interactions other than the items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Has {
    pub times: bool,
    pub ratings: bool,
    pub baskets: bool,
}

/// Writes histories, user by user, to shards of about equal size. Columns are kept in spills until a shard is full,
/// because its header records their lengths.
pub(crate) struct ShardWriter<'a> {
    dir: &'a Path,
    prefix: &'a str,
    has: Has,
    /// Maximum number of interactions per shard; a user with more has a separate shard.
    cap: u64,
    /// Memory limit for the columns of one shard, in bytes.
    memory: u64,
    open: Option<OpenShard>,
    done: Shards,
}

/// The output of a [`ShardWriter`].
#[derive(Default)]
pub(crate) struct Shards {
    pub entries: Vec<FileEntry>,
    /// Number of interactions of each user.
    pub lengths: Vec<u32>,
    /// Earliest and latest time.
    pub times: Option<[i64; 2]>,
    /// Smallest and largest rating.
    pub ratings: Option<[f32; 2]>,
    /// Number of baskets, if the log has a basket column.
    pub baskets: u64,
}

impl Shards {
    /// Returns the shortest, median and longest history; there must be at least one.
    pub fn history(&self) -> [u32; 3] {
        let mut lengths = self.lengths.clone();
        let middle = lengths.len() / 2;
        let (before, &mut median, after) = lengths.select_nth_unstable(middle);
        let shortest = before.iter().min().copied().unwrap_or(median);
        [shortest, median, after.iter().max().copied().unwrap_or(median)]
    }
}

struct OpenShard {
    first_user: u64,
    rows: u64,
    offsets: Vec<u64>,
    times: Spill,
    items: Spill,
    ratings: Spill,
    baskets: Spill,
}

impl<'a> ShardWriter<'a> {
    pub fn new(dir: &'a Path, prefix: &'a str, has: Has, cap: u64, memory: u64) -> Self {
        ShardWriter { dir, prefix, has, cap, memory, open: None, done: Shards::default() }
    }

    /// Appends the next user's history. Baskets are renumbered from 0, without the gaps left by filters.
    pub fn push(&mut self, history: History) -> Result<()> {
        let History { items, times, ratings, baskets } = history;
        let rows = items.len() as u64;
        if self.open.as_ref().is_some_and(|shard| shard.rows + rows > self.cap) {
            self.close()?;
        }
        let shard = self.open.get_or_insert_with(|| {
            let Has { times, ratings, baskets } = self.has;
            let width = 4 + 8 * u64::from(times) + 4 * u64::from(ratings) + 4 * u64::from(baskets);
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
                baskets: spill("baskets", 4),
            }
        });
        shard.items.write(bytemuck::cast_slice(items))?;
        if self.has.times {
            shard.times.write(bytemuck::cast_slice(times))?;
        }
        if self.has.ratings {
            shard.ratings.write(bytemuck::cast_slice(ratings))?;
        }
        if self.has.baskets {
            let mut number = 0u32;
            for (at, basket) in baskets.iter().enumerate() {
                number += u32::from(at > 0 && baskets[at - 1] != *basket);
                shard.baskets.write(&number.to_le_bytes())?;
            }
            self.done.baskets += u64::from(number) + 1;
        }
        shard.rows += rows;
        shard.offsets.push(shard.rows);
        self.done.lengths.push(items.len() as u32);
        if let (Some(&first), Some(&last)) = (times.first(), times.last()) {
            let [earliest, latest] = self.done.times.unwrap_or([first, last]);
            self.done.times = Some([earliest.min(first), latest.max(last)]);
        }
        for &rating in ratings {
            let [least, greatest] = self.done.ratings.unwrap_or([rating; 2]);
            self.done.ratings = Some([least.min(rating), greatest.max(rating)]);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut shard) = self.open.take() else { return Ok(()) };
        let rows = shard.rows as usize;
        let mut tensors = vec![("offsets", "U64", shard.offsets.len())];
        let mut columns = Vec::new();
        for (present, name, dtype, column) in [
            (self.has.times, "times", "I64", &mut shard.times),
            (true, "items", "U32", &mut shard.items),
            (self.has.ratings, "ratings", "F32", &mut shard.ratings),
            (self.has.baskets, "baskets", "U32", &mut shard.baskets),
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

    /// Closes the last shard and returns the list of all shards.
    pub fn finish(mut self) -> Result<Shards> {
        self.close()?;
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_never_split_and_shards_keep_to_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer =
            ShardWriter::new(dir.path(), "shard", Has { times: true, ratings: false, baskets: true }, 10, 0);
        for user in 0..9u32 {
            let n = [3, 4, 25, 1, 9, 1, 1, 8, 2][user as usize];
            let (items, times) = (vec![user; n], vec![-(user as i64); n]);
            // Arbitrary numbers: only equality of neighbours matters.
            let baskets: Vec<u32> = (0..n as u32).map(|i| 90 - 7 * (i / 2)).collect();
            writer.push(History { items: &items, times: &times, ratings: &[], baskets: &baskets }).unwrap();
        }
        let done = writer.finish().unwrap();
        assert_eq!(done.baskets, 2 + 2 + 13 + 1 + 5 + 1 + 1 + 4 + 1);
        let entries = done.entries;
        let sizes: Vec<_> = entries.iter().map(|e| (e.first_user.unwrap(), e.interactions.unwrap())).collect();
        assert_eq!(sizes, [(0, 7), (2, 25), (3, 10), (5, 10), (8, 2)]);
        let shard = Shard::open(&dir.path().join(&entries[3].name)).unwrap();
        assert_eq!((shard.users(), shard.first_user), (3, 5));
        assert_eq!(&shard.items()[shard.range(2)], [7; 8]);
        assert_eq!(&shard.times().unwrap()[shard.range(1)], [-6]);
        assert_eq!(&shard.baskets().unwrap()[shard.range(2)], [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    /// `/dev/full` fails every write with "no space left on device".
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_as_such() {
        let error = write_file(Path::new("/dev/full"), "users", &[b"x"]).unwrap_err();
        assert!(error.to_string().contains("free some disk space"), "{error}");
    }
}
