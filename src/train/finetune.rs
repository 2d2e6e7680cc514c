//! The configuration of a fine-tuned run.

use std::path::{Path, PathBuf};

use super::{
    choices::Patching,
    folder::RunConfig,
    freeze::Freeze,
    lineage::seen_by_bases,
    opened::lineage_notes,
    origin::{FreshRows, Origin, Transfer, Which},
    ratings::scale_after,
    resolve::{default_split, rating_scale, resolve_settings},
    settings::Settings,
    side_tables::{self, SideTables},
    transfer::Base,
};
use crate::{
    base::{Error, Result},
    data::{
        Dataset, digits,
        split::{Split, SplitSpec},
    },
    layers::{DataSummary, Join},
};

/// The base of a fine-tuned run, and what is taken from it.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// Folder of the base run.
    pub run: PathBuf,
    pub which: Which,
    pub transfer: Transfer,
    /// How rows that the base does not have are initialised; `None`: at random.
    pub fresh_rows: Option<FreshRows>,
}

impl Pretrained {
    /// Copies every tensor of the best checkpoint of a run.
    pub fn new(run: impl Into<PathBuf>) -> Pretrained {
        Pretrained { run: run.into(), which: Which::Best, transfer: Transfer::Model, fresh_rows: None }
    }

    /// Opens the base.
    ///
    /// # Errors
    /// As [`Base::open`].
    pub fn open(&self) -> Result<Base> {
        Base::open(&self.run, self.which)
    }

    /// Returns the configuration of a run on `data` that starts from `base`. `given` are the names of the settings that
    /// the user chose, and `apply` changes the settings of the base to the chosen ones. Without `split`, a run on the
    /// data of its base keeps the split of the base, and other runs get the split of their task.
    ///
    /// # Errors
    /// Settings contradict each other, the data or the base.
    pub fn config(
        &self,
        base: &Base,
        data: &Dataset,
        split: Option<SplitSpec>,
        given: &[String],
        apply: impl FnOnce(&Settings) -> Result<Settings>,
    ) -> Result<RunConfig> {
        let transfer = self.transfer;
        let is_given = |name: &str| given.iter().any(|given| given == name);
        // What is frozen is decided again. Patches are kept if layers are.
        let mut theirs = Settings { freeze: Freeze::NONE, keep_side: false, ..base.config.settings.clone() };
        if !transfer.layers() {
            theirs.patch = Patching::None;
        }
        if is_given("keep-side") {
            let what = "--keep-side is set by fine-tuning: it follows from the base and the data";
            return Err(Error::user(what).hint("omit it"));
        }
        let mut settings = apply(&theirs)?;
        settings.keep_side = false;
        // Before the fields are looked up in the base.
        side_tables::name_fields(&mut settings, data.item_fields()).map_err(|e| match is_given("fields") {
            false => e.at(format!("{}: the new run uses its settings", self.run.display())),
            true => e,
        })?;
        self.check_settings(is_given, base, &settings, data)?;
        if transfer == Transfer::Patch {
            if settings.patch == Patching::None {
                settings.patch = Patching::Serial;
            }
            if settings.freeze == Freeze::NONE {
                settings.freeze = base.freezes(data, &settings);
            }
        }
        base.check_model(&settings, transfer).map_err(|e| match tables_alone(&settings) {
            Some(flags) if transfer != Transfer::Embedding && settings.model != base.config.settings.model => {
                e.hint(format!("omit --model, or copy only tables with {flags}"))
            }
            _ => e,
        })?;
        settings.find()?;
        let split = match split {
            Some(split) => split,
            // So that the base was not trained on held-out events.
            None if base.config.data_fingerprint == data.fingerprint()
                && (!settings.find()?.1.baskets || base.config.split.check_whole_baskets().is_ok()) =>
            {
                base.config.split
            }
            None => default_split(&settings)?,
        };
        resolve_settings(given, &mut settings, data, Some(transfer))?;
        let ratings = match (rating_scale(&settings, data, split)?, &base.config.ratings) {
            (Some(new), Some(known)) if transfer.layers() => Some(scale_after(known, new)?),
            (new, _) => new,
        };
        let summary = DataSummary { ratings: ratings.clone(), ..SideTables::data_summary(&settings, data)? };
        if base.leaves_side(&settings, &summary, transfer)? {
            (settings.keep_side, settings.join) = (true, Join::Concat);
        }
        base.check(&settings, &summary, data, transfer)?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or(path.into());
        Ok(RunConfig {
            version: RunConfig::VERSION,
            data: absolute(data.folder()),
            data_fingerprint: data.fingerprint().to_string(),
            split,
            from: Some(Origin {
                run: absolute(&self.run),
                checkpoint: self.which,
                sha256: base.sha256().into(),
                transfer,
                fresh_rows: self.fresh_rows.unwrap_or_default(),
            }),
            ratings,
            settings,
        })
    }

    /// Rejects settings that contradict the transfer.
    ///
    /// # Errors
    /// Such a setting is given.
    fn check_settings(
        &self,
        is_given: impl Fn(&str) -> bool,
        base: &Base,
        settings: &Settings,
        data: &Dataset,
    ) -> Result<()> {
        let refuse = |flag: &str, why: &str, hint: &str| Err(Error::user(format!("--{flag}: {why}")).hint(hint));
        if self.transfer == Transfer::Patch {
            if is_given("patch") && settings.patch == Patching::None {
                return refuse("patch none", "--transfer patch trains patches", "use serial or parallel");
            }
            if is_given("freeze") && settings.freeze == Freeze::NONE {
                return refuse("freeze none", "--transfer patch freezes the network", "use --transfer model");
            }
            if settings.blocks == 0 {
                return refuse("blocks 0", "patches are placed in blocks, and there are none", "use --transfer model");
            }
        } else {
            // A base with patches keeps them: they are part of its network.
            let kept = self.transfer == Transfer::Model && settings.patch == base.config.settings.patch;
            let frozen = self.transfer != Transfer::Model && settings.freeze != Freeze::NONE;
            if settings.patch != Patching::None && !kept || frozen {
                let what = format!("--transfer {} freezes nothing and has no patches", self.transfer);
                return Err(Error::user(what).hint("use --transfer patch, or omit --patch and --freeze"));
            }
        }
        if self.fresh_rows == Some(FreshRows::Content) && data.item_fields().iter().next().is_none() {
            return refuse(
                "fresh-rows content",
                "the items of this data set have no side fields",
                "import them with --items FILE --item-fields NAME, or use --fresh-rows mean",
            );
        }
        Ok(())
    }

    /// Returns warnings about keys that may not match, and about test events that a base was trained on.
    ///
    /// # Errors
    /// The data set is the base's own with another split, and the base was trained on held-out events.
    pub fn doubts(&self, base: &Base, config: &RunConfig, data: &Dataset) -> Result<Vec<String>> {
        let mut all = if self.transfer == Transfer::None { Vec::new() } else { base.key_doubts(data) };
        let split = Split::for_task(data, config.split, config.settings.find()?.1.baskets)?;
        let seen = seen_by_bases(config.from.as_ref(), data, &split.test())?;
        if let Some((base, users)) = seen.iter().find_map(|s| s.users.filter(|n| s.same_data && *n > 0).map(|n| (s, n)))
        {
            return Err(Error::user(format!(
                "leak: {} was trained on events of {} users that are held out by this split of the same data ({})",
                base.run.display(),
                digits(users as u64),
                split.spec().words(data.ticks_per_second())
            ))
            .hint("omit the split flags to keep the split of the base, or train the base again with this split"));
        }
        all.extend(lineage_notes(&seen));
        Ok(all)
    }
}

/// Returns the flags that copy only tables to a model that cannot learn the task of the base. They include the task of
/// the model.
fn tables_alone(settings: &Settings) -> Option<String> {
    let refused = settings.find().is_err();
    let mut own = Settings { task: "auto".into(), ..settings.clone() };
    own.name_task().ok().filter(|()| refused)?;
    Some(format!("--transfer embedding --task {}", own.task))
}
