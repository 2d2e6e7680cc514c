//! All settings of a run, each defined once: its name (flag and TOML key), type, default and help text.

use serde::{Deserialize, Serialize};

use super::schedule::Decay;
use crate::{
    base::{Error, Result, error::nearest},
    layers::{Join, NormPlace, Patch, PatchConfig, PatchPlace},
    mem::Precision,
    models::{self, ModelSettings},
    tasks::{self, LossKind, LossSettings, MaskedItem, NextBasket, SamplerKind, SamplerSettings, TaskSettings},
};

macro_rules! settings {
    ($($group:literal { $($name:ident: $type:ty = $default:expr, $shown:literal, $help:literal;)* })*) => {
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
                #[arg(help = concat!($help, " [default: ", $shown, "]"))]
                pub $name: Option<$type>,
            )*)*
        }

        impl Flags {
            /// Puts the given flags over `settings`.
            pub fn apply(&self, settings: &mut Settings) {
                $($(if let Some(value) = &self.$name { settings.$name = value.clone(); })*)*
                settings.name_sampler();
                if let Some(sampler) = self.sampler {
                    settings.sampler = sampler;
                }
            }

            /// The first flag that only losses with negatives listen to.
            pub fn first_of_negatives(&self) -> Option<&'static str> {
                let given = [
                    (self.sampler.is_some(), "sampler"),
                    (self.negatives.is_some(), "negatives"),
                    (self.per_position.is_some(), "per-position"),
                    (self.unique_negatives.is_some(), "unique-negatives"),
                    (self.log_q.is_some(), "log-q"),
                    (self.exclude_seen.is_some(), "exclude-seen"),
                    (self.gbce_t.is_some(), "gbce-t"),
                ];
                given.iter().find(|(given, _)| *given).map(|(_, name)| *name)
            }

            /// The first flag that only losses over items listen to.
            pub fn first_of_losses(&self) -> Option<&'static str> {
                let given = [(self.loss.is_some(), "loss"), (self.targets.is_some(), "targets")];
                given.iter().find(|(given, _)| *given).map(|(_, name)| *name).or(self.first_of_negatives())
            }

            /// The first flag that was given.
            pub fn first_given(&self) -> Option<&'static str> {
                $($(if self.$name.is_some() { return Some(stringify!($name)); })*)*
                None
            }
        }

        /// All setting names, as in the struct.
        const NAMES: &[&str] = &[$($(stringify!($name),)*)*];
    };
}

settings! {
    "Model" {
        model: String = "bert4rec".into(), "bert4rec", "Which model: bert4rec, sasrec, gru4rec, peterrec (NextItNet with --task next-item), caser, dacf (ratings)";
        task: String = "auto".into(), "auto", "What it learns: masked-item, next-item, next-basket, rating; auto: what the model was made for";
        width: usize = 128, "128", "Width of all representations";
        blocks: usize = 2, "2", "Transformer blocks, or blocks of two convolutions";
        heads: usize = 4, "4", "Attention heads (bert4rec, sasrec); must divide the width";
        length: usize = 200, "200", "Longest sequence: of longer ones a random window is trained on, the newest items are used to predict";
        ffn_ratio: usize = 4, "4", "Feed-forward width as a multiple of the width";
        norm: NormPlace = NormPlace::Post, "post", "Layer norm after (post) or before (pre) each sub-layer";
        projection: bool = false, "false", "Dense + GELU + norm between the last block and the item table, as in the paper";
        dropout: f32 = 0.1, "0.1", "Dropout after embedding, attention and feed-forward";
        attention_dropout: f32 = 0.0, "0.0", "Dropout of attention probabilities";
        init_std: f32 = 0.02, "0.02", "Standard deviation of the initial weights";
        taps: usize = 3, "3", "Taps of a dilated convolution (peterrec)";
        dilations: List = List(vec![1, 4]), "1,4", "Dilations of the blocks, over and over (peterrec); the second convolution of a block has twice as much";
        window: usize = 5, "5", "Items that a convolution looks at (caser)";
        horizontal: usize = 16, "16", "Horizontal filters of each height (caser)";
        vertical: usize = 4, "4", "Vertical filters (caser)";
        rating_width: usize = 32, "32", "Width of a rating's vector beside the item (bert4rec with --task rating); 0: as wide as the item, and added";
    }
    "Users and side fields" {
        user_width: usize = 0, "0", "Width of a vector of each user, beside all items of the user's sequence; 0: users have none";
        fields: String = "none".into(), "none", "Side fields of the items beside their vectors: names with commas between them, all, none";
        field_width: usize = 16, "16", "Width of each side field";
        join: Join = Join::Concat, "concat", "How item, fields and user become one vector";
    }
    "Fine-tuning" {
        patch: Patching = Patching::None, "none", "Where patches stand: behind the parts of a block, or parallel to them [--transfer patch: serial]";
        patches: usize = 2, "2", "Patches of a block: 1 or 2";
        patch_width: usize = 0, "0", "Width of a patch; 0: an eighth of --width";
        freeze: Freeze = Freeze::None, "none", "What stays as the base has it [--transfer patch: all, or network where items are new]";
    }
    "Tasks" {
        mask: f32 = 0.2, "0.2", "Share of a sequence's positions to hide (80 % [MASK], 10 % random item, 10 % unchanged)";
        mask_last: f32 = 0.15, "0.15", "Share of sequences of which only the last item is hidden (next-basket: that ask for one item as a query does)";
        targets: usize = 1, "1", "Items that next-item asks each position for (3 in the Caser paper)";
        loss: LossKind = LossKind::Softmax, "softmax", "What scored rows learn: softmax over the whole catalogue, or a loss against negatives";
        sampler: SamplerKind = SamplerKind::Uniform, "uniform", "Where negatives come from";
        negatives: usize = 512, "512", "Negatives of a batch; of each scored row with --per-position and bce, gbce, bpr";
        per_position: bool = false, "false", "Each scored row has negatives of its own (sampled-softmax; bce, gbce and bpr always do)";
        unique_negatives: bool = false, "false", "No item twice among a batch's negatives (uniform sampler)";
        log_q: bool = true, "true", "Correct the logits of sampled-softmax by the log of an item's expected count";
        exclude_seen: bool = false, "false", "Items of a user's own sequence are no negatives";
        gbce_t: f32 = 0.75, "0.75", "Calibration of gbce: 0 is bce, 1 undoes the sampling wholly";
    }
    "Optimisation" {
        epochs: u32 = 100, "100", "Passes over the users";
        batch: usize = 32, "32", "Sequences a step";
        lr: f32 = 1.5e-3, "0.0015", "Highest learning rate";
        warmup: u64 = 500, "500", "Steps of linear warm-up; at most a tenth of the run";
        decay: Decay = Decay::Cosine, "cosine", "How the learning rate falls after the warm-up";
        final_lr: f32 = 0.02, "0.02", "Where the learning rate ends, as a share of --lr";
        weight_decay: f32 = 0.01, "0.01", "Weight decay of matrices (AdamW)";
        beta1: f32 = 0.9, "0.9", "AdamW's first moment decay";
        beta2: f32 = 0.999, "0.999", "AdamW's second moment decay";
        precision: Precision = Precision::Bf16, "bf16", "Type of activations and products on a GPU (sums and weights are f32); the CPU computes in f32";
        table_update: TableUpdate = TableUpdate::Auto, "auto", "Which rows of the item table a step updates (losses with negatives)";
        clip: f32 = 5.0, "5.0", "Clip gradients to this global norm; 0 = never";
        seed: u64 = 1, "1", "Everything random follows from it";
    }
    "Validation and checkpoints" {
        eval_every: u32 = 5, "5", "Validate every so many epochs (NDCG@10, full ranking)";
        patience: u32 = 0, "0", "Stop after so many validations without a better one; 0 = never";
        checkpoint_seconds: u64 = 60, "60", "Write a checkpoint at least this often; 0 = after every epoch";
    }
}

/// Whether a network has patches, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Patching {
    #[default]
    None,
    /// Behind the parts of a block.
    Serial,
    /// Beside them.
    Parallel,
}

/// What is not trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// All is trained.
    #[default]
    None,
    /// Layers: tables of items, users and fields are trained, and patches.
    Network,
    /// All but patches.
    All,
}

impl Freeze {
    /// Parts of the names of parameters that are trained; `None`: all are.
    pub fn trained(self) -> Option<&'static [&'static str]> {
        match self {
            Freeze::None => None,
            // What answers a task is new wherever the task is.
            Freeze::Network => Some(&[Patch::NAME, ".head.", "item.", "user.", "field."]),
            Freeze::All => Some(&[Patch::NAME, ".head."]),
        }
    }
}

/// Numbers with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct List(pub Vec<usize>);

impl std::str::FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<List, String> {
        let numbers: std::result::Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers {
            Ok(numbers) if !numbers.contains(&0) => Ok(List(numbers)),
            _ => Err(format!("'{text}' is no list of numbers from 1 up, such as 1,4")),
        }
    }
}

impl TryFrom<String> for List {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<List, String> {
        text.parse()
    }
}

impl From<List> for String {
    fn from(list: List) -> String {
        list.0.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Which rows of the item table AdamW updates at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TableUpdate {
    /// By rows where a loss with negatives meets a table of more than 2^25 numbers (130 MB) and touches fewer rows than it
    /// has, else dense.
    #[default]
    Auto,
    /// All of them.
    Dense,
    /// Those of the batch; the others catch up when they are needed next, with the result of dense AdamW.
    Rows,
}

impl TableUpdate {
    /// Numbers of a table up to which `auto` updates all of it.
    pub const DENSE_MOST: usize = 1 << 25;
}

/// A probability or share in [0, 1).
fn share(name: &str, x: f32) -> Result<()> {
    // Drop probabilities are rounded to 1/65536: one that rounds to 1 would leave nothing.
    if (0.0..1.0 - 1.0 / 65536.0).contains(&x) {
        return Ok(());
    }
    Err(Error::user(format!("--{name} {x} is out of range")).hint(format!("--{name} must be at least 0 and below 1")))
}

impl Settings {
    /// Reads a TOML file over these settings.
    ///
    /// # Errors
    /// A missing file, bad TOML, or an unknown key (the nearest name is suggested).
    pub fn read(&self, path: &std::path::Path) -> Result<Settings> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
        let given: toml::Table = toml::from_str(&text)
            .map_err(|e| Error::user(format!("{}: {}", path.display(), e.to_string().trim_end())))?;
        let keys: Vec<String> = NAMES.iter().map(|n| n.replace('_', "-")).collect();
        if given.get("settings").is_some_and(toml::Value::is_table) {
            return Err(Error::user(format!(
                "{}: this is the config.toml of a run, not a file of settings",
                path.display()
            ))
            .hint("copy what stands under [settings] into a file of its own and give its [split] by flags"));
        }
        for key in given.keys() {
            if !keys.contains(key) {
                let e = Error::user(format!("{}: unknown setting '{key}'", path.display()));
                return Err(match nearest(key, keys.iter().map(String::as_str)) {
                    Some(near) => e.hint(format!("did you mean '{near}'?")),
                    None => e.hint("settings have the names of the flags of `mipgpu train --help`"),
                });
            }
        }
        let mut all = toml::Table::try_from(self)
            .map_err(|e| Error::internal(format!("settings cannot be written as TOML: {e}")))?;
        let sampler = given.contains_key("sampler");
        all.extend(given);
        let mut all: Settings = all
            .try_into()
            .map_err(|e: toml::de::Error| Error::user(format!("{}: {}", path.display(), e.to_string().trim_end())))?;
        if all.loss.resolve(all.sampler).0 != all.loss && sampler {
            let what = format!("{}: this loss names its sampler already, and `sampler` names one too", path.display());
            return Err(Error::user(what).hint("write loss = \"sampled-softmax\" and keep `sampler`"));
        }
        all.name_sampler();
        Ok(all)
    }

    /// Spells a loss of earlier versions as its loss and sampler, so that what is kept of a run says what ran.
    fn name_sampler(&mut self) {
        (self.loss, self.sampler) = self.loss.resolve(self.sampler);
    }

    /// Whether every setting is in range.
    ///
    /// # Errors
    /// The first setting that is not, with its range.
    pub fn check(&self) -> Result<()> {
        self.find()?;
        // They are kept as TOML, whose whole numbers have a sign.
        let kept = serde_json::json!(self);
        if let Some((name, x)) = kept.as_object().into_iter().flatten().find(|(_, x)| x.is_u64() && !x.is_i64()) {
            return Err(
                Error::user(format!("--{name} {x} is out of range")).hint(format!("it can be {} at most", i64::MAX))
            );
        }
        for (name, x) in [("dropout", self.dropout), ("attention-dropout", self.attention_dropout)] {
            share(name, x)?;
        }
        for (name, x) in [("mask", self.mask), ("mask-last", self.mask_last), ("final-lr", self.final_lr)] {
            if !(0.0..=1.0).contains(&x) {
                return Err(Error::user(format!("--{name} {x} is out of range")).hint("a share lies between 0 and 1"));
            }
        }
        let positive = [
            ("width", self.width),
            ("heads", self.heads),
            ("ffn-ratio", self.ffn_ratio),
            ("batch", self.batch),
            ("taps", self.taps),
            ("window", self.window),
            ("horizontal", self.horizontal),
            ("vertical", self.vertical),
            ("targets", self.targets),
            ("field-width", self.field_width),
            ("epochs", self.epochs as usize),
            ("eval-every", self.eval_every as usize),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, x)| *x == 0) {
            return Err(Error::user(format!("--{name} 0 makes no sense")).hint(format!("--{name} must be at least 1")));
        }
        if !(2..=MaskedItem::MAX_LENGTH).contains(&self.length) {
            return Err(Error::user(format!("--length {} is out of range", self.length))
                .hint(format!("a sequence has 2 to {} positions", MaskedItem::MAX_LENGTH)));
        }
        if self.find()?.1.baskets && self.length < NextBasket::SHORTEST_LENGTH {
            return Err(Error::user(format!("--length {} has no room for two baskets", self.length))
                .hint("give twice the items of a large basket, and two"));
        }
        // Rows are numbered in 32 bits, blocks named in a list; the product is a lower bound of the activations in f32.
        let rows = self.batch.saturating_mul(self.length);
        let sizes = [rows, self.width, self.ffn_ratio.saturating_add(8), self.blocks.saturating_add(1)];
        let floats = sizes.iter().fold(1u128, |all, size| all.saturating_mul(*size as u128));
        for (what, size, most) in [
            ("--width", self.width, 1 << 16),
            ("--rating-width", self.rating_width, 1 << 16),
            ("--blocks", self.blocks, 1 << 10),
            ("--negatives", self.negatives, 1 << 24),
            ("--user-width", self.user_width, 1 << 16),
            ("--field-width", self.field_width, 1 << 16),
            ("--patch-width", self.patch_width, 1 << 16),
            ("--taps", self.taps, 1 << 16),
            ("--horizontal", self.horizontal, 1 << 16),
            ("--vertical", self.vertical, 1 << 16),
            ("--batch times --length", rows, 1 << 31),
        ] {
            if size > most {
                return Err(Error::user(format!("{what} is {size}")).hint(format!("it can be {most} at most")));
            }
        }
        if floats > 1 << 40 {
            return Err(Error::user("the activations of these settings need more than 4 TB")
                .hint("lower --batch, --length, --width, --ffn-ratio or --blocks"));
        }
        if self.find()?.0.heads && !self.width.is_multiple_of(self.heads) {
            return Err(Error::user(format!("{} heads do not divide a width of {}", self.heads, self.width))
                .hint("choose --width as a multiple of --heads"));
        }
        if !(1..=2).contains(&self.patches) {
            return Err(Error::user(format!("--patches {}", self.patches)).hint("a block has 1 or 2 patches"));
        }
        if self.patch != Patching::None && !models::find(&self.model)?.patches {
            let patched: Vec<&str> = models::ALL.iter().filter(|m| m.patches).map(|m| m.name).collect();
            return Err(Error::user(format!("{} has no place for patches", self.model))
                .hint(format!("models that take patches: {}; others: --transfer model", patched.join(", "))));
        }
        if self.freeze == Freeze::All && self.patch == Patching::None {
            return Err(Error::user("--freeze all leaves nothing to train").hint("add --patch serial"));
        }
        self.loss().check(None)?;
        let finite = [
            ("lr", self.lr),
            ("weight-decay", self.weight_decay),
            ("clip", self.clip),
            ("init-std", self.init_std),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
        ];
        if let Some((name, x)) = finite.iter().find(|(_, x)| !x.is_finite() || *x < 0.0) {
            return Err(Error::user(format!("--{name} {x} is out of range")).hint("it must be a number of at least 0"));
        }
        if self.table_update == TableUpdate::Rows && self.loss == LossKind::Softmax {
            return Err(Error::user(
                "--table-update rows: full softmax has a gradient for every row of the item table",
            )
            .hint("use --loss sampled-softmax, bce, gbce or bpr, or leave --table-update out"));
        }
        let (_, task) = self.find()?;
        if self.table_update == TableUpdate::Rows && task.rated {
            return Err(Error::user(format!("--table-update rows: --task {} updates all rows", task.name))
                .hint("leave --table-update out"));
        }
        if self.table_update == TableUpdate::Rows && !self.rows_can_catch_up() {
            return Err(Error::user(format!("--beta1 {} and --beta2 {}", self.beta1, self.beta2))
                .hint("the square of beta1 must be below beta2, or rows cannot catch up: add --table-update dense"));
        }
        share("beta1", self.beta1)?;
        // Not a drop probability: only 1 itself is out.
        if self.beta2 < 1.0 { Ok(()) } else { share("beta2", self.beta2) }
    }

    /// The model and the task, which fit each other.
    ///
    /// # Errors
    /// There is none of that name; the model does not see what the task asks of it.
    pub fn find(&self) -> Result<(&'static models::Entry, &'static tasks::Entry)> {
        let model = models::find(&self.model)?;
        let fits = |task: &&tasks::Entry| task.suits(model);
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
            patch: self.patches(),
            touched: None,
        }
    }

    /// What the closed form of missed steps asks of the betas.
    fn rows_can_catch_up(&self) -> bool {
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
                self.loss != LossKind::Softmax && large && most < items && self.rows_can_catch_up()
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
    fn a_file_overrides_defaults_and_unknown_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.toml");
        std::fs::write(&path, "width = 64\nmask-last = 0.5\nnorm = \"pre\"\n").unwrap();
        let s = Settings::default().read(&path).unwrap();
        assert_eq!((s.width, s.mask_last, s.norm, s.blocks), (64, 0.5, NormPlace::Pre, 2));
        std::fs::write(&path, "dropuot = 0.3\n").unwrap();
        let e = Settings::default().read(&path).unwrap_err();
        assert!(e.to_string().contains("did you mean 'dropout'?"), "{e}");
        std::fs::write(&path, "width = \"wide\"\n").unwrap();
        assert!(Settings::default().read(&path).unwrap_err().what.contains("width"));
    }

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

    #[test]
    fn losses_that_make_no_sense_are_refused_with_advice() {
        use LossKind::{Bpr, Gbce, SampledSoftmax};
        let base = || Settings { loss: SampledSoftmax, ..Settings::default() };
        let in_batch = SamplerKind::InBatch;
        for (s, what) in [
            (Settings { negatives: 0, ..base() }, "0 negatives"),
            (Settings { loss: Gbce, gbce_t: 1.01, ..base() }, "t = 1.01"),
            (Settings { loss: Gbce, gbce_t: f32::NAN, ..base() }, "t = NaN"),
            (Settings { loss: Bpr, sampler: in_batch, ..base() }, "none in the batch"),
            (Settings { sampler: in_batch, per_position: true, ..base() }, "in-batch"),
            (Settings { sampler: in_batch, unique_negatives: true, ..base() }, "not uniform"),
            (Settings { sampler: SamplerKind::Popularity, unique_negatives: true, ..base() }, "not uniform"),
            (Settings { loss: Bpr, unique_negatives: true, ..base() }, "of each row's own"),
        ] {
            let error = s.check().expect_err(what);
            assert!(error.what.contains(what) && error.hint.is_some(), "{error}");
        }
        // What is not used is not judged.
        Settings { negatives: 0, gbce_t: 7.0, ..Settings::default() }.check().unwrap();
    }

    /// What could be written to a run's folder and not be read from it again.
    #[test]
    fn numbers_beyond_toml_are_refused() {
        let past = 1u64 << 63;
        for (s, name) in [
            (Settings { seed: past, ..Settings::default() }, "--seed 9223372036854775808"),
            (Settings { seed: u64::MAX, ..Settings::default() }, "--seed 18446744073709551615"),
            (Settings { warmup: past, ..Settings::default() }, "--warmup"),
            (Settings { targets: usize::MAX, ..Settings::default() }, "--targets"),
            (Settings { checkpoint_seconds: past, ..Settings::default() }, "--checkpoint-seconds"),
        ] {
            let error = s.check().unwrap_err();
            assert!(error.what.contains(name) && error.to_string().contains("9223372036854775807 at most"), "{error}");
        }
        let most = Settings { seed: past - 1, targets: usize::MAX / 2, ..Settings::default() };
        most.check().unwrap();
        assert_eq!(toml::from_str::<Settings>(&toml::to_string(&most).unwrap()).unwrap(), most);
    }

    #[test]
    fn heads_divide_the_width_of_models_that_have_heads() {
        for model in models::ALL {
            let user_width = if model.users { 8 } else { 0 };
            let s = Settings { model: model.name.into(), width: 10, heads: 4, user_width, ..Settings::default() };
            assert_eq!(s.check().is_err(), ["bert4rec", "sasrec"].contains(&model.name), "{}", model.name);
            Settings { heads: 5, ..s }.check().unwrap();
        }
    }

    #[test]
    fn out_of_range_settings_are_refused() {
        let bad = [
            Settings { heads: 3, ..Settings::default() },
            Settings { dropout: 1.0, ..Settings::default() },
            Settings { mask: -0.1, ..Settings::default() },
            Settings { length: 1, ..Settings::default() },
            Settings { lr: f32::NAN, ..Settings::default() },
            Settings { model: "bert5rec".into(), ..Settings::default() },
            Settings { batch: 0, ..Settings::default() },
            Settings { batch: usize::MAX, ..Settings::default() },
            Settings { blocks: usize::MAX, ..Settings::default() },
            Settings { ffn_ratio: usize::MAX, ..Settings::default() },
            Settings { width: 1 << 40, ..Settings::default() },
            Settings { negatives: 1 << 40, ..Settings::default() },
        ];
        for s in bad {
            assert!(s.check().is_err(), "{s:?}");
        }
    }
}
