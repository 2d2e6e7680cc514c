/*! Profiles the steps of a training run.

Two passes run the same steps, each with a separate engine, on real batches in the order of the run:

1. Whole steps, as training runs them, with recorded graphs and without extra waits (`whole`). This pass measures the
   time of a step, the part in which the backend computes, and the cost of loading and sending batches.
2. Op by op, through a wrapper that marks the beginning and the end of every call in execution order (`parts`). The
   marks are events on a GPU, which cause no waits, and clock readings on the CPU.

The second pass shows where the time goes, the first how much there is; the report states the difference. The
machine's ceilings are measured last ([`ceilings`]). Nothing is saved: the weights are dropped with the engines.
[`text`], [`page`] and [`trace`] present the result.
*/

pub mod page;
mod parts;
mod sum;
#[cfg(test)]
mod tests;
pub mod text;
pub mod trace;
mod verdict;
mod whole;

use serde::Serialize;

use super::{
    ceilings::{self, Ceilings},
    roof::Bound,
};
use crate::{
    backend::{self, Device, inventory, nvtx},
    base::{Error, Result},
    data::{Dataset, split::Split},
    layers::DataSummary,
    mem::Precision,
    ops::{Open, Phase},
    train::{MemoryPlan, RunConfig, Settings, SideTables},
};
pub use trace::{TraceEvent, Track};

/// What to profile.
#[derive(Clone, Copy)]
pub struct ProfileJob<'a> {
    pub config: &'a RunConfig,
    pub data: &'a Dataset,
    pub split: &'a Split,
    pub device: Device,
    /// Timed steps, and untimed steps before them, during which caches are cold and graphs are recorded.
    pub steps: u64,
    pub untimed: u64,
    pub threads: usize,
}

/// Statistics over many steps, in seconds or another unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    /// A fifth of the steps are below.
    pub p20: f64,
    /// A fifth of the steps are above.
    pub p80: f64,
    pub mean: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.collect();
        if sorted.is_empty() {
            return Spread::default();
        }
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Spread { median: at(0.5), p20: at(0.2), p80: at(0.8), mean }
    }
}

/// Whole steps, as training runs them, in seconds per step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Whole {
    /// From the beginning of a step to the beginning of the next one.
    pub wall: Spread,
    /// The host reads the sequences of a batch.
    pub load: Spread,
    /// The host sends the batch.
    pub upload: Spread,
    /// The host launches the step; on the CPU, it computes the step.
    pub launch: Spread,
    /// The host waits for the preceding step.
    pub wait: Spread,
    /// The gap between a step and the next one; at the end of an epoch, users are shuffled.
    pub between: Spread,
    /// The backend computes the step.
    pub busy: Spread,
    /// Mean seconds of a step in which the backend does not compute: the host's work that is not hidden.
    pub not_hidden: f64,
    /// Share of loading and uploading that overlaps with the device's computation; `None` if the CPU does both.
    pub hidden: Option<f64>,
    /// Seconds to shuffle the users, once per epoch.
    pub shuffle: f64,
    pub sequences_per_s: f64,
    /// Real interactions, without padding.
    pub interactions_per_s: f64,
    /// Means of: sequences (an epoch's last batch may have fewer), interactions, computed rows (padding included) and
    /// scored rows.
    pub sequences: f64,
    pub interactions: f64,
    pub rows: f64,
    pub scored: f64,
    /// Number of different batch sizes: each is recorded once if the backend records work.
    pub shapes: usize,
    /// Seconds of each step, in order.
    pub walls: Vec<f64>,
}

/// Steps op by op, in mean seconds per step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpByOp {
    pub wall: f64,
    pub load: f64,
    pub upload: f64,
    /// Bytes that the host sends.
    pub upload_bytes: f64,
    /// Time of all calls.
    pub ops: f64,
    /// Time between the first and the last call in which none runs.
    pub idle: f64,
    pub calls: f64,
}

/// The totals of a group of calls: mean seconds, FLOP and bytes per step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProfileRow {
    /// The op; empty if the group has several.
    pub op: String,
    pub phase: Option<Phase>,
    /// The layer; empty if the group has several.
    pub layer: String,
    /// The sizes in the last step, if all calls are of one kind.
    pub sizes: String,
    pub calls: f64,
    pub seconds: f64,
    /// Share of the time of all calls.
    pub share: f64,
    /// Seconds right before the calls in which no call ran: the gaps since the preceding call of the step.
    pub idle: f64,
    /// The seconds of each step.
    pub spread: Spread,
    pub flop: f64,
    pub exps: f64,
    /// Minimum number of bytes moved.
    pub bytes: f64,
    /// Achieved rates, in 10^9 per second.
    pub gflops: f64,
    pub gbps: f64,
    /// Least possible seconds of the calls by the ceilings, as a share of their time, and what would limit them. The
    /// memory ceiling is that of recently used data. `None` if there is no significant work.
    pub roof: Option<f64>,
    pub bound: Option<Bound>,
}

/// Ranking or rating of users of the validation part, as a run does periodically.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Validation {
    /// Number of users evaluated, and the time it took.
    pub users: u64,
    pub seconds: f64,
    /// Users in the validation part.
    pub all: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    pub plan: MemoryPlan,
    /// Peak memory of this process, including mapped files; `None` if the system does not report it.
    pub peak_process_bytes: Option<u64>,
}

/// The results of a profile.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Version of this layout.
    pub version: u32,
    pub program: String,
    /// What limits the run, in a sentence or two.
    pub verdict: String,
    pub data: String,
    pub device: String,
    pub precision: Precision,
    /// Precision of the factors of products.
    pub products: Precision,
    pub processor: String,
    pub threads: usize,
    /// Load average of the machine before the first step, over 1, 5 and 15 minutes: other load distorts all times.
    /// `None` if the system does not report it.
    pub load_average: Option<[f64; 3]>,
    pub parameters: u64,
    pub epoch_steps: u64,
    pub steps: u64,
    pub untimed: u64,
    pub whole: Whole,
    pub op_by_op: OpByOp,
    pub phases: Vec<ProfileRow>,
    pub ops: Vec<ProfileRow>,
    pub layers: Vec<ProfileRow>,
    /// Rows by phase, layer and op.
    pub calls: Vec<ProfileRow>,
    /// The machine's ceilings, measured after the steps.
    pub ceilings: Ceilings,
    pub validation: Option<Validation>,
    pub memory: Memory,
    /// The library that receives NVTX ranges, for NVIDIA's profilers.
    pub nvtx: Option<&'static str>,
    pub settings: Settings,
    /// The events of the trace.
    #[serde(skip)]
    pub tracks: Vec<Track>,
}

impl Profile {
    pub const VERSION: u32 = 1;

    /// Returns the profile as JSON. It goes through text, which prints 32-bit numbers in their shortest form.
    pub fn json(&self) -> serde_json::Value {
        let text = serde_json::to_string(self).expect("numbers and names");
        serde_json::from_str(&text).expect("was just written")
    }

    /// Returns a one-line title: model and data.
    pub fn title(&self) -> String {
        format!("{} on {}", self.settings.model, self.data)
    }
}

/// The current stage, for progress output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Whole,
    OpByOp,
    Validation,
    Ceilings,
}

/// Profiles steps of a run. It saves nothing; the result is returned.
///
/// # Errors
/// As a run; or there are no steps.
pub fn profile(job: &ProfileJob<'_>, tell: &mut dyn FnMut(Stage)) -> Result<Profile> {
    if job.steps == 0 {
        return Err(Error::user("there are 0 steps to profile").hint("set --steps to at least 1"));
    }
    job.config.settings.check()?;
    let precision = job.config.settings.precision.on(job.device);
    both(job, tell, &|plan| backend::open(job.device, precision, plan))
}

/// Returns what a memory plan needs to know of the data.
fn data_summary(job: &ProfileJob<'_>) -> Result<DataSummary> {
    let known = SideTables::data_summary(&job.config.settings, job.data)?;
    let counts = job.split.train_counts().iter().map(|c| *c as u64).collect();
    Ok(DataSummary { counts, ratings: job.config.ratings.clone(), ..known })
}

fn both(job: &ProfileJob<'_>, tell: &mut dyn FnMut(Stage), open: Open<'_>) -> Result<Profile> {
    tell(Stage::Whole);
    // Read before this program's own work raises it.
    let load_average = inventory::load();
    let whole = whole::steps(job, tell, open)?;
    let peak_process_bytes = peak_process_bytes();
    tell(Stage::OpByOp);
    let parts = parts::steps(job, open)?;
    tell(Stage::Ceilings);
    let ceilings = ceilings::measure(open)?;
    let sums = sum::sums(&parts, whole.precision, &ceilings);
    let (processor, device) = (inventory::processor(), backend::choose(job.device).0);
    let device = inventory::card(device).map_or(device.to_string(), |card| format!("{device} ({card})"));
    let mut profile = Profile {
        version: Profile::VERSION,
        program: format!("mipgpu {}", env!("CARGO_PKG_VERSION")),
        verdict: String::new(),
        data: job.config.data.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned()),
        device,
        precision: whole.precision,
        products: whole.products,
        processor: processor.name,
        threads: job.threads,
        load_average,
        parameters: whole.parameters,
        epoch_steps: whole.epoch_steps,
        steps: job.steps,
        untimed: job.untimed,
        whole: whole.whole,
        op_by_op: sums.total,
        phases: sums.phases,
        ops: sums.ops,
        layers: sums.layers,
        calls: sums.calls,
        ceilings,
        validation: whole.validation,
        memory: Memory { plan: whole.memory, peak_process_bytes },
        nvtx: nvtx::library(),
        settings: job.config.settings.clone(),
        tracks: [whole.tracks, parts.tracks(whole.precision)].concat(),
    };
    profile.verdict = verdict::verdict(&profile);
    Ok(profile)
}

/// Returns [`Memory::peak_process_bytes`].
fn peak_process_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kb =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kb << 10)
}
