/*! The training loop, without autograd: settings, training steps, runs with checkpoints, transfer from another
run, and trained models.
*/

pub mod base;
pub mod check;
pub mod checkpoint;
mod choices;
pub mod clicks;
mod columns;
mod encoder;
pub mod engine;
pub mod estimate;
pub mod export;
pub mod finetune;
pub mod finish;
pub mod folder;
mod freeze;
mod fresh;
mod in_range;
pub mod lineage;
mod loader;
mod memory;
mod opened;
pub mod origin;
mod ranges;
pub mod ratings;
pub mod resolve;
pub mod run;
pub mod schedule;
pub mod scoring;
pub mod settings;
pub mod side_tables;
mod step_plan;
pub mod trained;
pub mod transfer;
pub mod uses;

pub use engine::{Engine, StepReport};
pub use finetune::Pretrained;
pub use folder::{RunConfig, RunFolder};
pub use freeze::Freeze;
pub use loader::BatchLoader;
pub use memory::MemoryPlan;
pub use opened::{OpenRun, lineage_notes};
pub use origin::{FreshRows, Origin, Transfer, Which};
pub use run::{TrainEvent, train};
pub use settings::{Differs, Flags, Listed, Numbers, Patching, Settings, TableUpdate};
pub use side_tables::SideTables;
pub use trained::Trained;
pub use transfer::Carried;
