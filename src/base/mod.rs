//! Shared foundations: errors with hints, notices, counter-based random numbers, distributions to draw from, text
//! tables.

pub mod alias;
pub mod atomic;
pub mod error;
pub mod notice;
pub mod rng;
pub mod table;

pub use error::{Error, Result};
pub use notice::Notice;
