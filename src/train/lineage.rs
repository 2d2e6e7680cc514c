//! Leakage through fine-tuning: finds events held out here that the bases of a run were trained on.

use std::path::PathBuf;

use super::{
    folder::{RunConfig, RunFolder},
    origin::{Origin, Transfer},
};
use crate::{
    base::Result,
    data::{
        Dataset,
        impressions::trained_on,
        split::{HeldOut, Split},
    },
};

/// The overlap of one base's training events with the events held out here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Folder of the base.
    pub run: PathBuf,
    /// Number of users with an event held out here that the base was trained on; `None` if it cannot be determined.
    pub users: Option<usize>,
    /// Whether the base was trained on the same data set, by fingerprint.
    pub same_data: bool,
}

/// Returns the bases of a run, the nearest first, as far as weights were copied from them and their folders can be
/// read. Events of different data sets are equal if user, item and time are.
///
/// # Errors
/// The split of a base does not fit its data.
pub fn seen_by_bases(origin: Option<&Origin>, data: &Dataset, part: &dyn HeldOut) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    let mut next = origin.cloned();
    while let Some(origin) = next.take().filter(|origin| origin.transfer != Transfer::None) {
        let config = RunFolder::new(&origin.run).config().ok();
        let same_data = config.as_ref().is_some_and(|c| c.data_fingerprint == data.fingerprint());
        let users = match &config {
            Some(config) => seen(config, data, part)?,
            None => None,
        };
        all.push(Seen { run: origin.run, users, same_data });
        // Do not loop if a folder names itself as its base.
        next = config.and_then(|c| c.from).filter(|from| all.iter().all(|seen| seen.run != from.run));
    }
    Ok(all)
}

fn seen(config: &RunConfig, data: &Dataset, part: &dyn HeldOut) -> Result<Option<usize>> {
    let held = |user: usize| part.held_out(user);
    let known = |base: &Dataset| -> Result<Option<usize>> {
        let shared = data.item_keys().keys().any(|key| base.item_keys().find(key).is_some());
        let users = match shared {
            true => trained_on(data, held, base, &Split::new(base, config.split)?),
            false => Some(Vec::new()),
        };
        Ok(users.map(|users| users.into_iter().filter(|seen| *seen).count()))
    };
    if config.data_fingerprint == data.fingerprint() {
        return known(data);
    }
    match Dataset::open(&config.data) {
        Ok(base) if base.fingerprint() == config.data_fingerprint => known(&base),
        _ => Ok(None),
    }
}
