//! Where a run comes from: the base run, its checkpoint, what is taken over, and how rows start that the base does not know.

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

/// What is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Nothing: the same network, to compare with.
    None,
    /// Tables: items, users, fields, positions.
    Embedding,
    /// Every tensor; all are trained on.
    Model,
    /// Every tensor, frozen; small patches are trained in their stead.
    Patch,
}

impl Transfer {
    /// Whether layers are taken over, not only tables.
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

/// How rows start of items, users and field values that the base does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FreshRows {
    /// Drawn at random, as in a new run.
    #[default]
    Random,
    /// The mean of the known rows (of the same field, where they are values of fields), and a random draw.
    Mean,
    /// Items: the mean over the item's field values (genres, director, …) of the known items that have them, and a
    /// random draw. As `mean` where an item shares no value with a known one, and for users and field values.
    Content,
}

/// Where a run comes from (`[from]` of its config.toml).
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

/// Whose rows a parameter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Items,
    Users,
    Fields,
    /// Its rows are nobody's: all or nothing.
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
