/*! The built-in data: a small MovieLens sample inside the program, so that `mipgpu train` works without a data set.

The sample is small and needs its own settings: items with fewer than 20 ratings are dropped, sequences are short, and
masking and dropout are higher than on larger data. Licence and source: data/ml-small-2016/README.md.
*/

use std::path::{Path, PathBuf};

use super::printer::Printer;
use crate::{
    base::{Error, Result, error::IoContext},
    data::{self, Dataset, ImportOptions},
    train::Settings,
};

const RATINGS: &[u8] = include_bytes!("../../data/ml-small-2016/ratings.csv.gz");
const MOVIES: &[u8] = include_bytes!("../../data/ml-small-2016/movies.csv.gz");

/// The folder that the sample is imported to.
const FOLDER: &str = "runs/data/ml-small-2016";

/// Returns settings that train well on the sample.
pub fn settings() -> Settings {
    Settings {
        width: 64,
        heads: 2,
        length: 50,
        mask: 0.4,
        dropout: 0.3,
        epochs: 100,
        lr: 2e-3,
        warmup: 200,
        ..Settings::default()
    }
}

/// Imports the sample unless it is already imported, and returns its folder.
///
/// # Errors
/// A file cannot be written.
pub fn import(printer: &Printer) -> Result<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    if Dataset::open(&folder).is_ok() {
        return Ok(folder);
    }
    printer
        .say("no data set given: using the built-in MovieLens sample (research use; see data/ml-small-2016/README.md)");
    let parent = folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).at_path(parent)?;
    let sources = parent.join(format!("built-in-{}", std::process::id()));
    std::fs::create_dir(&sources).at_path(&sources)?;
    let imported = (|| {
        let (ratings, movies) = (sources.join("ratings.csv.gz"), sources.join("movies.csv.gz"));
        for (path, bytes) in [(&ratings, RATINGS), (&movies, MOVIES)] {
            std::fs::write(path, bytes).at_path(path)?;
        }
        let options = ImportOptions { min_item: 20, items: Some(movies), force: true, ..ImportOptions::default() };
        import_into(&[ratings], &folder, &options)
    })();
    let _ = std::fs::remove_dir_all(&sources);
    imported.map_err(|e: Error| e.at("built-in data"))?;
    Ok(folder)
}

fn import_into(sources: &[PathBuf], folder: &Path, options: &ImportOptions) -> Result<()> {
    data::import(sources, folder, options, &mut |_| {})?;
    Ok(())
}
