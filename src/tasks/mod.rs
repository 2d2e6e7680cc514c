/*! Tasks, one file each: how a batch of sequences is made into questions, the loss of the answers, and how a trained model
is asked. Being in the list of [`for_all_tasks!`](crate::for_all_tasks) gives a task its name on the command line, and with
every model that has its view the tests of a training step.
*/

pub mod basket_pairs;
pub mod batch;
pub mod loss;
pub mod masked_item;
pub mod negatives;
pub mod next_basket;
pub mod next_item;
pub mod rating;

pub use basket_pairs::Pairs;
pub use batch::{Batch, Batches, Sequence};
pub use loss::{Loss, LossKind, LossSettings};
pub use masked_item::MaskedItem;
pub use negatives::{Sampler, SamplerKind, SamplerSettings};
pub use next_basket::NextBasket;
pub use next_item::NextItem;
pub use rating::Rating;

use crate::{
    base::{Error, Result},
    layers::{BatchShape, Capacity, DataSummary, HostInput, Input, View},
    mem::{F32, Planner, Span, U32},
    models::{self, Representations},
    ops::Backend,
};

/// A loss: draws what it compares with, judges the scored rows, goes back to them, and sums up the gradients of tables.
pub trait Objective {
    /// Writes what it must have of the data, once.
    ///
    /// # Errors
    /// Data that it cannot be told of.
    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        let _ = (b, summary);
        Ok(())
    }

    /// Draws what the batch is compared with; it has been made.
    fn begin(&self, b: &mut dyn Backend, s: &BatchShape) {
        let _ = (b, s);
    }

    /// Mean loss of the scored rows into its value.
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Writes the gradients of the scored rows.
    fn backward(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Sums the gradients of tables, once the model has left those of the rows that it took.
    fn tables(&self, b: &mut dyn Backend, s: &BatchShape) {
        let _ = (b, s);
    }

    /// (1) mean loss of the batch.
    fn value(&self) -> Span<F32>;

    /// The sorted ids of the rows of the item table that a batch touches, where it is updated by rows, and how many they are.
    fn keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        let _ = s;
        (Span::empty(), 0)
    }

    /// (M) the items asked for and (M) what each counts: for a batch that is made elsewhere. `None`: it asks for no items.
    fn targets(&self) -> Option<(Span<U32>, Span<F32>)> {
        None
    }
}

/// What a planned task does. The engine makes a batch, has the model go forward, the task judge and go back, the model go
/// back, and at last the task sum up the gradients of tables that both took rows from.
pub trait Task: Send + Sync + std::fmt::Debug {
    fn batches(&self) -> &Batches;
    fn batches_mut(&mut self) -> &mut Batches;

    /// Takes what it must know of the data, once.
    fn learn(&mut self, summary: &DataSummary) {
        let _ = summary;
    }

    /// Itself, where it is about ratings: it is asked by these, not by histories alone.
    fn rating(&self) -> Option<&Rating> {
        None
    }

    /// Rows that are scored of a sequence of `len` items.
    fn scored(&self, epoch: u32, user: u64, len: usize) -> usize;

    /// Makes the questions: `item`, `pos` and `row` of the input out of the head and the sequences that were uploaded.
    fn make(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Whether a query is a user's last basket, not all of the history.
    fn last_basket(&self) -> bool {
        false
    }

    /// The loss of the scored rows.
    fn objective(&self) -> &dyn Objective;

    /// Adds a history to be continued, as it is asked about: the newest items of it, and the scored row. The one routine for
    /// validation, evaluation and recommendation.
    fn push_query(&self, input: &mut HostInput, history: &[u32]);

    /// Adds the sequence of `user` to a batch: a window of it, where it is too long.
    fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>) {
        let epoch = batch.header.epoch();
        self.batches().push(batch, user, sequence, |len| self.scored(epoch, user, len));
    }

    /// Writes the batch of step `step`, for [`Task::make`] to go on with.
    fn upload(&self, b: &mut dyn Backend, batch: &mut Batch, step: u32) -> BatchShape {
        self.batches().upload(b, batch, step)
    }
}

/// A task of the list.
pub trait TaskDefinition: Task + Sized + 'static {
    /// As typed on the command line.
    const NAME: &'static str;
    /// One line: what it asks.
    const ABOUT: &'static str;
    /// What a model must see to answer.
    const VIEW: View;
    /// The settings that it listens to and other tasks do not.
    const USES: &'static [&'static str] = &[];
    /// Ids behind the catalogue; the first is [MASK].
    const SPECIAL: usize = 1;
    /// Shortest sequence that it learns from.
    const SHORTEST: usize = 1;
    /// Whether the device may hold the data and gather batches there; where not, the host makes them.
    const HOLDS: bool = true;
    /// Whether it is about ratings: it takes [`Sequence::Rated`] of data that have them.
    const RATED: bool = false;
    /// Whether it learns from pairs of baskets ([`Pairs`]).
    const BASKETS: bool = false;
    /// Segments of a sequence, which take the place of positions: the `pos` of a row is its segment. 0: positions.
    const SEGMENTS: usize = 0;

    /// Rows that are scored of one sequence, at most.
    fn most_scored(c: &TaskSettings) -> usize;

    /// Rows of the item table that a batch touches at most; `None`: all of them.
    fn touched(c: &TaskSettings, capacity: &Capacity) -> Option<usize> {
        Loss::touched(&c.loss, capacity)
    }

    /// `value` (1): where the mean loss of a batch goes.
    ///
    /// # Errors
    /// Settings that contradict each other or do not fit the catalogue.
    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self>;
}

/// What shapes a task, as given on the command line or in a settings file.
#[derive(Clone, Copy, Debug)]
pub struct TaskSettings {
    /// Share of positions to hide: round(share * length), at least 1.
    pub mask: f32,
    /// Share of sequences of which only the last position is hidden, always behind [MASK].
    pub mask_last: f32,
    /// Items that a row is asked for, where the task asks for the next ones.
    pub targets: usize,
    /// Longest sequence (T): of longer ones a random window is taken.
    pub length: usize,
    pub loss: LossSettings,
    pub seed: u64,
}

/// Calls a macro with all tasks.
#[macro_export]
macro_rules! for_all_tasks {
    ($each:ident) => {
        $each! { MaskedItem, NextItem, NextBasket, Rating }
    };
}

/// A task of the list.
#[derive(Clone, Copy, Debug)]
pub struct TaskEntry {
    pub name: &'static str,
    pub about: &'static str,
    pub view: View,
    pub uses: &'static [&'static str],
    pub special: usize,
    pub shortest: usize,
    pub holds: bool,
    pub rated: bool,
    pub baskets: bool,
    pub segments: usize,
    pub most_scored: fn(&TaskSettings) -> usize,
    pub touched: fn(&TaskSettings, &Capacity) -> Option<usize>,
    #[allow(clippy::type_complexity)]
    pub plan: fn(&mut Planner, &TaskSettings, Representations, &Input, Span<F32>) -> Result<Box<dyn Task>>,
}

macro_rules! list {
    ($($task:ident),*) => {
        /// All tasks.
        pub const ALL: &[TaskEntry] = &[$(TaskEntry {
            name: $task::NAME,
            about: $task::ABOUT,
            view: $task::VIEW,
            uses: $task::USES,
            special: $task::SPECIAL,
            shortest: $task::SHORTEST,
            holds: $task::HOLDS,
            rated: $task::RATED,
            baskets: $task::BASKETS,
            segments: $task::SEGMENTS,
            most_scored: $task::most_scored,
            touched: $task::touched,
            plan: |p, c, r, input, value| Ok(Box::new($task::plan(p, c, r, input, value)?)),
        }),*];
    };
}
for_all_tasks!(list);

impl TaskEntry {
    /// Whether `model` sees what the task asks of it.
    pub fn suits(&self, model: &models::ModelEntry) -> bool {
        let takes = if self.rated { model.takes.ratings() } else { model.takes.items() };
        model.views.contains(&self.view) && takes && (model.baskets || !self.baskets)
    }
}

/// The names of all tasks.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|t| t.name).collect()
}

/// The task called `name`.
///
/// # Errors
/// There is no such task.
pub fn find(name: &str) -> Result<&'static TaskEntry> {
    ALL.iter()
        .find(|t| t.name == name)
        .ok_or_else(|| Error::user(format!("there is no task '{name}'")).hint(format!("tasks: {}", names().join(", "))))
}
