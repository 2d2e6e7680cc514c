/*! Models, one file each. A model turns a batch of item sequences into [`Representations`]; what it is trained for is the
business of a task. Being in the list of [`for_all_models!`](crate::for_all_models) gives a model its name on the command
line, and its gradient, parity and overfit tests.
*/

pub mod bert4rec;

pub use bert4rec::Bert4Rec;

use crate::{
    base::Result,
    layers::{Input, Shape},
    mem::{Param, Planner, Var},
    ops::Backend,
};

/// Where models and tasks meet.
#[derive(Clone, Debug)]
pub struct Representations {
    /// (V + special ids, D): the item table, also the output layer.
    pub item: Param,
    /// (V) added to the scores.
    pub item_bias: Param,
    /// (N,D) the rows that the model took from the item table; only their gradient is meant.
    pub rows: Var,
    /// (M,D) the scored rows, ready for the product with the item table.
    pub scored: Var,
    /// Width (D).
    pub d: usize,
    /// Items of the catalogue (V): rows 0..V of the table; special ids follow.
    pub v: usize,
}

/// A model over item sequences. Dimensions come from the settings and the data; `plan` lays out parameters and
/// activations, the rest only runs ops.
pub trait Model: Sized + Send + Sync {
    const NAME: &'static str;

    /// # Errors
    /// Settings that contradict each other (heads not dividing the width).
    fn plan(p: &mut Planner, settings: &ModelSettings, items: usize, input: &Input, seed: u64) -> Result<Self>;

    fn forward<B: Backend>(&self, b: &mut B, s: &Shape);

    /// From the gradient of the scored rows to the gradients of all parameters but the item table and its bias, which the
    /// loss sums: the model leaves the gradients of the rows that it took ([`Representations::rows`]).
    fn backward<B: Backend>(&self, b: &mut B, s: &Shape);

    fn representations(&self) -> Representations;
}

/// What shapes a model, as given on the command line or in a settings file.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Width of all representations (D).
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Feed-forward width as a multiple of D.
    pub ffn_ratio: usize,
    pub norm: crate::layers::NormPlace,
    pub dropout: f32,
    pub attention_dropout: f32,
    /// Whether a dense layer with GELU and norm stands between the last block and the item table.
    pub projection: bool,
    pub init_std: f32,
    /// Rows of the item table that a step touches at most, where the table is updated by rows; `None`: all are updated.
    pub touched: Option<usize>,
}

/// Calls a macro with all models.
#[macro_export]
macro_rules! for_all_models {
    ($each:ident) => {
        $each! { Bert4Rec }
    };
}

macro_rules! names {
    ($($model:ident),*) => {
        /// The names of all models, as typed on the command line.
        pub const NAMES: &[&str] = &[$(<$model as Model>::NAME),*];
    };
}
for_all_models!(names);

/// Code that is generic over the model, waiting for one.
pub trait WithModel {
    type Out;
    fn call<M: Model + 'static>(self) -> Self::Out;
}

macro_rules! by_name {
    ($($model:ident),*) => {
        /// Calls `code` with the model called `name`.
        ///
        /// # Errors
        /// There is no such model.
        pub fn with<W: WithModel>(name: &str, code: W) -> Result<W::Out> {
            $(if name == <$model as Model>::NAME {
                return Ok(code.call::<$model>());
            })*
            Err(crate::base::Error::user(format!("there is no model '{name}'"))
                .hint(format!("models: {}", NAMES.join(", "))))
        }
    };
}
for_all_models!(by_name);
