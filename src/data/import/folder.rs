/*! Folders of part files, as Spark and Hive write them: the files below a folder, ordered by path, with runs of digits
compared as numbers (dask writes `part.2` and `part.10`). Names that begin with `_` or `.` are skipped (`_SUCCESS`,
`.part-0000.crc`); `key=value` in a path is a column of that name.
*/

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::base::{Error, Result, error::IoContext};

/// Maximum folder depth; deeper trees are assumed to be a cycle of links.
const DEEPEST: usize = 32;

/// Hive's name for a null partition value.
const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// A file of a folder, with the columns named by its path.
pub(crate) struct FolderFile {
    pub path: PathBuf,
    pub partition: Vec<(String, String)>,
}

/// All part files below a folder. Empty files are skipped.
///
/// # Errors
/// A folder that cannot be read, a folder without files, a Delta Lake table.
pub(crate) fn parts(folder: &Path) -> Result<Vec<FolderFile>> {
    let mut found = Vec::new();
    walk(folder, &[], 0, &mut found)?;
    if found.is_empty() {
        return Err(Error::user(format!("{}: there is no file with data in this folder", folder.display()))
            .hint("names that begin with `_` or `.` are left out; name a file to read it all the same"));
    }
    found.sort_by_cached_key(|part| (natural(&part.path), part.path.clone()));
    Ok(found)
}

/// Sort key of a path: its components, with runs of digits as numbers, so that `part.2` comes before `part.10`.
fn natural(path: &Path) -> Vec<Vec<(u8, String)>> {
    let pieces = |name: &str| {
        // A number sorts by its length without leading zeros, then by its digits.
        let mut pieces: Vec<(u8, String)> = Vec::new();
        for run in name.as_bytes().chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit()) {
            let text = String::from_utf8_lossy(run);
            match run[0].is_ascii_digit() {
                true => {
                    let digits = text.trim_start_matches('0');
                    pieces.push((b'0', format!("{:05}{digits}", digits.len())));
                }
                false => pieces.push((run[0], String::new())),
            }
        }
        pieces
    };
    path.components().map(|part| pieces(&part.as_os_str().to_string_lossy())).collect()
}

fn walk(folder: &Path, partition: &[(String, String)], depth: usize, found: &mut Vec<FolderFile>) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::user(format!("{}: folders are nested too deep; is a link a circle?", folder.display())));
    }
    // The log of a Delta Lake table lists the valid files: others may be replaced or deleted.
    if folder.join("_delta_log").is_dir() {
        return Err(Error::user(format!("{}: this is a table of Delta Lake", folder.display()))
            .hint("files in it may be out of date; export the table as Parquet, or name the files that count"));
    }
    for entry in fs::read_dir(folder).at_path(folder)? {
        let path = entry.at_path(folder)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(['_', '.']) {
            continue;
        }
        // Links are followed.
        let meta = path.metadata().at_path(&path)?;
        if meta.is_dir() {
            let mut partition = partition.to_vec();
            if let Some((key, value)) = name.split_once('=') {
                let value = if value == NO_VALUE { String::new() } else { unescaped(value) };
                partition.push((unescaped(key), value));
            }
            walk(&path, &partition, depth + 1, found)?;
        } else if meta.len() > 0 {
            found.push(FolderFile { path, partition: partition.to_vec() });
        }
    }
    Ok(())
}

/// Decodes characters that file names cannot contain, written as `%3A`.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(at + i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_the_order_of_their_paths_with_their_columns() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["day=2/part-1.csv", "day=2/part-0.csv", "day=1%3A0/hour=__HIVE_DEFAULT_PARTITION__/x.csv", "b"] {
            write(name, "x");
        }
        for name in ["_SUCCESS", ".part-0.csv.crc", "_temporary/0.csv", "day=2/_x"] {
            write(name, "x");
        }
        write("day=2/empty.csv", "");
        let found: Vec<(String, Vec<(String, String)>)> = parts(dir.path())
            .unwrap()
            .into_iter()
            .map(|p| (p.path.strip_prefix(dir.path()).unwrap().display().to_string(), p.partition))
            .collect();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            found,
            [
                ("b".to_owned(), vec![]),
                (
                    "day=1%3A0/hour=__HIVE_DEFAULT_PARTITION__/x.csv".to_owned(),
                    vec![pair("day", "1:0"), pair("hour", "")]
                ),
                ("day=2/part-0.csv".to_owned(), vec![pair("day", "2")]),
                ("day=2/part-1.csv".to_owned(), vec![pair("day", "2")]),
            ]
        );
        fs::create_dir(dir.path().join("_delta_log")).unwrap();
        assert!(parts(dir.path()).err().unwrap().to_string().contains("Delta Lake"));
    }
}
