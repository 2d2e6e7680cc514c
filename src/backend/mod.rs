/*! Who runs operations. [`reference`] is the oracle (plain loops, f64 or f32), [`cpu`] is the fast one for machines
without a GPU. Backends know neither layers, models nor data, nor each other; only this file knows them all.
*/

pub mod cpu;
pub mod reference;
pub mod simt;
pub mod wrap;

pub use cpu::Cpu;
pub use reference::Reference;

use serde::{Deserialize, Serialize};

use crate::{mem::Planner, ops::Backend};

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The fastest there is; says what it chose.
    #[default]
    Auto,
    /// All cores of this machine.
    Cpu,
    /// Plain loops in f32, for comparison: slow.
    Reference,
}

/// Code that is generic over the backend, waiting for one.
pub trait WithBackend {
    type Out;
    fn call<B: Backend + 'static>(self, open: fn(&Planner) -> B) -> Self::Out;
}

/// Calls `code` with the backend of `device`.
pub fn with<W: WithBackend>(device: Device, code: W) -> W::Out {
    match device {
        Device::Auto | Device::Cpu => code.call(Cpu::new),
        Device::Reference => code.call(Reference::<f32>::new),
    }
}
