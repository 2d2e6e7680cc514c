//! The origin of a run: the base run, its checkpoint, what is copied, and how fresh rows are initialised.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The weights with the best validation.
    Best,
    /// The newest weights.
    Last,
}

/// What is copied from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Nothing: the same network from scratch, as a baseline.
    None,
    /// Tables: items, users, fields, positions.
    Embedding,
    /// Every tensor; all are trained.
    Model,
    /// Every tensor, frozen; small patches are trained instead.
    Patch,
}

impl Transfer {
    /// Whether layers are copied, not only tables.
    pub fn layers(self) -> bool {
        matches!(self, Transfer::Model | Transfer::Patch)
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transfer::None => "none",
            Transfer::Embedding => "embedding",
            Transfer::Model => "model",
            Transfer::Patch => "patch",
        })
    }
}

/// How rows of items, users and field values that the base does not have are initialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FreshRows {
    /// At random, as in a new run.
    #[default]
    Random,
    /// The mean of the known rows (for field values: of the same field) plus a random draw.
    Mean,
    /// For items: the mean over the item's field values (genres, director, …) of the known items with that
    /// value, plus a random draw. As `mean` for an item that shares no value with a known one, and for users
    /// and field values.
    Content,
}

/// The origin of a run (`[from]` in its config.toml).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Folder of the base run.
    pub run: PathBuf,
    /// Which of its checkpoints.
    pub checkpoint: Which,
    /// SHA-256 of that checkpoint.
    pub sha256: String,
    pub transfer: Transfer,
    #[serde(alias = "fresh_items")]
    pub fresh_rows: FreshRows,
}

/// The keys that the rows of a parameter belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Items,
    Users,
    Fields,
    /// The rows have no keys: the tensor is copied as a whole or not at all.
    Whole,
}

pub(super) fn rows_of(name: &str) -> Rows {
    match name.split('.').next() {
        Some("item") => Rows::Items,
        Some("user") => Rows::Users,
        Some("field") => Rows::Fields,
        _ => Rows::Whole,
    }
}
