/*! Vectors by key from an external source: item contents computed by another program.

Two formats are supported. One is *safetensors* in the layout that `mipgpu export` writes (`key_offsets`, `key_bytes`,
`vector`). The other is *NumPy* (`.npy`, a matrix of floats with one row per key) with the keys in a text file, one
per line.
*/

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rustc_hash::FxHashMap;
use safetensors::{Dtype, SafeTensors};

use crate::base::{Error, Result};

/// Rows of numbers, each with a key.
#[derive(Debug)]
pub struct KeyedVectors {
    pub path: PathBuf,
    /// Row index by key.
    rows: FxHashMap<String, u32>,
    /// Width of a vector, C.
    pub width: usize,
    /// (n, C).
    pub values: Vec<f32>,
}

impl KeyedVectors {
    /// Reads a file; `keys` is the text file with the keys of a NumPy matrix.
    ///
    /// # Errors
    /// The file has neither format, or another shape or type; the keys do not match the rows or are not distinct; a
    /// value is not finite.
    pub fn read(path: &Path, keys: Option<&Path>) -> Result<KeyedVectors> {
        let bytes = fs::read(path).map_err(|e| unread(path, &e))?;
        let wrong = |what: String| Error::user(format!("{}: {what}", path.display()));
        let numpy = bytes.starts_with(b"\x93NUMPY");
        let (keys, [n, width], values) = match (numpy, keys) {
            (true, Some(keys)) => {
                let (shape, values) = numpy_matrix(&bytes).map_err(|what| wrong(what).hint(NUMPY))?;
                let text = fs::read_to_string(keys).map_err(|e| unread(keys, &e))?;
                (text.lines().map(String::from).collect(), shape, values)
            }
            (true, None) => {
                return Err(wrong("a NumPy matrix has no keys for its rows".into())
                    .hint("add --vector-keys FILE, the items' keys, one per line in the order of the rows"));
            }
            (false, Some(keys)) => {
                return Err(wrong(format!("is not a NumPy matrix, so {} is not read", keys.display()))
                    .hint("safetensors files contain their keys: omit --vector-keys"));
            }
            (false, None) => exported(&bytes).map_err(|what| wrong(what).hint(EXPORT))?,
        };
        if keys.len() != n || width == 0 {
            return Err(
                wrong(format!("{} keys for {n} rows of {width} numbers", keys.len())).hint("give one key per row")
            );
        }
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(wrong(format!("the vector of '{}' contains a NaN or an infinity", keys[at / width])));
        }
        let mut rows = FxHashMap::default();
        for (row, key) in keys.into_iter().enumerate() {
            if rows.insert(key.clone(), row as u32).is_some() {
                return Err(wrong(format!("the key '{key}' occurs twice")));
            }
        }
        Ok(KeyedVectors { path: path.into(), rows, width, values })
    }

    /// Returns the row of a key.
    pub fn find(&self, key: &str) -> Option<u32> {
        self.rows.get(key).copied()
    }
}

fn unread(path: &Path, e: &io::Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::user(format!("{}: there is no such file", path.display())),
        ErrorKind::InvalidData => Error::user(format!("{}: keys are text in UTF-8, one per line", path.display())),
        _ => Error::io(path, e),
    }
}

const NUMPY: &str = "save a matrix (rows, width) with numpy.save, as float32 or float64, not in Fortran order";
const EXPORT: &str = "use a file of `mipgpu export` (items.safetensors), or tensors of the same names and types: \
                      key_offsets U64 (n+1), key_bytes U8, vector F32 (n, width); or a NumPy file with --vector-keys";

type Parts = (Vec<String>, [usize; 2], Vec<f32>);

/// Parses keys, shape and values of a file in the layout of an export.
fn exported(bytes: &[u8]) -> std::result::Result<Parts, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("it has no vectors ({e})"))?;
    let tensor = |name: &str, dtype: Dtype| {
        let t = file.tensor(name).map_err(|_| format!("it has no tensor '{name}'"))?;
        if t.dtype() != dtype {
            return Err(format!("tensor '{name}' is {:?}, not {dtype:?}", t.dtype()));
        }
        Ok(t)
    };
    let vector = tensor("vector", Dtype::F32)?;
    let [n, width] = vector.shape()[..] else { return Err(format!("'vector' has the shape {:?}", vector.shape())) };
    let offsets: Vec<u64> = words(tensor("key_offsets", Dtype::U64)?.data()).map(u64::from_le_bytes).collect();
    let text = tensor("key_bytes", Dtype::U8)?;
    let text = std::str::from_utf8(text.data()).map_err(|_| "its keys are not UTF-8")?;
    let key = |w: &[u64]| text.get(w[0] as usize..w[1] as usize).map(String::from);
    let keys: Option<Vec<String>> = offsets.windows(2).map(key).collect();
    let keys = keys.filter(|_| offsets.is_sorted()).ok_or("its key_offsets are damaged")?;
    Ok((keys, [n, width], words(vector.data()).map(f32::from_le_bytes).collect()))
}

/// Splits bytes into words of N bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|word| word.try_into().expect("chunks of N bytes"))
}

/// Parses shape and values of a `.npy` file: magic, version, header length, a header that is a Python dictionary, and
/// the numbers.
fn numpy_matrix(bytes: &[u8]) -> std::result::Result<([usize; 2], Vec<f32>), String> {
    const CUT: &str = "the file is truncated";
    let version = *bytes.get(6).ok_or(CUT)?;
    // Version 1 stores the header length in two bytes, later versions in four.
    let (start, length): (usize, usize) = match version {
        1 => (10, u16::from_le_bytes(bytes.get(8..10).ok_or(CUT)?.try_into().expect("two bytes")) as usize),
        2 | 3 => (12, u32::from_le_bytes(bytes.get(8..12).ok_or(CUT)?.try_into().expect("four bytes")) as usize),
        other => return Err(format!("a NumPy file of version {other}")),
    };
    let data = start.checked_add(length).filter(|at| *at <= bytes.len()).ok_or(CUT)?;
    let header = String::from_utf8_lossy(&bytes[start..data]).into_owned();
    let after = |name: &str| header.split_once(name).map(|(_, rest)| rest.trim_start_matches([' ', ':']));
    let shape =
        after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map_or("", |(shape, _)| shape);
    let sizes: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let [n, width] = sizes[..] else { return Err(format!("an array of the shape ({shape}), not a matrix")) };
    if after("'fortran_order'").is_none_or(|rest| !rest.starts_with("False")) {
        return Err("a matrix in Fortran order".into());
    }
    let kind = after("'descr'").unwrap_or("").trim_start_matches('\'').split('\'').next().unwrap_or("");
    let data = &bytes[data..];
    let whole = |size: usize| n.checked_mul(width).and_then(|len| len.checked_mul(size)) == Some(data.len());
    match kind {
        "<f4" if whole(4) => Ok(([n, width], words(data).map(f32::from_le_bytes).collect())),
        "<f8" if whole(8) => Ok(([n, width], words(data).map(|w| f64::from_le_bytes(w) as f32).collect())),
        "<f4" | "<f8" => Err(CUT.into()),
        other => Err(format!("numbers of the type '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a `.npy` file as NumPy writes it.
    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn numpy_matrices_are_read_and_all_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, keys) = (dir.path().join("v.npy"), dir.path().join("keys.txt"));
        let f4: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let f8: Vec<u8> = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let header = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}    \n")
        };
        fs::write(&keys, "b\na\nc\n").unwrap();
        for bytes in [npy(&header("<f4", "False", "3, 2"), &f4), npy(&header("<f8", "False", "3, 2"), &f8)] {
            fs::write(&path, bytes).unwrap();
            let v = KeyedVectors::read(&path, Some(&keys)).unwrap();
            assert_eq!((v.width, v.find("a"), v.find("z")), (2, Some(1), None));
            assert_eq!(v.values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
        let refused = |bytes: Vec<u8>, names: &str, says: &str| {
            fs::write(&path, bytes).unwrap();
            fs::write(&keys, names).unwrap();
            let e = KeyedVectors::read(&path, Some(&keys)).unwrap_err();
            assert!(e.what.contains(says), "{e}");
        };
        let whole = npy(&header("<f4", "False", "3, 2"), &f4);
        refused(whole.clone(), "a\nb\n", "2 keys for 3 rows");
        refused(whole.clone(), "a\nb\na\n", "'a' occurs twice");
        refused(whole[..whole.len() - 1].to_vec(), "a\nb\nc\n", "truncated");
        refused(whole[..9].to_vec(), "a\nb\nc\n", "truncated");
        refused(npy(&header("<f4", "True", "3, 2"), &f4), "a\nb\nc\n", "Fortran");
        refused(npy(&header("<i4", "False", "3, 2"), &f4), "a\nb\nc\n", "'<i4'");
        refused(npy(&header("<f4", "False", "6,"), &f4), "a\nb\nc\n", "not a matrix");
        let mut nan = whole.clone();
        let at = nan.len() - 4;
        nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        refused(nan, "a\nb\nc\n", "vector of 'c'");
        fs::write(&path, whole).unwrap();
        assert!(KeyedVectors::read(&path, None).unwrap_err().hint.unwrap().contains("--vector-keys"));
    }

    #[test]
    fn what_is_no_file_of_vectors_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.safetensors");
        for bytes in [&b""[..], b"key,vector\na,1\n", b"\x02\0\0\0\0\0\0\0{}"] {
            fs::write(&path, bytes).unwrap();
            let e = KeyedVectors::read(&path, None).unwrap_err();
            assert!(e.hint.unwrap().contains("mipgpu export"), "{}", e.what);
        }
    }
}
