//! A trained run, opened for evaluation, queries or export.

use std::path::{Path, PathBuf};

use super::{
    Origin, RunFolder, Trained, Which, checkpoint,
    lineage::{Seen, seen_by_bases},
};
use crate::{
    backend::Device,
    base::{Error, Result},
    data::{
        Dataset, Vocab, digits,
        split::{HeldOut, Split, SplitSpec},
    },
    eval::Encoder,
    layers::RatingScale,
};

/// An opened run.
pub struct OpenRun {
    /// Its folder and its checkpoint.
    pub folder: PathBuf,
    pub which: Which,
    /// Name for messages: folder and checkpoint.
    pub name: String,
    pub encoder: Box<dyn Encoder>,
    /// Keys of the model's items, in table order.
    pub item_keys: Vocab,
    /// Keys of the users with vectors; `None` if the model has no user vectors.
    pub user_keys: Option<Vocab>,
    /// The data it was trained on, and their fingerprint at that time.
    pub data: PathBuf,
    pub data_fingerprint: String,
    /// The split it was trained with.
    pub split: SplitSpec,
    /// The base that it was fine-tuned from.
    pub from: Option<Origin>,
    /// The scale of the ratings that it predicts; `None` if it predicts items.
    pub ratings: Option<RatingScale>,
    /// Whether its validation also ranked the items of a history.
    pub keep_seen: bool,
}

impl OpenRun {
    /// Returns whether items of a history are ranked: as the flag says, otherwise as in the run's validation.
    /// With baskets they always are.
    ///
    /// # Errors
    /// The flag excludes them although baskets repeat items.
    pub fn keeps_seen(&self, flag: Option<bool>, baskets: bool) -> Result<bool> {
        if flag == Some(false) && baskets {
            return Err(
                Error::user("--keep-seen false has no effect on baskets: people buy items again").hint("omit it")
            );
        }
        Ok(baskets || flag.unwrap_or(self.keep_seen))
    }

    /// Returns the SHA-256 of its checkpoint.
    ///
    /// # Errors
    /// The checkpoint cannot be read.
    pub fn checkpoint(&self) -> Result<String> {
        let path = RunFolder::new(&self.folder).checkpoint(self.which)?;
        Ok(checkpoint::open(&path)?.sha256().to_string())
    }

    /// Returns the model's number of each user of the data, by key; `None` for unknown users, and for all users
    /// if the model has no user vectors.
    pub fn known_users(&self, data: &Dataset) -> Vec<Option<u32>> {
        let find = |key| self.user_keys.as_ref()?.find(key);
        data.user_keys().keys().map(find).collect()
    }

    /// Describes how many users of the data have no vector in a model with user vectors; `None` if all have
    /// one, or the model has none.
    pub fn strangers(&self, data: &Dataset) -> Option<String> {
        let unknown = self.known_users(data).iter().filter(|user| user.is_none()).count();
        (self.user_keys.is_some() && unknown > 0).then(|| {
            format!(
                "{} of the data's {} users have no vector in the model and are treated as unknown users",
                digits(unknown as u64),
                digits(data.users() as u64)
            )
        })
    }

    /// Opens the best or the last checkpoint of a run.
    ///
    /// # Errors
    /// There is no such folder, no run in it, or the checkpoint is damaged or does not fit.
    pub fn open(run: &Path, which: Which, device: Device) -> Result<OpenRun> {
        if !run.is_dir() {
            return Err(Error::user(format!("{}: no such run folder", run.display()))
                .hint("give the folder that `mipgpu train` wrote; `mipgpu runs` lists run folders"));
        }
        let trained = Trained::open(run, which, device).map_err(|e| match e.available_bytes {
            // The error's own hint is for training, where batches can be smaller.
            Some(_) => e.hint("the run's model needs that much: use a machine with more memory, or --device cpu"),
            None => e,
        })?;
        let checkpoint = if which == Which::Last { "last checkpoint" } else { "best checkpoint" };
        Ok(OpenRun {
            folder: run.into(),
            which,
            name: format!("{} ({checkpoint})", run.display()),
            encoder: trained.encoder,
            item_keys: trained.items,
            user_keys: trained.side_tables.users,
            data: trained.config.data,
            data_fingerprint: trained.config.data_fingerprint,
            split: trained.config.split,
            from: trained.config.from,
            ratings: trained.config.ratings,
            keep_seen: trained.config.settings.keep_seen,
        })
    }

    /// Returns warnings for the user, for example that the run may have seen held-out events.
    ///
    /// # Errors
    /// The run was trained on held-out events.
    pub fn warnings(&self, data: &Dataset, split: &Split, part: &dyn HeldOut) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if data.fingerprint() != self.data_fingerprint {
            notes.push(
                "this is not the data the run was trained on: mipgpu cannot check whether the run was trained on \
                 events held out here"
                    .to_owned(),
            );
        } else if split.spec() != self.split {
            let (seen, chose) = split.seen_by(&Split::new(data, self.split)?, part);
            if chose > 0 {
                notes.push(format!(
                    "{} of the events held out here were validation events of the run: they selected its checkpoint, \
                     which makes its results slightly too good",
                    digits(chose)
                ));
            }
            if seen > 0 {
                return Err(Error::user(format!(
                    "leak: {} of the events held out here were in the training part of the run, which was trained with \
                     another split ({})",
                    digits(seen),
                    self.split.words(data.ticks_per_second())
                ))
                .hint("evaluate with the run's split (omit the split flags), or train again with this one"));
            }
        }
        notes.extend(lineage_notes(&seen_by_bases(self.from.as_ref(), data, part)?));
        notes.extend(self.strangers(data));
        Ok(notes)
    }
}

/// Returns warnings about held-out events that the bases of a run have seen.
pub fn lineage_notes(bases: &[Seen]) -> Vec<String> {
    let note = |base: &Seen| match base.users {
        Some(0) => None,
        Some(users) => Some(format!(
            "its base {} was trained on events of {} users that are held out here, which makes its results too good",
            base.run.display(),
            digits(users as u64)
        )),
        None => Some(format!(
            "mipgpu cannot check whether its base {} was trained on events held out here (its folder or \
             data are missing, or there are no times)",
            base.run.display()
        )),
    };
    bases.iter().filter_map(note).collect()
}
