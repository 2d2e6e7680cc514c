/*! Models, one file each. A model turns a batch of item sequences into [`Representations`]. The task defines the
training objective. Each model in the list of [`for_all_models!`](crate::for_all_models) has its name on the command
line, and runs the gradient, parity, overfit, resume and transfer tests.
*/

pub mod bert4rec;
pub mod caser;
pub mod dacf;
pub mod gru4rec;
pub mod mlp;
pub mod peterrec;
pub mod sasrec;

pub use bert4rec::Bert4Rec;
pub use caser::Caser;
pub use dacf::Dacf;
pub use gru4rec::Gru4Rec;
pub use mlp::Mlp;
pub use peterrec::PeterRec;
pub use sasrec::SasRec;

use std::sync::{PoisonError, RwLock};

use crate::{
    base::{Error, Result},
    layers::{
        BatchShape, BlockConfig, DataSummary, Embed, EmbedConfig, Input, Join, NormPlace, PatchConfig, RatedConfig,
        RatingScale, SideConfig, View,
    },
    mem::{Param, Planner, Var},
    ops::Backend,
};

/// The interface between models and tasks.
#[derive(Clone, Debug)]
pub struct Representations {
    /// (V + special ids, D): the output table. In most models it is also the input table.
    pub item: Param,
    /// (V) biases added to the scores.
    pub item_bias: Param,
    /// (N,D) the rows that the model took from the output table; only their gradient is used. `None`: the input has its
    /// own table, and the model handles its gradient.
    pub rows: Option<Var>,
    /// (M,D) the scored rows, ready for the product with the item table.
    pub scored: Var,
    /// Width (D).
    pub d: usize,
    /// Items of the catalogue (V): rows 0..V of the table. Special ids follow.
    pub v: usize,
}

impl Representations {
    /// Creates representations scored by the table that the input takes its rows from.
    pub fn tied(embed: &Embed, item_bias: &Param, scored: Var) -> Self {
        Representations { rows: Some(embed.sum), ..Self::own(&embed.item, item_bias, scored) }
    }

    /// Creates representations scored by a table that no input reads.
    pub fn own(item: &Param, item_bias: &Param, scored: Var) -> Self {
        let (d, v) = (item.shape[1], item_bias.shape[0]);
        Representations { item: item.clone(), item_bias: item_bias.clone(), rows: None, scored, d, v }
    }
}

/// A planned model. `plan` laid out parameters and activations; these methods only run ops.
pub trait Network: Send + Sync + std::fmt::Debug {
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Computes the gradients of all parameters but the output table and its bias from the gradient of the scored rows.
    /// The loss sums these two. The model provides the gradients of the rows that it took ([`Representations::rows`]).
    fn backward(&self, b: &mut dyn Backend, s: &BatchShape);

    fn representations(&self) -> Representations;

    /// Writes the data that the network needs, once.
    ///
    /// # Errors
    /// The network cannot use the data.
    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        let _ = (b, summary);
        Ok(())
    }
}

/// A model over item sequences.
pub trait Model: Network + Sized + 'static {
    /// Name on the command line.
    const NAME: &'static str;
    /// One-line description with its source.
    const ABOUT: &'static str;
    /// A few words for lists of names, or empty.
    const NOTE: &'static str = "";
    /// The supported views, the original one first.
    const VIEWS: &'static [View];
    /// The settings that this model uses and other models do not.
    const USES: &'static [&'static str] = &[];
    /// Whether its blocks support patches.
    const PATCHES: bool = false;
    /// The supported kinds of rows.
    const TAKES: Takes = Takes::Items;
    /// Whether it reads baskets: rows without order, where the first row predicts for all of them.
    /// A window or a recurrence that ends at a row, and a convolution that depends on order, do not support them.
    const BASKETS: bool = false;
    /// Whether it can represent a sequence by its user alone.
    const USERS: bool = false;

    /// Plans the model.
    ///
    /// # Errors
    /// The settings contradict each other.
    fn plan(p: &mut Planner, c: &Context) -> Result<Self>;
}

/// The kind of rows of a model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Items.
    Items,
    /// Items with ratings.
    Ratings,
    /// Either.
    Both,
}

impl Takes {
    pub fn items(self) -> bool {
        match self {
            Takes::Items | Takes::Both => true,
            Takes::Ratings => false,
        }
    }

    pub fn ratings(self) -> bool {
        match self {
            Takes::Ratings | Takes::Both => true,
            Takes::Items => false,
        }
    }
}

/// The inputs of model planning: settings, data, batches, and the task's requirements.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub settings: &'a ModelSettings,
    pub summary: &'a DataSummary,
    /// Items of the catalogue (V).
    pub items: usize,
    /// Number of ids after the catalogue. The first is [MASK].
    pub special: usize,
    /// Segments of a sequence, used instead of positions.
    pub segments: usize,
    pub input: &'a Input,
    pub view: View,
    /// The scale of the ratings of the rows, for rating tasks.
    pub ratings: Option<&'a RatingScale>,
    pub seed: u64,
}

impl Context<'_> {
    /// Returns the usual input of a sequence model.
    pub fn embed(&self, positions: bool) -> EmbedConfig {
        let c = self.settings;
        EmbedConfig {
            rows: self.items + self.special,
            d: c.width,
            touched: c.touched,
            positions,
            rated: self.ratings.map(|scale| RatedConfig {
                classes: scale.levels.len() + 1,
                width: c.rating_width,
                std: c.init_std,
            }),
            segments: self.segments,
            side: self.side(),
            norm: false,
            dropout: c.dropout,
            std: c.init_std,
        }
    }

    /// Returns the side inputs of the items, if any.
    fn side(&self) -> Option<SideConfig> {
        let (c, summary) = (self.settings, self.summary);
        let fields = c.fields.then(|| (summary.fields.size(), c.field_width));
        let users = (c.user_width > 0).then_some((summary.users, c.user_width));
        let any = fields.is_some() || users.is_some() || c.keep_side;
        any.then_some(SideConfig { fields, users, join: c.join, std: c.init_std })
    }

    /// Returns the usual transformer block.
    pub fn block(&self) -> BlockConfig {
        let c = self.settings;
        BlockConfig {
            d: c.width,
            heads: c.heads,
            f: c.width * c.ffn_ratio,
            norm: c.norm,
            causal: self.view.is_causal(),
            dropout: c.dropout,
            attention_dropout: c.attention_dropout,
            std: c.init_std,
            patch: c.patch,
        }
    }
}

/// The shape of a model, as given on the command line or in a settings file.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Width of all representations (D).
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Feed-forward width as a multiple of D.
    pub ffn_ratio: usize,
    pub norm: NormPlace,
    pub dropout: f32,
    pub attention_dropout: f32,
    /// Whether a dense layer with GELU and norm lies between the last block and the item table.
    pub projection: bool,
    pub init_std: f32,
    /// Taps of a dilated convolution (W).
    pub taps: usize,
    /// Dilations of the convolution blocks, repeated in a cycle.
    pub dilations: Vec<usize>,
    /// Rows of a window (L), horizontal filters of each height and vertical filters (Caser).
    pub window: usize,
    pub horizontal: usize,
    pub vertical: usize,
    /// Width of a rating's vector next to the item's. 0: it is added to the item's vector.
    pub rating_width: usize,
    /// Width of user vectors. 0: users have none.
    pub user_width: usize,
    /// Whether items have side fields, and the width of each.
    pub fields: bool,
    pub field_width: usize,
    pub join: Join,
    /// Whether the dense layer of both is kept without them.
    pub keep_side: bool,
    /// Patches of a network for fine-tuning.
    pub patch: Option<PatchConfig>,
    /// Largest number of item table rows that a step touches, where the table is updated by rows. `None`: all rows are
    /// updated.
    pub touched: Option<usize>,
}

/// Calls a macro with all models.
#[macro_export]
macro_rules! for_all_models {
    ($each:ident) => {
        $each! { Bert4Rec, SasRec, Gru4Rec, PeterRec, Caser, Dacf, Mlp }
    };
}

/// An entry of the list of models.
#[derive(Clone, Copy, Debug)]
pub struct ModelEntry {
    pub name: &'static str,
    pub about: &'static str,
    pub note: &'static str,
    pub views: &'static [View],
    pub uses: &'static [&'static str],
    pub patches: bool,
    pub takes: Takes,
    pub baskets: bool,
    pub users: bool,
    /// Plans the model. The view is one of its supported views.
    pub plan: fn(&mut Planner, &Context) -> Result<Box<dyn Network>>,
}

impl ModelEntry {
    /// Its name, with its note in brackets.
    pub fn listed(&self) -> String {
        if self.note.is_empty() { self.name.into() } else { format!("{} ({})", self.name, self.note) }
    }
}

impl ModelEntry {
    /// Returns the entry of a model.
    const fn of<M: Model>() -> ModelEntry {
        ModelEntry {
            name: M::NAME,
            about: M::ABOUT,
            note: M::NOTE,
            views: M::VIEWS,
            uses: M::USES,
            patches: M::PATCHES,
            takes: M::TAKES,
            baskets: M::BASKETS,
            users: M::USERS,
            plan: |p, c| Ok(Box::new(M::plan(p, c)?)),
        }
    }
}

macro_rules! list {
    ($($model:ident),*) => {
        /// The models of this crate.
        pub const ALL: &[ModelEntry] = &[$(ModelEntry::of::<$model>()),*];
    };
}
for_all_models!(list);

/// The models of other crates.
static REGISTERED: RwLock<Vec<&'static ModelEntry>> = RwLock::new(Vec::new());

/// Adds a model of another crate. Commands, settings files, runs and checks then find it by its name. A program that
/// opens a run of the model must register it first.
///
/// # Errors
/// The name is taken.
pub fn register<M: Model>() -> Result<()> {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if ALL.iter().chain(registered.iter().copied()).any(|m| m.name == M::NAME) {
        return Err(Error::user(format!("there is already a model '{}'", M::NAME)).hint("give it another NAME"));
    }
    registered.push(Box::leak(Box::new(ModelEntry::of::<M>())));
    Ok(())
}

/// Returns the models of this crate, then the registered ones.
pub fn all() -> Vec<&'static ModelEntry> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    ALL.iter().chain(registered.iter().copied()).collect()
}

/// Returns the names of all models.
pub fn names() -> Vec<&'static str> {
    all().iter().map(|m| m.name).collect()
}

/// Returns the model called `name`.
///
/// # Errors
/// There is no such model.
pub fn find(name: &str) -> Result<&'static ModelEntry> {
    all().into_iter().find(|m| m.name == name).ok_or_else(|| {
        Error::user(format!("there is no model '{name}'")).hint(format!("models: {}", names().join(", ")))
    })
}
