/*! The settings that a run uses, in one table over models, tasks, losses, samplers and transfers. A given setting
without effect is rejected, so that it cannot be mistaken for a change of the run.

`Model::USES` and `TaskDefinition::USES` list the settings that only some models and tasks use. `RULES` lists the
settings that depend on other settings. Every run uses a setting that is in none of these lists.
*/

use super::{origin::Transfer, schedule::Decay, settings::Settings};
use crate::{
    base::{Error, Result},
    models::{self, Model},
    tasks::{self, LossKind, LossSettings, MaskedItem, SamplerKind, TaskDefinition},
};

/// Explains why a setting has no effect.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Follows "--NAME has no effect".
    pub why: String,
    pub hint: String,
}

/// The input of the rules: one run.
struct Run<'a> {
    s: &'a Settings,
    model: &'a models::ModelEntry,
    task: &'a tasks::TaskEntry,
    loss: LossSettings,
    /// The transfer from a base run; `None` for a run from scratch.
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

/// (settings, condition under which they have no effect, reason, hint). [`filled`] completes both texts.
type Rule = (&'static [&'static str], fn(&Run) -> bool, &'static str, &'static str);

const NEGATIVES: &[&str] =
    &["sampler", "negatives", "per-position", "unique-negatives", "log-q", "exclude-seen", "gbce-t"];

/// The rules. The first one that applies is reported.
const RULES: &[Rule] = &[
    (&["loss"], |r| r.task.rated, "--task rating has its own loss", SQUARED),
    (NEGATIVES, |r| r.task.rated, "--task rating has its own loss", SQUARED),
    (NEGATIVES, |r| !r.loss.kind.sampled(), "full softmax has no negatives", "use --loss {sampled}"),
    (&["gbce-t"], |r| !r.loss.kind.calibrated(), "only --loss gbce uses it", LEAVE),
    (&["log-q"], |r| !r.loss.kind.correctable(), "only --loss sampled-softmax uses it", LEAVE),
    (
        &["per-position"],
        |r| r.loss.kind.pairwise(),
        "with {pairwise} each position always has its own negatives",
        LEAVE,
    ),
    (
        &["negatives", "per-position", "unique-negatives"],
        |r| r.in_batch(),
        "the negatives of --sampler in-batch are the other targets of the batch",
        "omit it, or use --sampler popularity",
    ),
    (
        &["unique-negatives"],
        |r| r.loss.sampler.per_row || r.loss.sampler.kind != SamplerKind::Uniform,
        "only shared uniform negatives can be unique",
        "omit it, or use --loss sampled-softmax --sampler uniform",
    ),
    (&["table-update"], |r| r.task.rated, "--task rating updates all rows", LEAVE),
    (
        &["table-update"],
        |r| !r.loss.kind.sampled(),
        "full softmax updates all rows of the item table",
        "omit it, or use --loss {sampled}",
    ),
    (&["keep-seen"], |r| r.task.rated, "--task rating predicts ratings and ranks nothing", LEAVE),
    (
        &["keep-seen"],
        |r| r.task.baskets,
        "with baskets, items of the history are always ranked, because users buy items again",
        LEAVE,
    ),
    (&["rating-width"], |r| !r.task.rated, "only --task rating reads ratings", LEAVE),
    (
        &["mask"],
        |r| r.task.name == MaskedItem::NAME && r.s.mask_last >= 1.0,
        "with --mask-last 1 only the last item of each sequence is masked",
        LEAVE,
    ),
    (&["mask-last"], |r| r.task.rated && r.s.mask == 0.0, "with --mask 0 no rating is masked", LEAVE),
    (&["field-width"], |r| r.s.field_names().is_empty(), "no side fields are used", "add --fields NAME,NAME"),
    (
        &["join"],
        |r| r.s.field_names().is_empty() && r.s.user_width == 0,
        "the items have no side fields and no users to be joined with",
        "add --fields NAME,NAME or --user-width 32",
    ),
    (
        &["join"],
        |r| r.s.field_names().is_empty() && r.model.name == models::Caser::NAME,
        "--model caser joins users to its output, not to the items",
        "add --fields NAME,NAME",
    ),
    (
        &["heads", "ffn-ratio", "attention-dropout", "taps", "dilations"],
        |r| r.s.blocks == 0,
        "there are no blocks",
        "use --blocks 1 or more",
    ),
    (
        &["patch", "patches", "patch-width"],
        |r| !r.transfers(&[Transfer::Patch]),
        "the run has no patches",
        "omit it, or use `mipgpu finetune --from RUN --transfer patch`",
    ),
    (
        &["freeze"],
        |r| !r.transfers(&[Transfer::Model, Transfer::Patch]),
        "all parts of the network are new and are trained",
        "omit it, or use `mipgpu finetune --from RUN` with --transfer model or patch",
    ),
    (&["final-lr"], |r| r.s.decay == Decay::Constant, "with --decay constant the learning rate is constant", LEAVE),
];

/// Returns a text of the rules or a help text with its placeholders replaced by names of losses.
pub(super) fn filled(text: &str) -> String {
    let sampled = || LossKind::words(LossKind::sampled, "or");
    let pairwise = || LossKind::words(LossKind::pairwise, "and");
    text.replace("{sampled}", &sampled()).replace("{pairwise}", &pairwise())
}

const LEAVE: &str = "omit it";
const SQUARED: &str = "omit it: the loss is the squared error of the masked ratings";

impl Settings {
    /// Returns why the setting `name` has no effect in a run with these settings, or `None` if it has one.
    /// `transfer` is `None` for a run from scratch.
    ///
    /// # Errors
    /// As [`Settings::find`].
    pub fn idle(&self, name: &str, transfer: Option<Transfer>) -> Result<Option<Idle>> {
        let (model, task) = self.find()?;
        let uses = |all: &[&str]| all.contains(&name);
        let of_models = models::all().into_iter().filter(|m| uses(m.uses)).map(|m| m.name);
        let who: Vec<&str> = of_models.chain(tasks::ALL.iter().filter(|t| uses(t.uses)).map(|t| t.name)).collect();
        if !who.is_empty() && !uses(model.uses) && !uses(task.uses) {
            let why = format!(" on --model {} with --task {}", model.name, task.name);
            return Ok(Some(Idle { why, hint: format!("omit it; used by: {}", who.join(", ")) }));
        }
        let run = Run { s: self, model, task, loss: self.loss(), transfer };
        let rule = RULES.iter().find(|(names, applies, ..)| uses(names) && applies(&run));
        Ok(rule.map(|(_, _, why, hint)| Idle { why: format!(": {}", filled(why)), hint: filled(hint) }))
    }

    /// Rejects flags without effect.
    ///
    /// # Errors
    /// One of `names` has no effect; the error names the first one and the reason.
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

    /// A misspelt name would make a rule or a list of uses ineffective.
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
