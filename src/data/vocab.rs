/*! External keys and dense ids. An id maps to its key by offset, a key to its id by binary search over a sorted
permutation. There is no hash map, so an opened vocabulary occupies address space but no memory.
*/

use std::{cmp::Ordering, fs::File, io::Write, path::Path};

use rayon::slice::ParallelSliceMut;
use sha2::{Digest, Sha256};

use crate::{
    base::{Error, Result, error::IoContext},
    data::hex::hex,
    data::shard::{Container, Tensor, header},
};

/// External keys of users or items, numbered 0, 1, 2, …
///
/// ```
/// use mipgpu::data::Vocab;
/// let items = Vocab::from_keys(["tt0076759", "007", "7"]);
/// assert_eq!(items.find("007"), Some(1));
/// assert_eq!(items.key(2), "7");
/// assert_eq!(items.find("unheard of"), None);
/// ```
pub struct Vocab {
    container: Container,
    parts: VocabTensors,
}

/// The tensors of a vocabulary in a container; item fields store several vocabularies in one file.
pub(crate) struct VocabTensors {
    /// `offsets` (n+1): key `id` is `bytes[offsets[id]..offsets[id+1]]`.
    offsets: Tensor<u64>,
    /// `order` (n): ids, sorted by the bytes of their keys.
    order: Tensor<u32>,
    /// `bytes`: all keys in UTF-8, concatenated.
    bytes: Tensor<u8>,
}

/// The three tensors of a vocabulary in construction.
pub(crate) struct Columns {
    offsets: Vec<u64>,
    order: Vec<u32>,
    pub bytes: Vec<u8>,
}

impl Columns {
    /// Lays keys out. Keys must be distinct; equal keys would be found under the smallest id.
    pub fn new<I: IntoIterator<Item: AsRef<str>>>(keys: I) -> Self {
        let (mut offsets, mut bytes) = (vec![0u64], Vec::new());
        for key in keys {
            bytes.extend_from_slice(key.as_ref().as_bytes());
            offsets.push(bytes.len() as u64);
        }
        let key = |id: u32| &bytes[offsets[id as usize] as usize..offsets[id as usize + 1] as usize];
        let mut order: Vec<u32> = (0..(offsets.len() - 1) as u32).collect();
        order.par_sort_unstable_by(|&a, &b| key(a).cmp(key(b)).then(a.cmp(&b)));
        Columns { offsets, order, bytes }
    }

    /// Returns the offsets as bytes.
    pub fn offsets(&self) -> &[u8] {
        bytemuck::cast_slice(&self.offsets)
    }

    /// Returns the order as bytes.
    pub fn order(&self) -> &[u8] {
        bytemuck::cast_slice(&self.order)
    }
}

impl VocabTensors {
    /// Finds `{prefix}offsets`, `{prefix}order`, `{prefix}bytes` and checks that every key is valid UTF-8 text and
    /// every id is in range, so that no later lookup can fail.
    pub fn find(container: &Container, prefix: &str) -> std::result::Result<Self, String> {
        let parts = VocabTensors {
            offsets: container.need(&format!("{prefix}offsets"))?,
            order: container.need(&format!("{prefix}order"))?,
            bytes: container.need(&format!("{prefix}bytes"))?,
        };
        let (offsets, order, bytes) =
            (container.get(&parts.offsets), container.get(&parts.order), container.get(&parts.bytes));
        let n = order.len();
        if offsets.len() != n + 1 || offsets[0] != 0 || offsets[n] != bytes.len() as u64 || !offsets.is_sorted() {
            return Err("the offsets of its keys are damaged".into());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "its keys are not UTF-8")?;
        if offsets.iter().any(|&at| !text.is_char_boundary(at as usize)) {
            return Err("its keys are cut inside a character".into());
        }
        if order.iter().any(|&id| id as usize >= n) {
            return Err("the order of its keys is damaged".into());
        }
        Ok(parts)
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn key<'a>(&self, container: &'a Container, id: usize) -> &'a str {
        let offsets = container.get(&self.offsets);
        let bytes = &container.get(&self.bytes)[offsets[id] as usize..offsets[id + 1] as usize];
        std::str::from_utf8(bytes).expect("checked when the file was opened")
    }

    pub fn find_key(&self, container: &Container, key: &str) -> Option<u32> {
        let order = container.get(&self.order);
        let at = order.partition_point(|&id| self.key(container, id as usize) < key);
        let id = *order.get(at)?;
        (self.key(container, id as usize) == key).then_some(id)
    }

    /// Checks that `order` sorts the keys and that keys are distinct; reads every key.
    pub fn check_order(&self, container: &Container) -> std::result::Result<(), String> {
        let order = container.get(&self.order);
        let rising =
            |w: &[u32]| self.key(container, w[0] as usize).cmp(self.key(container, w[1] as usize)) == Ordering::Less;
        if order.windows(2).all(rising) { Ok(()) } else { Err("its keys are out of order or duplicated".into()) }
    }
}

impl Vocab {
    const FORMAT: &str = "mipgpu.vocab";

    /// Returns the serialized form of a vocabulary: the file's header and its columns `offsets`, `order`, `bytes`.
    pub(crate) fn file<I: IntoIterator<Item: AsRef<str>>>(keys: I) -> (Vec<u8>, Columns) {
        let columns = Columns::new(keys);
        let (n, bytes) = (columns.order.len(), columns.bytes.len());
        (header(Self::FORMAT, &[], &[("offsets", "U64", n + 1), ("order", "U32", n), ("bytes", "U8", bytes)]), columns)
    }

    /// Creates a vocabulary in memory; key number i gets id i. Keys must be distinct.
    pub fn from_keys<I: IntoIterator<Item: AsRef<str>>>(keys: I) -> Vocab {
        let (mut file, columns) = Self::file(keys);
        [columns.offsets(), columns.order(), &columns.bytes].iter().for_each(|part| file.extend_from_slice(part));
        let container = Container::in_memory(&file, Self::FORMAT).expect("an image of our own making");
        let parts = VocabTensors::find(&container, "").expect("an image of our own making");
        Vocab { container, parts }
    }

    /// Maps a saved vocabulary.
    ///
    /// # Errors
    /// The file is missing, foreign, truncated or inconsistent.
    pub fn open(path: &Path) -> Result<Vocab> {
        let container = Container::open(path, Self::FORMAT)?;
        match VocabTensors::find(&container, "") {
            Ok(parts) => Ok(Vocab { container, parts }),
            Err(what) => Err(Error::user(format!("{}: {what}", path.display()))
                .hint("the vocabulary was altered; import the data or write the run again")),
        }
    }

    /// Writes the vocabulary to `path` and syncs it to disk.
    ///
    /// # Errors
    /// The file system reports an error.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = File::create(path).at_path(path)?;
        file.write_all(self.container.bytes()).and_then(|()| file.sync_all()).at_path(path)
    }

    /// Returns the number of keys.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Returns the key of an id below [`len`](Self::len).
    pub fn key(&self, id: usize) -> &str {
        self.parts.key(&self.container, id)
    }

    /// Returns the id of a key.
    pub fn find(&self, key: &str) -> Option<u32> {
        self.parts.find_key(&self.container, key)
    }

    /// Returns all keys in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|id| self.key(id))
    }

    /// Returns the SHA-256 of the serialized form, in hex: equal if and only if the keys and their ids are.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.container.bytes()))
    }

    pub(crate) fn check_order(&self) -> std::result::Result<(), String> {
        self.parts.check_order(&self.container)
    }
}

impl std::fmt::Debug for Vocab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocab({} keys)", self.len())
    }
}

/// Returns the whole number that a key represents, without zeros after the point: `3` for `3`, `3.0` and `3.00`. Tables
/// with gaps store whole numbers as reals, and programs differ in how they write them. `None` if the key is not a whole
/// number.
pub(crate) fn whole_number(key: &[u8]) -> Option<&[u8]> {
    let end = key.iter().position(|&b| b == b'.').unwrap_or(key.len());
    let (whole, zeros) = key.split_at(end);
    let digits = whole.strip_prefix(b"-").unwrap_or(whole);
    let fits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    (fits && zeros.iter().skip(1).all(|&b| b == b'0')).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_finds_its_id_and_no_other_does() {
        let many = if cfg!(miri) { 40 } else { 1000 };
        let keys: Vec<String> = (0..many).map(|i| format!("k{}", i * 7919 % many)).collect();
        let vocab = Vocab::from_keys(&keys);
        for (id, key) in keys.iter().enumerate() {
            assert_eq!(vocab.find(key), Some(id as u32));
            assert_eq!(vocab.key(id), key);
            assert_eq!(vocab.find(&format!("{key}x")), None);
        }
        assert_eq!((vocab.find(""), vocab.find("zzz")), (None, None));
        vocab.check_order().unwrap();
    }

    #[test]
    fn whole_numbers_are_known_however_they_are_written() {
        for (key, whole) in [("3", "3"), ("3.0", "3"), ("3.00", "3"), ("3.", "3"), ("-12.000", "-12"), ("007.0", "007")]
        {
            assert_eq!(whole_number(key.as_bytes()), Some(whole.as_bytes()), "{key}");
        }
        for key in ["", "-", ".0", "3.5", "3.0.0", "v3.0", "3e0", "3,0", " 3"] {
            assert_eq!(whole_number(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn leading_zeros_and_any_script_are_kept() {
        let vocab = Vocab::from_keys(["7", "07", "007", "Amélie", "千と千尋", ""]);
        for id in 0..6 {
            assert_eq!(vocab.find(vocab.key(id)), Some(id as u32));
        }
        assert_eq!(Vocab::from_keys::<[&str; 0]>([]).find("a"), None);
    }

    #[test]
    fn saved_and_opened_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.safetensors");
        let vocab = Vocab::from_keys(["b", "a", "c"]);
        vocab.save(&path).unwrap();
        let opened = Vocab::open(&path).unwrap();
        assert_eq!(opened.keys().collect::<Vec<_>>(), ["b", "a", "c"]);
        assert_eq!(opened.fingerprint(), vocab.fingerprint());
        assert_ne!(Vocab::from_keys(["a", "b", "c"]).fingerprint(), vocab.fingerprint());
    }

    #[test]
    fn no_flipped_byte_makes_a_look_up_panic() {
        let vocab = Vocab::from_keys(["b", "ä", "cc"]);
        for at in (0..vocab.container.bytes().len()).step_by(if cfg!(miri) { 13 } else { 1 }) {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = vocab.container.bytes().to_vec();
                bytes[at] ^= flip;
                let Ok(container) = Container::in_memory(&bytes, Vocab::FORMAT) else { continue };
                let Ok(parts) = VocabTensors::find(&container, "") else { continue };
                let opened = Vocab { container, parts };
                (0..opened.len()).for_each(|id| assert!(opened.find(opened.key(id)).is_none_or(|i| i < 3)));
            }
        }
    }
}
