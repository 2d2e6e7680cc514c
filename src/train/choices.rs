//! Types of settings that are neither numbers nor names.

use serde::{Deserialize, Serialize};

use super::{freeze::Freeze, schedule::Decay};
use crate::{
    backend::{self, Device, Precision},
    layers::{Join, NormPlace},
    tasks::{LossKind, SamplerKind},
};

/// The placeholder of a type in the help of a flag: `N` in `--width <N>`.
pub(super) trait Placeholder {
    const PLACEHOLDER: &'static str;
}

macro_rules! placeholders {
    ($($word:literal: $($type:ty),+;)*) => {
        $($(impl Placeholder for $type { const PLACEHOLDER: &'static str = $word; })+)*
    };
}

placeholders! {
    "N": u32, u64, usize;
    "N,N,…": List;
    "X": f32;
    "BOOL": bool;
    "NAME": String, LossKind, SamplerKind;
    "PLACE": NormPlace, Patching;
    "HOW": Join, Decay;
    "PARTS": Freeze;
    "FORMAT": Numbers;
    "ROWS": TableUpdate;
}

/// Returns the placeholder of a setting of type `T`. `range` is the source text of its range, which tells shares from
/// other numbers.
pub(super) fn placeholder<T: Placeholder>(range: &str) -> &'static str {
    if range == "0.0..=1.0" { "SHARE" } else { T::PLACEHOLDER }
}

/// Precision of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// bf16 on a GPU, f32 on the CPU.
    #[default]
    Auto,
    Bf16,
    F32,
    /// The faster of the two. `train` and `finetune` measure both when a run begins and store the result in its
    /// settings. Stored settings cannot be `fastest` ([`Settings::check`](super::Settings::check)).
    Fastest,
}

impl Numbers {
    /// The precision on a device, which decides `auto`.
    pub fn on(self, device: Device) -> Precision {
        match (self, backend::choose(device).0) {
            (_, Device::Reference) | (Numbers::Auto, Device::Cpu | Device::Auto) | (Numbers::F32, _) => Precision::F32,
            (Numbers::Auto | Numbers::Bf16 | Numbers::Fastest, _) => Precision::Bf16,
        }
    }
}

/// Placement of the patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Patching {
    #[default]
    None,
    /// After the sub-layers of a block.
    Serial,
    /// Parallel to the sub-layers.
    Parallel,
}

/// A list of numbers, written with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct List(pub Vec<usize>);

impl std::str::FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<List, String> {
        let numbers: std::result::Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers {
            Ok(numbers) if !numbers.contains(&0) => Ok(List(numbers)),
            _ => Err(format!("'{text}' is not a list of numbers of at least 1, such as 1,4")),
        }
    }
}

impl TryFrom<String> for List {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<List, String> {
        text.parse()
    }
}

impl From<List> for String {
    fn from(list: List) -> String {
        list.0.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Rows of the item table that AdamW updates at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TableUpdate {
    /// By rows with a loss with negatives, if the table has more than 2^25 numbers (130 MB) and a step touches
    /// fewer rows than there are; otherwise dense.
    #[default]
    Auto,
    /// All rows.
    Dense,
    /// The rows of the batch. Other rows catch up before their next use, with the result of dense AdamW.
    Rows,
}

impl TableUpdate {
    /// Largest table, in numbers, that `auto` updates densely.
    pub const DENSE_MOST: usize = 1 << 25;
}
