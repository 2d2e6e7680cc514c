/*! The training loop without autograd: settings, one step, the run with its checkpoints, and a trained model to ask. */

pub mod check;
pub mod checkpoint;
pub mod engine;
pub mod run;
pub mod schedule;
pub mod scoring;
pub mod settings;
pub mod trained;

pub use engine::{Engine, MemoryPlan, StepReport};
pub use run::{Event, RunFolder, train};
pub use settings::{Flags, Settings, TableUpdate};
pub use trained::{Trained, Which};
