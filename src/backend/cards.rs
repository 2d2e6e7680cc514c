//! GPUs: what they report, and whether this program can use them.

use crate::base::Result;

#[derive(Debug)]
pub struct Gpus {
    /// CUDA version of the driver.
    pub driver: (i32, i32),
    pub cards: Vec<Gpu>,
}

/// The properties that a GPU reports.
#[derive(Clone, Debug)]
pub struct Card {
    pub ordinal: usize,
    pub name: String,
    pub capability: (i32, i32),
    pub memory_bytes: usize,
    pub free_bytes: usize,
    pub multiprocessors: i32,
    /// Shared memory that a block may request.
    pub shared_bytes: i32,
}

#[derive(Debug)]
pub struct Gpu {
    pub card: Card,
    /// Description of the code that would run on it, or the reason why none can.
    pub usable: Result<String>,
}
