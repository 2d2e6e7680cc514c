/*! The built-in data: a small MovieLens sample inside the program, so that `mipgpu train` works without a data set.

The sample is small and needs its own settings: items with fewer than 20 ratings are dropped, sequences are short, and
masking and dropout are higher than on larger data. Licence and source: data/ml-small-2016/README.md.
*/

use std::path::PathBuf;

use super::printer::Printer;
use crate::{
    base::Result,
    data::{self, Dataset},
    train::Settings,
};

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
    data::import_sample(&folder)?;
    Ok(folder)
}
