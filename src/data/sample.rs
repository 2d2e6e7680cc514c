//! The built-in data: a small MovieLens sample embedded in the program, so that it works without any other file.
//! Licence and source: data/ml-small-2016/README.md.

use std::path::Path;

use super::{Dataset, ImportOptions, import};
use crate::base::{Error, Result, error::IoContext};

const RATINGS: &[u8] = include_bytes!("../../data/ml-small-2016/ratings.csv.gz");
const MOVIES: &[u8] = include_bytes!("../../data/ml-small-2016/movies.csv.gz");

/// Imports the built-in sample of MovieLens (research use) into the folder `out`, which is replaced if it is already a
/// data set. Items with fewer than 20 ratings are dropped; titles, genres and years are side fields.
///
/// # Errors
/// The file system reports an error.
pub fn import_sample(out: &Path) -> Result<Dataset> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).at_path(parent)?;
    let sources = parent.join(format!("built-in-{}", std::process::id()));
    std::fs::create_dir(&sources).at_path(&sources)?;
    let imported = (|| {
        let (ratings, movies) = (sources.join("ratings.csv.gz"), sources.join("movies.csv.gz"));
        for (path, bytes) in [(&ratings, RATINGS), (&movies, MOVIES)] {
            std::fs::write(path, bytes).at_path(path)?;
        }
        let options = ImportOptions { min_item: 20, items: Some(movies), force: true, ..ImportOptions::default() };
        import(&[ratings], out, &options, &mut |_| {})
    })();
    let _ = std::fs::remove_dir_all(&sources);
    imported.map_err(|e: Error| e.at("built-in data"))?;
    Dataset::open(out)
}
