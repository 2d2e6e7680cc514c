/*! Pre-trains sequential recommenders by masked item prediction (MIP).

The rooms, in layer order (a room may use those before it; `tests/layering.rs` checks it):

| room | what stands in it |
|---|---|
| [`base`] | errors, counter-based random numbers |
| [`mem`] | handles to planned memory, the planner, host arenas |
| [`ops`] | what an operation is: its spans and sizes, its reference, its cases |
| [`backend`] | who runs operations: `reference` (the oracle), `cpu` |
| [`data`] | importing logs, memory-mapped shards, splits |
| [`layers`], [`models`] | forward and backward of the building blocks, one file a model |
| [`tasks`] | what a model is trained to do: corrupt, score, loss |
| [`eval`] | ranking, metrics, baselines |
| [`train`] | the loop, optimiser settings, checkpoints |
| [`page`] | pages and plots that need nothing else |
| [`measure`] | how fast it is: ops beside what the machine can do, steps of a run |
| [`experiment`] | grids of runs, what came out of them, and whether it is more than luck |
| [`cli`] | the command line: the only room that prints or exits |
*/

// Formulas in the documentation index with brackets, w[item], and [MASK] is a name: rustdoc takes both for links.
#![allow(rustdoc::broken_intra_doc_links)]

mod api;
pub mod backend;
pub mod base;
pub mod cli;
pub mod data;
pub mod eval;
pub mod experiment;
pub mod layers;
pub mod measure;
pub mod mem;
pub mod models;
pub mod ops;
pub mod page;
pub mod recommender;
pub mod tasks;
pub mod train;

pub use api::{Run, TrainedRun, Training};
pub use backend::Device;
pub use base::{Error, Result, error::ErrorKind};
pub use data::{Dataset, ImportOptions, ImportSummary, Vocab, import, import_sample, split::SplitSpec};
pub use eval::Evaluation;
pub use recommender::{Item, Recommendation, Recommender, Rejected, Request, Service, ServiceOptions};
pub use train::{Settings, TrainEvent, Which};
