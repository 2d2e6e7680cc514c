//! What a setting can be, where it is neither a number nor a name.

use serde::{Deserialize, Serialize};

use crate::backend::{self, Device, Precision};

/// What matrix products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// bf16 on a GPU, f32 on the CPU.
    #[default]
    Auto,
    Bf16,
    F32,
    /// The faster one of the two. `train` and `finetune` measure it where a run begins and keep the result in its settings;
    /// other settings cannot hold it ([`Settings::check`](super::Settings::check)).
    Fastest,
}

impl Numbers {
    /// On a device, which decides `auto`.
    pub fn on(self, device: Device) -> Precision {
        match (self, backend::choose(device).0) {
            (_, Device::Reference) | (Numbers::Auto, Device::Cpu | Device::Auto) | (Numbers::F32, _) => Precision::F32,
            (Numbers::Auto | Numbers::Bf16 | Numbers::Fastest, _) => Precision::Bf16,
        }
    }
}

/// Whether a network has patches, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Patching {
    #[default]
    None,
    /// Behind the parts of a block.
    Serial,
    /// Beside them.
    Parallel,
}

/// Numbers with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct List(pub Vec<usize>);

impl std::str::FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<List, String> {
        let numbers: std::result::Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers {
            Ok(numbers) if !numbers.contains(&0) => Ok(List(numbers)),
            _ => Err(format!("'{text}' is no list of numbers from 1 up, such as 1,4")),
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

/// Which rows of the item table AdamW updates at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TableUpdate {
    /// By rows where a loss with negatives meets a table of more than 2^25 numbers (130 MB) and touches fewer rows than it
    /// has, else dense.
    #[default]
    Auto,
    /// All of them.
    Dense,
    /// Those of the batch; the others catch up when they are needed next, with the result of dense AdamW.
    Rows,
}

impl TableUpdate {
    /// Numbers of a table up to which `auto` updates all of it.
    pub const DENSE_MOST: usize = 1 << 25;
}
