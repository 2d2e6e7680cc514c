//! (being built)

pub mod cut;
pub mod split;
pub mod standin;

pub use standin::{Dataset, Vocab, digits};
