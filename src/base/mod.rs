//! Shared foundations: errors with hints, counter-based random numbers, and distributions to draw from.

pub mod alias;
pub mod atomic;
pub mod error;
pub mod rng;

pub use error::{Error, Result};
