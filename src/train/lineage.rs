//! What the runs that a run was fine-tuned from were trained on: their answers may be held out here.

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

/// What is known of one base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Folder of the base.
    pub run: PathBuf,
    /// Users with an event held out here that the base was trained on; `None`: it cannot be told.
    pub users: Option<usize>,
    /// Whether it was trained on the very same data set.
    pub same_data: bool,
}

/// The bases of a run, the nearest first, as far as they gave it weights and can be found. Events of different data sets are
/// the same where user, item and time are.
///
/// # Errors
/// A base's split that its data do not bear.
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
        // A folder that names itself would have no end.
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
