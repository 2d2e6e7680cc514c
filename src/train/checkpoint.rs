/*! Checkpoints: safetensors files of named weights, with settings and state of the run as JSON in their metadata.

`best.safetensors` has the weights of the best validation. `last.safetensors` also has the optimiser's moments
(`optimizer.m.NAME`, `optimizer.v.NAME`) and the state of the run. A run resumed from it gives bitwise the same
results: everything random is a function of the seed and of the epoch, step and user it is drawn for.

The metadata contain the SHA-256 of the whole file, computed with zeros in its own place, so any altered byte is
detected.
*/

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytemuck::{cast_slice, cast_slice_mut};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::Settings;
use crate::{
    base::{Error, Result, atomic::write_file_aside, error::IoContext},
    data::hex,
    mem::{Arena, Planner, RawSpan},
    ops::Backend,
};

/// Version of the file layout. Raised when older files could be misread.
const VERSION: u32 = 1;
const DAMAGED: &str =
    "the file was cut short or altered; take it from a copy, take the run's other checkpoint, or train again";
/// The only metadata key, so that the bytes of a file do not depend on the order of a map.
const KEY: &str = "mipgpu";

/// One row of the learning curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    pub epoch: u32,
    pub step: u64,
    /// Mean loss of the epoch's scored rows.
    pub loss: f64,
    /// NDCG@10 on the validation items, if this epoch was validated.
    #[serde(rename = "valid_ndcg@10", default, skip_serializing_if = "Option::is_none")]
    pub ndcg: Option<f64>,
    /// HR@10, likewise.
    #[serde(rename = "valid_hr@10", default, skip_serializing_if = "Option::is_none")]
    pub hit: Option<f64>,
    /// Errors on the validation ratings, for a run that learns ratings.
    #[serde(rename = "valid_rmse", default, skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    #[serde(rename = "valid_mae", default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
}

impl EpochRow {
    /// The measure that selects the best epoch, higher is better; `None` if the epoch was not validated.
    pub fn goodness(&self) -> Option<f64> {
        self.ndcg.or(self.rmse.map(|rmse| -rmse))
    }

    /// The same measure as it is reported: NDCG@10, or RMSE.
    pub fn measure(&self) -> Option<f64> {
        self.ndcg.or(self.rmse)
    }
}

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Number of finished epochs.
    pub epoch: u32,
    /// Number of steps done in the current epoch.
    pub step_in_epoch: u64,
    /// Number of steps done in total.
    pub step: u64,
    /// Sum of the losses and number of scored rows of the unfinished epoch.
    pub loss_sum: f64,
    pub scored: u64,
    /// Epoch and value of the best validation so far: NDCG@10, or RMSE for ratings.
    pub best: Option<(u32, f64)>,
    /// Number of validations since the best one.
    pub stale: u32,
    /// The run is complete.
    pub done: bool,
    pub history: Vec<EpochRow>,
}

/// Limit on the length of the header in the safetensors format.
const LONGEST_HEADER: u64 = 100_000_000;

/// Placeholder of the checksum while it is computed.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    version: u32,
    /// SHA-256 of the whole file, in hex.
    sha256: String,
    /// Fingerprint of the vocabulary of the rows of `item.weight`, and of users and fields if they have tables.
    vocabulary: String,
    /// SHA-256, in hex, of the checkpoint that has the frozen tensors; none if this file is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// The settings of model and training, so that the file is self-contained.
    settings: Settings,
    state: TrainState,
}

/// A tensor of a checkpoint.
struct Tensor<'p> {
    name: String,
    shape: &'p [usize],
    span: RawSpan,
}

impl Tensor<'_> {
    fn dtype(&self) -> Dtype {
        if self.span.arena() == Arena::Index { Dtype::U32 } else { Dtype::F32 }
    }
}

/// The tensors of a checkpoint: the trained weights and, with `moments`, the state of the optimiser.
fn tensors(plan: &Planner, moments: bool) -> Vec<Tensor<'_>> {
    let mut all = Vec::new();
    for p in plan.params().iter().filter(|p| !p.frozen) {
        all.push(Tensor { name: p.name.clone(), shape: &p.shape, span: p.w.raw() });
        if moments {
            all.push(Tensor { name: format!("optimizer.m.{}", p.name), shape: &p.shape, span: p.m.raw() });
            all.push(Tensor { name: format!("optimizer.v.{}", p.name), shape: &p.shape, span: p.v.raw() });
        }
    }
    if moments {
        all.extend(plan.kept().iter().map(|k| Tensor { name: k.name.clone(), shape: &k.shape, span: k.span }));
    }
    all
}

/// Numbers read or written at a time, because a checkpoint may exceed the free memory.
const PIECE: usize = 1 << 22;

/// Divides a span into pieces.
fn pieces(span: RawSpan) -> impl Iterator<Item = RawSpan> {
    let piece = move |at| span.slice(at, PIECE.min(span.len() - at));
    (0..span.len()).step_by(PIECE).map(piece)
}

/// The metadata of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointMeta<'a> {
    /// Fingerprint of the item vocabulary.
    pub vocabulary: &'a str,
    /// SHA-256 of the checkpoint that has the frozen tensors.
    pub base: Option<&'a str>,
    pub settings: &'a Settings,
}

/// Writes a checkpoint to a temporary file, piece by piece, syncs it and renames it.
///
/// # Errors
/// An I/O error, or the device fails.
pub fn save(
    path: &Path,
    b: &mut dyn Backend,
    plan: &Planner,
    moments: bool,
    meta: CheckpointMeta<'_>,
    state: &TrainState,
) -> Result<()> {
    let metadata = Metadata {
        version: VERSION,
        sha256: NO_SUM.into(),
        vocabulary: meta.vocabulary.into(),
        base: meta.base.map(String::from),
        settings: meta.settings.clone(),
        state: state.clone(),
    };
    let json = serde_json::to_string(&metadata).map_err(|e| Error::internal(e.to_string()))?;
    let mut all = tensors(plan, moments);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut end = 0;
    let infos = all.iter().map(|t| {
        let start = end;
        end += t.span.len() * 4;
        (t.name.clone(), TensorInfo { dtype: t.dtype(), shape: t.shape.to_vec(), data_offsets: (start, end) })
    });
    let infos = infos.collect();
    let header = safetensors::tensor::Metadata::new(Some(HashMap::from([(KEY.to_string(), json)])), infos)
        .map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    let mut head = serde_json::to_vec(&header).map_err(|e| Error::internal(e.to_string()))?;
    head.resize(head.len().next_multiple_of(8), b' ');
    let mut head = [&(head.len() as u64).to_le_bytes()[..], &head].concat();
    let place = place_of(NO_SUM, &head).ok_or_else(|| Error::internal("no place for the checksum"))?;
    write_file_aside(path, |file| {
        let mut sum = Sha256::new();
        let mut put = |bytes: &[u8]| {
            sum.update(bytes);
            file.write_all(bytes).at_path(path)
        };
        put(&head)?;
        let (mut values, mut ids) = (Vec::new(), Vec::new());
        for piece in all.iter().flat_map(|t| pieces(t.span)) {
            if piece.arena() == Arena::Index {
                ids.resize(piece.len(), 0u32);
                b.read_ids(plan.index_span(piece), &mut ids);
                put(cast_slice(&ids))?;
            } else {
                values.resize(piece.len(), 0.0f32);
                b.read(piece, &mut values);
                put(cast_slice(&values))?;
            }
        }
        // Do not save what a failed device returned.
        b.sync()?;
        head[place..place + NO_SUM.len()].copy_from_slice(hex(&sum.finalize()).as_bytes());
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).at_path(path)
    })
}

/// Position of `sum` in the header.
fn place_of(sum: &str, bytes: &[u8]) -> Option<usize> {
    (sum.len() == NO_SUM.len()).then(|| bytes.windows(sum.len()).position(|w| w == sum.as_bytes()))?
}

/// An opened checkpoint: complete, written by mipgpu, and of this version.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    header: safetensors::tensor::Metadata,
    metadata: Metadata,
    /// Offset of the first tensor.
    start: u64,
}

/// Opens a checkpoint and reads it once to verify its checksum.
///
/// # Errors
/// The file is not safetensors, not a mipgpu checkpoint, of another version, or altered.
pub fn open(path: &Path) -> Result<Opened> {
    let mut file = File::open(path).at_path(path)?;
    let broken = |what: String| Error::user(format!("{}: {what}", path.display()));
    let foreign = |what: &str| broken(format!("not a whole safetensors file ({what})")).hint(DAMAGED);
    let size = file.metadata().at_path(path)?.len();
    let mut length = [0; 8];
    let begins = file.read_exact(&mut length).is_ok();
    let length = u64::from_le_bytes(length);
    if !begins || length > LONGEST_HEADER || 8 + length > size {
        return Err(foreign("it ends within its header"));
    }
    let mut head = vec![0; 8 + length as usize];
    head[..8].copy_from_slice(&length.to_le_bytes());
    file.read_exact(&mut head[8..]).at_path(path)?;
    let header: safetensors::tensor::Metadata =
        serde_json::from_slice(&head[8..]).map_err(|e| foreign(&e.to_string()))?;
    if head.len() as u64 + header.data_len() as u64 != size {
        return Err(foreign(&format!("its header describes {} bytes, but has {size}", head.len() + header.data_len())));
    }
    let ours = header.metadata().as_ref().and_then(|m| m.get(KEY));
    let ours = ours.ok_or_else(|| broken("a safetensors file, but not a mipgpu checkpoint".into()))?;
    let metadata: Metadata =
        serde_json::from_str(ours).map_err(|e| broken(format!("unreadable metadata ({e})")).hint(DAMAGED))?;
    if metadata.version != VERSION {
        return Err(broken(format!("checkpoint version {}, this program reads {VERSION}", metadata.version)));
    }
    let place = place_of(&metadata.sha256, &head);
    if let Some(at) = place {
        head[at..at + NO_SUM.len()].copy_from_slice(NO_SUM.as_bytes());
    }
    let start = head.len() as u64;
    let mut sum = Sha256::new();
    sum.update(&head);
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes).at_path(path)? {
            0 => break,
            n => sum.update(&bytes[..n]),
        }
    }
    if place.is_none() || hex(&sum.finalize()) != metadata.sha256 {
        return Err(broken("its checksum does not match its contents".into()).hint(DAMAGED));
    }
    Ok(Opened { path: path.into(), file, header, metadata, start })
}

impl Opened {
    /// SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        &self.metadata.sha256
    }

    /// Fingerprint of the vocabulary of its rows.
    pub fn vocabulary(&self) -> &str {
        &self.metadata.vocabulary
    }

    /// SHA-256 of the checkpoint that has its frozen tensors.
    pub fn base(&self) -> Option<&str> {
        self.metadata.base.as_deref()
    }

    /// Whether rows of a table are from earlier steps than the checkpoint.
    pub fn lags(&self) -> bool {
        self.header.offset_keys().iter().any(|n| n.starts_with("optimizer.last."))
    }

    /// Names and shapes of the weights.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let names = self.header.offset_keys().into_iter().filter(|n| !n.starts_with("optimizer."));
        names.filter_map(|n| self.header.info(&n).map(|info| (n.clone(), info.shape.clone()))).collect()
    }

    /// Reads all values of a weight.
    ///
    /// # Errors
    /// There is no weight of that name, or an I/O error.
    pub fn weight(&mut self, name: &str) -> Result<Vec<f32>> {
        let missing = || Error::user(format!("{}: tensor '{name}' is missing", self.path.display()));
        let info = self.header.info(name).filter(|info| info.dtype == Dtype::F32).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        let mut values = vec![0.0f32; (end - start) / 4];
        self.file.seek(SeekFrom::Start(self.start + start as u64)).at_path(&self.path)?;
        self.file.read_exact(cast_slice_mut(&mut values)).at_path(&self.path)?;
        Ok(values)
    }
}

/// Loads a checkpoint into the backend, piece by piece, and returns the state of the run.
///
/// # Errors
/// As [`open`]; the file belongs to another vocabulary; a tensor is missing, superfluous or of another shape.
pub fn load(path: &Path, b: &mut dyn Backend, plan: &Planner, moments: bool, vocabulary: &str) -> Result<TrainState> {
    let Opened { mut file, header, metadata, start, .. } = open(path)?;
    let broken = |what: String| Error::user(format!("{}: {what}", path.display()));
    if metadata.vocabulary != vocabulary {
        return Err(broken("the checkpoint belongs to another vocabulary".into())
            .hint("a checkpoint only fits the run folder it was written in, with that folder's items.safetensors"));
    }
    // Check everything before anything is written to the backend.
    let mut places = Vec::new();
    for t in tensors(plan, moments) {
        let info = header.info(&t.name).ok_or_else(|| {
            let missing = broken(format!("tensor '{}' is missing", t.name));
            match plan.kept().iter().any(|k| k.name == t.name) {
                true => missing.hint(
                    "it was written by a run that updates its whole item table: add `table-update = \"dense\"` under \
                     [settings] in the run's config.toml",
                ),
                false => missing,
            }
        })?;
        if info.dtype != t.dtype() || info.shape != t.shape {
            let (dtype, shape) = (info.dtype, &info.shape);
            return Err(broken(format!(
                "tensor '{}' is {dtype:?} {shape:?}, with the run's settings it is {:?} {:?}",
                t.name,
                t.dtype(),
                t.shape
            )));
        }
        places.push((t.span, start + info.data_offsets.0 as u64));
    }
    let mut names = header.offset_keys();
    names.retain(|n| !n.starts_with("optimizer.") && !plan.params().iter().any(|p| p.name == *n && !p.frozen));
    if let Some(name) = names.first() {
        return Err(broken(format!("tensor '{name}' is not part of the model of the run's settings")));
    }
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    for (span, at) in places {
        file.seek(SeekFrom::Start(at)).at_path(path)?;
        for piece in pieces(span) {
            if piece.arena() == Arena::Index {
                ids.resize(piece.len(), 0u32);
                file.read_exact(cast_slice_mut(&mut ids)).at_path(path)?;
                b.write_ids(plan.index_span(piece), &ids);
            } else {
                values.resize(piece.len(), 0.0f32);
                file.read_exact(cast_slice_mut(&mut values)).at_path(path)?;
                b.write(piece, &values);
            }
        }
    }
    b.sync()?;
    Ok(metadata.state)
}
