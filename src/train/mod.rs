/*! The training loop without autograd: settings, one step, the run with its checkpoints, what it takes
over from another run, and a trained model to ask. */

pub mod check;
pub mod checkpoint;
pub mod clicks;
pub mod engine;
mod freeze;
pub mod lineage;
mod parts;
pub mod ratings;
pub mod run;
pub mod schedule;
pub mod scoring;
pub mod settings;
pub mod sides;
pub mod trained;
pub mod transfer;

pub use engine::{Engine, MemoryPlan, StepReport};
pub use freeze::Freeze;
pub use run::{Event, RunFolder, train};
pub use settings::{Flags, Patching, Settings, TableUpdate};
pub use sides::Sides;
pub use trained::{Trained, Which};
pub use transfer::{Carried, FreshRows, Origin, Transfer};
