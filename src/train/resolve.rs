//! Completes the given settings to those of a run: decides what is open and checks the result against the data.

use super::{Settings, Transfer, ratings::scale_of, side_tables};
use crate::{
    base::{Error, Result},
    data::{
        Dataset,
        split::{Split, SplitSpec},
    },
    layers::RatingScale,
};

/// Decides what is open (task, fields) and checks the settings against each other and the data. `given` are the
/// names of the settings that the user chose (as in `config.toml`); it is an error if one of them has no
/// effect.
///
/// # Errors
/// Settings that contradict each other, or given settings without effect.
pub fn resolve_settings(
    given: &[String],
    settings: &mut Settings,
    data: &Dataset,
    transfer: Option<Transfer>,
) -> Result<()> {
    side_tables::name_fields(settings, data.item_fields())?;
    settings.name_task()?;
    settings.check()?;
    settings.refuse_idle(given, transfer)?;
    let task = settings.find()?.1;
    if task.uses.contains(&"mask") && !task.rated && settings.mask == 0.0 {
        return Err(Error::user(format!(
            "--mask 0 masks nothing, and --task {} learns from masked items",
            settings.task
        ))
        .hint("give a share above 0, such as --mask 0.2; for the last item alone: --mask-last 1"));
    }
    if task.baskets {
        data.check_baskets()?;
    }
    settings.loss().check(Some(data.items()))
}

/// Returns the scale of the data's ratings, for tasks that predict ratings.
///
/// # Errors
/// The data have no ratings, or only one value.
pub fn rating_scale(settings: &Settings, data: &Dataset, split: SplitSpec) -> Result<Option<RatingScale>> {
    if !settings.find()?.1.rated {
        return Ok(None);
    }
    scale_of(data, &Split::new(data, split)?).map(Some)
}

/// Returns the default split of a run: it holds out what the task predicts.
///
/// # Errors
/// As [`Settings::find`].
pub fn default_split(settings: &Settings) -> Result<SplitSpec> {
    Ok(if settings.find()?.1.baskets { SplitSpec::LastBasket } else { SplitSpec::default() })
}
