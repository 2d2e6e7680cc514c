//! A trained run, opened to be evaluated, queried or exported.

use std::path::{Path, PathBuf};

use super::{
    Origin, Trained, Which,
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

/// A run folder, opened.
pub struct OpenRun {
    /// How to speak of it: folder and checkpoint.
    pub name: String,
    pub encoder: Box<dyn Encoder>,
    /// Keys of the model's items, in the order of its table.
    pub item_keys: Vocab,
    /// Keys of the users who have vectors; `None`: the model knows no users.
    pub user_keys: Option<Vocab>,
    /// The data it was trained on, and what that data was then.
    pub data: PathBuf,
    pub data_fingerprint: String,
    /// The split it was trained under.
    pub split: SplitSpec,
    /// The run that it was fine-tuned from.
    pub from: Option<Origin>,
    /// The ratings that it predicts; `None`: it continues histories.
    pub ratings: Option<RatingScale>,
    /// Whether its validation ranked the items of a history too.
    pub keep_seen: bool,
}

impl OpenRun {
    /// Whether items of a history are ranked: what the flag says, else what the run was validated by. Of baskets they
    /// always are.
    ///
    /// # Errors
    /// The flag excludes them where baskets repeat.
    pub fn keeps_seen(&self, flag: Option<bool>, baskets: bool) -> Result<bool> {
        if flag == Some(false) && baskets {
            return Err(Error::user("--keep-seen false has no effect on baskets: people buy again what they bought")
                .hint("leave it out"));
        }
        Ok(baskets || flag.unwrap_or(self.keep_seen))
    }

    /// The model's number of each user of the data, by key; `None` of nobody it knows, as all are where it has no users.
    pub fn known_users(&self, data: &Dataset) -> Vec<Option<u32>> {
        let find = |key| self.user_keys.as_ref()?.find(key);
        data.user_keys().keys().map(find).collect()
    }

    /// How many users of the data have no vector in a model of users, in words; `None` where all have one, or nobody has.
    pub fn strangers(&self, data: &Dataset) -> Option<String> {
        let unknown = self.known_users(data).iter().filter(|user| user.is_none()).count();
        (self.user_keys.is_some() && unknown > 0).then(|| {
            format!(
                "{} of the data's {} users have no vector in the model: they are asked for as somebody it does not know",
                digits(unknown as u64),
                digits(data.users() as u64)
            )
        })
    }

    /// Opens the best checkpoint of a run, or the last.
    ///
    /// # Errors
    /// No such folder, no run in it, or a checkpoint that is damaged or does not fit.
    pub fn open(run: &Path, which: Which, device: Device) -> Result<OpenRun> {
        if !run.is_dir() {
            return Err(Error::user(format!("{}: no such run folder", run.display()))
                .hint("give the folder that `mipgpu train` wrote; it names it at the end"));
        }
        let trained = Trained::open(run, which, device).map_err(|e| match e.room {
            // The hint of a training, which can have smaller batches.
            Some(_) => e.hint("the run's model needs that much: use a machine with more memory, or --device cpu"),
            None => e,
        })?;
        let checkpoint = if which == Which::Last { "last checkpoint" } else { "best checkpoint" };
        Ok(OpenRun {
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

    /// What the user should be warned of, such as that the run may have seen what is held out.
    ///
    /// # Errors
    /// It was trained on it.
    pub fn warnings(&self, data: &Dataset, split: &Split, part: &dyn HeldOut) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if data.fingerprint() != self.data_fingerprint {
            notes.push(
                "this is not the data the run was trained on: whether its training has seen the held-out events cannot be checked"
                    .to_owned(),
            );
        } else if split.spec() != self.split {
            let (seen, chose) = split.seen_by(&Split::new(data, self.split)?, part);
            if chose > 0 {
                notes.push(format!(
                    "{} of the events held out here were validation events of the run: they chose its checkpoint, which flatters it a little",
                    digits(chose)
                ));
            }
            if seen > 0 {
                return Err(Error::user(format!(
                    "leak: {} of the events held out here were in the training part of the run, which was trained under another split ({})",
                    digits(seen),
                    self.split.words(data.ticks_per_second())
                ))
                .hint("evaluate under the run's split (leave the split flags out), or train again with this one"));
            }
        }
        notes.extend(lineage_notes(&seen_by_bases(self.from.as_ref(), data, part)?));
        notes.extend(self.strangers(data));
        Ok(notes)
    }
}

/// What the user should be told of what the bases of a run have seen.
pub fn lineage_notes(bases: &[Seen]) -> Vec<String> {
    let note = |base: &Seen| match base.users {
        Some(0) => None,
        Some(users) => Some(format!(
            "its base {} was trained on events of {} users that are held out here, which flatters the run",
            base.run.display(),
            digits(users as u64)
        )),
        None => Some(format!(
            "whether its base {} has seen the held-out events cannot be checked (its folder or data are gone, or there are no times)",
            base.run.display()
        )),
    };
    bases.iter().filter_map(note).collect()
}
