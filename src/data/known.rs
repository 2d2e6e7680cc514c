//! The data sets available by name: their addresses, terms, checksums and the layouts of their item tables.

use std::io::Read;

use sha2::{Digest, Sha256};

use crate::data::{digits, hex};

/// A data set available by name.
pub struct Known {
    pub name: &'static str,
    pub title: &'static str,
    /// The official address, a zip.
    pub url: &'static str,
    /// The terms of use.
    pub terms: &'static str,
    pub(super) log: Original,
    pub(super) items: Original,
    /// Returns the rows `item, title, year, genres` from the text of the item file.
    pub(super) table: fn(&str) -> Vec<[String; 4]>,
}

/// An original file.
pub(super) struct Original {
    pub name: &'static str,
    pub bytes: u64,
    pub sha256: &'static str,
}

const MOVIELENS_TERMS: &str = "for research; not to be redistributed, nor used for commercial purposes, without \
                               permission; publications acknowledge F. M. Harper and J. A. Konstan (2015), \
                               doi:10.1145/2827872";

/// All known data sets.
pub const KNOWN: &[Known] = &[
    Known {
        name: "ml-1m",
        title: "MovieLens 1M",
        url: "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        terms: MOVIELENS_TERMS,
        log: Original {
            name: "ratings.dat",
            bytes: 24_594_131,
            sha256: "506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f",
        },
        items: Original {
            name: "movies.dat",
            bytes: 171_308,
            sha256: "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
        },
        table: movies_dat,
    },
    Known {
        name: "ml-100k",
        title: "MovieLens 100K",
        url: "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        terms: MOVIELENS_TERMS,
        log: Original {
            name: "u.data",
            bytes: 1_979_173,
            sha256: "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        },
        items: Original {
            name: "u.item",
            bytes: 236_344,
            sha256: "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
        },
        table: u_item,
    },
];

impl Original {
    /// Checks that these are the file's bytes; otherwise returns the difference.
    pub fn check(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        let (found, expected) = (bytes.len() as u64, self.bytes);
        if found != expected {
            // Reading stops one byte past the end, so the exact number of further bytes is unknown.
            let found = if found > expected { "more".into() } else { digits(found) };
            return Err(format!("holds {found} bytes, the original {}", digits(expected)));
        }
        if hex(&Sha256::digest(bytes)) != self.sha256 {
            return Err("is not the original: its SHA-256 differs".into());
        }
        Ok(())
    }

    /// Reads the file, and one more byte if there is one: enough to detect a longer file.
    pub fn read(&self, from: impl Read) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(self.bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Splits `Toy Story (1995)` into title and year; the year is empty if there is none.
fn title_and_year(text: &str) -> (String, String) {
    let is_year = |at: usize| {
        let inside = text.get(at + 1..at + 5);
        inside.is_some_and(|y| y.bytes().all(|b| b.is_ascii_digit())) && text.as_bytes().get(at + 5) == Some(&b')')
    };
    match text.match_indices('(').map(|(at, _)| at).rfind(|&at| is_year(at)) {
        Some(at) => {
            let rest = format!("{} {}", text[..at].trim(), text[at + 6..].trim());
            (rest.trim().to_owned(), text[at + 1..at + 5].to_owned())
        }
        None => (text.trim().to_owned(), String::new()),
    }
}

/// Parses `movies.dat`: `id::title (year)::genre|genre`.
pub(super) fn movies_dat(text: &str) -> Vec<[String; 4]> {
    let row = |line: &str| {
        let mut cells = line.split("::");
        let (item, title, genres) = (cells.next()?, cells.next()?, cells.next()?);
        let (title, year) = title_and_year(title);
        Some([item.to_owned(), title, year, genres.trim().to_owned()])
    };
    text.lines().filter_map(row).collect()
}

/// The genres of `u.item`, each a 0 or 1.
const GENRES: &str = "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir \
                      Horror Musical Mystery Romance Sci-Fi Thriller War Western";

/// Parses `u.item`: `id|title (year)|date|date|address|` and the genres.
fn u_item(text: &str) -> Vec<[String; 4]> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        let (title, year) = title_and_year(cells.get(1)?);
        let genres =
            GENRES.split(' ').zip(cells.get(5..)?).filter(|(_, flag)| flag.trim() == "1").map(|(name, _)| name);
        Some([cells[0].to_owned(), title, year, genres.collect::<Vec<_>>().join("|")])
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_files_are_read_as_they_are_written() {
        let line = "9|Dead Man Walking (1995)|01-Jan-1995||http://x/?q(1995)|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0";
        assert_eq!(u_item(line), [["9", "Dead Man Walking", "1995", "Drama"].map(str::to_owned)]);
        let odd = "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|1\nshort|line\n";
        assert_eq!(u_item(odd), [["267", "unknown", "", "unknown|Western"].map(str::to_owned)]);
        assert_eq!(
            title_and_year("Land Before Time III (1995) (V)"),
            ("Land Before Time III (V)".into(), "1995".into())
        );
        assert_eq!(title_and_year("2001 (é1999"), ("2001 (é1999".into(), String::new()));
    }
}
