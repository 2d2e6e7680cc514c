/*! Item and user vectors with their keys, as safetensors and as Parquet.

safetensors, for n rows of width D (`score(user, item) = <user vector, item vector> + item bias`):

| tensor | type, shape | what |
|---|---|---|
| `key_offsets` | u64 (n+1) | key i is `key_bytes[key_offsets[i]..key_offsets[i+1]]`, UTF-8 |
| `vector` | f32 (n, D) | |
| `bias` | f32 (n) | items only |
| `key_bytes` | u8 | all keys, concatenated |

Parquet: columns `key` (UTF8), `vector` (LIST of FLOAT, D long), and for items `bias` (FLOAT).

Both formats record the checkpoint of their vectors by its SHA-256, under `checkpoint` in the metadata (Parquet:
`mipgpu.checkpoint`). Vectors of two checkpoints are not comparable, even if their widths are equal.

Rows are written block by block as they are computed, so memory does not grow with the number of users. A file is
written under a temporary name next to its final path, synced and renamed, so a reader never sees an incomplete file.
*/

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[cfg(feature = "import")]
mod parquet;
#[cfg(not(feature = "import"))]
#[path = "vectors/no_parquet.rs"]
mod parquet;

use crate::{
    base::{Error, Result, atomic::Aside, error::IoContext},
    data::Vocab,
};

/// Rows computed and written at a time; each block is a Parquet row group.
const BLOCK_ROWS: usize = 8192;

/// The format name in the metadata of a safetensors file of vectors.
const FORMAT: &str = "mipgpu.vectors";

/// Returns the checkpoint of the vectors in a file, empty for files of earlier versions that do not record it. `None`
/// means that this program did not write the file as a file of vectors.
pub fn checkpoint_of(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    if path.extension()? == Format::Parquet.extension() {
        return parquet::checkpoint_of(file);
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    // The limit of the format, which also limits what a foreign file can make this function read.
    if length > file.metadata().ok()?.len().min(100_000_000) {
        return None;
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    let about = &header["__metadata__"];
    about["format"].as_str().filter(|format| *format == FORMAT)?;
    Some(about["checkpoint"].as_str().unwrap_or_default().to_string())
}

/// A file format for vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Safetensors,
    Parquet,
}

impl Format {
    pub fn extension(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Parquet => "parquet",
        }
    }
}

/// What is written: one row per key.
#[derive(Clone, Copy)]
pub struct Sheet<'a> {
    /// "items" or "users": the file's stem and a note in its metadata.
    pub name: &'static str,
    pub keys: &'a Vocab,
    /// Width of a vector, D.
    pub width: usize,
    /// The bias of each row (n), for items.
    pub bias: Option<&'a [f32]>,
    /// SHA-256 of the vectors' checkpoint.
    pub checkpoint: &'a str,
}

/// Computes the vectors of a range of rows into (rows, D).
pub type Fill<'f> = dyn FnMut(Range<usize>, &mut [f32]) -> Result<()> + 'f;

/// A complete file on disk under its temporary name. It is removed on drop.
pub struct Written {
    aside: Aside,
    file: File,
}

impl Written {
    /// Moves the file to its final path and returns that path.
    ///
    /// # Errors
    /// The file system reports an error; a file previously at that path is then still there.
    pub fn put(self) -> Result<PathBuf> {
        self.aside.put(&self.file)
    }
}

/// Writes `sheet` in each of the formats to temporary files in the folder `dir`. `fill(rows, out)` computes the vectors
/// of a range of rows, `out` (rows, D); ranges come in order and each once.
///
/// # Errors
/// `fill` or the file system reports an error; no unfinished file remains.
pub fn export(sheet: Sheet<'_>, dir: &Path, formats: &[Format], fill: &mut Fill<'_>) -> Result<Vec<Written>> {
    let mut writers = Vec::new();
    for &format in formats {
        writers.push(Writer::new(sheet, format, dir)?);
    }
    let n = sheet.keys.len();
    let mut block = vec![0.0f32; BLOCK_ROWS.min(n) * sheet.width];
    for first in (0..n).step_by(BLOCK_ROWS) {
        let rows = first..n.min(first + BLOCK_ROWS);
        let block = &mut block[..rows.len() * sheet.width];
        fill(rows.clone(), block)?;
        for writer in &mut writers {
            writer.push(sheet, rows.clone(), block)?;
        }
    }
    writers.into_iter().map(|w| w.finish(sheet)).collect()
}

enum Writer {
    Safetensors(Aside, BufWriter<File>),
    Parquet(Aside, parquet::Writer),
}

impl Writer {
    fn new(sheet: Sheet<'_>, format: Format, dir: &Path) -> Result<Writer> {
        let (aside, file) = Aside::create(dir.join(format!("{}.{}", sheet.name, format.extension())))?;
        match format {
            Format::Safetensors => {
                let mut out = BufWriter::new(file);
                safetensors_head(sheet, &mut out).at_path(&aside.temporary)?;
                Ok(Writer::Safetensors(aside, out))
            }
            Format::Parquet => {
                let writer = parquet::Writer::new(sheet, &aside, file)?;
                Ok(Writer::Parquet(aside, writer))
            }
        }
    }

    fn push(&mut self, sheet: Sheet<'_>, rows: Range<usize>, block: &[f32]) -> Result<()> {
        match self {
            Writer::Safetensors(aside, out) => put_f32(out, block).at_path(&aside.temporary),
            Writer::Parquet(aside, out) => out.push(sheet, rows, block, aside),
        }
    }

    fn finish(self, sheet: Sheet<'_>) -> Result<Written> {
        let (aside, file) = match self {
            Writer::Safetensors(aside, mut out) => {
                let mut rest = || -> std::io::Result<()> {
                    put_f32(&mut out, sheet.bias.unwrap_or(&[]))?;
                    sheet.keys.keys().try_for_each(|key| out.write_all(key.as_bytes()))
                };
                rest().at_path(&aside.temporary)?;
                let file = out.into_inner().map_err(|e| Error::io(&aside.temporary, e.error()))?;
                (aside, file)
            }
            Writer::Parquet(aside, out) => {
                let file = out.finish(&aside)?;
                (aside, file)
            }
        };
        file.sync_all().at_path(&aside.path)?;
        Ok(Written { aside, file })
    }
}

/// Writes the header and `key_offsets`; the vectors follow block by block. The tensors are in descending order of
/// alignment, so each is aligned for its type in a memory-mapped file.
fn safetensors_head(sheet: Sheet<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let n = sheet.keys.len();
    let mut offsets = Vec::with_capacity(n + 1);
    offsets.push(0u64);
    for key in sheet.keys.keys() {
        offsets.push(offsets[offsets.len() - 1] + key.len() as u64);
    }
    let bytes = offsets[n] as usize;
    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".into(),
        serde_json::json!({
            "format": FORMAT, "version": "1", "rows": sheet.name, "checkpoint": sheet.checkpoint,
        }),
    );
    let mut at = 0usize;
    let mut tensor = |name: &str, dtype: &str, shape: &[usize], size: usize| {
        let end = at + shape.iter().product::<usize>() * size;
        header.insert(name.into(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    };
    tensor("key_offsets", "U64", &[n + 1], 8);
    tensor("vector", "F32", &[n, sheet.width], 4);
    if sheet.bias.is_some() {
        tensor("bias", "F32", &[n], 4);
    }
    tensor("key_bytes", "U8", &[bytes], 1);
    let mut text = serde_json::Value::Object(header).to_string();
    // The data begin at a multiple of 8: the header is padded with spaces, as the format allows.
    text.extend(std::iter::repeat_n(' ', (8 - text.len() % 8) % 8));
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    offsets.iter().try_for_each(|o| out.write_all(&o.to_le_bytes()))
}

fn put_f32(out: &mut impl Write, xs: &[f32]) -> std::io::Result<()> {
    if cfg!(target_endian = "little") {
        return out.write_all(bytemuck::cast_slice(xs));
    }
    xs.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
}
