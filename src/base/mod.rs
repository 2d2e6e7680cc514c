//! What every other part may use: errors that tell the user what to do, and counter-based random numbers.

pub mod atomic;
pub mod error;
pub mod rng;

pub use error::{Error, Result};
