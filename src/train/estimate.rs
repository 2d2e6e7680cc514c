//! Estimates the duration of a run from a few of its steps.

use std::time::{Duration, Instant};

use super::{engine::Engine, folder::RunConfig, loader::BatchLoader, side_tables::SideTables, step_plan::plan_step};
use crate::{
    backend::{self, Device},
    base::Result,
    data::{Dataset, split::Split},
    layers::DataSummary,
};

/// The estimated duration, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Of one step.
    pub step: f64,
    /// Of all epochs and their validations.
    pub seconds: f64,
}

/// Returns the bytes of everything that the run plans: weights, moments, activations.
///
/// # Errors
/// Settings that contradict each other.
pub fn bytes(config: &RunConfig, data: &Dataset) -> Result<u64> {
    let s = &config.settings;
    let summary = DataSummary { ratings: config.ratings.clone(), ..SideTables::data_summary(s, data)? };
    let plan = plan_step(s, &summary, s.batch)?.0;
    use crate::mem::Arena::*;
    Ok([Param, Grad, Moment1, Moment2, Act, Stat, Index].map(|arena| plan.len(arena) as u64 * 4).iter().sum())
}

/// Trains for about `budget` on real batches, with `threads` threads if the device is the CPU, and
/// extrapolates. A validation encodes each user once, which is about a third of a training step's work for that
/// user.
///
/// # Errors
/// As a training run; or a step is not finite.
pub fn estimate(
    config: &RunConfig,
    (data, split): (&Dataset, &Split),
    device: Device,
    threads: usize,
    budget: Duration,
) -> Result<Estimate> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| crate::base::Error::internal(format!("no threads: {e}")))?;
    pool.install(|| steps(config, (data, split), device, budget))
}

fn steps(config: &RunConfig, (data, split): (&Dataset, &Split), device: Device, budget: Duration) -> Result<Estimate> {
    let precision = config.settings.precision.on(device);
    let s = &config.settings;
    let summary = DataSummary { ratings: config.ratings.clone(), ..SideTables::data_summary(s, data)? };
    let mut engine = Engine::new(s, summary, |plan| backend::open(device, precision, plan))?;
    let loader = BatchLoader::new(s, data, split)?;
    let (began, mut step, mut timed) = (Instant::now(), 0u64, Duration::ZERO);
    // The first step runs with cold caches, and a GPU records its graph in the third.
    let warm = 3;
    // Batches from all parts of the user list, because sequences differ in length.
    let batches: Vec<&[u32]> = loader.users().chunks(s.batch).collect();
    while step < warm + 2 || (began.elapsed() < budget && step < warm + batches.len() as u64) {
        loader.fill(&mut engine, 1, batches[(step as usize * 7) % batches.len()])?;
        step += 1;
        let at = Instant::now();
        engine.step(step, 0.0)?;
        if step > warm {
            timed += at.elapsed();
        }
    }
    let of_step = timed.as_secs_f64() / (step - warm) as f64;
    let epochs = f64::from(s.epochs);
    let validations = (epochs / f64::from(s.eval_every.max(1))).ceil();
    let seconds = of_step * batches.len() as f64 * (epochs + validations / 3.0);
    Ok(Estimate { step: of_step, seconds })
}
