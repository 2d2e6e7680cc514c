/*! Tasks, one file each. A task turns a batch of sequences into questions, computes the loss of the answers, and
defines the queries of a trained model. The list [`for_all_tasks!`](crate::for_all_tasks) gives each task its name on
the command line, and tests of a training step with every model that supports its view.
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

/// A loss: it draws negatives, scores rows, computes the gradients of the rows, and sums the gradients of tables.
pub trait Objective {
    /// Writes what it needs of the data, once.
    ///
    /// # Errors
    /// The data do not fit the loss.
    fn prepare(&self, b: &mut dyn Backend, summary: &DataSummary) -> Result<()> {
        let _ = (b, summary);
        Ok(())
    }

    /// Draws the negatives of a batch; the batch has been made.
    fn begin(&self, b: &mut dyn Backend, s: &BatchShape) {
        let _ = (b, s);
    }

    /// Writes the mean loss of the scored rows to its value.
    fn forward(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Writes the gradients of the scored rows.
    fn backward(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Sums the gradients of tables, after the model has written the gradients of the rows that it uses.
    fn tables(&self, b: &mut dyn Backend, s: &BatchShape) {
        let _ = (b, s);
    }

    /// Returns (1) the mean loss of the batch.
    fn value(&self) -> Span<F32>;

    /// Returns the sorted ids of the rows of the item table that a batch touches, if it is updated by rows, and their
    /// number.
    fn keys(&self, s: &BatchShape) -> (Span<U32>, usize) {
        let _ = s;
        (Span::empty(), 0)
    }

    /// Returns (M) the target items and (M) their weights, for a batch made elsewhere; `None` if there are no target
    /// items.
    fn targets(&self) -> Option<(Span<U32>, Span<F32>)> {
        None
    }
}

/// A planned task. The engine makes a batch and runs the model forward, the loss forward and backward, and the model
/// backward. Last, the loss sums the gradients of tables that both use rows of.
pub trait Task: Send + Sync + std::fmt::Debug {
    fn batches(&self) -> &Batches;
    fn batches_mut(&mut self) -> &mut Batches;

    /// Reads what it needs of the data, once.
    fn learn(&mut self, summary: &DataSummary) {
        let _ = summary;
    }

    /// Returns itself if it predicts ratings: its queries have ratings, not only histories.
    fn rating(&self) -> Option<&Rating> {
        None
    }

    /// Returns the number of scored rows of a sequence of `len` items.
    fn scored(&self, epoch: u32, user: u64, len: usize) -> usize;

    /// Makes the questions: `item`, `pos` and `row` of the input, from the uploaded header and sequences.
    fn make(&self, b: &mut dyn Backend, s: &BatchShape);

    /// Returns whether a query is a user's last basket and not the whole history.
    fn last_basket(&self) -> bool {
        false
    }

    /// Returns the loss of the scored rows.
    fn objective(&self) -> &dyn Objective;

    /// Adds a history as a query: its newest items and the scored row. Validation, evaluation and recommendation all
    /// use it.
    fn push_query(&self, input: &mut HostInput, history: &[u32]);

    /// Adds the sequence of `user` to a batch, or a window of it if it is too long.
    fn push(&self, batch: &mut Batch, user: u64, sequence: Sequence<'_>) {
        let epoch = batch.header.epoch();
        self.batches().push(batch, user, sequence, |len| self.scored(epoch, user, len));
    }

    /// Writes the batch of step `step`, ready for [`Task::make`].
    fn upload(&self, b: &mut dyn Backend, batch: &mut Batch, step: u32) -> BatchShape {
        self.batches().upload(b, batch, step)
    }
}

/// The definition of a task in the list.
pub trait TaskDefinition: Task + Sized + 'static {
    /// The name on the command line.
    const NAME: &'static str;
    /// One line: what it predicts.
    const ABOUT: &'static str;
    /// The context that a model must see.
    const VIEW: View;
    /// The settings that this task uses and other tasks do not.
    const USES: &'static [&'static str] = &[];
    /// Ids behind the catalogue; the first is [MASK].
    const SPECIAL: usize = 1;
    /// Shortest sequence that it trains on.
    const SHORTEST: usize = 1;
    /// Whether the device may hold the data and gather batches there; otherwise the host makes them.
    const HOLDS: bool = true;
    /// Whether it predicts ratings: it accepts [`Sequence::Rated`], of data with ratings.
    const RATED: bool = false;
    /// Whether it trains on pairs of baskets ([`Pairs`]).
    const BASKETS: bool = false;
    /// Number of segments of a sequence, which replace positions: the `pos` of a row is its segment. 0: positions.
    const SEGMENTS: usize = 0;

    /// Returns the maximum number of scored rows of one sequence.
    fn most_scored(c: &TaskSettings) -> usize;

    /// Returns the maximum number of rows of the item table that a batch touches; `None` means all of them.
    fn touched(c: &TaskSettings, capacity: &Capacity) -> Option<usize> {
        Loss::touched(&c.loss, capacity)
    }

    /// Plans the task; `value` (1) receives the mean loss of a batch.
    ///
    /// # Errors
    /// Settings contradict each other or do not fit the catalogue.
    fn plan(p: &mut Planner, c: &TaskSettings, r: Representations, input: &Input, value: Span<F32>) -> Result<Self>;
}

/// The settings of a task, from the command line or a settings file.
#[derive(Clone, Copy, Debug)]
pub struct TaskSettings {
    /// Share of positions to mask: round(share * length), at least 1.
    pub mask: f32,
    /// Share of sequences in which only the last position is masked, always by [MASK].
    pub mask_last: f32,
    /// Target items per row, for a task that predicts next items.
    pub targets: usize,
    /// Maximum sequence length (T); a random window is drawn from longer ones.
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

/// An entry of the list of tasks.
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
    /// Returns whether `model` supports what the task requires.
    pub fn suits(&self, model: &models::ModelEntry) -> bool {
        let takes = if self.rated { model.takes.ratings() } else { model.takes.items() };
        model.views.contains(&self.view) && takes && (model.baskets || !self.baskets)
    }
}

/// Returns the names of all tasks.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|t| t.name).collect()
}

/// Returns the task called `name`.
///
/// # Errors
/// There is no such task.
pub fn find(name: &str) -> Result<&'static TaskEntry> {
    ALL.iter()
        .find(|t| t.name == name)
        .ok_or_else(|| Error::user(format!("there is no task '{name}'")).hint(format!("tasks: {}", names().join(", "))))
}
