//! All settings of a run, each defined once: its name (flag and TOML key), type, default and help text.

use serde::{Deserialize, Serialize};

pub use super::choices::{List, Numbers, Patching, TableUpdate};
use super::{freeze::Freeze, schedule::Decay};
use crate::{
    base::{Error, Result},
    layers::{Join, NormPlace, PatchConfig, PatchPlace},
    models::{self, ModelSettings},
    tasks::{self, LossKind, LossSettings, SamplerKind, SamplerSettings, TaskSettings},
};

/// How far a setting may differ between a run that takes over layers and its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// Not at all: the layers were trained with it. Every setting under "Model" that has no mark.
    Never,
    /// It shapes tables that even runs without the base's layers take over: the shapes of tensors decide.
    ByShape,
    /// What it adds to the items may come and go: the columns of tensors decide.
    ByColumns,
    /// Freely, or there is a check of its own. Every setting under another heading that has no mark.
    Freely,
}

/// A setting of the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Flag and TOML key.
    pub name: String,
    pub differs: Differs,
    /// Whether the list says so, rather than its heading.
    pub marked: bool,
}

impl Listed {
    fn new(name: &str, group: &str, mark: Option<Differs>) -> Self {
        let usual = if group == MODEL { Differs::Never } else { Differs::Freely };
        Listed { name: name.replace('_', "-"), differs: mark.unwrap_or(usual), marked: mark.is_some() }
    }
}

/// The heading of what shapes a model.
const MODEL: &str = "Model";

/// The help of a flag: its text, the models or tasks to choose from, which models use it where not all do, its default.
fn help(name: &str, text: &str, shown: &str) -> String {
    let name = name.replace('_', "-");
    let choices = match name.as_str() {
        "model" => format!(": {}", models::ALL.iter().map(models::ModelEntry::listed).collect::<Vec<_>>().join(", ")),
        "task" => format!(": {}", tasks::names().join(", ")),
        _ => String::new(),
    };
    let users: Vec<&str> = models::ALL.iter().filter(|m| m.uses.contains(&name.as_str())).map(|m| m.name).collect();
    let only = match users.len() {
        0 => String::new(),
        n if n == models::ALL.len() => String::new(),
        _ => format!(" [models: {}]", users.join(", ")),
    };
    format!("{text}{choices}{only} [default: {shown}]")
}

// NAME: TYPE = DEFAULT, "DEFAULT AS SHOWN", "HELP", and how far it may differ from a base (`Differs`) where its heading
// does not say so.
macro_rules! settings {
    ($($group:literal {
        $($(#[$flag:meta])* $name:ident: $type:ty = $default:expr, $shown:literal, $help:literal $(, $differs:ident)?;)*
    })*) => {
        /// The settings of a run, as stored in its folder (`config.toml`). Keys are the flags without the dashes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[doc = $help] pub $name: $type,)*)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Settings { $($($name: $default,)*)* }
            }
        }

        /// The same settings as flags; what is not given keeps the value of the settings file or the default.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub struct Flags {
            $($(
                #[arg(long, help_heading = $group, allow_negative_numbers = true)]
                #[arg(help = help(stringify!($name), $help, $shown))]
                $(#[$flag])*
                pub $name: Option<$type>,
            )*)*
        }

        /// All settings, in the order of the list.
        pub fn list() -> Vec<Listed> {
            let mut all = Vec::new();
            $($(
                let marks: &[Differs] = &[$(Differs::$differs)?];
                all.push(Listed::new(stringify!($name), $group, marks.first().copied()));
            )*)*
            all
        }

        impl Flags {
            /// Whether they agree.
            ///
            /// # Errors
            /// A loss of earlier versions that names its sampler, and a sampler beside it.
            pub fn check(&self) -> Result<()> {
                let named = self.loss.filter(|loss| loss.resolve(SamplerKind::Uniform).0 != *loss);
                if named.is_some() && self.sampler.is_some() {
                    return Err(Error::user("--sampler: this loss names its sampler already")
                        .hint("write sampled-softmax as the loss and keep the sampler"));
                }
                Ok(())
            }

            /// Puts the given flags over `settings`.
            pub fn apply(&self, settings: &mut Settings) {
                $($(if let Some(value) = &self.$name { settings.$name = value.clone(); })*)*
                settings.name_sampler();
                if let Some(sampler) = self.sampler {
                    settings.sampler = sampler;
                }
            }

            /// The flags that were given, without their dashes.
            pub fn given(&self) -> Vec<String> {
                let mut all = Vec::new();
                $($(all.extend(self.$name.is_some().then(|| stringify!($name).replace('_', "-")));)*)*
                all
            }
        }
    };
}

settings! {
    "Model" {
        model: String = "bert4rec".into(), "bert4rec", "Which model", Freely;
        task: String = "auto".into(), "auto", "What it learns (auto: what the model was made for)", Freely;
        #[arg(visible_alias = "dim")]
        width: usize = 128, "128", "Width of all representations", ByShape;
        #[arg(visible_alias = "layers")]
        blocks: usize = 2, "2", "Transformer blocks, or blocks of two convolutions";
        heads: usize = 4, "4", "Attention heads; must divide the width";
        #[arg(visible_alias = "max-len")]
        length: usize = 200, "200", "Longest sequence: of longer ones a random window is trained on, the newest items are used to predict", ByShape;
        #[arg(hide = true)]
        ffn_ratio: usize = 4, "4", "Feed-forward width as a multiple of the width";
        #[arg(hide = true)]
        norm: NormPlace = NormPlace::Post, "post", "Layer norm after (post) or before (pre) each sub-layer";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        projection: bool = false, "false", "Dense + GELU + norm between the last block and the item table, as in the paper";
        dropout: f32 = 0.1, "0.1", "Dropout after embedding, attention and feed-forward", Freely;
        #[arg(hide = true)]
        attention_dropout: f32 = 0.0, "0.0", "Dropout of attention probabilities", Freely;
        #[arg(hide = true)]
        init_std: f32 = 0.02, "0.02", "Standard deviation of the initial weights", Freely;
        #[arg(visible_alias = "kernel-size", hide = true)]
        taps: usize = 3, "3", "Taps of a dilated convolution";
        #[arg(hide = true)]
        dilations: List = List(vec![1, 4]), "1,4", "Dilations of the blocks, over and over; the second convolution of a block has twice as much";
        #[arg(hide = true)]
        window: usize = 5, "5", "Items that a convolution looks at";
        #[arg(hide = true)]
        horizontal: usize = 16, "16", "Horizontal filters of each height";
        #[arg(hide = true)]
        vertical: usize = 4, "4", "Vertical filters";
        #[arg(hide = true)]
        rating_width: usize = 32, "32", "Width of a rating's vector next to the item (--task rating); 0: as wide as the item, and added";
    }
    "Users and side fields" {
        user_width: usize = 0, "0", "Width of a vector of each user, beside all items of the user's sequence; 0: users have none", ByColumns;
        fields: String = "none".into(), "none", "Side fields of the items beside their vectors: names with commas between them, all, none", ByColumns;
        #[arg(hide = true)]
        field_width: usize = 16, "16", "Width of each side field", ByColumns;
        #[arg(hide = true)]
        join: Join = Join::Concat, "concat", "How item, fields and user become one vector", ByColumns;
    }
    "Fine-tuning" {
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        keep_side: bool = false, "false", "Keep the base's dense layer over items, users and fields where the new run has neither users nor fields [finetune sets it]", Freely;
        #[arg(visible_alias = "adapter")]
        patch: Patching = Patching::None, "none", "Where patches stand: behind the parts of a block, or parallel to them [--transfer patch: serial]", Freely;
        #[arg(hide = true)]
        patches: usize = 2, "2", "Patches of a block: 1 or 2", Freely;
        #[arg(hide = true)]
        patch_width: usize = 0, "0", "Width of a patch; 0: an eighth of --width", Freely;
        freeze: Freeze = Freeze::NONE, "none", "What stays as the base has it: none, all, or network and tables (network,items,users,fields) [--transfer patch: the network and each table whose rows the base knows all]";
    }
    "Tasks" {
        mask: f32 = 0.2, "0.2", "Share of a sequence's positions to hide (80 % [MASK], 10 % random item, 10 % unchanged)";
        #[arg(hide = true)]
        mask_last: f32 = 0.15, "0.15", "Share of sequences of which only the last item is hidden (next-basket: that ask for one item as a query does)";
        #[arg(hide = true)]
        targets: usize = 1, "1", "Items that next-item asks each position for (3 in the Caser paper)";
        loss: LossKind = LossKind::Softmax, "softmax", "What scored rows learn: softmax over the whole catalogue, or a loss against negatives";
        sampler: SamplerKind = SamplerKind::Uniform, "uniform", "Where negatives come from";
        negatives: usize = 512, "512", "Negatives of a batch; of each scored row where rows have negatives of their own";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        per_position: bool = false, "false", "Each scored row has negatives of its own (sampled-softmax; with other losses against negatives it always has)";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        unique_negatives: bool = false, "false", "No item twice among a batch's negatives (uniform sampler)";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        log_q: bool = true, "true", "Correct the logits of sampled-softmax by the log of an item's expected count";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        exclude_seen: bool = false, "false", "Items of a user's own sequence are no negatives";
        #[arg(hide = true)]
        gbce_t: f32 = 0.75, "0.75", "Calibration of gbce: 0 is bce, 1 undoes the sampling wholly";
    }
    "Optimisation" {
        epochs: u32 = 100, "100", "Passes over the users";
        #[arg(visible_alias = "batch-size")]
        batch: usize = 32, "32", "Sequences a step";
        #[arg(visible_alias = "learning-rate")]
        lr: f32 = 1.5e-3, "0.0015", "Highest learning rate";
        #[arg(hide = true)]
        warmup: u64 = 500, "500", "Steps of linear warm-up; at most a tenth of the run";
        #[arg(hide = true)]
        decay: Decay = Decay::Cosine, "cosine", "How the learning rate falls after the warm-up";
        #[arg(hide = true)]
        final_lr: f32 = 0.02, "0.02", "Where the learning rate ends, as a share of --lr";
        #[arg(hide = true)]
        weight_decay: f32 = 0.01, "0.01", "Weight decay of matrices (AdamW)";
        #[arg(hide = true)]
        beta1: f32 = 0.9, "0.9", "AdamW's first moment decay";
        #[arg(hide = true)]
        beta2: f32 = 0.999, "0.999", "AdamW's second moment decay";
        precision: Numbers = Numbers::Auto, "auto", "Precision of matrix products, and on a GPU of activations (sums and weights are always f32). auto: bf16 on a GPU, f32 on the CPU. fastest: measured when the run begins, and kept in its settings. On a CPU, bf16 is faster only with AMX or AMD's AVX512_BF16";
        #[arg(hide = true)]
        table_update: TableUpdate = TableUpdate::Auto, "auto", "Which rows of the item table a step updates (losses with negatives)";
        #[arg(visible_alias = "max-grad-norm", hide = true)]
        clip: f32 = 5.0, "5.0", "Clip gradients to this global norm; 0 = never";
        seed: u64 = 1, "1", "Everything random follows from it";
    }
    "Validation and checkpoints" {
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        keep_seen: bool = false, "false", "Rank the items of a user's history too, in validation and by default in eval, recommend and compare: for logs whose users repeat items (with baskets it is always so)";
        eval_every: u32 = 5, "5", "Validate every so many epochs (NDCG@10, full ranking)";
        patience: u32 = 0, "0", "Stop after so many validations without a better one (an equal one is not better); 0 = never";
        #[arg(hide = true)]
        checkpoint_seconds: u64 = 60, "60", "Write a checkpoint at least this often; 0 = after every epoch";
    }
}

impl Settings {
    /// Spells a loss of earlier versions as its loss and sampler, so that what is kept of a run says what ran.
    fn name_sampler(&mut self) {
        (self.loss, self.sampler) = self.loss.resolve(self.sampler);
    }

    /// The model and the task, which fit each other.
    ///
    /// # Errors
    /// There is none of that name; the model does not see what the task asks of it.
    pub fn find(&self) -> Result<(&'static models::ModelEntry, &'static tasks::TaskEntry)> {
        let model = models::find(&self.model)?;
        let fits = |task: &&tasks::TaskEntry| task.suits(model);
        if self.task == "auto" {
            let natural = tasks::ALL.iter().find(|task| fits(task) && task.view == model.views[0]);
            return Ok((model, natural.ok_or_else(|| Error::internal(format!("no task for {}", model.name)))?));
        }
        let task = tasks::find(&self.task)?;
        if !fits(&task) {
            let others: Vec<&str> = tasks::ALL.iter().filter(fits).map(|t| t.name).collect();
            return Err(Error::user(format!("--model {} cannot learn --task {}", model.name, task.name))
                .hint(format!("tasks of {}: {}", model.name, others.join(", "))));
        }
        Ok((model, task))
    }

    /// Names the task that `auto` stands for, so that what is kept of a run says what ran.
    ///
    /// # Errors
    /// As [`Settings::find`].
    pub fn name_task(&mut self) -> Result<()> {
        self.task = self.find()?.1.name.into();
        Ok(())
    }

    /// The part that shapes the task.
    pub fn task(&self) -> TaskSettings {
        TaskSettings {
            mask: self.mask,
            mask_last: self.mask_last,
            targets: self.targets,
            length: self.length,
            loss: self.loss(),
            seed: self.seed,
        }
    }

    /// The names of the side fields that are used; `all` stands for itself.
    pub fn field_names(&self) -> Vec<&str> {
        let names = self.fields.split(',').map(str::trim).filter(|name| !name.is_empty());
        if self.fields.trim() == "none" { Vec::new() } else { names.collect() }
    }

    /// The patches of the network.
    fn patches(&self) -> Option<PatchConfig> {
        let place = match self.patch {
            Patching::None => return None,
            Patching::Serial => PatchPlace::Serial,
            Patching::Parallel => PatchPlace::Parallel,
        };
        let width = if self.patch_width > 0 { self.patch_width } else { self.width.div_ceil(8) };
        Some(PatchConfig { place, per_block: self.patches, width })
    }

    /// The part that shapes the model.
    pub fn model(&self) -> ModelSettings {
        ModelSettings {
            width: self.width,
            blocks: self.blocks,
            heads: self.heads,
            ffn_ratio: self.ffn_ratio,
            norm: self.norm,
            dropout: self.dropout,
            attention_dropout: self.attention_dropout,
            projection: self.projection,
            init_std: self.init_std,
            taps: self.taps,
            dilations: self.dilations.0.clone(),
            window: self.window,
            horizontal: self.horizontal,
            vertical: self.vertical,
            rating_width: self.rating_width,
            user_width: self.user_width,
            fields: !self.field_names().is_empty(),
            field_width: self.field_width,
            join: self.join,
            keep_side: self.keep_side,
            patch: self.patches(),
            touched: None,
        }
    }

    /// What the closed form of missed steps asks of the betas.
    pub(super) fn rows_can_catch_up(&self) -> bool {
        self.beta1 * self.beta1 < self.beta2
    }

    /// Whether the table of a catalogue of `items` is updated by rows, of which a batch touches `most` at most: their
    /// gradients take as much room as they are, each time they are touched.
    pub fn by_rows(&self, items: usize, most: usize) -> bool {
        match self.table_update {
            TableUpdate::Dense => false,
            TableUpdate::Rows => true,
            TableUpdate::Auto => {
                let large = (items + 1).saturating_mul(self.width) > TableUpdate::DENSE_MOST;
                self.loss.sampled() && large && most < items && self.rows_can_catch_up()
            }
        }
    }

    /// The part that shapes the loss.
    pub fn loss(&self) -> LossSettings {
        let (kind, sampler) = self.loss.resolve(self.sampler);
        LossSettings {
            kind,
            sampler: SamplerSettings {
                kind: sampler,
                negatives: self.negatives,
                per_row: self.per_position || kind.pairwise(),
                unique: self.unique_negatives,
            },
            log_q: self.log_q,
            exclude_seen: self.exclude_seen,
            gbce_t: self.gbce_t,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_file() {
        let s = Settings { lr: 3e-4, loss: LossKind::SampledPopularity, ..Settings::default() };
        let text = toml::to_string(&s).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), s);
    }

    /// A run of an earlier version goes on with the loss that it had.
    #[test]
    fn names_of_earlier_versions_are_still_read() {
        for (old, sampler) in
            [("sampled-uniform", SamplerKind::Uniform), ("sampled-popularity", SamplerKind::Popularity)]
        {
            let s: Settings = toml::from_str(&format!("loss = \"{old}\"\nnegatives = 9\n")).unwrap();
            let c = s.loss();
            assert_eq!((c.kind, c.sampler.kind), (LossKind::SampledSoftmax, sampler));
            assert!(c.log_q && !c.sampler.per_row && c.sampler.negatives == 9);
        }
    }
}
