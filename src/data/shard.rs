/*! The container of every data file: a safetensors file, mapped into memory and read in place.

A file is `u64 header length | JSON header | tensors`. The JSON is padded with spaces so that the tensors start at a
multiple of 64 bytes. Tensors of wider elements come first, so every tensor is aligned in the mapping and is read
through bytemuck without a copy. The header is validated before anything is read: it must parse, name this format and
version, and its tensors must tile the rest of the file without gaps or overlap.
*/

use std::{collections::HashMap, fs::File, marker::PhantomData, ops::Range, path::Path, time::SystemTime};

use bytemuck::Pod;
#[cfg(not(miri))]
use memmap2::Mmap;
use serde_json::{Value, json};

use crate::{
    base::{Error, Result, error::IoContext},
    data::history::History,
};

#[cfg(miri)]
use self::read_whole::Mmap;

#[cfg(target_endian = "big")]
compile_error!("data files are little-endian and read in place: a big-endian machine would need a copying reader");

/// Version of the layout of all data files; a file of another version is rejected.
pub(crate) const VERSION: &str = "1";

/// Element types of data files.
pub(crate) trait Element: Pod {
    const DTYPE: &'static str;
}
impl Element for u8 {
    const DTYPE: &'static str = "U8";
}
impl Element for u32 {
    const DTYPE: &'static str = "U32";
}
impl Element for u64 {
    const DTYPE: &'static str = "U64";
}
impl Element for i64 {
    const DTYPE: &'static str = "I64";
}
impl Element for f32 {
    const DTYPE: &'static str = "F32";
}

fn element_bytes(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "U8" => 1,
        "U32" | "F32" => 4,
        "U64" | "I64" => 8,
        _ => return None,
    })
}

/// The position of a tensor in its file; typed, so that it is always cast to the same type.
pub(crate) struct Tensor<T> {
    range: Range<usize>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Element> Tensor<T> {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.range.len() / size_of::<T>()
    }
}

/// Length and modification time of a file.
#[derive(Clone, Copy, PartialEq)]
struct Stamp(u64, Option<SystemTime>);

impl Stamp {
    fn of(file: &File) -> std::io::Result<Stamp> {
        let is = file.metadata()?;
        Ok(Stamp(is.len(), is.modified().ok()))
    }
}

/// Miri supports no mapped files: under Miri a file is read into memory, so that slices, casts and bounds are checked.
#[cfg(miri)]
mod read_whole {
    use std::{fs::File, io::Read, ops::Deref};

    /// Stands in for `memmap2::Mmap`: the bytes of a file in `u64` words for alignment, and how many of them count.
    pub struct Mmap(Vec<u64>, usize);

    impl Mmap {
        /// # Safety
        /// None is needed; the signature is that of `memmap2`.
        pub unsafe fn map(mut file: &File) -> std::io::Result<Mmap> {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let mut words = vec![0u64; bytes.len().div_ceil(8)];
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
            Ok(Mmap(words, bytes.len()))
        }
    }

    impl Deref for Mmap {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.0)[..self.1]
        }
    }
}

enum Backing {
    /// A mapped file, still open, and its stamp at the time of mapping.
    File(Mmap, File, Stamp),
    /// The same bytes in memory (`u64` for alignment) and the number of valid bytes.
    Memory(Vec<u64>, usize),
}

/// An open data file: its bytes and the position of each tensor.
pub(crate) struct Container {
    backing: Backing,
    tensors: HashMap<String, (String, Range<usize>)>,
    /// The free-text metadata of the file.
    pub meta: HashMap<String, String>,
}

impl Container {
    /// Maps `path` and checks that it is a complete file of the given format (`mipgpu.shard`, …).
    ///
    /// # Errors
    /// The file is missing, foreign, truncated, misaligned or of another version; the message names the file.
    pub fn open(path: &Path, format: &str) -> Result<Self> {
        let file = File::open(path).at_path(path)?;
        if file.metadata().at_path(path)?.len() == 0 {
            return Err(Error::user(format!("{}: the file is empty", path.display())).hint(IMPORT_AGAIN));
        }
        // SAFETY: the mapping is read-only and private. Data files are written once, under another name, and only then
        // renamed to their path, so no process that follows this protocol changes the bytes of a mapped file.
        let map = unsafe { Mmap::map(&file) }.at_path(path)?;
        let stamp = Stamp::of(&file).at_path(path)?;
        Self::new(Backing::File(map, file, stamp), format)
            .map_err(|what| Error::user(format!("{}: {what}", path.display())).hint(IMPORT_AGAIN))
    }

    /// Opens bytes in memory, laid out by [`image`].
    pub fn in_memory(bytes: &[u8], format: &str) -> std::result::Result<Self, String> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self::new(Backing::Memory(words, bytes.len()), format)
    }

    fn new(backing: Backing, format: &str) -> std::result::Result<Self, String> {
        let mut container = Container { backing, tensors: HashMap::new(), meta: HashMap::new() };
        let (tensors, meta) = parse(container.bytes())?;
        match meta.get("format") {
            Some(found) if found == format => {}
            Some(found) => return Err(format!("is a '{found}' file, not '{format}'")),
            None => return Err(format!("is a foreign safetensors file, not '{format}'")),
        }
        match meta.get("version").map_or("none", String::as_str) {
            VERSION => {}
            other => return Err(format!("has format version {other}; this program reads version {VERSION}")),
        }
        (container.tensors, container.meta) = (tensors, meta);
        Ok(container)
    }

    /// Returns the bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::File(map, ..) => map,
            Backing::Memory(words, bytes) => &bytemuck::cast_slice(words)[..*bytes],
        }
    }

    /// Returns whether the file is the same as when it was mapped, by its length and modification time.
    pub fn unchanged(&self) -> bool {
        match &self.backing {
            Backing::File(_, file, stamp) => Stamp::of(file).is_ok_and(|now| now == *stamp),
            Backing::Memory(..) => true,
        }
    }

    /// Finds a tensor by name; `Ok(None)` if the file has none with that name.
    pub fn find<T: Element>(&self, name: &str) -> std::result::Result<Option<Tensor<T>>, String> {
        let Some((dtype, range)) = self.tensors.get(name) else { return Ok(None) };
        if dtype != T::DTYPE {
            return Err(format!("tensor '{name}' is {dtype}, not {}", T::DTYPE));
        }
        Ok(Some(Tensor { range: range.clone(), kind: PhantomData }))
    }

    /// Finds a required tensor.
    pub fn need<T: Element>(&self, name: &str) -> std::result::Result<Tensor<T>, String> {
        self.find(name)?.ok_or_else(|| format!("has no tensor '{name}'"))
    }

    /// Returns the elements of a tensor, in place.
    #[inline]
    pub fn get<T: Element>(&self, tensor: &Tensor<T>) -> &[T] {
        bytemuck::cast_slice(&self.bytes()[tensor.range.clone()])
    }
}

const IMPORT_AGAIN: &str = "the file is truncated, altered or foreign; import the data again with `mipgpu import`";

type Parsed = (HashMap<String, (String, Range<usize>)>, HashMap<String, String>);

/// Parses a header and checks that its tensors tile the file.
fn parse(bytes: &[u8]) -> std::result::Result<Parsed, String> {
    const FOREIGN: &str = "is not a safetensors file";
    let length = bytes.first_chunk::<8>().ok_or(FOREIGN)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| FOREIGN)?;
    // 100 MB is the limit of the safetensors format itself; text files read as a length far beyond it.
    if length > 100_000_000 || bytes.get(8) != Some(&b'{') {
        return Err(FOREIGN.into());
    }
    let start = 8 + length;
    let header = bytes.get(8..start).ok_or("ends inside its header")?;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(header).map_err(|e| format!("its header is damaged ({e})"))?;
    let mut tensors = HashMap::new();
    let mut meta = HashMap::new();
    let mut places = Vec::new();
    for (name, value) in header {
        if name == "__metadata__" {
            for (key, text) in value.as_object().ok_or("its metadata is damaged")? {
                meta.insert(key.clone(), text.as_str().ok_or("its metadata is damaged")?.to_owned());
            }
            continue;
        }
        let damaged = || format!("its header is damaged at tensor '{name}'");
        let dtype = value["dtype"].as_str().ok_or_else(damaged)?;
        let width = element_bytes(dtype).ok_or_else(|| format!("tensor '{name}' has unknown type {dtype}"))?;
        let mut size = width;
        for dim in value["shape"].as_array().ok_or_else(damaged)? {
            let dim = dim.as_u64().and_then(|d| usize::try_from(d).ok()).ok_or_else(damaged)?;
            size = size.checked_mul(dim).ok_or_else(damaged)?;
        }
        let place = |i: usize| value["data_offsets"][i].as_u64().and_then(|d| usize::try_from(d).ok());
        let (from, to) = (place(0).ok_or_else(damaged)?, place(1).ok_or_else(damaged)?);
        if to.checked_sub(from) != Some(size) || to > usize::MAX - start {
            return Err(damaged());
        }
        if (start + from) % width != 0 {
            return Err(format!("tensor '{name}' is not aligned to {width} bytes"));
        }
        places.push((from, to));
        tensors.insert(name.clone(), (dtype.to_owned(), start + from..start + to));
    }
    places.sort_unstable();
    let mut end = 0;
    for (from, to) in places {
        if from != end {
            return Err("its header has gaps between tensors or lets them overlap".into());
        }
        end = to;
    }
    let held = bytes.len() - start;
    if end != held {
        return Err(format!("header says {end} bytes of data, the file holds {held}"));
    }
    Ok((tensors, meta))
}

/// Builds the header of a file with the tensors in the given order: widest elements first, so that all are aligned.
pub(crate) fn header(format: &str, meta: &[(&str, String)], tensors: &[(&str, &'static str, usize)]) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    let mut free = serde_json::Map::new();
    free.insert("format".into(), format.into());
    free.insert("version".into(), VERSION.into());
    for (key, value) in meta {
        free.insert((*key).into(), value.as_str().into());
    }
    map.insert("__metadata__".into(), free.into());
    let mut at = 0;
    for (name, dtype, len) in tensors {
        let size = len * element_bytes(dtype).expect("a known element kind");
        map.insert((*name).into(), json!({ "dtype": dtype, "shape": [len], "data_offsets": [at, at + size] }));
        at += size;
    }
    let mut text = Value::from(map).to_string().into_bytes();
    let padded = (8 + text.len()).next_multiple_of(64) - 8;
    text.resize(padded, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// Builds a whole small file in memory: header and tensors, each given as name, element type and bytes.
pub(crate) fn image(format: &str, meta: &[(&str, String)], tensors: &[(&str, &'static str, &[u8])]) -> Vec<u8> {
    let sizes: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, bytes)| (*name, *dtype, bytes.len() / element_bytes(dtype).expect("a known element kind")))
        .collect();
    let mut file = header(format, meta, &sizes);
    for (_, _, bytes) in tensors {
        file.extend_from_slice(bytes);
    }
    file
}

/// One shard: the histories of consecutive users.
pub(crate) struct Shard {
    container: Container,
    pub first_user: usize,
    /// Number of interactions in the preceding shards, set when a data set opens the shard.
    pub first_row: u64,
    offsets: Tensor<u64>,
    items: Tensor<u32>,
    times: Option<Tensor<i64>>,
    ratings: Option<Tensor<f32>>,
    baskets: Option<Tensor<u32>>,
}

impl Shard {
    pub const FORMAT: &str = "mipgpu.shard";

    /// Maps a shard and checks its shape: `offsets` (U+1) ascend from 0 to I, and `items`, `times`, `ratings`,
    /// `baskets` have length I. It reads the offsets only (8 bytes per user), never the interactions.
    pub fn open(path: &Path) -> Result<Self> {
        let container = Container::open(path, Self::FORMAT)?;
        Self::new(container).map_err(|what| Error::user(format!("{}: {what}", path.display())).hint(IMPORT_AGAIN))
    }

    fn new(container: Container) -> std::result::Result<Self, String> {
        let first_user = container.meta.get("first_user").and_then(|text| text.parse().ok());
        let first_user = first_user.ok_or("its metadata lacks first_user")?;
        let (offsets, items) = (container.need::<u64>("offsets")?, container.need::<u32>("items")?);
        let (times, ratings) = (container.find::<i64>("times")?, container.find::<f32>("ratings")?);
        let baskets = container.find::<u32>("baskets")?;
        let rows = items.len();
        for (name, len) in [
            ("times", times.as_ref().map(Tensor::len)),
            ("ratings", ratings.as_ref().map(Tensor::len)),
            ("baskets", baskets.as_ref().map(Tensor::len)),
        ] {
            if len.is_some_and(|len| len != rows) {
                return Err(format!("'{name}' has a different length from 'items' ({rows})"));
            }
        }
        let bounds = container.get(&offsets);
        if bounds.first() != Some(&0) || bounds.last() != Some(&(rows as u64)) || !bounds.is_sorted() {
            return Err(format!("its offsets do not ascend from 0 to {rows}"));
        }
        Ok(Shard { container, first_user, first_row: 0, offsets, items, times, ratings, baskets })
    }

    /// Returns [`Container::unchanged`].
    pub fn unchanged(&self) -> bool {
        self.container.unchanged()
    }

    pub fn users(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn has_times(&self) -> bool {
        self.times.is_some()
    }

    pub fn has_ratings(&self) -> bool {
        self.ratings.is_some()
    }

    /// Returns all item ids of the shard (I).
    pub fn items(&self) -> &[u32] {
        self.container.get(&self.items)
    }

    /// Returns the range of the interactions of user `first_user + local`.
    #[inline]
    pub fn range(&self, local: usize) -> Range<usize> {
        let bounds = self.container.get(&self.offsets);
        bounds[local] as usize..bounds[local + 1] as usize
    }

    /// Returns the interactions of user `first_user + local`.
    pub fn history(&self, local: usize) -> History<'_> {
        let range = self.range(local);
        History {
            items: &self.items()[range.clone()],
            times: self.times().map_or(&[], |t| &t[range.clone()]),
            ratings: self.ratings().map_or(&[], |r| &r[range.clone()]),
            baskets: self.baskets().map_or(&[], |b| &b[range]),
        }
    }

    pub fn times(&self) -> Option<&[i64]> {
        self.times.as_ref().map(|t| self.container.get(t))
    }

    pub fn ratings(&self) -> Option<&[f32]> {
        self.ratings.as_ref().map(|t| self.container.get(t))
    }

    pub fn baskets(&self) -> Option<&[u32]> {
        self.baskets.as_ref().map(|t| self.container.get(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let wide: Vec<u8> = [5u64, 6].iter().flat_map(|x| x.to_le_bytes()).collect();
        image("test", &[("a", "b".into())], &[("wide", "U64", &wide), ("narrow", "U8", b"xyz")])
    }

    fn refusal(bytes: &[u8]) -> String {
        Container::in_memory(bytes, "test").err().expect("refused")
    }

    #[test]
    fn what_is_written_is_read_back_in_place() {
        let c = Container::in_memory(&small(), "test").unwrap();
        assert_eq!(c.get(&c.need::<u64>("wide").unwrap()), [5, 6]);
        assert_eq!(c.get(&c.need::<u8>("narrow").unwrap()), b"xyz");
        assert_eq!(c.meta["a"], "b");
        assert!(c.find::<u8>("none").unwrap().is_none());
        assert_eq!(c.need::<u32>("wide").err().unwrap(), "tensor 'wide' is U64, not U32");
    }

    #[test]
    fn the_safetensors_crate_reads_our_files() {
        let file = small();
        let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(theirs.tensor("narrow").unwrap().data(), b"xyz");
        assert_eq!(theirs.tensor("wide").unwrap().shape(), [2]);
    }

    #[test]
    fn every_cut_is_refused_and_none_panics() {
        let whole = small();
        for n in (0..whole.len()).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let why = refusal(&whole[..n]);
            if n + 3 >= whole.len() {
                assert!(why.contains("header says 19 bytes of data, the file holds"), "{why}");
            }
        }
    }

    #[test]
    fn no_flipped_header_byte_panics_or_reads_outside() {
        let whole = small();
        for at in 0..whole.len() - 19 {
            // Under Miri one bit of each byte.
            for bit in if cfg!(miri) { at % 8..at % 8 + 1 } else { 0..8 } {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(c) = Container::in_memory(&bytes, "test") {
                    for name in c.tensors.keys() {
                        let _ = c.find::<u64>(name).map(|t| t.map(|t| c.get(&t).len()));
                    }
                }
            }
        }
    }

    #[test]
    fn foreign_files_and_other_versions_are_named() {
        assert_eq!(refusal(b"user,item\n1,2\n"), "is not a safetensors file");
        assert_eq!(Container::in_memory(&small(), "other").err().unwrap(), "is a 'test' file, not 'other'");
        let edited = |from: &str, to: &str| {
            let mut bytes = small();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("is in the header");
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        let other = edited(r#""version":"1""#, r#""version":"9""#);
        assert_eq!(refusal(&other), "has format version 9; this program reads version 1");
        let holes = edited("[16,19]", "[15,18]");
        assert!(refusal(&holes).contains("overlap"));
    }
}
