//! Times one op: batches of calls long enough for the clock, and the median of many batches.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    base::Result,
    ops::{AnyOp, Backend},
};

/// Seconds per call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub median: f64,
    /// The fastest sample.
    pub least: f64,
    /// A fifth of the samples were faster.
    pub p20: f64,
    /// A fifth of the samples were slower.
    pub p80: f64,
    /// Number of samples.
    pub samples: usize,
    /// Calls per sample.
    pub per_sample: usize,
}

impl Timing {
    /// Summarizes samples of `calls` calls each, in seconds per sample; at least one.
    pub fn of(mut seconds: Vec<f64>, calls: usize) -> Timing {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize] / calls as f64;
        Timing {
            median: at(0.5),
            least: at(0.0),
            p20: at(0.2),
            p80: at(0.8),
            samples: seconds.len(),
            per_sample: calls,
        }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Seconds per op.
    pub seconds: f64,
    /// Minimum length of a sample in seconds: reading a clock and waiting for a device take some microseconds.
    pub sample: f64,
}

impl Patience {
    /// Limits on the samples of one op: at least [`Patience::LEAST`], at most this many.
    const MOST: usize = 400;
    const LEAST: usize = 5;
    /// Maximum calls in one sample.
    const CALLS: usize = 500;

    pub fn of(seconds: f64) -> Patience {
        Patience { seconds, sample: (seconds / 100.0).clamp(2e-4, 2e-3) }
    }
}

/// Assigns keys to the work that a backend repeats: no two pieces of work may share a key.
#[derive(Debug)]
pub struct Keys(u64);

impl Default for Keys {
    fn default() -> Self {
        // Far from the keys of steps, which are built from sizes.
        Keys(0xbe4c << 48)
    }
}

/// Times `op`, which must be repeatable. A backend that records work replays the recording, so the measurement covers
/// the device and not the launches.
///
/// # Errors
/// The device fails.
pub fn time(b: &mut dyn Backend, op: &dyn AnyOp, patience: Patience, keys: &mut Keys) -> Result<Timing> {
    let mut sample = |calls: usize, key: u64| -> Result<f64> {
        let start = Instant::now();
        b.replay(key, &mut |b| (0..calls).for_each(|_| op.run_on(b)));
        b.sync()?;
        Ok(start.elapsed().as_secs_f64())
    };
    // The first call warms up, the second may be recorded, and the third is measured.
    keys.0 += 1;
    let mut once = 0.0;
    for _ in 0..3 {
        once = sample(1, keys.0)?;
    }
    let calls = ((patience.sample / once.max(1e-9)).ceil() as usize).clamp(1, Patience::CALLS);
    let mut key = keys.0;
    if calls > 1 {
        keys.0 += 1;
        key = keys.0;
        sample(calls, key)?;
        sample(calls, key)?;
    }
    let (mut samples, start) = (Vec::new(), Instant::now());
    let enough = Duration::from_secs_f64(patience.seconds);
    while samples.len() < Patience::LEAST || (start.elapsed() < enough && samples.len() < Patience::MOST) {
        samples.push(sample(calls, key)?);
    }
    Ok(Timing::of(samples, calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let t = Timing::of((1..=11).rev().map(|i| i as f64).collect(), 2);
        assert_eq!((t.least, t.p20, t.median, t.p80), (0.5, 1.5, 3.0, 4.5));
        assert_eq!((t.samples, t.per_sample), (11, 2));
        let one = Timing::of(vec![4.0], 1);
        assert_eq!((one.p20, one.median, one.p80), (4.0, 4.0, 4.0));
    }
}
