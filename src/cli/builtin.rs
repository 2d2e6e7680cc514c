/*! The built-in data: a small MovieLens sample inside the program, so that `mipgpu train` works with nothing else at hand.

It is small enough to need care: items with fewer than 20 ratings are left out, sequences are short, and more is masked
and dropped than on larger data. Licence and source: data/ml-small-2016/README.md.
*/

use std::path::PathBuf;

use super::printer::Printer;
use crate::{
    base::Result,
    data::{self, Dataset},
    train::Settings,
};

/// Where it is imported to.
const FOLDER: &str = "runs/data/ml-small-2016";

/// What trains well on it.
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

/// Imports it unless that was done before; gives the folder.
///
/// # Errors
/// The disk's.
pub fn import(printer: &Printer) -> Result<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    if Dataset::open(&folder).is_ok() {
        return Ok(folder);
    }
    printer.say("no data given: using the built-in MovieLens sample (research use; see data/ml-small-2016/README.md)");
    data::import_sample(&folder)?;
    Ok(folder)
}
