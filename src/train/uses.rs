/*! Which settings a run uses: one table over models, tasks, losses, samplers and transfers. A setting that was given
and changes nothing is refused, so that nobody believes to have changed the run.

`Model::USES` and `TaskDefinition::USES` name what only some models and tasks use; `RULES` holds what depends on other
settings. A setting that neither names is used by every run.
*/

use super::{origin::Transfer, schedule::Decay, settings::Settings};
use crate::{
    base::{Error, Result},
    models::{self, Model},
    tasks::{self, LossKind, LossSettings, MaskedItem, SamplerKind, TaskDefinition},
};

/// Why a setting changes nothing.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Follows "--NAME has no effect".
    pub why: String,
    pub hint: String,
}

/// A run, as the rules look at it.
struct Run<'a> {
    s: &'a Settings,
    model: &'a models::ModelEntry,
    task: &'a tasks::TaskEntry,
    loss: LossSettings,
    /// What is taken over from a base run; `None`: the run begins from scratch.
    transfer: Option<Transfer>,
}

impl Run<'_> {
    fn in_batch(&self) -> bool {
        self.loss.sampler.kind.in_batch()
    }

    fn transfers(&self, any: &[Transfer]) -> bool {
        self.transfer.is_some_and(|t| any.contains(&t))
    }
}

/// Settings, when they have no effect, why, and what to do: texts of [`filled`].
type Rule = (&'static [&'static str], fn(&Run) -> bool, &'static str, &'static str);

const NEGATIVES: &[&str] =
    &["sampler", "negatives", "per-position", "unique-negatives", "log-q", "exclude-seen", "gbce-t"];

/// The first that applies is told.
const RULES: &[Rule] = &[
    (&["loss"], |r| r.task.rated, "--task rating has a loss of its own", SQUARED),
    (NEGATIVES, |r| r.task.rated, "--task rating has a loss of its own", SQUARED),
    (NEGATIVES, |r| !r.loss.kind.sampled(), "full softmax has no negatives", "use --loss {sampled}"),
    (&["gbce-t"], |r| !r.loss.kind.calibrated(), "only --loss gbce is calibrated", LEAVE),
    (&["log-q"], |r| !r.loss.kind.correctable(), "only --loss sampled-softmax is corrected", LEAVE),
    (&["per-position"], |r| r.loss.kind.pairwise(), "with {pairwise} each position has negatives of its own", LEAVE),
    (
        &["negatives", "per-position", "unique-negatives"],
        |r| r.in_batch(),
        "the negatives of --sampler in-batch are the other targets of the batch",
        "leave it out, or draw negatives with --sampler popularity",
    ),
    (
        &["unique-negatives"],
        |r| r.loss.sampler.per_row || r.loss.sampler.kind != SamplerKind::Uniform,
        "only uniform negatives that the batch shares can be unique",
        "leave it out, or use --loss sampled-softmax --sampler uniform",
    ),
    (&["table-update"], |r| r.task.rated, "--task rating updates all rows", LEAVE),
    (
        &["table-update"],
        |r| !r.loss.kind.sampled(),
        "full softmax updates all rows of the item table",
        "leave it out, or use --loss {sampled}",
    ),
    (&["keep-seen"], |r| r.task.rated, "ratings are predicted, and nothing is ranked", LEAVE),
    (
        &["keep-seen"],
        |r| r.task.baskets,
        "people buy again what they bought: of baskets seen items are always ranked",
        LEAVE,
    ),
    (&["rating-width"], |r| !r.task.rated, "only --task rating reads ratings", LEAVE),
    (
        &["mask"],
        |r| r.task.name == MaskedItem::NAME && r.s.mask_last >= 1.0,
        "with --mask-last 1 every sequence hides its last item alone",
        LEAVE,
    ),
    (&["mask-last"], |r| r.task.rated && r.s.mask == 0.0, "with --mask 0 no rating is hidden", LEAVE),
    (&["field-width"], |r| r.s.field_names().is_empty(), "no side fields are used", "add --fields NAME,NAME"),
    (
        &["join"],
        |r| r.s.field_names().is_empty() && r.s.user_width == 0,
        "nothing stands beside the items",
        "add --fields NAME,NAME or --user-width 32",
    ),
    (
        &["join"],
        |r| r.s.field_names().is_empty() && r.model.name == models::Caser::NAME,
        "users of --model caser stand beside its output, not beside the items",
        "add --fields NAME,NAME",
    ),
    (
        &["heads", "ffn-ratio", "attention-dropout", "taps", "dilations"],
        |r| r.s.blocks == 0,
        "there are no blocks",
        "give --blocks 1 or more",
    ),
    (
        &["patch", "patches", "patch-width"],
        |r| !r.transfers(&[Transfer::Patch]),
        "there are no patches",
        "use `mipgpu finetune --from RUN --transfer patch`, or leave it out",
    ),
    (
        &["freeze"],
        |r| !r.transfers(&[Transfer::Model, Transfer::Patch]),
        "all parts of the network are new, and trained",
        "use `mipgpu finetune --from RUN` with --transfer model or patch, or leave it out",
    ),
    (&["final-lr"], |r| r.s.decay == Decay::Constant, "with --decay constant the learning rate does not fall", LEAVE),
];

/// A text of the rules, with the names of losses.
fn filled(text: &str) -> String {
    let sampled = || LossKind::words(LossKind::sampled, "or");
    let pairwise = || LossKind::words(LossKind::pairwise, "and");
    text.replace("{sampled}", &sampled()).replace("{pairwise}", &pairwise())
}

const LEAVE: &str = "leave it out";
const SQUARED: &str = "leave it out: the loss is the squared error of the hidden ratings";

impl Settings {
    /// Why the setting `name` changes nothing in a run of these settings, which starts from another one by
    /// `transfer`, or from scratch; `None` where it does.
    ///
    /// # Errors
    /// As [`Settings::find`].
    pub fn idle(&self, name: &str, transfer: Option<Transfer>) -> Result<Option<Idle>> {
        let (model, task) = self.find()?;
        let uses = |all: &[&str]| all.contains(&name);
        let of_models = models::ALL.iter().filter(|m| uses(m.uses)).map(|m| m.name);
        let who: Vec<&str> = of_models.chain(tasks::ALL.iter().filter(|t| uses(t.uses)).map(|t| t.name)).collect();
        if !who.is_empty() && !uses(model.uses) && !uses(task.uses) {
            let why = format!(" on --model {} with --task {}", model.name, task.name);
            return Ok(Some(Idle { why, hint: format!("leave it out; used by: {}", who.join(", ")) }));
        }
        let run = Run { s: self, model, task, loss: self.loss(), transfer };
        let rule = RULES.iter().find(|(names, applies, ..)| uses(names) && applies(&run));
        Ok(rule.map(|(_, _, why, hint)| Idle { why: format!(": {}", filled(why)), hint: filled(hint) }))
    }

    /// Refuses flags without effect.
    ///
    /// # Errors
    /// The first of `names` that changes nothing, and why.
    pub fn refuse_idle(&self, names: &[String], transfer: Option<Transfer>) -> Result<()> {
        for name in names {
            if let Some(idle) = self.idle(name, transfer)? {
                return Err(Error::user(format!("--{name} has no effect{}", idle.why)).hint(idle.hint));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::settings::list;

    /// A name that is misspelt would silence nothing, or refuse nothing.
    #[test]
    fn what_models_tasks_and_rules_name_are_settings() {
        let settings: Vec<String> = list().into_iter().map(|s| s.name).collect();
        let of_models = models::ALL.iter().flat_map(|m| m.uses.iter().map(|name| (m.name, *name)));
        let of_tasks = tasks::ALL.iter().flat_map(|t| t.uses.iter().map(|name| (t.name, *name)));
        let of_rules = RULES.iter().flat_map(|(names, ..)| names.iter().map(|name| ("a rule", *name)));
        let wrong: Vec<_> = of_models
            .chain(of_tasks)
            .chain(of_rules)
            .filter(|(_, name)| !settings.iter().any(|setting| setting == name))
            .collect();
        assert!(wrong.is_empty(), "not settings: {wrong:?}");
    }
}
