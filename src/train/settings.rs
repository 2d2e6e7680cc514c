//! All settings of a run, each defined once: its name (flag and TOML key), type, default and help text.

use serde::{Deserialize, Serialize};

pub use super::choices::{List, Numbers, Patching, TableUpdate};
use super::{
    choices::placeholder,
    freeze::Freeze,
    in_range::{DROP_ALL, in_range},
    schedule::Decay,
    uses::filled,
};
use crate::{
    base::{Error, Result, error::nearest},
    layers::{Join, NormPlace, PatchConfig, PatchPlace},
    models::{self, ModelSettings},
    tasks::{self, LossKind, LossSettings, MaskedItem, SamplerKind, SamplerSettings, TaskSettings},
};

/// Says how far a setting may differ between a base run and a run that copies its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// Not at all: the layers were trained with it. The default of settings under "Model".
    Never,
    /// As far as tensor shapes allow. The setting also shapes tables, which are copied even without layers.
    ByShape,
    /// As far as the columns of tensors allow. What the setting adds to the items may be added or removed.
    ByColumns,
    /// Freely, or as far as a separate check allows. The default of settings under other headings.
    Freely,
}

/// A setting and its properties.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Flag and TOML key.
    pub name: String,
    pub differs: Differs,
    /// Whether `differs` is given in the list of settings and is not the default of the heading.
    pub marked: bool,
}

impl Listed {
    fn new(name: &str, group: &str, mark: Option<Differs>) -> Self {
        let usual = if group == MODEL { Differs::Never } else { Differs::Freely };
        Listed { name: name.replace('_', "-"), differs: mark.unwrap_or(usual), marked: mark.is_some() }
    }
}

/// The heading of the settings that shape a model.
const MODEL: &str = "Model";

/// Returns the help of a flag: its text, the choices (models or tasks), the models that use it unless all do, and its
/// default.
fn help(name: &str, text: &str, shown: &str) -> String {
    let name = name.replace('_', "-");
    let choices = match name.as_str() {
        "model" => {
            format!(": {}", models::all().into_iter().map(models::ModelEntry::listed).collect::<Vec<_>>().join(", "))
        }
        "task" => format!(": {}", tasks::names().join(", ")),
        _ => String::new(),
    };
    let users: Vec<&str> = models::all().iter().filter(|m| m.uses.contains(&name.as_str())).map(|m| m.name).collect();
    let only = match users.len() {
        0 => String::new(),
        n if n == models::all().len() => String::new(),
        _ => format!(" [models: {}]", users.join(", ")),
    };
    format!("{}{choices}{only} [default: {shown}]", filled(text))
}

// NAME: TYPE = DEFAULT, "DEFAULT AS SHOWN", [RANGE] "HELP", and how far it may differ from a base (`Differs`) if that
// is not the default of the heading. The range is optional.
macro_rules! settings {
    ($($group:literal {
        $($(#[$flag:meta])* $name:ident: $type:ty = $default:expr, $shown:literal, $([$range:expr])? $help:literal
        $(, $differs:ident)?;)*
    })*) => {
        /// The settings of a run, as stored in its folder (`config.toml`). Keys are the flags without leading dashes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[doc = $help] pub $name: $type,)*)*
        }

        impl Settings {
            /// Checks every setting by itself.
            ///
            /// # Errors
            /// A setting is out of range; the error names the first one and its range.
            pub(super) fn check_ranges(&self) -> Result<()> {
                $($($(in_range(stringify!($name), &self.$name, &($range))?;)?)*)*
                Ok(())
            }
        }

        impl Default for Settings {
            fn default() -> Self {
                Settings { $($($name: $default,)*)* }
            }
        }

        /// The settings as flags. A flag that is not given keeps the value of the settings file or the default.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub struct Flags {
            $($(
                #[arg(long, help_heading = $group, allow_negative_numbers = true)]
                #[arg(help = help(stringify!($name), $help, $shown))]
                #[arg(value_name = placeholder::<$type>(stringify!($($range)?)))]
                $(#[$flag])*
                pub $name: Option<$type>,
            )*)*
        }

        /// Returns all settings, in the order of their definition.
        pub fn list() -> Vec<Listed> {
            let mut all = Vec::new();
            $($(
                let marks: &[Differs] = &[$(Differs::$differs)?];
                all.push(Listed::new(stringify!($name), $group, marks.first().copied()));
            )*)*
            all
        }

        impl Flags {
            /// Checks that the flags do not contradict each other.
            ///
            /// # Errors
            /// `--sampler` is combined with a loss name of earlier versions, which implies a sampler.
            pub fn check(&self) -> Result<()> {
                let named = self.loss.filter(|loss| loss.resolve(SamplerKind::Uniform).0 != *loss);
                if named.is_some() && self.sampler.is_some() {
                    return Err(Error::user("--sampler: this loss already implies a sampler")
                        .hint("use --loss sampled-softmax with --sampler"));
                }
                Ok(())
            }

            /// Overrides `settings` with the given flags.
            pub fn apply(&self, settings: &mut Settings) {
                $($(if let Some(value) = &self.$name { settings.$name = value.clone(); })*)*
                settings.name_sampler();
                if let Some(sampler) = self.sampler {
                    settings.sampler = sampler;
                }
            }

            /// Returns the names of the given flags, without leading dashes.
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
        model: String = "bert4rec".into(), "bert4rec", "Model", Freely;
        task: String = "auto".into(), "auto",
            "What the model learns (auto: the task that the model was designed for)", Freely;
        #[arg(visible_alias = "dim")]
        width: usize = 128, "128", [1..=1 << 16] "Embedding and hidden size", ByShape;
        #[arg(visible_alias = "layers")]
        blocks: usize = 2, "2", [..=1 << 10] "Number of blocks or layers";
        heads: usize = 4, "4", [1..] "Number of attention heads; must divide the width";
        #[arg(visible_alias = "max-len")]
        length: usize = 200, "200", [2..=MaskedItem::MAX_LENGTH]
            "Maximum sequence length. Longer sequences: training uses a random window, prediction the newest items",
            ByShape;
        #[arg(hide = true)]
        ffn_ratio: usize = 4, "4", [1..] "Feed-forward width as a multiple of the width";
        #[arg(hide = true)]
        norm: NormPlace = NormPlace::Post, "post", "Layer norm after (post) or before (pre) each sub-layer";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        projection: bool = false, "false",
            "Dense + GELU + norm between the last block and the item table, as in the BERT4Rec paper";
        dropout: f32 = 0.1, "0.1", [0.0..DROP_ALL] "Dropout after embedding, attention and feed-forward", Freely;
        #[arg(hide = true)]
        attention_dropout: f32 = 0.0, "0.0", [0.0..DROP_ALL] "Dropout of attention probabilities", Freely;
        #[arg(hide = true)]
        init_std: f32 = 0.02, "0.02", [0.0..f32::INFINITY] "Standard deviation of the initial weights", Freely;
        #[arg(visible_alias = "kernel-size", hide = true)]
        taps: usize = 3, "3", [1..=1 << 16] "Kernel size of the dilated convolutions";
        #[arg(hide = true)]
        dilations: List = List(vec![1, 4]), "1,4",
            "Dilations of the blocks, repeated in this order; the second convolution of a block doubles it";
        #[arg(hide = true)]
        window: usize = 5, "5", [1..] "Number of items that a convolution reads";
        #[arg(hide = true)]
        horizontal: usize = 16, "16", [1..=1 << 16] "Number of horizontal filters of each height";
        #[arg(hide = true)]
        vertical: usize = 4, "4", [1..=1 << 16] "Number of vertical filters";
        #[arg(hide = true)]
        rating_width: usize = 32, "32", [..=1 << 16]
            "Width of the rating embedding, concatenated with the item (--task rating); 0: width of the item, and \
             added to it";
    }
    "Users and side fields" {
        user_width: usize = 0, "0", [..=1 << 16]
            "Width of the user embedding, which is joined to each item of the user's sequence; 0: none", ByColumns;
        #[arg(value_name = "NAMES")]
        fields: String = "none".into(), "none",
            "Side fields of the items to use as item features: names separated by commas, all, or none", ByColumns;
        #[arg(hide = true)]
        field_width: usize = 16, "16", [1..=1 << 16] "Width of the embedding of each side field", ByColumns;
        #[arg(hide = true)]
        join: Join = Join::Concat, "concat", "How the vectors of item, fields and user are combined", ByColumns;
    }
    "Fine-tuning" {
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        keep_side: bool = false, "false",
            "Keep the base's dense layer over items, users and fields if the new run has neither users nor fields \
             [set by finetune]", Freely;
        #[arg(visible_alias = "adapter")]
        patch: Patching = Patching::None, "none; with --transfer patch: serial",
            "Placement of patches (adapters): after sub-layers (serial) or parallel to them", Freely;
        #[arg(hide = true)]
        patches: usize = 2, "2", [1..=2] "Number of patches per block: 1 or 2", Freely;
        #[arg(hide = true)]
        patch_width: usize = 0, "0", [..=1 << 16] "Bottleneck size of a patch; 0: an eighth of --width", Freely;
        freeze: Freeze = Freeze::NONE, "none; with --transfer patch: the network, and each table without new rows",
            "Parts that are not trained: none, all, or a list of network,items,users,fields";
    }
    "Tasks" {
        mask: f32 = 0.2, "0.2", [0.0..=1.0]
            "Share of a sequence's positions to mask (80 % [MASK], 10 % random item, 10 % unchanged)";
        #[arg(hide = true)]
        mask_last: f32 = 0.15, "0.15", [0.0..=1.0]
            "Share of sequences in which only the last item is masked (next-basket: of pairs reduced to one \
             masked item, the form of a query)";
        #[arg(hide = true)]
        targets: usize = 1, "1", [1..]
            "Number of following items that each position predicts with next-item (3 in the Caser paper)";
        loss: LossKind = LossKind::Softmax, "softmax",
            "Loss over items: full softmax over the whole catalogue, or a loss with sampled negatives";
        sampler: SamplerKind = SamplerKind::Uniform, "uniform", "Distribution of negatives";
        negatives: usize = 512, "512", [..=1 << 24]
            "Number of negatives per batch; per scored row with --per-position and with pairwise losses ({pairwise})";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        per_position: bool = false, "false",
            "Each scored row has its own negatives (sampled-softmax; always the case with pairwise losses: {pairwise})";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        unique_negatives: bool = false, "false",
            "No item occurs twice among the negatives of a batch (--sampler uniform, shared negatives)";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        log_q: bool = true, "true",
            "Correct the logits of sampled-softmax by log q, the log of an item's expected count";
        #[arg(num_args = 0..=1, default_missing_value = "true", hide = true)]
        exclude_seen: bool = false, "false", "Items of a user's own sequence are never negatives";
        #[arg(hide = true)]
        gbce_t: f32 = 0.75, "0.75", "Calibration of gbce: 0 equals bce, 1 fully corrects for the sampling";
    }
    "Optimisation" {
        epochs: u32 = 100, "100", [1..] "Number of passes over the users";
        #[arg(visible_alias = "batch-size")]
        batch: usize = 32, "32", [1..] "Number of sequences per step";
        #[arg(visible_alias = "learning-rate")]
        lr: f32 = 1.5e-3, "0.0015", [0.0..f32::INFINITY] "Highest learning rate";
        #[arg(hide = true)]
        warmup: u64 = 500, "500", "Number of steps of linear warm-up; at most a tenth of the run";
        #[arg(hide = true)]
        decay: Decay = Decay::Cosine, "cosine", "How the learning rate falls after the warm-up";
        #[arg(hide = true)]
        final_lr: f32 = 0.02, "0.02", [0.0..=1.0] "Final learning rate as a share of --lr";
        #[arg(hide = true)]
        weight_decay: f32 = 0.01, "0.01", [0.0..f32::INFINITY] "Weight decay of matrices (AdamW)";
        #[arg(hide = true)]
        beta1: f32 = 0.9, "0.9", [0.0..1.0] "Decay of AdamW's first moment";
        #[arg(hide = true)]
        beta2: f32 = 0.999, "0.999", [0.0..1.0] "Decay of AdamW's second moment";
        precision: Numbers = Numbers::Auto, "auto",
            "Precision of matrix products, and on a GPU of activations (sums and weights are always f32). auto: \
             bf16 on a GPU, f32 on the CPU. fastest: measured when the run starts, and stored in its settings. On \
             a CPU, bf16 is faster only with AMX or AMD's AVX512_BF16";
        #[arg(hide = true)]
        table_update: TableUpdate = TableUpdate::Auto, "auto",
            "Rows of the item table that a step updates (losses with negatives)";
        #[arg(visible_alias = "max-grad-norm", hide = true)]
        clip: f32 = 5.0, "5.0", [0.0..f32::INFINITY] "Clip gradients to this global norm; 0: never";
        seed: u64 = 1, "1", "Seed of all random numbers";
    }
    "Validation and checkpoints" {
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        keep_seen: bool = false, "false",
            "Rank the items of a user's history too, in validation and by default in eval, recommend and compare; \
             for logs with repeated items (always on with baskets)";
        eval_every: u32 = 5, "5", [1..] "Validate every N epochs (NDCG@10, full ranking; RMSE for ratings)";
        patience: u32 = 0, "0",
            "Stop after N validations without improvement (an equal result is no improvement); 0: never";
        #[arg(hide = true)]
        checkpoint_seconds: u64 = 60, "60",
            "Maximum number of seconds between checkpoints; 0: a checkpoint after every epoch";
    }
}

impl Settings {
    /// Sets the setting called `name`, a flag without its dashes.
    ///
    /// # Errors
    /// There is no such setting (the hint names the most similar one), or the value has another type. Ranges are not
    /// checked.
    pub fn set(&mut self, name: &str, value: serde_json::Value) -> Result<()> {
        let mut all = serde_json::json!(self);
        let known: Vec<&str> = all.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        if !known.contains(&name) {
            let e = Error::user(format!("unknown setting '{name}'"));
            return Err(match nearest(name, known) {
                Some(near) => e.hint(format!("did you mean '{near}'?")),
                None => e.hint("settings have the names of the flags of `mipgpu train --help-all`"),
            });
        }
        all[name] = value;
        *self = serde_json::from_value(all).map_err(|e| Error::user(format!("setting '{name}': {e}")))?;
        self.name_sampler();
        Ok(())
    }

    /// Replaces a loss name of earlier versions with its loss and sampler, so that the stored settings are explicit.
    fn name_sampler(&mut self) {
        (self.loss, self.sampler) = self.loss.resolve(self.sampler);
    }

    /// Returns the model and the task, which fit each other.
    ///
    /// # Errors
    /// The name is unknown, or the model does not provide the view of the sequence that the task requires.
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

    /// Replaces `auto` with the task that it stands for, so that the stored settings are explicit.
    ///
    /// # Errors
    /// As [`Settings::find`].
    pub fn name_task(&mut self) -> Result<()> {
        self.task = self.find()?.1.name.into();
        Ok(())
    }

    /// Returns the settings of the task.
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

    /// Returns the names of the side fields in use. `all` is returned as it is.
    pub fn field_names(&self) -> Vec<&str> {
        let names = self.fields.split(',').map(str::trim).filter(|name| !name.is_empty());
        if self.fields.trim() == "none" { Vec::new() } else { names.collect() }
    }

    /// Returns the configuration of the patches, or `None`.
    fn patches(&self) -> Option<PatchConfig> {
        let place = match self.patch {
            Patching::None => return None,
            Patching::Serial => PatchPlace::Serial,
            Patching::Parallel => PatchPlace::Parallel,
        };
        let width = if self.patch_width > 0 { self.patch_width } else { self.width.div_ceil(8) };
        Some(PatchConfig { place, per_block: self.patches, width })
    }

    /// Returns the settings of the model.
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

    /// Returns whether the betas satisfy the condition of the closed form of missed steps.
    pub(super) fn rows_can_catch_up(&self) -> bool {
        self.beta1 * self.beta1 < self.beta2
    }

    /// Returns whether the table of a catalogue of `items` is updated by rows. A batch touches at most `most` rows, and
    /// each touch of a row needs memory for one row of gradients.
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

    /// Returns the settings of the loss.
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

    /// A run of an earlier version continues with its loss.
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
