/*! Checkpoints: safetensors files of named weights, with settings and state of the run as JSON in their metadata.

`best.safetensors` holds the weights of the best validation; `last.safetensors` also holds the optimiser's moments
(`optimizer.m.NAME`, `optimizer.v.NAME`) and where the run stands, enough to continue to the same bits: everything random
is a function of the seed and of the epoch, step and user it is for.

The metadata hold the SHA-256 of the whole file, computed with zeros in its own place: no altered byte goes unnoticed.
*/

use std::{collections::HashMap, fs, path::Path};

use bytemuck::cast_slice;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::Settings;
use crate::{
    base::{Error, Result, atomic::write_atomically, error::IoContext},
    data::hex,
    mem::{F32, Param, Span},
    ops::Memory,
};

/// Version of the layout below; raised when an old file could be misread.
const VERSION: u32 = 1;
const DAMAGED: &str =
    "the file was cut short or altered; take it from a copy, take the run's other checkpoint, or train again";
/// The one metadata key, so that a file's bytes do not depend on a map's order.
const KEY: &str = "mipgpu";

/// One line of the learning curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    pub epoch: u32,
    pub step: u64,
    /// Mean loss of the epoch's scored rows.
    pub loss: f64,
    /// NDCG@10 on the validation items, where this epoch was validated.
    #[serde(rename = "valid_ndcg@10", default, skip_serializing_if = "Option::is_none")]
    pub ndcg: Option<f64>,
    /// HR@10 likewise.
    #[serde(rename = "valid_hr@10", default, skip_serializing_if = "Option::is_none")]
    pub hit: Option<f64>,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Epochs finished.
    pub epoch: u32,
    /// Steps done of the epoch after those.
    pub step_in_epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// Sum of the losses and number of scored rows of the unfinished epoch.
    pub loss_sum: f64,
    pub scored: u64,
    /// Best validation NDCG@10 so far and its epoch.
    pub best: Option<(u32, f64)>,
    /// Validations since the best one.
    pub stale: u32,
    /// The run came to its end.
    pub done: bool,
    pub history: Vec<EpochRow>,
}

/// Stands where the checksum goes while the checksum is computed.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    version: u32,
    /// Of the whole file, in hex.
    sha256: String,
    /// Fingerprint of the item vocabulary the rows of `item.weight` belong to.
    vocabulary: String,
    /// What shaped the model and its training, so that the file explains itself.
    settings: Settings,
    state: State,
}

struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        cast_slice(&self.values).into()
    }
    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

/// Names and spans that a checkpoint holds: the weights, and with `moments` those of the optimiser.
fn tensors(params: &[Param], moments: bool) -> impl Iterator<Item = (String, &Param, Span<F32>)> {
    params.iter().flat_map(move |p| {
        let all = [
            (p.name.clone(), p, p.w),
            (format!("optimizer.m.{}", p.name), p, p.m),
            (format!("optimizer.v.{}", p.name), p, p.v),
        ];
        all.into_iter().take(if moments { 3 } else { 1 })
    })
}

/// Writes a checkpoint aside, syncs and renames it.
///
/// # Errors
/// The disk's.
pub fn save(
    path: &Path,
    b: &mut dyn Memory,
    params: &[Param],
    moments: bool,
    vocabulary: &str,
    settings: &Settings,
    state: &State,
) -> Result<()> {
    let views: Vec<(String, Tensor)> = tensors(params, moments)
        .map(|(name, p, span)| {
            let mut values = vec![0.0; span.len()];
            b.read(span.raw(), &mut values);
            (name, Tensor { shape: p.shape.clone(), values })
        })
        .collect();
    // What a failed device gave is no checkpoint.
    b.sync()?;
    let metadata = Metadata {
        version: VERSION,
        sha256: NO_SUM.into(),
        vocabulary: vocabulary.into(),
        settings: settings.clone(),
        state: state.clone(),
    };
    let json = serde_json::to_string(&metadata).map_err(|e| Error::internal(e.to_string()))?;
    let mut bytes = safetensors::serialize(views, Some(HashMap::from([(KEY.to_string(), json)])))
        .map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    let sum = hex(&Sha256::digest(&bytes));
    let place = place_of(NO_SUM, &bytes).ok_or_else(|| Error::internal("no place for the checksum"))?;
    bytes[place..place + sum.len()].copy_from_slice(sum.as_bytes());
    write_atomically(path, |f| f.write_all(&bytes))
}

/// Where `sum` stands in the file: its header comes first, so the first place is the one.
fn place_of(sum: &str, bytes: &[u8]) -> Option<usize> {
    (sum.len() == NO_SUM.len()).then(|| bytes.windows(sum.len()).position(|w| w == sum.as_bytes()))?
}

/// Reads a checkpoint into the backend and gives the state it was written in.
///
/// # Errors
/// Names the file and what is wrong: not safetensors, not ours, another version, an altered byte, another vocabulary, or
/// the first tensor that is missing, superfluous or of another shape.
pub fn load(path: &Path, b: &mut dyn Memory, params: &[Param], moments: bool, vocabulary: &str) -> Result<State> {
    let mut bytes = fs::read(path).at_path(path)?;
    let broken = |what: String| Error::user(format!("{}: {what}", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| broken(format!("not a whole safetensors file ({e})")).hint(DAMAGED))?;
    let ours = header.metadata().as_ref().and_then(|m| m.get(KEY));
    let ours = ours.ok_or_else(|| broken("a safetensors file, but not a mipgpu checkpoint".into()))?;
    let metadata: Metadata =
        serde_json::from_str(ours).map_err(|e| broken(format!("unreadable metadata ({e})")).hint(DAMAGED))?;
    if metadata.version != VERSION {
        return Err(broken(format!("checkpoint version {}, this program reads {VERSION}", metadata.version)));
    }
    let place = place_of(&metadata.sha256, &bytes);
    if let Some(at) = place {
        bytes[at..at + NO_SUM.len()].copy_from_slice(NO_SUM.as_bytes());
    }
    if place.is_none() || hex(&Sha256::digest(&bytes)) != metadata.sha256 {
        return Err(broken("its checksum does not match its contents".into()).hint(DAMAGED));
    }
    if metadata.vocabulary != vocabulary {
        return Err(broken("the checkpoint belongs to another item vocabulary".into())
            .hint("a checkpoint only fits the run folder it was written in, with that folder's items.safetensors"));
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(format!("not a whole safetensors file ({e})")))?;
    // All is checked before anything is written to the backend.
    let mut values = Vec::new();
    for (name, p, span) in tensors(params, moments) {
        let view = file.tensor(&name).map_err(|_| broken(format!("tensor '{name}' is missing")))?;
        if view.dtype() != Dtype::F32 || view.shape() != p.shape {
            return Err(broken(format!(
                "tensor '{name}' is {:?} {:?}, the run's settings make it F32 {:?}",
                view.dtype(),
                view.shape(),
                p.shape
            )));
        }
        let floats: Vec<f32> =
            view.data().chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        values.push((span, floats));
    }
    if let Some(name) =
        file.names().into_iter().find(|n| !n.starts_with("optimizer.") && !params.iter().any(|p| p.name == **n))
    {
        return Err(broken(format!("tensor '{name}' is not part of the model the run's settings make")));
    }
    for (span, floats) in values {
        b.write(span.raw(), &floats);
    }
    b.sync()?;
    Ok(metadata.state)
}
