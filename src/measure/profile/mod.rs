/*! Where the steps of a training run go.

Two passes over the very steps of the run, each with an engine of its own, on real batches in the order of the run:

1. whole steps as training runs them (recorded graphs, nothing waited for): how long a step takes, how much of that the backend
   computes, and what making and sending batches costs beside it (`whole`);
2. op by op through a wrapper that marks the beginning and the end of every call in the order of the work (`parts`): events on
   a GPU, which wait for nothing, the clock on the CPU.

The second tells where the time goes, the first how much there is: where they differ, the difference is said. What the machine
can do is measured last ([`ceilings`]). Nothing is saved:
the weights are gone with the engines. [`text`], [`page`] and [`trace`] show it.
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
    clock::Repeats,
    roof::Bound,
};
use crate::{
    backend::{self, Device, WithBackend, inventory, nvtx},
    base::{Error, Result},
    data::{Dataset, split::Split},
    layers::DataSummary,
    mem::{Planner, Precision},
    ops::{Backend, Phase},
    train::{MemoryPlan, RunConfig, Settings, SideTables},
};
pub use trace::{TraceEvent, Track};

/// What is profiled.
#[derive(Clone, Copy)]
pub struct ProfileJob<'a> {
    pub config: &'a RunConfig,
    pub data: &'a Dataset,
    pub split: &'a Split,
    pub device: Device,
    /// Steps that count, and steps before them that do not: caches are cold, and graphs are recorded.
    pub steps: u64,
    pub untimed: u64,
    pub threads: usize,
}

/// Seconds (or another measure) of many steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    /// A fifth of the steps were below.
    pub p20: f64,
    /// A fifth of the steps were above.
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

/// Whole steps, as training runs them. Seconds a step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Whole {
    /// From the beginning of a step to the beginning of the next.
    pub wall: Spread,
    /// The host reads the sequences of a batch.
    pub load: Spread,
    /// The host sends the batch.
    pub upload: Spread,
    /// The host sets the step off; where it computes itself, the step.
    pub launch: Spread,
    /// The host waits for the step before.
    pub wait: Spread,
    /// What lies between a step and the next: where an epoch ends, users are shuffled.
    pub between: Spread,
    /// Whoever computes works on the step.
    pub busy: Spread,
    /// Seconds of a step, on average, that whoever computes does not: what is not hidden of the host's work.
    pub not_hidden: f64,
    /// Share of loading and uploading that happens while the device computes; `None`: the processor does both.
    pub hidden: Option<f64>,
    /// Seconds to shuffle the users, once an epoch.
    pub shuffle: f64,
    pub sequences_per_s: f64,
    /// Real ones: padding is no work.
    pub interactions_per_s: f64,
    /// On average: sequences (an epoch's last batch may have fewer than others), interactions, rows that are computed (padding
    /// among them) and rows that are scored.
    pub sequences: f64,
    pub interactions: f64,
    pub rows: f64,
    pub scored: f64,
    /// Sizes of batches that came: each is recorded once where work is recorded.
    pub shapes: usize,
    /// Each step, in order.
    pub walls: Vec<f64>,
}

/// Steps op by op. Seconds a step, on average.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpByOp {
    pub wall: f64,
    pub load: f64,
    pub upload: f64,
    /// Bytes that the host sends.
    pub upload_bytes: f64,
    /// All calls together.
    pub ops: f64,
    /// Between the first call and the last, none ran.
    pub idle: f64,
    pub calls: f64,
}

/// What some calls come to. Seconds, FLOP and bytes a step, on average.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProfileRow {
    /// Of an op; empty where several are meant.
    pub op: String,
    pub phase: Option<Phase>,
    /// Of one layer.
    pub layer: String,
    /// Of the last step, where all calls are of one kind.
    pub sizes: String,
    pub calls: f64,
    pub seconds: f64,
    /// Of the time of all calls.
    pub share: f64,
    /// Seconds right before the calls in which none ran: the gaps since the call before, where the step had begun.
    pub idle: f64,
    /// The same of each step.
    pub spread: Spread,
    pub flop: f64,
    pub exps: f64,
    /// That must move at least.
    pub bytes: f64,
    /// Achieved, in 10^9 a second.
    pub gflops: f64,
    pub gbps: f64,
    /// Seconds that the calls must take at least by the ceilings, as a share of those they took, and what they would wait for
    /// then, with memory as fast as it is for data that were used just before. Nothing where there is no work to speak of.
    pub roof: Option<f64>,
    pub bound: Option<Bound>,
}

/// Asking the model about users who validate, as a run does at times.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Validation {
    /// Users asked about, and how long it took.
    pub users: u64,
    pub seconds: f64,
    /// Users who validate.
    pub all: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    pub plan: MemoryPlan,
    /// The most that this process had of the machine's memory at once, files that it has mapped among it; `None`: the system does
    /// not tell.
    pub peak_process_bytes: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Of this layout.
    pub version: u32,
    pub program: String,
    /// What bounds the run, in a sentence or two.
    pub verdict: String,
    pub data: String,
    pub device: String,
    pub precision: Precision,
    /// Of the factors of products.
    pub products: Precision,
    pub processor: String,
    pub threads: usize,
    /// Of the machine before the first step, over 1, 5 and 15 minutes: a busy one spoils all times. `None`: the system does not
    /// tell.
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
    /// By phase, layer and op.
    pub calls: Vec<ProfileRow>,
    /// What the machine can do, measured after the steps.
    pub ceilings: Ceilings,
    pub validation: Option<Validation>,
    pub memory: Memory,
    /// The library that was told of ranges, for NVIDIA's profilers.
    pub nvtx: Option<&'static str>,
    pub settings: Settings,
    /// For the trace.
    #[serde(skip)]
    pub tracks: Vec<Track>,
}

impl Profile {
    pub const VERSION: u32 = 1;

    /// All of it. Through text, where a number of 32 bits is as short as it was typed.
    pub fn json(&self) -> serde_json::Value {
        let text = serde_json::to_string(self).expect("numbers and names");
        serde_json::from_str(&text).expect("was just written")
    }

    /// One line of what was profiled.
    pub fn title(&self) -> String {
        format!("{} on {}", self.settings.model, self.data)
    }
}

/// What is being done, for who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Whole,
    OpByOp,
    Validation,
    Ceilings,
}

/// Profiles steps of a run. Nothing is left of them but what is told.
///
/// # Errors
/// As a run's; no steps.
pub fn profile(job: &ProfileJob<'_>, tell: &mut dyn FnMut(Stage)) -> Result<Profile> {
    struct On<'j, 'a>(&'j ProfileJob<'a>, &'j mut dyn FnMut(Stage));
    impl WithBackend for On<'_, '_> {
        type Out = Result<Profile>;
        fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
            both(self.0, self.1, open)
        }
    }
    if job.steps == 0 {
        return Err(Error::user("0 steps tell nothing").hint("give --steps a number from 1 up"));
    }
    job.config.settings.check()?;
    backend::with(job.device, job.config.settings.precision.on(job.device), On(job, tell))
}

/// What a plan must know of the data.
fn data_summary(job: &ProfileJob<'_>) -> Result<DataSummary> {
    let known = SideTables::data_summary(&job.config.settings, job.data)?;
    let counts = job.split.train_counts().iter().map(|c| *c as u64).collect();
    Ok(DataSummary { counts, ratings: job.config.ratings.clone(), ..known })
}

fn both<B: Backend + 'static>(
    job: &ProfileJob<'_>,
    tell: &mut dyn FnMut(Stage),
    open: &dyn Fn(&Planner) -> Result<B>,
) -> Result<Profile> {
    tell(Stage::Whole);
    // Before this program's own work is part of it.
    let load_average = inventory::load();
    let whole = whole::steps(job, tell, open)?;
    let peak_process_bytes = peak_process_bytes();
    tell(Stage::OpByOp);
    let open = |plan: &Planner| Ok(Box::new(open(plan)?) as Box<dyn Repeats>);
    let parts = parts::steps(job, &open)?;
    tell(Stage::Ceilings);
    let ceilings = ceilings::measure(&open)?;
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

/// As [`Memory::peak_process_bytes`].
fn peak_process_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kb =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kb << 10)
}
