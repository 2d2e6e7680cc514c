/*! An imported data set: opened in milliseconds, mapped read-only, shared between threads.

Opening checks the manifest, the size and header of every file, and the shape of all offsets. It reads a few bytes per
user and key, never the interactions. [`Dataset::verify`] reads everything and compares checksums, which detects a
single altered byte in a large set. Sets below 64 MiB are verified when opened, in some tens of milliseconds, so an
altered byte is always detected there.
*/

use std::{
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use sha2::{Digest, Sha256};

use crate::{
    base::{Error, Result, error::IoContext},
    data::{
        digits,
        fields::ItemFields,
        hex::hex,
        history::History,
        manifest::{FileEntry, Manifest},
        shard::{Container, Shard, Tensor},
        vocab::Vocab,
    },
};

/// Sets up to this many bytes are verified in full when opened.
const VERIFY_ON_OPEN_BYTES: u64 = 64 << 20;

pub(crate) const COUNTS_FORMAT: &str = "mipgpu.item_counts";
const HINT: &str = "a file was cut short or altered; import the data again with `mipgpu import`";

/// An immutable, memory-mapped data set: for each user the item ids, oldest first.
///
/// Users are 0..[`users`](Self::users) and items 0..[`items`](Self::items), both numbered in order of first appearance
/// in the imported log. Events with equal times keep the order of the log.
pub struct Dataset {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    user_keys: Vocab,
    item_keys: Vocab,
    counts: (Container, Tensor<u32>),
    fields: ItemFields,
}

impl Dataset {
    /// The folder that it was opened from.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Opens a folder written by [`import`](crate::data::import()).
    ///
    /// # Errors
    /// The folder has no data set; a file is missing, truncated, foreign, of another version, or does not match the
    /// manifest; for sets below 64 MiB also any altered byte.
    pub fn open(dir: &Path) -> Result<Dataset> {
        Self::open_verifying(dir, VERIFY_ON_OPEN_BYTES)
    }

    /// Opens a folder and verifies it in full if the set is smaller than `below` bytes.
    fn open_verifying(dir: &Path, below: u64) -> Result<Dataset> {
        let manifest = Manifest::read(dir)?;
        let bad = |what: String| Error::user(format!("{}: {what}", dir.display())).hint(HINT);
        for file in &manifest.files {
            let path = dir.join(&file.name);
            let found = path.metadata().at_path(&path).map_err(|e| e.hint(HINT))?.len();
            if found != file.bytes {
                return Err(Error::user(format!(
                    "{}: the manifest says {} bytes, the file holds {}",
                    path.display(),
                    digits(file.bytes),
                    digits(found)
                ))
                .hint(HINT));
            }
        }
        // Checksums are compared before the structure is checked, so an altered byte is reported as such and not by its
        // effect.
        if manifest.files.iter().map(|f| f.bytes).sum::<u64>() < below {
            check_sums(dir, &manifest.files)?;
        }
        let path_of = |kind: &str| {
            let file = manifest.file(kind).ok_or_else(|| bad(format!("the manifest lists no '{kind}' file")))?;
            Ok(dir.join(&file.name))
        };
        let (users, items) = (manifest.users as usize, manifest.items as usize);
        let user_keys = Vocab::open(&path_of("users")?)?;
        let item_keys = Vocab::open(&path_of("items")?)?;
        if (user_keys.len(), item_keys.len()) != (users, items) {
            return Err(bad("the vocabularies do not fit the manifest".into()));
        }
        let counts_path = path_of("item_counts")?;
        let counts = Container::open(&counts_path, COUNTS_FORMAT)?;
        let counted = counts.need::<u32>("counts").map_err(|what| bad(format!("{}: {what}", counts_path.display())))?;
        if counted.len() != items {
            return Err(bad(format!("{} does not fit the manifest", counts_path.display())));
        }
        let fields = match manifest.file("item_fields") {
            Some(file) => ItemFields::open(&dir.join(&file.name), items)?,
            None => ItemFields::default(),
        };
        let (mut shards, mut next_user, mut rows) = (Vec::<Shard>::new(), 0, 0);
        for file in manifest.files.iter().filter(|f| f.kind == "shard") {
            let mut shard = Shard::open(&dir.join(&file.name))?;
            if shard.first_user != next_user
                || shard.has_times() != manifest.time_unit.is_some()
                || shard.has_ratings() != manifest.ratings
                || shard.baskets().is_some() != manifest.baskets
            {
                return Err(bad(format!("{} does not continue the shard before it", file.name)));
            }
            shard.first_row = rows;
            next_user += shard.users();
            rows += shard.items().len() as u64;
            shards.push(shard);
        }
        if next_user != users || rows != manifest.interactions {
            return Err(bad(format!(
                "the manifest says {} interactions of {} users, the shards hold {} of {}",
                digits(manifest.interactions),
                digits(manifest.users),
                digits(rows),
                digits(next_user as u64)
            )));
        }
        Ok(Dataset { dir: dir.into(), manifest, shards, user_keys, item_keys, counts: (counts, counted), fields })
    }

    /// Reads every byte: compares all checksums and checks that every item id is in range and every vocabulary is
    /// sorted. It takes about a second per GB.
    ///
    /// # Errors
    /// A file differs from what was imported; the error names the first.
    pub fn verify(&self) -> Result<()> {
        check_sums(&self.dir, &self.manifest.files)?;
        let bad = |what: String| Error::user(format!("{}: {what}", self.dir.display())).hint(HINT);
        for (name, vocab) in [("user", &self.user_keys), ("item", &self.item_keys)] {
            vocab.check_order().map_err(|what| bad(format!("{name} vocabulary: {what}")))?;
        }
        let items = self.items() as u32;
        for (n, shard) in self.shards.iter().enumerate() {
            if let Some(id) = shard.items().iter().find(|&&id| id >= items) {
                return Err(bad(format!("shard {n:05} holds item id {id}, but there are {items} items")));
            }
            let numbered = |b: &[u32]| b.first() == Some(&0) && b.windows(2).all(|w| w[1].wrapping_sub(w[0]) <= 1);
            if let Some(baskets) = shard.baskets()
                && !(0..shard.users()).all(|local| numbered(&baskets[shard.range(local)]))
            {
                return Err(bad(format!("shard {n:05}: the baskets of a user are not numbered 0, 1, 2, …")));
            }
        }
        Ok(())
    }

    /// Checks that the files of interactions are the same as when the set was opened. It compares lengths and
    /// modification times, which is cheap enough for every step of a run. The files are read in place, so truncating
    /// one would end the process.
    ///
    /// # Errors
    /// A file has changed; the error names it.
    pub fn unchanged(&self) -> Result<()> {
        match self.shards.iter().position(|s| !s.unchanged()) {
            None => Ok(()),
            Some(n) => {
                let name = self.manifest.files.iter().filter(|f| f.kind == "shard").nth(n).map_or("", |f| &f.name);
                let path = self.dir.join(name);
                Err(Error::user(format!("{}: the file has changed while it was in use", path.display()))
                    .hint("restore the original data"))
            }
        }
    }

    /// Checks that all of these are items of the set, because opening a large set reads no interactions.
    ///
    /// # Errors
    /// An id is out of range; the error names the first.
    pub fn check_items(&self, items: &[u32]) -> Result<()> {
        match items.iter().find(|&&i| i as usize >= self.items()) {
            None => Ok(()),
            Some(id) => {
                let (dir, known) = (self.dir.display(), self.items());
                Err(Error::user(format!("{dir}: an interaction names item {id}, but there are {known} items"))
                    .hint("the file was altered or damaged; import the data again with `mipgpu import`"))
            }
        }
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the number of users; each has at least one interaction.
    pub fn users(&self) -> usize {
        self.manifest.users as usize
    }

    /// Returns the number of items; each has at least one interaction.
    pub fn items(&self) -> usize {
        self.manifest.items as usize
    }

    /// Returns the number of interactions.
    pub fn interactions(&self) -> u64 {
        self.manifest.interactions
    }

    #[inline]
    fn shard_of(&self, user: usize) -> (&Shard, usize) {
        let shard = &self.shards[self.shards.partition_point(|s| s.first_user <= user) - 1];
        (shard, user - shard.first_user)
    }

    /// Returns the item ids of all users in order, in chunks.
    pub fn all_items(&self) -> impl Iterator<Item = &[u32]> {
        self.shards.iter().map(Shard::items)
    }

    /// Returns the index of a user's first item id among those of all users.
    pub fn place_of(&self, user: usize) -> u64 {
        let (shard, local) = self.shard_of(user);
        shard.first_row + shard.range(local).start as u64
    }

    /// Returns the item ids of a user, oldest first.
    #[inline]
    pub fn items_of(&self, user: usize) -> &[u32] {
        let (shard, local) = self.shard_of(user);
        &shard.items()[shard.range(local)]
    }

    /// Returns the times of a user's interactions in ascending order, in units of
    /// [`ticks_per_second`](Self::ticks_per_second); `None` if the data set has no timestamps.
    pub fn times_of(&self, user: usize) -> Option<&[i64]> {
        let (shard, local) = self.shard_of(user);
        shard.times().map(|times| &times[shard.range(local)])
    }

    /// Returns the ratings of a user's interactions; `None` if the data set has none.
    pub fn ratings_of(&self, user: usize) -> Option<&[f32]> {
        let (shard, local) = self.shard_of(user);
        shard.ratings().map(|ratings| &ratings[shard.range(local)])
    }

    /// Returns the baskets of a user, oldest first, as ranges that cover all of the user's interactions. They are those
    /// of the basket column, if the import had one. Otherwise interactions with equal times form a basket; without
    /// times, each interaction is a separate basket.
    pub fn baskets_of(&self, user: usize) -> impl Iterator<Item = Range<usize>> {
        let History { items, times, baskets, .. } = self.history_of(user);
        let together = move |at: usize| {
            let same_basket = !baskets.is_empty() && baskets[at - 1] == baskets[at];
            same_basket || (baskets.is_empty() && !times.is_empty() && times[at - 1] == times[at])
        };
        let mut start = 0;
        std::iter::from_fn(move || {
            let end = (start + 1..=items.len()).find(|&at| at == items.len() || !together(at))?;
            Some(std::mem::replace(&mut start, end)..end)
        })
    }

    /// Returns the items of the last of [`baskets_before`](Self::baskets_before); empty if there is none.
    pub fn last_basket_of(&self, user: usize, end: usize) -> &[u32] {
        self.baskets_before(user, end).last().map_or(&[], |basket| &self.items_of(user)[basket])
    }

    /// Returns the baskets among a user's first `end` interactions, oldest first; a basket that `end` cuts is truncated
    /// there.
    pub fn baskets_before(&self, user: usize, end: usize) -> impl Iterator<Item = Range<usize>> + use<'_> {
        let whole = self.baskets_of(user).take_while(move |basket| basket.start < end);
        whole.map(move |basket| basket.start..basket.end.min(end))
    }

    /// Returns the start of the basket that contains a user's interaction `at`; `at` itself if it is past the last.
    pub fn basket_start(&self, user: usize, at: usize) -> usize {
        self.baskets_of(user).find(|basket| at < basket.end).map_or(at, |basket| basket.start)
    }

    /// Checks that a column or equal times define baskets.
    ///
    /// # Errors
    /// Neither does.
    pub fn check_baskets(&self) -> Result<()> {
        let together = |user: usize| self.baskets_of(user).any(|basket| basket.len() > 1);
        if self.has_baskets() || (0..self.users()).any(together) {
            return Ok(());
        }
        let what = "the data have no baskets: no column specifies them, and no two interactions of a user \
                    have the same time";
        Err(Error::user(format!("{}: {what}", self.dir.display()))
            .hint("import the log again with the column of the orders: mipgpu import --basket-col COLUMN"))
    }

    /// Returns whether the import had a basket column.
    pub fn has_baskets(&self) -> bool {
        self.manifest.baskets
    }

    /// Returns all columns of a user's interactions.
    pub(crate) fn history_of(&self, user: usize) -> History<'_> {
        let (shard, local) = self.shard_of(user);
        shard.history(local)
    }

    /// Returns whether interactions have times.
    pub fn has_times(&self) -> bool {
        self.manifest.time_unit.is_some()
    }

    /// Returns the units of [`times_of`](Self::times_of) per second, counted from 1970-01-01 UTC; `None` if there are
    /// no times or they are numbers that only order the log.
    pub fn ticks_per_second(&self) -> Option<i64> {
        match self.manifest.time_unit.as_deref()? {
            "s" => Some(1),
            "ms" => Some(1_000),
            "us" => Some(1_000_000),
            "ns" => Some(1_000_000_000),
            _ => None,
        }
    }

    /// Returns the external keys of the users.
    pub fn user_keys(&self) -> &Vocab {
        &self.user_keys
    }

    /// Returns the external keys of the items.
    pub fn item_keys(&self) -> &Vocab {
        &self.item_keys
    }

    /// Returns the number of interactions of each item (V), its popularity.
    pub fn item_counts(&self) -> &[u32] {
        self.counts.0.get(&self.counts.1)
    }

    /// Returns the side fields of the items; empty if none were imported.
    pub fn item_fields(&self) -> &ItemFields {
        &self.fields
    }

    /// Returns a hash of the data, in hex; it changes if and only if users, items or interactions do.
    pub fn fingerprint(&self) -> &str {
        &self.manifest.fingerprint
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the names of the imported files.
    pub fn sources(&self) -> &[String] {
        &self.manifest.sources
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (users, items, rows) = (self.users(), self.items(), self.interactions());
        write!(f, "Dataset({}: {users} users, {items} items, {rows} interactions)", self.dir.display())
    }
}

/// Compares the checksum of every file, several in parallel if the set is large enough to justify waking threads.
fn check_sums(dir: &Path, files: &[FileEntry]) -> Result<()> {
    if files.iter().map(|f| f.bytes).sum::<u64>() < 1 << 20 {
        return files.iter().try_for_each(|entry| check_sum(dir, entry));
    }
    files.par_iter().try_for_each(|entry| check_sum(dir, entry))
}

fn check_sum(dir: &Path, entry: &FileEntry) -> Result<()> {
    let path = dir.join(&entry.name);
    // The file is read, not mapped, because pages of a mapping would count as this process's memory.
    let mut file = File::open(&path).at_path(&path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; entry.bytes.clamp(1, 1 << 20) as usize];
    loop {
        match file.read(&mut buffer).at_path(&path)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    if hex(&hash.finalize()) != entry.sha256 {
        return Err(Error::user(format!("{}: its checksum does not match the manifest", path.display()))
            .hint("the file was altered or damaged; import the data again with `mipgpu import`"));
    }
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "import")]
mod tests {
    use std::{
        fs,
        io::{Seek, SeekFrom, Write},
    };

    use super::*;
    use crate::data::{ImportOptions, import};

    /// Shows on a small set what holds for large ones: opening reads no interactions, so it may miss an altered byte in
    /// them. Even then nothing panics before `verify`, and `verify` detects every altered byte.
    #[test]
    fn verify_finds_what_opening_alone_may_miss() {
        let dir = tempfile::tempdir().unwrap();
        let (log, data) = (dir.path().join("log.csv"), dir.path().join("data"));
        fs::write(&log, "user,item,time\na,x,1\na,y,2\nb,y,7\nb,x,9\n").unwrap();
        import(&[log], &data, &ImportOptions::default(), &mut |_| {}).unwrap();
        let mut missed = 0;
        for file in Manifest::read(&data).unwrap().files {
            let path = data.join(&file.name);
            let whole = fs::read(&path).unwrap();
            let mut in_place = File::options().write(true).open(&path).unwrap();
            let mut put = |at: usize, byte: u8| {
                in_place.seek(SeekFrom::Start(at as u64)).unwrap();
                in_place.write_all(&[byte]).unwrap();
            };
            // Under Miri the last byte of each file, which is of a tensor.
            let first = if cfg!(miri) { whole.len() - 1 } else { 0 };
            for (at, byte) in whole.iter().enumerate().skip(first) {
                put(at, byte ^ 0x81);
                if let Ok(opened) = Dataset::open_verifying(&data, 0) {
                    (0..opened.users()).for_each(|u| assert!(opened.items_of(u).len() <= 4));
                    (0..opened.items()).for_each(|i| assert!(opened.item_keys().key(i).len() <= 2));
                    assert!(opened.verify().is_err(), "byte {at} of {}", file.name);
                    missed += 1;
                }
                put(at, *byte);
            }
        }
        assert!(missed > 0, "opening must miss at least one byte");
        Dataset::open_verifying(&data, 0).unwrap().verify().unwrap();
    }
}
